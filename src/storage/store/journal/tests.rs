//! A server's copy: what it accepts, what it keeps, and what it makes of a directory at its start.

use std::fs;

use super::*;
use crate::journal::format::{Origin, SnapshotWriter, segment};
use crate::journal::{Base, Collection, GENESIS_TIP, JournalLine, SETTINGS};

const ORIGIN: Origin = Origin { cluster: Uuid::from_u128(1), history: Uuid::from_u128(2), epoch: 1 };
/// After a restore.
const LATER: Origin = Origin { history: Uuid::from_u128(3), epoch: 2, ..ORIGIN };

struct Server {
    dir: tempfile::TempDir,
    journal: Option<Journal>,
}

impl Server {
    fn new() -> Self {
        let mut server = Self { dir: tempfile::tempdir().unwrap(), journal: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        self.journal = None;
        let (layout, _) = Layout::open(self.dir.path()).unwrap();
        self.journal = Some(Journal::open(Arc::new(layout), Some(ORIGIN.cluster)).unwrap());
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    fn send(&self, bytes: &[u8]) -> Result<JournalAccepted> {
        let incoming = Dir::open(&self.dir.path().join("incoming")).unwrap();
        let (mut file, temporary) = TempFile::new_in(&incoming, "t-").unwrap();
        file.write_all(bytes).unwrap();
        self.journal().accept(temporary, ORIGIN.cluster)
    }

    /// The version of the position after an accepted file, and whether the copy is complete.
    fn sent(&self, bytes: &[u8]) -> (Version, bool) {
        let accepted = self.send(bytes).unwrap();
        assert_eq!(self.journal().position(), Some(accepted.position.clone()));
        (accepted.position.version, accepted.complete)
    }

    fn refused(&self, bytes: &[u8]) -> String {
        let error = self.send(bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PreconditionFailed, "{error}");
        error.message().into()
    }

    fn version(&self) -> Option<Version> {
        self.journal().position().map(|position| position.version)
    }

    fn listed(&self) -> Vec<JournalFile> {
        self.journal().files_after("").files
    }

    fn files(&self) -> Vec<String> {
        let mut listed: Vec<_> = self.listed().into_iter().map(|file| file.name).collect();
        listed.retain(|name| !name.starts_with("previous/"));
        assert_eq!(
            listed,
            names(&Dir::open(&self.dir.path().join("journal")).unwrap()).unwrap(),
            "what is listed is what is there"
        );
        listed.iter().map(|name| name.replace(".jsonl", "").replace("0000000000000000", "")).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("journal").join(name)
    }
}

fn lines(first: Version, last: Version) -> Vec<JournalLine> {
    let line = |version: Version, seq| JournalLine {
        version,
        seq,
        table: SETTINGS.into(),
        key: (version % 5).to_string(),
        content: Some(version.to_string()),
        created: Default::default(),
    };
    (first..=last).flat_map(|version| [line(version, 0), line(version, 1)]).collect()
}

fn tip(version: Version) -> Sha256 {
    lines(1, version).iter().fold(GENESIS_TIP, |tip, line| line.next_tip(tip))
}

fn seg(first: Version, last: Version) -> Vec<u8> {
    segment(&ORIGIN, tip(first - 1), &lines(first, last)).unwrap().1
}

fn snap(origin: &Origin, v0: Version, v1: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = SnapshotWriter::start(origin, v0, tip(v0), &mut bytes).unwrap();
    writer.row(SETTINGS, "1", "1", &mut bytes).unwrap();
    writer.finish(v1, tip(v1), &mut bytes).unwrap();
    bytes
}

#[test]
fn only_what_continues_the_position_is_accepted() {
    let mut server = Server::new();
    assert_eq!(server.version(), None);
    assert!(server.refused(&seg(2, 3)).contains("no journal"));
    assert_eq!(server.sent(&seg(1, 3)), (3, true));
    assert_eq!(server.sent(&seg(4, 4)), (4, true));
    assert_eq!(server.sent(&seg(1, 3)), (4, true), "a repeated segment is answered and changes nothing");
    assert!(server.refused(&seg(6, 7)).contains("ends at version 4"));
    server.refused(&seg(4, 6));
    let lines_of_another = [JournalLine { content: None, ..lines(5, 5)[0].clone() }];
    server.refused(&segment(&ORIGIN, tip(3), &lines_of_another).unwrap().1);
    server.refused(&segment(&LATER, tip(4), &lines(5, 6)).unwrap().1);
    let old_epoch = Origin { epoch: 0, ..ORIGIN };
    server.refused(&segment(&old_epoch, tip(4), &lines(5, 6)).unwrap().1);
    let foreign = Origin { cluster: Uuid::nil(), ..ORIGIN };
    assert_eq!(server.send(&snap(&foreign, 9, 9)).unwrap_err().code(), ErrorCode::Forbidden);
    let whole = seg(5, 9);
    assert_eq!(server.send(&whole[..whole.len() - 9]).unwrap_err().code(), ErrorCode::ChecksumMismatch);
    assert_eq!(server.sent(&whole), (9, true));
    server.restart();
    assert_eq!((server.version(), server.journal().status().complete), (Some(9), true));
    assert_eq!(server.files(), ["segment-001-003", "segment-004-004", "segment-005-009"]);
    assert_eq!(server.sent(&seg(10, 11)), (11, true));
}

#[test]
fn a_snapshot_begins_a_new_position_and_counts_from_its_end_on() {
    let mut server = Server::new();
    assert_eq!(server.sent(&snap(&ORIGIN, 20, 23)), (20, false));
    assert_eq!(server.sent(&seg(21, 22)), (22, false));
    server.restart();
    assert_eq!((server.version(), server.journal().status().complete), (Some(22), false));
    assert_eq!(server.sent(&seg(23, 25)), (25, true));
    let status = server.journal().status();
    assert_eq!(status.segments_since_snapshot, 2);
    assert_eq!(status.bytes_since_snapshot, (seg(21, 22).len() + seg(23, 25).len()) as u64);
    assert_eq!(status.snapshot_bytes, snap(&ORIGIN, 20, 23).len() as u64);
    assert_eq!((status.files, status.snapshot_version), (3, Some(20)));
    assert_eq!(status.bytes, status.bytes_since_snapshot + status.snapshot_bytes);
    let listed = server.listed();
    let snapshot = listed.last().unwrap();
    assert_eq!((snapshot.first, snapshot.last), (20, 23));
    // One that was begun inside a segment that is here loses nothing.
    assert_eq!(server.sent(&snap(&ORIGIN, 24, 26)), (25, true), "the older snapshot counts already");
    assert_eq!(server.sent(&seg(26, 26)), (26, true));
    let epoch_0 = Origin { epoch: 0, ..ORIGIN };
    assert!(server.refused(&snap(&epoch_0, 30, 30)).contains("epoch"));
    assert_eq!(server.sent(&snap(&ORIGIN, 24, 27)), (26, true), "a worse one of the same beginning changes nothing");
    assert_eq!(server.listed().iter().filter(|file| file.last == 27).count(), 0);
}

#[test]
fn two_snapshots_and_the_segments_since_the_older_one_are_kept() {
    let mut server = Server::new();
    server.sent(&seg(1, 5));
    server.sent(&snap(&ORIGIN, 5, 5));
    server.sent(&seg(6, 8));
    assert_eq!(server.files(), ["segment-001-005", "segment-006-008", "snapshot-005"]);
    server.sent(&snap(&ORIGIN, 7, 8));
    assert_eq!(server.files(), ["segment-006-008", "snapshot-005", "snapshot-007"]);
    server.sent(&seg(9, 12));
    server.sent(&snap(&ORIGIN, 12, 12));
    assert_eq!(server.files(), ["segment-006-008", "segment-009-012", "snapshot-007", "snapshot-012"]);
    // Two that do not count yet never replace the one that does.
    server.sent(&snap(&ORIGIN, 12, 12));
    for v0 in [13, 14, 15] {
        server.sent(&seg(v0, v0));
        server.sent(&snap(&ORIGIN, v0, v0 + 10));
        assert!(server.journal().status().complete, "{v0}");
    }
    assert!(server.files().contains(&"snapshot-012".into()));
    server.restart();
    assert_eq!((server.version(), server.journal().status().complete), (Some(15), true));
    let mut collection = Collection::new(None);
    for path in paths(&server.journal().layout).unwrap() {
        collection.add(&path).unwrap();
    }
    let chain = collection.merge().chain.unwrap();
    assert!(matches!(chain.base, Base::Snapshot(_)) && chain.head.version == 15);
}

#[test]
fn a_new_history_puts_the_one_before_aside_and_no_older_one() {
    let mut server = Server::new();
    let previous = |server: &Server| names(&Dir::open(&server.path("previous")).unwrap()).unwrap();
    server.sent(&seg(1, 5));
    assert_eq!(server.sent(&snap(&LATER, 1000, 1000)), (1000, true));
    assert_eq!((server.files().len(), previous(&server).len()), (1, 1));
    server.restart();
    assert_eq!(server.version(), Some(1000));
    assert_eq!(server.listed().len(), 1);
    let third = Origin { history: Uuid::from_u128(4), epoch: 3, ..ORIGIN };
    server.sent(&snap(&third, 2000, 2001));
    assert_eq!(previous(&server).len(), 1);
    assert!(previous(&server)[0].contains("1000"));
    // Until the new one suffices, the one before is told too.
    let listed = server.listed();
    assert!(listed.len() == 2 && listed[1].name.starts_with("previous/"), "{listed:?}");
    assert_eq!(server.journal().open_file(&listed[1].name).unwrap().1, listed[1].bytes);
    // As if it had been interrupted: the file of the history before is still, or again, among the others.
    fs::write(server.path("segment-0000000000000000001-0000000000000000005.jsonl"), seg(1, 5)).unwrap();
    server.restart();
    assert_eq!((server.version(), server.files().len()), (Some(2000), 1));
    assert!(
        previous(&server).len() == 1 && previous(&server)[0].contains("1000"),
        "an older one takes no newer's place"
    );
    server.refused(&snap(&ORIGIN, 6, 6));
}

#[test]
fn damage_at_the_end_goes_into_quarantine_and_the_position_falls_back() {
    let mut server = Server::new();
    for (first, last) in [(1, 3), (4, 6), (7, 9)] {
        server.sent(&seg(first, last));
    }
    let names: Vec<String> = server.listed().into_iter().map(|file| file.name).collect();
    // Cut off.
    let text = fs::read(server.path(&names[2])).unwrap();
    fs::write(server.path(&names[2]), &text[..text.len() / 2]).unwrap();
    server.restart();
    assert_eq!((server.version(), server.files().len()), (Some(6), 2));
    let quarantine = server.dir.path().join("quarantine");
    assert!(quarantine.join(format!("journal-{}", names[2])).exists());
    let reason = fs::read_to_string(quarantine.join(format!("journal-{}.reason", names[2]))).unwrap();
    assert!(reason.contains("truncated"), "{reason}");
    // A changed byte inside the last file, which both ends do not show.
    let mut text = fs::read(server.path(&names[1])).unwrap();
    let place = text.len() / 2;
    text[place] ^= 1;
    fs::write(server.path(&names[1]), &text).unwrap();
    server.restart();
    assert_eq!((server.version(), server.files().len()), (Some(3), 1));
    assert_eq!(server.sent(&seg(4, 9)), (9, true));
    // A newer program's file is not thrown away.
    let newer = String::from_utf8(seg(10, 10)).unwrap().replacen("\"format\":1", "\"format\":7", 1);
    fs::write(server.path("segment-0000000000000000010-0000000000000000010.jsonl"), newer).unwrap();
    server.journal = None;
    let (layout, _) = Layout::open(server.dir.path()).unwrap();
    let error = Journal::open(Arc::new(layout), Some(ORIGIN.cluster)).err().unwrap();
    assert!(error.message().contains("newer program"), "{error}");
}

#[test]
fn a_hole_in_the_middle_is_noticed_and_filled_with_a_snapshot_or_segments() {
    let mut server = Server::new();
    for (first, last) in [(1, 3), (4, 6), (7, 9)] {
        server.sent(&seg(first, last));
    }
    let names: Vec<String> = server.listed().into_iter().map(|file| file.name).collect();
    fs::remove_file(server.path(&names[1])).unwrap();
    server.restart();
    assert_eq!((server.version(), server.files().len()), (Some(3), 2), "what is beyond stays");
    assert_eq!(server.sent(&seg(4, 7)).0, 7);
    assert_eq!(server.sent(&seg(8, 9)).0, 9);
    server.restart();
    assert_eq!(server.version(), Some(9));
    // The position is the same by other boundaries, too.
    fs::remove_file(server.path("segment-0000000000000000008-0000000000000000009.jsonl")).unwrap();
    server.restart();
    assert_eq!(server.version(), Some(9), "7 to 9 goes on inside 4 to 7");
}

#[test]
fn files_are_opened_by_their_listed_names_only() {
    let server = Server::new();
    server.sent(&seg(1, 3));
    let name = server.listed()[0].name.clone();
    assert_eq!(server.journal().open_file(&name).unwrap().1, seg(1, 3).len() as u64);
    for name in ["../server.json", "previous", "previous/../../server.json", "", "segment-1-3.jsonl", "/etc/passwd"] {
        assert_eq!(server.journal().open_file(name).unwrap_err().code(), ErrorCode::NotFound);
    }
}

impl Server {
    /// Merges until there is nothing to merge, as the actor does. Answers how often.
    fn merge_all(&self) -> usize {
        let journal = self.journal();
        *journal.read.lock() = None;
        let mut merges = 0;
        while let Some(merge) = journal.next_merge() {
            assert!(journal.merge(&merge, Some(ORIGIN.cluster)).unwrap());
            merges += 1;
        }
        merges
    }

    fn remove_covered(&self) -> usize {
        *self.journal().read.lock() = None;
        self.journal().remove_covered(Some(ORIGIN.cluster)).unwrap()
    }

    /// What a restore makes of the files alone: the version of its head, and all lines to it in order.
    fn restored(&self) -> (Version, Vec<JournalLine>) {
        let mut collection = Collection::new(None);
        for path in paths(&self.journal().layout).unwrap() {
            collection.add(&path).unwrap();
        }
        let chain = collection.merge().chain.unwrap();
        let mut lines = Vec::new();
        let taken = collection.each_line(chain.pieces.clone(), |line| {
            lines.push(line);
            Ok(())
        });
        taken.unwrap();
        (chain.head.version, lines)
    }

    fn fill(&self, versions: std::ops::RangeInclusive<Version>) {
        for version in versions {
            self.sent(&seg(version, version));
        }
    }
}

#[test]
fn segments_are_merged_and_nothing_of_them_is_lost() {
    let mut server = Server::new();
    server.fill(1..=200);
    let before = server.journal().status();
    assert_eq!(before.files, 200);
    assert!(server.merge_all() > 0);
    let after = server.journal().status();
    assert!(after.files < 40 && after.bytes < before.bytes, "{after:?}");
    assert_eq!((after.position, after.complete), (before.position, true));
    server.files();
    assert_eq!(server.restored(), (200, lines(1, 200)));
    server.restart();
    assert_eq!((server.version(), server.journal().status().complete), (Some(200), true));
    assert_eq!(server.remove_covered(), 0);
    // It goes on, also with a snapshot that was begun inside a merged file.
    server.fill(201..=203);
    assert_eq!(server.sent(&snap(&ORIGIN, 50, 60)), (203, true));
    assert_eq!(server.sent(&snap(&ORIGIN, 150, 203)), (203, true));
    let status = server.journal().status();
    assert!(status.files < 40 && status.complete, "{status:?}");
    server.restart();
    assert_eq!((server.version(), server.journal().status().complete), (Some(203), true));
    let (head, rest) = server.restored();
    assert_eq!(head, 203);
    assert!(lines(1, 203).ends_with(&rest) && rest.len() >= 2 * 153, "{}", rest.len());
}

#[test]
fn segments_on_both_sides_of_a_snapshot_stay_apart() {
    let server = Server::new();
    server.fill(1..=20);
    server.sent(&snap(&ORIGIN, 20, 20));
    server.fill(21..=40);
    server.merge_all();
    let files = server.listed();
    let across = files.iter().filter(|file| file.first <= 20 && file.last > 20);
    assert_eq!((across.count(), server.version()), (0, Some(40)));
    assert!(server.journal().status().files < 20);
    server.sent(&snap(&ORIGIN, 40, 40));
    assert!(server.listed().iter().all(|file| file.first > 20 || file.last == 20), "the older segments are gone");
}

/// At whatever step a merge was interrupted: the parts are there, or some of them, and the merged file.
#[test]
fn a_merge_that_was_interrupted_is_finished_by_the_next_start() {
    let last = crate::decisions::merging::PER_LEVEL_MAX as Version;
    let name = |first: Version, last: Version| format!("segment-{first:019}-{last:019}.jsonl");
    for removed in 0..=last {
        let mut server = Server::new();
        server.fill(1..=last);
        fs::write(server.path(&name(1, last)), seg(1, last)).unwrap();
        for version in 1..=removed {
            fs::remove_file(server.path(&name(version, version))).unwrap();
        }
        // What was not renamed yet.
        fs::write(server.dir.path().join("incoming/merge-x"), "half").unwrap();
        server.restart();
        assert_eq!((server.version(), server.journal().status().complete), (Some(last), true), "{removed}");
        assert_eq!(server.restored(), (last, lines(1, last)));
        assert_eq!(server.remove_covered() as Version, last - removed);
        assert_eq!(server.files().len(), 1, "{removed}");
        assert_eq!(server.restored(), (last, lines(1, last)));
        assert_eq!(server.sent(&seg(last + 1, last + 1)), (last + 1, true));
    }
}

#[test]
fn nothing_is_removed_for_a_file_that_is_damaged_or_tells_something_else() {
    let name = "segment-0000000000000000001-0000000000000000004.jsonl";
    let mut server = Server::new();
    server.fill(1..=4);
    let mut bytes = seg(1, 4);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(server.path(name), &bytes).unwrap();
    // It ends at the position, so the start reads it; a second time it is damaged while the server runs.
    server.restart();
    assert_eq!((server.version(), server.files().len()), (Some(4), 4));
    fs::write(server.path(name), seg(1, 4)).unwrap();
    server.restart();
    fs::write(server.path(name), &bytes).unwrap();
    assert_eq!(server.remove_covered(), 0);
    let damaged = server.journal().take_damaged();
    assert!(damaged.len() == 1 && damaged[0].name == name && damaged[0].damage.is_some(), "{damaged:?}");
    assert_eq!((server.version(), server.files().len()), (Some(4), 4));
    // Of another branch.
    let other = |version: Version| JournalLine { content: None, ..lines(version, version)[0].clone() };
    let other: Vec<_> = (1..=4).map(other).collect();
    fs::write(server.path(name), segment(&ORIGIN, GENESIS_TIP, &other).unwrap().1).unwrap();
    server.restart();
    assert_eq!((server.remove_covered(), server.remove_covered(), server.files().len()), (0, 0, 5));
}

#[test]
fn a_part_that_is_damaged_ends_in_quarantine_and_not_in_a_merged_file() {
    let server = Server::new();
    let last = crate::decisions::merging::PER_LEVEL_MAX as Version;
    server.fill(1..=last);
    let name = "segment-0000000000000000003-0000000000000000003.jsonl";
    let mut bytes = seg(3, 3);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(server.path(name), bytes).unwrap();
    let merge = server.journal().next_merge().unwrap();
    assert_eq!((merge.files() as Version, merge.bytes() > 0), (last, true));
    assert!(!server.journal().merge(&merge, Some(ORIGIN.cluster)).unwrap());
    assert_eq!(server.journal().take_damaged().len(), 1);
    assert_eq!((server.version(), server.files().len() as Version), (Some(2), last - 1));
    assert_eq!(server.sent(&seg(3, 3)), (3, true), "the name server sends anew what is missing");
    assert!(server.journal().next_merge().is_none(), "somebody has asked for names just now");
}

#[test]
fn names_come_in_pages() {
    let server = Server::new();
    let mut held = server.journal().held();
    for version in 1..=2 * JOURNAL_PAGE_FILES_MAX as Version + 5 {
        let header = Header { first: version, last: version, ..seg_header() };
        let ends = Ends { end: (version, header.tip_after), header };
        held.add_segment(HeldFile { name: file_name(&ends.header), ends, bytes: 1 });
    }
    drop(held);
    let (mut after, mut names, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = server.journal().files_after(&after);
        assert!(page.files.len() <= JOURNAL_PAGE_FILES_MAX);
        names.extend(page.files.into_iter().map(|file| file.name));
        pages += 1;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!((pages, names.len()), (3, 2 * JOURNAL_PAGE_FILES_MAX + 5));
    assert!(names.is_sorted());
    let size = serde_json::to_string(&server.journal().status()).unwrap().len();
    assert!(size < 500, "the state has the same size whatever is there: {size}");
}

fn seg_header() -> Header {
    segment(&ORIGIN, tip(0), &lines(1, 1)).unwrap().0
}
