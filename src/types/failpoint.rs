//! Steps at which a test can make the process die, and places where it can make an actor fail.
//!
//! Normal builds have none of this: without the feature `failpoints` every call here is empty. With it,
//!
//! - `HOLDFAST_CRASH_AT=NAME` makes the process die at that [`Point`] as by `kill -9`, and `NAME:3` when it passes
//!   it for the third time. `@FILE` reads this from a file each time a point is passed, so that a server can be
//!   condemned after its start.
//! - `FAILPOINTS="NAME=ACTIONS;…"` is that of the `fail` crate (`panic`, `sleep(MS)`, `return`, `1*panic`, …), for
//!   points and for [actors](in_shell).
//!
//! The crash matrix (`tests/crash_matrix`) has a case for each point of [`ALL`]: `docs/crash-matrix.md`.

use std::time::Duration;

/// What leads past a point, and on which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// A storage server receives and reports bytes.
    Upload,
    /// A storage server merges segments of its copy of the journal.
    Merge,
    /// A storage server carries out deletions.
    Delete,
    /// A storage server is source or target of a repair.
    Transfer,
    /// A storage server returns with copies that it must put aside.
    Aside,
    /// A storage server announces itself.
    Join,
    /// A storage server asks about pending copies.
    Collect,
    /// The name server changes the namespace in any way.
    Change,
    /// The name server commits uploads.
    Commit,
    /// The name server moves.
    Move,
    /// The name server removes and replaces.
    Remove,
    /// The name server copies files and directories.
    Copy,
    /// The name server has deletions carried out and empties removed directories.
    Reap,
    /// The name server decides about copies of uploads that were never committed.
    Abort,
    /// The name server repairs.
    Repair,
    /// The name server gives up copies too many.
    Trim,
    /// The name server compares a returned server's inventory.
    Return,
    /// The name server ends a drain.
    Drain,
    /// The name server takes the lease.
    Lease,
    /// The name server puts a damaged database aside and restores the metadata.
    Restore,
}

/// A step at which the process can be made to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its name in the environment.
    pub name: &'static str,
    /// What leads past it.
    pub area: Area,
    /// What has happened when it is passed, and what has not.
    pub doc: &'static str,
}

impl Point {
    /// Says that the step is reached.
    #[inline(always)]
    pub fn passed(&self) {
        #[cfg(feature = "failpoints")]
        armed::passed(self.name);
    }
}

macro_rules! points {
    ($($constant:ident = $name:literal, $area:ident, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $constant: Point = Point { name: $name, area: Area::$area, doc: $doc };)*
        /// Every point. Each is passed at exactly one place of the sources.
        pub const ALL: &[Point] = &[$($constant),*];
    };
}

