//! Which files of the journal a server holds, and what follows from them: the position, and what can go. Apart from
//! reading a segment where boundaries do not meet, all of it is decided from the files' headers.

use crate::decisions::merging;
use crate::journal::{Ends, GENESIS_TIP, Header, Kind};
use crate::types::limits::JOURNAL_SEGMENTS_MAX;
use crate::types::storage_api::{JournalFile, JournalPosition, JournalStatus};
use crate::types::{Error, ErrorCode, Result, Sha256, Version};

/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

/// A version and the tip after it.
type Node = (Version, Sha256);

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFile {
    /// Its name in the directory.
    pub name: String,
    /// What its first and last line say.
    pub ends: Ends,
    /// Its size.
    pub bytes: u64,
}

impl HeldFile {
    /// Its first line.
    pub fn header(&self) -> &Header {
        &self.ends.header
    }

    /// As it is told.
    pub fn listed(&self) -> JournalFile {
        JournalFile {
            name: self.name.clone(),
            kind: self.header().kind,
            first: self.header().first,
            last: self.ends.end.0,
            bytes: self.bytes,
        }
    }
}

/// The name of a file. Names sort as versions do.
pub fn file_name(header: &Header) -> String {
    match header.kind {
        Kind::Segment => format!("segment-{:019}-{:019}.jsonl", header.first, header.last),
        Kind::Snapshot => format!("snapshot-{:019}.jsonl", header.last),
    }
}

/// Looks into a segment: the tip at a version inside it, when it can be read.
pub type Inside<'i> = &'i dyn Fn(&HeldFile, Version) -> Option<Sha256>;

/// All files of one history.
#[derive(Debug, Default)]
pub struct Held {
    /// In the order of their names.
    files: Vec<HeldFile>,
    position: Option<JournalPosition>,
    /// From which position on the files suffice; `None` when they never will.
    usable_from: Option<Version>,
}

impl Held {
    /// Takes files as they were found.
    pub fn new(mut files: Vec<HeldFile>, inside: Inside<'_>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut held = Self { files, position: None, usable_from: None };
        held.settle(inside);
        held
    }

    /// The files.
    pub fn files(&self) -> &[HeldFile] {
        &self.files
    }

    /// Where the copy ends.
    pub fn position(&self) -> Option<&JournalPosition> {
        self.position.as_ref()
    }

    /// The names of the files that end at the position.
    pub fn last_files(&self) -> impl Iterator<Item = &str> {
        let end = self.position.as_ref().map(|position| (position.version, position.tip));
        let last = self.files.iter().filter(move |f| Some((f.header().last, f.header().tip_after)) == end);
        last.map(|file| file.name.as_str())
    }

    /// Whether the files up to the position bring the metadata back.
    pub fn is_complete(&self) -> bool {
        let position = self.position.as_ref().map(|position| position.version);
        self.usable_from.zip(position).is_some_and(|(from, position)| position >= from)
    }

    /// What is told of it.
    pub fn status(&self) -> JournalStatus {
        let newest = self.newest_snapshot();
        let since: Vec<_> = self.segments_since_snapshot().collect();
        JournalStatus {
            position: self.position.clone(),
            complete: self.is_complete(),
            bytes_since_snapshot: since.iter().map(|file| file.bytes).sum(),
            segments_since_snapshot: since.len(),
            snapshot_bytes: newest.map_or(0, |file| file.bytes),
            snapshot_version: newest.map(|file| file.header().last),
            files: self.files.len(),
            bytes: self.files.iter().map(|file| file.bytes).sum(),
        }
    }

    /// The next segments to merge into one, from old to new. Those before and after the beginning of a snapshot stay
    /// apart: with a later snapshot the former are not needed any more.
    pub fn next_merge(&self) -> Option<Vec<HeldFile>> {
        let beginnings: Vec<Version> = self.snapshots().map(|file| file.header().last).collect();
        let together = |one: &&HeldFile, other: &&HeldFile| {
            let (a, b) = (one.header(), other.header());
            (a.last + 1, a.tip_after, a.epoch) == (b.first, b.tip_before, b.epoch)
                && !beginnings.iter().any(|v0| (a.last..b.last).contains(v0))
        };
        let segments: Vec<&HeldFile> = self.segments().collect();
        segments.chunk_by(together).find_map(|run| {
            let bytes: Vec<u64> = run.iter().map(|file| file.bytes).collect();
            let range = merging::next(&bytes)?;
            Some(run[range].iter().map(|file| (*file).clone()).collect())
        })
    }

