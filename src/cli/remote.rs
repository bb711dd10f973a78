//! A remote tree as a sorted stream, fetched by keyset pages.

use super::context::Cluster;
use super::merge::{HasPath, Sorted, join};
use crate::types::api::{Entry, ListQuery};
use crate::types::limits::LIST_PAGE_ROWS_MAX;
use crate::types::{DfsPath, Result};

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
