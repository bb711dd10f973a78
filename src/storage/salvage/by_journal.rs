//! Salvage by the journal in the data directory: files under their paths of today.

use std::collections::HashSet;
use std::fs;

use uuid::Uuid;

use super::{PAGE_ROWS, Salvage, each_row, host_path, newest_versions, write_out};
use crate::journal::staging::StagedEntry;
use crate::journal::{Collection, OBJECTS, Staging};
use crate::storage::store::{ReplicaRow, index, journal};
use crate::types::error::IoContext;
use crate::types::limits::COMPONENT_BYTES_MAX;
use crate::types::path::name_fault;
use crate::types::storage_api::ReplicaKey;
use crate::types::{DfsPath, Generation, ObjectId, Result, Version};

/// Children of a directory that are looked at together.
const CHILDREN_ROWS: i64 = 1_000;
/// Entries of one object that are looked at together.
const ENTRIES_ROWS: i64 = 100;

/// Replays what the directory's journal has into a database beside the target. `None` when nothing there counts.
pub(super) fn load(work: &mut Salvage, cluster: Option<Uuid>) -> Result<Option<(Staging, Version)>> {
    let mut collection = Collection::new(cluster);
    for path in journal::paths(&work.layout)? {
        if let Err(defect) = collection.add(&path) {
            work.done.notes.push(format!("{} is left out: {defect}", path.display()));
        }
    }
    let merged = collection.merge();
    let Some(chain) = merged.chain else {
        if merged.newest > 0 {
            let note = format!(
                "the journal here names version {}, but it has no beginning: the paths are those of the commits",
                merged.newest
            );
            work.done.notes.push(note);
        }
        return Ok(None);
    };
    if merged.newest > chain.head.version {
        let note = format!(
            "the journal here has gaps after version {}; later changes of paths (up to {}) are not known",
            chain.head.version, merged.newest
        );
        work.done.notes.push(note);
    }
    let mut staging = Staging::create(Some(&work.target))?;
    collection.replay(&chain, &mut staging)?;
    Ok(Some((staging, chain.head.version)))
}

/// Writes the tree, and then what the journal does not know yet.
pub(super) fn run(work: &mut Salvage, mut staging: Staging, head: Version) -> Result<()> {
    work.done.journal = Some(head);
    write_tree(work, &mut staging)?;
    write_newer(work, &mut staging, head)
}

/// A directory whose children are being written.
struct Open {
    id: i64,
    path: String,
    /// The last name that was handled.
    after: Option<String>,
}

fn write_tree(work: &mut Salvage, staging: &mut Staging) -> Result<()> {
    let Some(root) = staging.root()? else { return Ok(()) };
    // Directories that are still to be read; the pages of one follow each other.
    let mut open = vec![Open { id: root.id, path: String::new(), after: None }];
    while let Some(Open { id, path, after }) = open.pop() {
        let children = staging.children(id, after.as_deref(), CHILDREN_ROWS)?;
        let Some(last) = children.last() else { continue };
        open.push(Open { id, path: path.clone(), after: Some(last.name.clone()) });
        // A damaged tree could bite its own tail, at the root only: every other entry has one parent.
        for child in children.into_iter().filter(|child| child.id != root.id) {
            let child_path = format!("{path}/{}", child.name);
            // The names come from a file: one that would leave the target is not followed.
            if let Some(fault) = name_fault(&child.name) {
                work.done.problems.push(format!("{child_path}: {fault}"));
            } else if !child.is_directory() {
                write_file(work, &child, &child_path)?;
            } else if let Err(error) = make_dir(work, &child_path) {
                work.done.problems.push(format!("{child_path}: {}", error.message()));
            } else {
                open.push(Open { id: child.id, path: child_path, after: None });
            }
        }
    }
    Ok(())
}

fn make_dir(work: &Salvage, path: &str) -> Result<()> {
    let path = host_path(&work.target, path);
    fs::create_dir_all(&path).io_context(|| format!("making {}", path.display()))
}