    /// Segments that another one seems to have the lines of, by their versions: that one, and those. What a merge leaves
    /// that was interrupted before it had removed the last of its parts. `known` are pairs of which it was found out that
    /// they are not.
    pub fn seem_covered(&self, known: impl Fn(&HeldFile, &HeldFile) -> bool) -> Option<(HeldFile, Vec<HeldFile>)> {
        let mut segments: Vec<&HeldFile> = self.segments().collect();
        segments.sort_by_key(|file| (file.header().first, std::cmp::Reverse(file.header().last)));
        segments.iter().enumerate().find_map(|(place, cover)| {
            let within = |file: &&&HeldFile| {
                let (held, of) = (file.header(), cover.header());
                !known(cover, file) && held.last <= of.last && (held.history, held.epoch) == (of.history, of.epoch)
            };
            let behind = segments[place + 1..].iter().take_while(|file| file.header().first <= cover.header().last);
            let covered: Vec<HeldFile> = behind.filter(within).map(|file| (*file).clone()).collect();
            (!covered.is_empty()).then(|| ((*cover).clone(), covered))
        })
    }

    /// Puts a merged file in the place of its parts.
    pub fn replace(&mut self, parts: &[HeldFile], merged: HeldFile, inside: Inside<'_>) {
        self.files.retain(|file| !parts.contains(file));
        self.insert(merged);
        self.settle(inside);
    }

    /// Whether the very same lines are here already, so that nothing needs to be stored. Of two snapshots that were
    /// begun at the same version the one that ended earlier is the better one.
    pub fn has(&self, ends: &Ends) -> bool {
        let new = &ends.header;
        self.files.iter().any(|file| {
            let held = file.header();
            (held.kind, held.history, held.first, held.last) == (new.kind, new.history, new.first, new.last)
                && (held.tip_before, held.tip_after) == (new.tip_before, new.tip_after)
                && file.ends.end.0 <= ends.end.0
        })
    }

    /// Whether a segment continues what is here.
    pub fn check_segment(&self, new: &Header) -> Result<()> {
        let refused = |why: String| Err(Error::new(ErrorCode::PreconditionFailed, why));
        let Some(position) = &self.position else {
            if (new.first, new.tip_before) == (1, GENESIS_TIP) {
                return Ok(());
            }
            return refused("this server has no journal: send a snapshot first".into());
        };
        let continues = (new.history, new.first - 1, new.tip_before)
            == (position.history, position.version, position.tip)
            && new.epoch >= position.epoch;
        if !continues {
            return refused(format!(
                "the segment continues version {} of history {}, this server's journal ends at version {} of history {} \
                 with tip {}, in epoch {}",
                new.first - 1,
                new.history,
                position.version,
                position.history,
                position.tip,
                position.epoch
            ));
        }
        if self.segments_since_snapshot().count() >= JOURNAL_SEGMENTS_MAX {
            return refused(format!("{JOURNAL_SEGMENTS_MAX} segments came since the last snapshot: send one first"));
        }
        Ok(())
    }

    /// Whether a snapshot may take the place of what is here.
    pub fn check_snapshot(&self, new: &Header) -> Result<()> {
        match &self.position {
            Some(position) if new.epoch < position.epoch => {
                let message = format!(
                    "the snapshot is of epoch {}, this server's journal of epoch {}: it is refused",
                    new.epoch, position.epoch
                );
                Err(Error::new(ErrorCode::PreconditionFailed, message))
            }
            _ => Ok(()),
        }
    }

    /// Takes a segment that was checked and is in its place.
    pub fn add_segment(&mut self, file: HeldFile) {
        let header = file.header();
        self.position = Some(JournalPosition {
            history: header.history,
            epoch: header.epoch,
            version: header.last,
            tip: header.tip_after,
        });
        if header.first == 1 {
            self.usable_from = Some(0);
        }
        self.insert(file);
    }

