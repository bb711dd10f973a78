//! What a group of the namespace is, and what each operation may do to it: the promise in its shortest form.

use holdfast::types::ErrorCode;

use crate::history::{Action, DIRS, FILES, Outcome, Place, Seen, Value, When};

/// A file's content and version. Version 0 is unknown: the write or move behind it never told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub value: Value,
    pub version: i64,
}

impl Entry {
    fn is(self, seen: Seen) -> bool {
        self.value == seen.value && (self.version == 0 || self.version == seen.version)
    }
}

/// The files of a directory.
type Dir = [Option<Entry>; FILES];

/// A group: its directories, each there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub dirs: [Option<Dir>; DIRS],
}

impl State {
    /// As a run begins: all directories, no files.
    pub fn new() -> Self {
        Self { dirs: [Some([None; FILES]); DIRS] }
    }

    pub fn file(&self, at: Place) -> Option<Entry> {
        self.dirs[at.dir as usize]?[at.file as usize]
    }

    fn set(&mut self, at: Place, entry: Option<Entry>) {
        if let Some(dir) = &mut self.dirs[at.dir as usize] {
            dir[at.file as usize] = entry;
        }
    }

    /// The state after an operation with this outcome; `None` if that outcome is impossible here.
    pub fn after(&self, action: &Action, outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Done { version } => self.changed(action, version.unwrap_or(0)).ok(),
            Outcome::Unknown(_) | Outcome::Odd(_) => self.changed(action, 0).ok(),
            Outcome::Refused(code) => self.may_refuse(action, *code).then_some(*self),
            Outcome::Saw(seen) => self.shows(action, *seen).then_some(*self),
            Outcome::Listed(files) => self.lists(action, files).then_some(*self),
            Outcome::NotDone(_) | Outcome::Wrong(_) => None,
        }
    }

    fn shows(&self, action: &Action, seen: Seen) -> bool {
        match *action {
            Action::Read { at } | Action::Stat { at } => self.file(at).is_some_and(|entry| entry.is(seen)),
            _ => false,
        }
    }

    fn lists(&self, action: &Action, files: &[(u8, Seen)]) -> bool {
        let Action::List { dir, .. } = *action else { return false };
        let Some(there) = self.dirs[dir as usize] else { return false };
        (0..FILES).all(|file| {
            let listed = files.iter().find(|(listed, _)| *listed as usize == file).map(|(_, seen)| *seen);
            match (there[file], listed) {
                (None, None) => true,
                (Some(entry), Some(seen)) => entry.is(seen),
                _ => false,
            }
        })
    }

    /// What a change makes of this state, or why it is refused. A condition on a version that is unknown holds.
    pub fn changed(&self, action: &Action, version: i64) -> Result<Self, ErrorCode> {
        let mut next = *self;
        match *action {
            Action::Write { at, value, when } => {
                self.dir(at.dir)?;
                match (when, self.file(at)) {
                    (When::Absent, Some(_)) | (When::Version(_), None) => return Err(ErrorCode::PreconditionFailed),
                    (When::Version(wanted), Some(entry)) if entry.version != 0 && entry.version != wanted => {
                        return Err(ErrorCode::PreconditionFailed);
                    }
                    _ => next.set(at, Some(Entry { value, version })),
                }
            }
            Action::Delete { at } => {
                self.file(at).ok_or(ErrorCode::NotFound)?;
                next.set(at, None);
            }
            Action::Move { from, to } | Action::Copy { from, to } => {
                let entry = self.file(from).ok_or(ErrorCode::NotFound)?;
                self.dir(to.dir)?;
                if matches!(action, Action::Move { .. }) {
                    next.set(from, None);
                }
                next.set(to, Some(Entry { version, ..entry }));
            }
            Action::MoveDir { from, to, .. } => {
                let moved = self.dir(from)?;
                if self.dirs[to as usize].is_some_and(|target| target.iter().any(Option::is_some)) {
                    return Err(ErrorCode::DirectoryNotEmpty);
                }
                next.dirs[from as usize] = None;
                next.dirs[to as usize] = Some(*moved);
            }
            Action::RemoveDir { dir, .. } => {
                self.dir(dir)?;
                next.dirs[dir as usize] = None;
            }
            Action::MakeDir { dir, .. } => {
                if self.dirs[dir as usize].is_some() {
                    return Err(ErrorCode::AlreadyExists);
                }
                next.dirs[dir as usize] = Some([None; FILES]);
            }
            Action::Read { at } | Action::Stat { at } => {
                self.file(at).ok_or(ErrorCode::NotFound)?;
            }
            Action::List { dir, .. } => {
                self.dir(dir)?;
            }
        }
        Ok(next)
    }

    fn dir(&self, dir: u8) -> Result<&Dir, ErrorCode> {
        self.dirs[dir as usize].as_ref().ok_or(ErrorCode::NotFound)
    }

    fn may_refuse(&self, action: &Action, code: ErrorCode) -> bool {
        if let Action::Write { at, when: When::Version(_), .. } = action
            && self.file(*at).is_some_and(|entry| entry.version == 0)
        {
            return code == ErrorCode::PreconditionFailed;
        }
        self.changed(action, 0) == Err(code)
    }
}
