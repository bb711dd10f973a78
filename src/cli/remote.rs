//! A remote tree as a sorted stream, fetched by keyset pages.

use super::context::Cluster;
use super::merge::{HasPath, Sorted, join};
use crate::types::api::{Entry, ListQuery};
use crate::types::limits::LIST_PAGE_ROWS_MAX;
use crate::types::path::name_fault;
use crate::types::{DfsPath, Error, ErrorCode, Result};

impl HasPath for Entry {
    fn path(&self) -> &str {
        &self.path
    }
}

/// What to list.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// The directory.
    pub(crate) path: DfsPath,
    /// Goes in front of the paths in the stream, which are else relative to the directory.
    pub(crate) prefix: String,
    /// All that lies below.
    pub(crate) recursive: bool,
    /// With tickets to read each file.
    pub(crate) locations: bool,
    /// An entry that comes first.
    pub(crate) first: Option<Entry>,
}

impl Listing {
    /// A directory's own entries.
    pub(crate) fn of(path: &DfsPath) -> Self {
        Self { path: path.clone(), prefix: String::new(), recursive: false, locations: false, first: None }
    }

    /// All below a directory.
    pub(crate) fn below(path: &DfsPath) -> Self {
        Self { recursive: true, ..Self::of(path) }
    }

    /// With tickets to read each file.
    pub(crate) fn with_locations(self) -> Self {
        Self { locations: true, ..self }
    }

    /// Starts to fetch pages; the next one is on its way while one is worked on.
    pub(crate) fn start(self, cluster: &Cluster) -> Sorted<Entry> {
        let (sender, sorted) = Sorted::channel("the listing");
        let names = cluster.names.clone();
        tokio::spawn(async move {
            if let Some(first) = self.first.clone()
                && sender.send(Ok(first)).await.is_err()
            {
                return;
            }
            let mut after = None;
            loop {
                let page = match names.list(&self.query(after)).await {
                    Ok(page) => page,
                    Err(error) => {
                        // Whoever stopped listening does not want the error either.
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                for mut entry in page.entries {
                    if let Err(error) = self.check(&entry) {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                    if !self.prefix.is_empty() {
                        entry.path = join(&self.prefix, &entry.path);
                    }
                    if sender.send(Ok(entry)).await.is_err() {
                        return;
                    }
                }
                after = page.next;
                if after.is_none() {
                    return;
                }
            }
        });
        sorted
    }

    /// A path in a listing names a place on this machine in a pull or an export. Whoever answers as the name server
    /// must not be able to lead out of the directory that is meant. That a path is too long, as a move may make it,
    /// is for whoever walks to say, entry by entry.
    fn check(&self, entry: &Entry) -> Result<()> {
        match entry.path.split('/').find_map(name_fault) {
            None => Ok(()),
            Some(why) => {
                let what = format!("the listing of {} has {:?}, which is no path below it", self.path, entry.path);
                Err(Error::new(ErrorCode::InvalidPath, format!("{what}: {why}")))
            }
        }
    }

    fn query(&self, after: Option<String>) -> ListQuery {
        ListQuery {
            path: self.path.clone(),
            after,
            limit: Some(LIST_PAGE_ROWS_MAX),
            recursive: self.recursive,
            locations: self.locations,
        }
    }
}

/// The path of a listed entry.
pub(crate) fn entry_path(directory: &DfsPath, entry: &Entry) -> Result<DfsPath> {
    directory.join_relative(&entry.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_does_not_lead_out_of_its_directory() {
        let listings = ["/", "/a"].map(|path| Listing::below(&DfsPath::parse(path).unwrap()));
        let check = |listing: &Listing, path: &str| {
            let entry = serde_json::json!({ "path": path, "kind": "directory", "version": 1, "copies_wanted": 2,
                "created": "2026-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z" });
            listing.check(&serde_json::from_value(entry).unwrap())
        };
        for listing in listings {
            for wrong in ["", "/tmp/x", "..", "../x", "b/../../x", "b//c", "b/", "./b", "b\0c", &"x".repeat(256)] {
                assert_eq!(check(&listing, wrong).unwrap_err().code(), ErrorCode::InvalidPath, "{wrong}");
            }
            for right in ["b", "b/c", "..b/c..", "ü"] {
                check(&listing, right).unwrap();
            }
        }
    }
}
