//! The tree, from the root down, a page of a directory at a time. What does not reach the root had been removed.

use std::cmp::Reverse;

use super::{BATCH_ROWS, OWN, Rebuild, own_key, parse, renamed, say};
use crate::db::dialect;
use crate::db::error::Step;
use crate::db::rows::{EntryRow, ObjectRow};
use crate::journal::ENTRIES;
use crate::journal::staging::StagedChild;
use crate::types::{EntryId, ObjectId, id};

/// A directory of which not everything is written.
struct Open {
    id: i64,
    /// Name and key of the last entry that was read.
    after: (String, String),
    /// Name that was given last.
    given: Option<String>,
    /// Directories of the last page into which it must still go.
    below: Vec<i64>,
    is_read: bool,
}

impl Open {
    fn new(id: i64) -> Self {
        Self { id, after: Default::default(), given: None, below: Vec::new(), is_read: false }
    }
}

impl Rebuild<'_> {
    /// Writes the entries, each behind its directory. An entry has one row, and with it one directory: but for the root, none
    /// is met twice.
    pub(super) fn entries(&mut self) -> Step<()> {
        let root = match self.staging.get(ENTRIES, &id::ROOT.0.to_string())? {
            Some(content) => parse(&content)?,
            None => self.new_root(),
        };
        let mut rows = vec![EntryRow { parent: None, ..root }];
        let mut open = vec![Open::new(id::ROOT.0)];
        while let Some(directory) = open.last_mut() {
            if let Some(below) = directory.below.pop() {
                open.push(Open::new(below));
            } else if directory.is_read {
                open.pop();
            } else {
                self.read_page(directory, &mut rows)?;
                if rows.len() >= BATCH_ROWS {
                    self.write_entries(&mut rows)?;
                }
            }
        }
        self.write_entries(&mut rows)
    }

    fn new_root(&self) -> EntryRow {
        EntryRow {
            id: id::ROOT.0,
            parent: None,
            name: String::new(),
            kind: EntryRow::DIRECTORY.into(),
            object: None,
            replication: Some(self.plan.copies),
            version: 0,
            created: self.now,
            modified: self.now,
        }
    }

    fn write_entries(&mut self, rows: &mut Vec<EntryRow>) -> Step<()> {
        dialect::load_entries(self.connection, rows)?;
        self.wrote(rows.len())?;
        rows.clear();
        Ok(())
    }

    fn read_page(&mut self, directory: &mut Open, rows: &mut Vec<EntryRow>) -> Step<()> {
        let after = (directory.after.0.as_str(), directory.after.1.as_str());
        let mut page = self.staging.children_in_full(directory.id, after, BATCH_ROWS as i64)?;
        directory.is_read = page.len() < BATCH_ROWS;
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(()) };
        // Who gets a name that several entries have is decided between all of them.
        if !directory.is_read && first.name != last.name {
            let name = last.name.clone();
            page.retain(|child| child.name != name);
        }
        if let Some(last) = page.last() {
            directory.after = (last.name.clone(), last.key.clone());
        }
        for group in page.chunk_by(|one, other| one.name == other.name) {
            for row in self.named(directory, group)? {
                if row.is_directory() {
                    directory.below.push(row.id);
                }
                rows.push(row);
            }
        }
        Ok(())
    }

    /// Entries of one name, of which one gets it, and files only with their objects.
    fn named(&mut self, directory: &mut Open, group: &[StagedChild]) -> Step<Vec<EntryRow>> {
        let mut found: Vec<(bool, EntryRow)> = Vec::with_capacity(group.len());
        for child in group {
            let row: EntryRow = parse(&child.content)?;
            if row.id == id::ROOT.0 {
                continue;
            }
            self.last = self.last.max(row.version);
            // On one branch its last entry may have been removed, and another branch has an entry more.
            let is_there = matches!(child.object_state.as_deref(), Some(ObjectRow::LIVE | ObjectRow::DELETED));
            if let Some(object) = row.object
                && !is_there
            {
                let sentence =
                    format!("the file {:?}: the journal does not tell of its object {}", row.name, ObjectId(object));
                say(&mut self.status.losses, &mut self.status.losses_total, sentence);
                continue;
            }
            let is_own = group.len() > 1 && self.is_own(&row)?;
            found.push((is_own, row));
        }
        // The database's own entries keep their names.
        found.sort_by_key(|(is_own, row)| (!is_own, Reverse(row.version)));
        let mut rows: Vec<EntryRow> = found.into_iter().map(|(_, row)| row).collect();
        for row in &mut rows {
            if directory.given.as_ref() != Some(&row.name) {
                directory.given = Some(row.name.clone());
                continue;
            }
            let other = self.free_name(directory.id, row)?;
            let sentence =
                format!("there were two entries named {:?} in one directory; one is {other:?} now", row.name);
            say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
            row.name = other;
        }
        Ok(rows)
    }

    fn free_name(&mut self, directory: i64, row: &EntryRow) -> Step<String> {
        let mut note = format!("restored {}", EntryId(row.id));
        loop {
            let name = renamed(&row.name, &note);
            if !self.staging.has_child(directory, &name)? {
                return Ok(name);
            }
            note.push_str(" again");
        }
    }

    /// Whether the database itself changed an entry after it had parted from the journal's copies: then it wins.
    pub(super) fn is_own(&mut self, row: &EntryRow) -> Step<bool> {
        Ok(self.staging.get(OWN, &own_key(ENTRIES, &row.id.to_string()))?.is_some())
    }
}