points! {
    UPLOAD_PIECE_WRITTEN = "upload-piece-written", Upload, "a piece of a large body is in `incoming/`";
    UPLOAD_BODY_RECEIVED = "upload-body-received", Upload, "a large body is whole in `incoming/`, not fsynced";
    UPLOAD_FSYNCED = "upload-fsynced", Upload, "a large body is fsynced in `incoming/`";
    UPLOAD_RENAMED = "upload-renamed", Upload, "the file has its name in `objects/`, the directory is not fsynced";
    UPLOAD_PLACED = "upload-placed", Upload, "the file and its name are durable, the index has no row";
    INDEX_WRITTEN = "index-written", Upload, "the rows of a batch are written, its transaction is not committed";
    INDEX_COMMITTED = "index-committed", Upload, "a batch of the index is committed, nobody was answered";
    UPLOAD_PENDING = "upload-pending", Upload, "all targets hold the upload as pending, nothing is reported";
    UPLOAD_REPORTED = "upload-reported", Upload, "the name server has committed, the copy here is not marked";
    UPLOAD_ANSWERING = "upload-answering", Upload, "the upload is committed, the client is not answered";
    JOURNAL_RECEIVED = "journal-received", Upload, "a piece of the journal is fsynced in `incoming/`";
    JOURNAL_RENAMED = "journal-renamed", Upload, "a piece of the journal has its name, the directory is not fsynced";
    MERGE_WRITTEN = "merge-written", Merge, "a merged segment is fsynced in `incoming/`, its parts are in their places";
    MERGE_RENAMED = "merge-renamed", Merge, "a merged segment has its name, the directory is not fsynced";
    MERGE_PART_REMOVED = "merge-part-removed", Merge, "a part of a merged segment is removed, others are still there";
    DELETE_ROWS_GONE = "delete-rows-gone", Delete, "the rows of deleted copies are gone, a file is still there";
    DELETE_FILE_GONE = "delete-file-gone", Delete, "a deleted copy's file is gone, nobody was answered";
    TRANSFER_STARTING = "transfer-starting", Transfer, "the source has opened the copy, the target has nothing";
    TRANSFER_STORED = "transfer-stored", Transfer, "the target holds the copy, the source has not answered";
    ASIDE_NOTED = "aside-noted", Aside, "`quarantine/` says why a copy is put aside, the copy is in its place";
    ASIDE_MOVED = "aside-moved", Aside, "a copy's bytes are in `quarantine/`, its row is still there";
    REGISTER_ANSWERED = "register-answered", Join, "the name server knows the server, the server has not noted it";
    COLLECT_ANSWERED = "collect-answered", Collect, "the fates of pending copies are known and not carried out";
    CHANGE_WAITING = "change-waiting", Change, "a batch is taken from the queue, its transaction has not begun";
    CHANGE_LOCKED = "change-locked", Change, "the cluster row is locked, nothing is read or written";
    CHANGE_JOURNALED = "change-journaled", Change, "all rows and the journal are written, nothing is committed";
    CHANGE_COMMITTED = "change-committed", Change, "a batch is committed, nobody was answered";
    JOURNAL_SENT = "journal-sent", Change, "the journal's copies have the changes, which is not noted";
    COMMIT_WRITTEN = "commit-written", Commit, "the rows of uploads are written, the cluster row is not";
    MOVE_WRITTEN = "move-written", Move, "the moved entry has its new place, what it replaced is not released";
    REMOVE_ENTRY_GONE = "remove-entry-gone", Remove, "a file's entry is removed, its object is not released";
    RELEASE_QUEUED = "release-queued", Remove, "deletions are queued, the replica rows are still there";
    COPY_FILE_WRITTEN = "copy-file-written", Copy, "the new entry refers to the object, copies wanted are not raised";
    COPY_TREE_STEP = "copy-tree-step", Copy, "a page of a copied directory is written where nobody sees it";
    COPY_TREE_ATTACHED = "copy-tree-attached", Copy, "the copied directory has its name, it still counts as building";
    REAP_DELETED = "reap-deleted", Reap, "a storage server has deleted, the outbox still asks for it";
    REAP_NOTED = "reap-noted", Reap, "the outbox's rows are removed, nothing is committed";
    REAP_EMPTIED = "reap-emptied", Reap, "a removed directory is emptied in part, nothing is committed";
    PENDING_ABORTED = "pending-aborted", Abort, "an upload's id is noted as aborted, nothing is committed";
    REPAIR_ROW_WRITTEN = "repair-row-written", Repair, "the row of a copy on its way is written, not committed";
    REPAIR_PLANNED = "repair-planned", Repair, "the row of a copy on its way is committed, nobody was asked to copy";
    REPAIR_STORED = "repair-stored", Repair, "the target holds the copy, its row still says that it is on its way";
    REPAIR_PRESENT = "repair-present", Repair, "the row says that the copy is there, nothing is committed";
    REPAIR_NOTED = "repair-noted", Repair, "the copy counts";
    TRIM_WRITTEN = "trim-written", Trim, "the row of a copy too many is removed, its deletion is not queued";
    SYNC_COMPARED = "sync-compared", Return, "differences of an inventory are found, nothing is put right";
    SYNC_APPLIED = "sync-applied", Return, "the metadata is put right, unknown copies are not put aside";
    SYNC_COMPLETING = "sync-completing", Return, "an inventory is compared to its end, which is not noted";
    DRAIN_EMPTY = "drain-empty", Drain, "a draining server holds nothing more, which is not noted";
    DRAIN_FINISHED = "drain-finished", Drain, "a server counts as drained";
    LEASE_WRITTEN = "lease-written", Lease, "the lease has a new term, nothing is committed";
    LEASE_TAKEN = "lease-taken", Lease, "the lease is taken, nobody knows";
    RESTORE_MOVING = "restore-moving", Restore, "a damaged database is in its place, its log has a second name elsewhere";
    RESTORE_MOVED = "restore-moved", Restore, "a damaged database is put aside, its log is in both places";
    RESTORE_BEGUN_ANEW = "restore-begun-anew", Restore, "an empty database is in the place of the damaged one";
    RESTORE_FENCED = "restore-fenced", Restore, "the servers have a new epoch, nothing is read";
    RESTORE_FORMER_READ = "restore-former-read", Restore, "what the damaged database told is staged, no table is written";
    RESTORE_BATCH = "restore-batch", Restore, "some rows are written anew, others are still to come, nothing is committed";
    RESTORE_WRITTEN = "restore-written", Restore, "all tables are written anew, nothing is committed";
    RESTORE_DONE = "restore-done", Restore, "the metadata is restored, the report of the restore is not kept";
}