/// Writes a file from any of the copies here; most files of a cluster are on other servers.
fn write_file(work: &mut Salvage, entry: &StagedEntry, path: &str) -> Result<()> {
    let Some(object) = entry.object else { return Ok(()) };
    let mut failure = None;
    for row in copies_of(work, object)? {
        let to = host_path(&work.target, path);
        match write_out(&mut work.index.connection, &work.layout, &row, &work.target, &to) {
            Ok(()) => {
                work.done.files += 1;
                work.done.bytes += row.size as u64;
                return Ok(());
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(error) = failure {
        work.done.problems.push(format!("{path}: {}", error.message()));
    }
    Ok(())
}

fn copies_of(work: &mut Salvage, object: i64) -> Result<Vec<ReplicaRow>> {
    let before = ReplicaKey { object: ObjectId(object), generation: Generation(-1) };
    let mut rows = index::page(&mut work.index.connection, Some(before), PAGE_ROWS)?;
    rows.extend(index::missing_page(&mut work.index.connection, Some(before), PAGE_ROWS)?);
    rows.retain(|row| row.object == object);
    Ok(rows)
}

/// What a copy is that no path of the tree has brought out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is in the tree.
    InTree,
    /// It was deleted or overwritten.
    Gone,
    /// The journal does not know it yet.
    Newer,
}

fn fate(staging: &mut Staging, row: &ReplicaRow, head: Version) -> Result<Fate> {
    if staging.get(OBJECTS, &row.object.to_string())?.is_none() {
        // An older object of which the journal has no row any more was deleted so long ago that it was forgotten.
        let older = row.version.is_some_and(|version| version <= head);
        return Ok(if older { Fate::Gone } else { Fate::Newer });
    }
    let mut after: Option<String> = None;
    loop {
        let entries = staging.entries_of(row.object, after.as_deref(), ENTRIES_ROWS)?;
        let Some(last) = entries.last() else { return Ok(Fate::Gone) };
        after = Some(last.id.to_string());
        for entry in &entries {
            if staging.path_of(entry.id)?.is_some() {
                return Ok(Fate::InTree);
            }
        }
    }
}

/// Writes what was committed after the journal's head under the paths of the commits, the newest of each path; and
/// what this server has not heard of a commit of, which may be as new.
fn write_newer(work: &mut Salvage, staging: &mut Staging, head: Version) -> Result<()> {
    let (mut newer, mut passed_over) = (HashSet::new(), 0);
    let committed_only = work.committed_only;
    each_row(&mut work.index.connection, &work.layout, |_, row| {
        match fate(staging, row, head)? {
            Fate::InTree => {}
            Fate::Newer if row.version.is_some() || !committed_only => drop(newer.insert(row.key())),
            Fate::Newer | Fate::Gone => passed_over += 1,
        }
        Ok(())
    })?;
    let newest = newest_versions(&mut work.index.connection, &work.layout, |row| newer.contains(&row.key()))?;
    work.done.passed_over += passed_over + (newer.len() - newest.len()) as u64;
    let Salvage { layout, index, target, done, .. } = work;
    each_row(&mut index.connection, layout, |connection, row| {
        if newest.get(row.label.as_str()) != Some(&row.key()) {
            return Ok(());
        }
        let label = match DfsPath::parse(&row.label) {
            Ok(label) => label,
            Err(error) => {
                done.problems.push(format!("{}: {}", row.label, error.message()));
                return Ok(());
            }
        };
        let mut path = host_path(target, label.as_str());
        if path.symlink_metadata().is_ok() {
            path = host_path(target, &beside(label.as_str(), ObjectId(row.object)));
        }
        let written = write_out(connection, layout, row, target, &path);
        done.newer += u64::from(written.is_ok());
        done.note(row, &row.label, written);
        Ok(())
    })
}

/// A name for a second file of the same path: cut, so that it is still a name.
fn beside(path: &str, object: ObjectId) -> String {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let note = format!(".salvaged-{object}");
    let room = COMPONENT_BYTES_MAX.saturating_sub(note.len());
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{above}/{}{note}", &name[..end])
}

#[cfg(test)]
mod tests {
    use diesel::prelude::*;

    use super::super::{Salvaged, salvage};
    use super::*;
    use crate::journal::format::{Origin, segment};
    use crate::journal::{ENTRIES, GENESIS_TIP, JournalLine};
    use crate::storage::store::index::{replicas, small_bytes};
    use crate::storage::store::{Layout, State};
    use crate::types::Sha256;

    /// A data directory without a server.
    struct Fixture {
        dir: tempfile::TempDir,
        cluster: Uuid,
        lines: Vec<JournalLine>,
    }

    impl Fixture {
        fn new() -> Self {
            let (dir, cluster) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
            let (layout, mut file) = Layout::open(dir.path()).unwrap();
            file.cluster = Some(cluster);
            layout.write_server_file(&file).unwrap();
            crate::storage::store::opening::make(&layout.index_path()).unwrap();
            Self { dir, cluster, lines: Vec::new() }
        }

        /// A copy whose bytes are its label and object.
        fn copy(&self, object: i64, label: &str, version: Option<i64>) {
            let (layout, _) = Layout::open_read_only(self.dir.path()).unwrap();
            let mut connection = crate::storage::store::opening::open_writer(&layout.index_path()).unwrap();
            let (bytes, now) = (format!("{label} {object}").into_bytes(), chrono::Utc::now().naive_utc());
            let row = ReplicaRow {
                object,
                generation: 7,
                size: bytes.len() as i64,
                sha256: Sha256::of(&bytes).0.to_vec(),
                label: label.into(),
                epoch: 1,
                version,
                ticket_expires: now,
                state: if version.is_some() { State::Committed } else { State::Pending }.word().into(),
                in_index: true,
                created: now,
                verified: now,
            };
            diesel::insert_into(replicas::table).values(&row).execute(&mut connection).unwrap();
            let values = (small_bytes::object.eq(object), small_bytes::generation.eq(7), small_bytes::bytes.eq(&bytes));
            diesel::insert_into(small_bytes::table).values(values).execute(&mut connection).unwrap();
        }

        fn change(&mut self, table: &str, key: i64, content: Option<serde_json::Value>) {
            self.lines.push(JournalLine {
                version: self.lines.len() as i64 + 1,
                seq: 0,
                table: table.into(),
                key: key.to_string(),
                content: content.map(|content| content.to_string()),
                created: Default::default(),
            });
        }

        fn entry(&mut self, id: i64, parent: Option<i64>, name: &str, object: Option<i64>) {
            let kind = if object.is_some() { "file" } else { "directory" };
            let row = serde_json::json!({ "id": id, "parent": parent, "name": name, "object": object, "kind": kind });
            self.change(ENTRIES, id, Some(row));
        }

        fn object(&mut self, id: i64, state: &str) {
            self.change(OBJECTS, id, Some(serde_json::json!({ "id": id, "state": state })));
        }

        fn write_journal(&self) {
            let origin = Origin { cluster: self.cluster, history: Uuid::from_u128(2), epoch: 1 };
            let (_, bytes) = segment(&origin, GENESIS_TIP, &self.lines).unwrap();
            fs::write(self.dir.path().join("journal/segment-1.jsonl"), bytes).unwrap();
        }

        /// What was written, as path and content; a directory without files ends with a slash.
        fn salvaged(&self, committed_only: bool) -> (Salvaged, Vec<String>) {
            let target = tempfile::tempdir().unwrap();
            let done = salvage(self.dir.path(), target.path(), committed_only).unwrap();
            let mut found = Vec::new();
            for entry in walkdir::WalkDir::new(target.path()).min_depth(1) {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(target.path()).unwrap().display().to_string();
                if entry.file_type().is_file() {
                    found.push(format!("{name}: {}", fs::read_to_string(entry.path()).unwrap()));
                } else if fs::read_dir(entry.path()).unwrap().next().is_none() {
                    found.push(format!("{name}/"));
                }
            }
            found.sort();
            (done, found)
        }
    }

    /// A tree in which everything happened that a path can meet with.
    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.entry(1, None, "", None);
        fixture.entry(10, Some(1), "moved", None);
        fixture.entry(11, Some(10), "file", Some(100));
        fixture.entry(12, Some(1), "copied", Some(100));
        fixture.entry(13, Some(1), "empty", None);
        fixture.entry(14, Some(1), "over", Some(102));
        fixture.entry(15, None, "being removed", None);
        fixture.entry(16, Some(15), "x", Some(104));
        fixture.entry(17, Some(1), "elsewhere", Some(999));
        for object in [100, 102, 104, 999] {
            fixture.object(object, "live");
        }
        fixture.object(101, "deleted");
        for (object, label, version) in [
            (100, "/old/file", Some(3)),
            (101, "/over", Some(4)),
            (102, "/over", None),
            (103, "/forgotten", Some(2)),
            (104, "/dir/x", Some(5)),
            (105, "/over", Some(50)),
            (106, "/fresh/one", Some(51)),
            (107, "/fresh/one", Some(52)),
            (108, "/unmarked", None),
        ] {
            fixture.copy(object, label, version);
        }
        fixture
    }

    #[test]
    fn files_stand_under_their_paths_of_today() {
        let fixture = fixture();
        fixture.write_journal();
        let (done, found) = fixture.salvaged(false);
        let over = format!("over.salvaged-{}: /over 105", ObjectId(105));
        let tree = ["copied: /old/file 100", "empty/", "fresh/one: /fresh/one 107", "moved/file: /old/file 100"];
        let rest = [over.as_str(), "over: /over 102", "unmarked: /unmarked 108"];
        assert_eq!(found, [&tree[..], &rest[..]].concat());
        assert_eq!((done.journal, done.files, done.newer), (Some(fixture.lines.len() as i64), 6, 3));
        // The overwritten, the forgotten, the one being removed, and one of two newer ones at a path.
        assert_eq!((done.passed_over, done.unmarked), (4, 1));
        assert_eq!((done.notes, done.problems), (vec![], vec![]));
        let (done, found) = fixture.salvaged(true);
        assert!(!found.iter().any(|found| found.starts_with("unmarked")), "{found:?}");
        assert_eq!((done.files, done.passed_over), (5, 5), "what the journal knows is committed");
    }

    #[test]
    fn without_a_journal_that_counts_files_stand_under_the_paths_of_their_commits() {
        let fixture = fixture();
        let (done, found) = fixture.salvaged(false);
        assert_eq!((done.journal, done.notes.len()), (None, 0));
        assert!(found.contains(&"over: /over 105".into()) && found.contains(&"old/file: /old/file 100".into()));
        fixture.write_journal();
        let path = fixture.dir.path().join("journal/segment-1.jsonl");
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        let (done, again) = fixture.salvaged(false);
        assert_eq!((done.journal, again), (None, found));
        assert!(done.notes[0].contains("truncated"), "{:?}", done.notes);
    }

    #[test]
    fn names_that_would_leave_the_target_are_not_followed() {
        let mut fixture = Fixture::new();
        fixture.entry(1, None, "", None);
        fixture.entry(2, Some(1), "..", None);
        fixture.entry(3, Some(2), "out", Some(100));
        fixture.entry(4, Some(1), "a/b", Some(100));
        fixture.object(100, "live");
        fixture.copy(100, "/x", Some(1));
        fixture.write_journal();
        let (done, found) = fixture.salvaged(false);
        assert_eq!((done.problems.len(), found.len()), (2, 0));
    }

    #[test]
    fn a_second_file_of_a_path_is_written_however_long_its_name_is() {
        let name = "п".repeat(127);
        let mut fixture = Fixture::new();
        fixture.entry(1, None, "", None);
        fixture.entry(2, Some(1), &name, Some(100));
        fixture.object(100, "live");
        fixture.copy(100, &format!("/{name}"), Some(1));
        fixture.copy(101, &format!("/{name}"), Some(9));
        fixture.write_journal();
        let (done, found) = fixture.salvaged(false);
        assert_eq!((done.problems, found.len()), (vec![], 2), "{found:?}");
        assert!(found.iter().any(|found| found.contains(".salvaged-") && found.ends_with(" 101")), "{found:?}");
    }
}