    /// Takes a snapshot that was checked and is in its place. Files of other histories and those that are not needed
    /// any more leave the list and are answered.
    pub fn add_snapshot(&mut self, file: HeldFile, inside: Inside<'_>) -> Released {
        let history = file.header().history;
        self.insert(file);
        let (files, other): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.files).into_iter().partition(|f| f.header().history == history);
        self.files = files;
        self.settle(inside);
        let trimmed = self.trim(inside);
        Released { other_histories: other, trimmed }
    }

    /// Takes a file out.
    pub fn remove(&mut self, name: &str, inside: Inside<'_>) {
        self.files.retain(|file| file.name != name);
        self.settle(inside);
    }

    fn insert(&mut self, file: HeldFile) {
        self.files.retain(|held| held.name != file.name);
        let place = self.files.partition_point(|held| held.name < file.name);
        self.files.insert(place, file);
    }

    /// Snapshots, the newest first.
    fn snapshots(&self) -> impl Iterator<Item = &HeldFile> {
        let mut found: Vec<_> = self.files.iter().filter(|file| file.header().kind == Kind::Snapshot).collect();
        found.sort_by_key(|file| std::cmp::Reverse((file.header().epoch, file.header().last)));
        found.into_iter()
    }

    fn newest_snapshot(&self) -> Option<&HeldFile> {
        self.snapshots().next()
    }

    fn segments(&self) -> impl Iterator<Item = &HeldFile> {
        self.files.iter().filter(|file| file.header().kind == Kind::Segment)
    }

    fn segments_since_snapshot(&self) -> impl Iterator<Item = &HeldFile> {
        let since = self.newest_snapshot().map_or(0, |file| file.header().last);
        self.segments().filter(move |file| file.header().last > since)
    }

    /// Finds the position: where the newest base leads.
    fn settle(&mut self, inside: Inside<'_>) {
        let newest = self.newest_snapshot().map(|file| (file.header().clone(), file.ends.end.0));
        let genesis = self.segments().find(|file| file.header().first == 1 && file.header().tip_before == GENESIS_TIP);
        let base = newest
            .or_else(|| genesis.map(|file| (Header { last: 0, tip_after: GENESIS_TIP, ..file.header().clone() }, 0)));
        let Some((base, mut usable_from)) = base else {
            (self.position, self.usable_from) = (None, None);
            return;
        };
        let (end, epoch) = self.follow((base.last, base.tip_after), base.epoch, inside);
        // An older base that leads to the same place may have reached its end already.
        for (start, ended) in self.bases() {
            if ended < usable_from && self.follow(start, 0, inside).0 == end {
                usable_from = ended;
            }
        }
        self.usable_from = Some(usable_from);
        self.position = Some(JournalPosition { history: base.history, epoch, version: end.0, tip: end.1 });
    }

    /// Where a copy can begin: the beginning, with the version from which on it counts.
    fn bases(&self) -> Vec<(Node, Version)> {
        let snapshots = self.snapshots().map(|f| ((f.header().last, f.header().tip_after), f.ends.end.0));
        snapshots.chain([((0, GENESIS_TIP), 0)]).collect()
    }

    /// Where segments lead from a node, and the epoch of the last one.
    fn follow(&self, start: Node, epoch: i64, inside: Inside<'_>) -> (Node, i64) {
        let segments: Vec<_> = self.segments().collect();
        let (mut node, mut epoch) = (start, epoch);
        loop {
            let next = node.0 + 1;
            let at = segments.partition_point(|file| file.header().first < next);
            // Names sort by the first version and then by the last: of those that begin here the longest counts.
            let here = segments[at..].iter().take_while(|file| file.header().first == next);
            let meets = here.filter(|file| file.header().tip_before == node.1).last();
            let across = || {
                let earlier = segments[..at].iter().filter(|file| file.header().last > node.0);
                earlier.into_iter().find(|file| inside(file, node.0) == Some(node.1))
            };
            let Some(file) = meets.or_else(across) else { return (node, epoch) };
            (node, epoch) = ((file.header().last, file.header().tip_after), file.header().epoch);
        }
    }

    /// Takes out what is not needed any more: all but the two newest snapshots, and the segments before the older of
    /// them. When neither counts yet, because the changes to their ends have not come, what does count stays.
    fn trim(&mut self, inside: Inside<'_>) -> Vec<HeldFile> {
        let Some(end) = self.position.as_ref().map(|position| (position.version, position.tip)) else {
            return Vec::new();
        };
        let counts = |file: &HeldFile| {
            file.ends.end.0 <= end.0 && self.follow((file.header().last, file.header().tip_after), 0, inside).0 == end
        };
        let snapshots: Vec<&HeldFile> = self.snapshots().collect();
        let Some(place) = snapshots.iter().position(|file| counts(file)) else { return Vec::new() };
        let kept = SNAPSHOTS_KEPT.max(place + 1);
        if snapshots.len() < kept {
            return Vec::new();
        }
        let oldest = snapshots[..kept].iter().map(|file| file.header().last).min().unwrap_or(0);
        let names: Vec<String> = snapshots[..kept].iter().map(|file| file.name.clone()).collect();
        let needed = |file: &HeldFile| match file.header().kind {
            Kind::Snapshot => names.contains(&file.name),
            Kind::Segment => file.header().last > oldest,
        };
        let (files, trimmed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.files).into_iter().partition(needed);
        self.files = files;
        trimmed
    }
}

/// Files that left the list.
#[derive(Debug, Default)]
pub struct Released {
    /// Of histories that ended.
    pub other_histories: Vec<HeldFile>,
    /// Not needed any more.
    pub trimmed: Vec<HeldFile>,
}