/// Inside the shell of an actor, on its thread: `actor-NAME-shell`. A panic kills the actor, a sleep makes it hang.
#[inline(always)]
pub fn in_shell(_actor: &str) {
    #[cfg(feature = "failpoints")]
    armed::returns(&format!("actor-{_actor}-shell"));
}

/// Inside a pass or a batch of an actor: `actor-NAME-pass`. A panic is a failed pass, a sleep blocks the actor's
/// thread, and with `return` the pass never ends.
#[inline(always)]
pub async fn in_pass(_actor: &str) {
    #[cfg(feature = "failpoints")]
    if armed::returns(&format!("actor-{_actor}-pass")).is_some() {
        std::future::pending::<()>().await;
    }
}

/// How long a pass or a batch may take: `actor-NAME-deadline=return(MS)` shortens it, so that tests need not wait.
#[inline(always)]
pub fn deadline(_actor: &str, deadline: Duration) -> Duration {
    #[cfg(feature = "failpoints")]
    if let Some(milliseconds) = armed::returns(&format!("actor-{_actor}-deadline")).and_then(|text| text.parse().ok()) {
        return Duration::from_millis(milliseconds);
    }
    deadline
}

/// A limit that a test may lower: `NAME=return(NUMBER)`.
#[inline(always)]
pub fn limit(_name: &str, limit: u64) -> u64 {
    #[cfg(feature = "failpoints")]
    if let Some(lower) = armed::returns(_name).and_then(|text| text.parse().ok()) {
        return lower;
    }
    limit
}

/// In the middle of work that can be left: with `FAILPOINTS="NAME=return"` it never goes on.
#[inline(always)]
pub async fn held(_name: &str) {
    #[cfg(feature = "failpoints")]
    if armed::returns(_name).is_some() {
        std::future::pending::<()>().await;
    }
}

/// Reads `FAILPOINTS`; called once by each daemon.
pub fn setup() {
    #[cfg(feature = "failpoints")]
    // The scenario would forget the configuration at its end, and it has none before the process ends.
    std::mem::forget(fail::FailScenario::setup());
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;

    use parking_lot::Mutex;

    /// What the environment says, where that is a file, and how often the point may still be passed.
    #[derive(Default)]
    struct Sentence {
        order: String,
        file: Option<String>,
        left: u64,
    }

    static SENTENCE: LazyLock<Mutex<Sentence>> = LazyLock::new(|| {
        let text = std::env::var("HOLDFAST_CRASH_AT").unwrap_or_default();
        let mut sentence = Sentence::default();
        match text.strip_prefix('@') {
            Some(file) => sentence.file = Some(file.into()),
            None => sentence.take(text),
        }
        Mutex::new(sentence)
    });

    impl Sentence {
        fn take(&mut self, order: String) {
            if self.order != order {
                self.left = order.split_once(':').and_then(|(_, count)| count.parse().ok()).unwrap_or(1);
                self.order = order;
            }
        }

        /// Counts a passing. Answers whether it was the last.
        fn passed(&mut self, name: &str) -> bool {
            if let Some(file) = &self.file {
                let order = std::fs::read_to_string(file).unwrap_or_default().trim().to_string();
                self.take(order);
            }
            let condemned = self.order.split(':').next() == Some(name);
            self.left = self.left.saturating_sub(u64::from(condemned));
            condemned && self.left == 0
        }
    }

    pub fn passed(name: &str) {
        if SENTENCE.lock().passed(name) {
            eprintln!("crash point {name}: the process dies");
            std::process::abort();
        }
        returns(name);
    }

    /// Does what `FAILPOINTS` says about a name; what `return` says is answered.
    pub fn returns(name: &str) -> Option<String> {
        fail::fail_point!(name, |text| Some(text.unwrap_or_default()));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn sources(dir: &Path, text: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// That nothing uses a name which is not in the list, the compiler sees to.
    #[test]
    fn each_point_is_passed_at_one_place_and_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        sources(&root.join("src"), &mut code);
        let page = std::fs::read_to_string(root.join("docs/crash-matrix.md")).unwrap();
        for point in ALL {
            let constant = point.name.to_uppercase().replace('-', "_");
            let places = code.matches(&format!("failpoint::{constant}.passed()")).count();
            assert_eq!(places, 1, "{} is passed at {places} places", point.name);
            let row = format!("| `{}` | {:?} | {} |", point.name, point.area, point.doc);
            assert!(page.contains(&row), "docs/crash-matrix.md lacks the row: {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, ALL.len(), "docs/crash-matrix.md has rows of points that are gone");
    }

    #[test]
    fn names_differ() {
        let names: std::collections::HashSet<_> = ALL.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
