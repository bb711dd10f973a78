//! What was committed behind the end of what the rows tell: it is brought back under the paths of its commits, and what
//! is missing beyond that is told.

use std::collections::HashMap;

use diesel::prelude::*;

use super::copies::{BEHIND, FOUND};
use super::{BATCH_ROWS, Rebuild, parse, renamed, say};
use crate::db::error::Step;
use crate::db::rows::{EntryRow, ObjectRow};
use crate::db::schema::entries;
use crate::db::{dialect, tree};
use crate::decisions::restore::Found;
use crate::types::{DfsPath, EntryId, Version, id};

/// A directory into which files are brought back.
#[derive(Clone, Copy)]
struct Home {
    id: i64,
    /// Copies wanted in it.
    copies: i32,
}

/// Files that go into one directory and are written together.
#[derive(Default)]
struct Together {
    path: Option<DfsPath>,
    /// With their names.
    files: Vec<(String, Found)>,
}

impl Rebuild<'_> {
    /// Brings back what was committed after the journal's end, under the paths of the commits.
    pub(super) fn tail(&mut self) -> Step<()> {
        self.judge_unknown()?;
        let mut together = Together::default();
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(FOUND, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for row in &page {
                self.gather(parse(&row.content)?, &mut together)?;
            }
            self.plan.progress.check()?;
        }
        self.bring_back(&mut together)?;
        if self.status.tail > 0 {
            self.settle()?;
            self.replicas_of_found()?;
        }
        Ok(())
    }

    /// Files of one directory follow each other, with those of directories below it between them.
    fn gather(&mut self, found: Found, together: &mut Together) -> Step<()> {
        self.last = self.last.max(found.version);
        self.status.tail += 1;
        let path = DfsPath::parse(&found.label).ok();
        let Some((parent, name)) = path.as_ref().and_then(DfsPath::split) else {
            let sentence =
                format!("the object {}: it was committed at {:?}, which is no path", found.object, found.label);
            say(&mut self.status.losses, &mut self.status.losses_total, sentence);
            return Ok(());
        };
        if together.path.as_ref() != Some(&parent) || together.files.len() >= BATCH_ROWS {
            self.bring_back(together)?;
            together.path = Some(parent);
        }
        together.files.push((name.to_string(), found));
        Ok(())
    }

    fn bring_back(&mut self, together: &mut Together) -> Step<()> {
        let files = std::mem::take(&mut together.files);
        let Some(path) = together.path.as_ref().filter(|_| !files.is_empty()) else { return Ok(()) };
        let home = self.directory(path)?;
        let object = |found: &Found| ObjectRow {
            id: found.object.0,
            state: ObjectRow::LIVE.into(),
            size: found.size as i64,
            sha256: found.sha256.0.to_vec(),
            copies_wanted: home.copies,
            label: found.label.clone(),
            version: found.version,
            created: self.now,
            forget_after: None,
        };
        let objects: Vec<ObjectRow> = files.iter().map(|(_, found)| object(found)).collect();
        dialect::load_objects(self.connection, &objects)?;
        let mut taken = self.taken(home, &files)?;
        let mut rows = Vec::with_capacity(files.len());
        for (name, found) in files {
            let name = match taken.remove(&name) {
                None => name,
                Some(entry) if !entry.is_directory() && !self.is_own(&entry)? => {
                    diesel::update(entries::table.find(entry.id))
                        .set((entries::object.eq(Some(found.object.0)), entries::version.eq(found.version)))
                        .execute(self.connection)?;
                    continue;
                }
                Some(entry) => {
                    let name = renamed(&name, &format!("restored {}", found.object));
                    let what =
                        if entry.is_directory() { "is a directory" } else { "has the database's own, later content" };
                    let sentence = format!("{} {what}; the file that was committed there is {name:?} now", found.label);
                    say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
                    name
                }
            };
            rows.push(EntryRow {
                id: EntryId::generate().0,
                parent: Some(home.id),
                name,
                kind: EntryRow::FILE.into(),
                object: Some(found.object.0),
                replication: None,
                version: found.version,
                created: self.now,
                modified: self.now,
            });
        }
        dialect::load_entries(self.connection, &rows)?;
        Ok(())
    }

    /// The entries that have the names already.
    fn taken(&mut self, home: Home, files: &[(String, Found)]) -> Step<HashMap<String, EntryRow>> {
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let rows: Vec<EntryRow> = entries::table
            .filter(entries::parent.eq(home.id).and(entries::name.eq_any(names)))
            .select(EntryRow::as_select())
            .load(self.connection)?;
        Ok(rows.into_iter().map(|row| (row.name.clone(), row)).collect())
    }

    /// The directory at a path, made if need be. Where a file is in the way, another name is taken for the directory.
    fn directory(&mut self, path: &DfsPath) -> Step<Home> {
        let walk = tree::walk(self.connection, path)?;
        if let Some(entry) = walk.entry().filter(|entry| entry.is_directory()) {
            return Ok(Home { id: entry.id, copies: walk.copies_wanted() });
        }
        let root = tree::walk(self.connection, &DfsPath::root())?;
        let mut home = Home { id: id::ROOT.0, copies: root.copies_wanted() };
        for name in path.components() {
            let mut name = name.to_string();
            let mut found = tree::child(self.connection, home.id, &name)?;
            if found.as_ref().is_some_and(|entry| !entry.is_directory()) {
                name = renamed(&name, "restored");
                found = tree::child(self.connection, home.id, &name)?;
            }
            let entry = match found {
                Some(entry) => entry,
                None => {
                    let row = EntryRow {
                        id: EntryId::generate().0,
                        parent: Some(home.id),
                        name,
                        kind: EntryRow::DIRECTORY.into(),
                        object: None,
                        replication: None,
                        version: self.plan.head,
                        created: self.now,
                        modified: self.now,
                    };
                    dialect::insert_entries(self.connection, std::slice::from_ref(&row))?;
                    row
                }
            };
            home = Home { id: entry.id, copies: entry.replication.unwrap_or(home.copies) };
        }
        Ok(home)
    }

    /// Tells which changes were made and are not back: those behind the end of what the rows tell, but for contents that
    /// were found at the storage servers.
    pub(super) fn changes_lost(&mut self) -> Step<()> {
        let (head, known) = (self.plan.head, &self.plan.known);
        let behind = self.staging.count(BEHIND)?;
        let lost = (known.version - head - behind as Version).max(0);
        let no_journal = self.status.source == "labels" && head == 0;
        if lost == 0 && !no_journal {
            return Ok(());
        }
        self.status.lost_changes += lost as u64;
        let back = match behind {
            0 => String::new(),
            files => format!(" ({files} others are: files, under the paths of their commits)"),
        };
        let what = match (no_journal, lost) {
            (true, _) => "no copy of the journal is left: what was moved, removed, set or made without bytes is".into(),
            (_, 1) => format!("1 change after version {head} is"),
            _ => format!("{lost} changes after version {head} are"),
        };
        let sentence = format!("{what} not back{back}: {}", known.by);
        say(&mut self.status.losses, &mut self.status.losses_total, sentence);
        for row in &known.rows {
            self.status.losses.push(format!("not back, {row}"));
        }
        Ok(())
    }
}
