//! What was committed behind the end of what the rows tell: it is brought back under the paths of its commits, and what
//! is missing beyond that is told.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;

use super::{BATCH_ROWS, INVENTORY, Rebuild, parse, renamed, replica, say};
use crate::db::error::Step;
use crate::db::rows::{EntryRow, ObjectRow};
use crate::db::schema::entries;
use crate::db::{dialect, tree};
use crate::decisions::restore::{Found, Marked, newest};
use crate::types::storage_api::InventoryLine;
use crate::types::{DfsPath, EntryId, ObjectId, Version, id};

impl Rebuild<'_> {
    /// Brings back what was committed after the journal's end, under the paths of the commits.
    pub(super) fn tail(&mut self, marked: &[Marked]) -> Step<()> {
        let (found, said) = newest(marked);
        for sentence in said {
            say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
        }
        for found in &found {
            self.last = self.last.max(found.version);
            self.bring_back(found)?;
            self.status.tail += 1;
        }
        let by_object: HashMap<ObjectId, &Found> = found.iter().map(|found| (found.object, found)).collect();
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(INVENTORY, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let mut rows = Vec::new();
            for row in &page {
                let line: InventoryLine = parse(&row.content)?;
                let server = row.key.split('/').next().and_then(|text| text.parse::<crate::types::ServerId>().ok());
                if let (Some(server), Some(found)) = (server, by_object.get(&line.replica.object))
                    && (found.sha256, found.size) == (line.sha256, line.size)
                {
                    rows.push(replica(server, &line, self.now));
                }
            }
            dialect::insert_replicas_if_absent(self.connection, &rows)?;
        }
        self.release()
    }

    fn bring_back(&mut self, found: &Found) -> Step<()> {
        let Ok(path) = DfsPath::parse(&found.label) else { return Ok(()) };
        let Some((parent_path, name)) = path.split() else { return Ok(()) };
        let parent = self.directory(&parent_path)?;
        let object = ObjectRow {
            id: found.object.0,
            state: ObjectRow::LIVE.into(),
            size: found.size as i64,
            sha256: found.sha256.0.to_vec(),
            copies_wanted: parent.1,
            label: found.label.clone(),
            version: found.version,
            created: self.now,
            forget_after: None,
        };
        dialect::insert_objects_if_absent(self.connection, &[object])?;
        let mut name = name.to_string();
        match tree::child(self.connection, parent.0, &name)? {
            Some(entry) if entry.is_directory() || self.is_own(&entry) => {
                name = renamed(&name, &format!("restored {}", found.object));
                let what =
                    if entry.is_directory() { "is a directory" } else { "has the database's own, later content" };
                let sentence = format!("{path} {what}; the file that was committed there is {name:?} now");
                say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
            }
            Some(entry) => {
                diesel::update(entries::table.find(entry.id))
                    .set((entries::object.eq(Some(found.object.0)), entries::version.eq(found.version)))
                    .execute(self.connection)?;
                return Ok(());
            }
            None => {}
        }
        let row = EntryRow {
            id: EntryId::generate().0,
            parent: Some(parent.0),
            name,
            kind: EntryRow::FILE.into(),
            object: Some(found.object.0),
            replication: None,
            version: found.version,
            created: self.now,
            modified: self.now,
        };
        dialect::insert_entries(self.connection, &[row])?;
        Ok(())
    }

    /// The directory at a path, made if need be, and the copies wanted in it. Where a file is in the way, another
    /// name is taken for the directory.
    fn directory(&mut self, path: &DfsPath) -> Step<(i64, i32)> {
        let (mut parent, mut copies) = (id::ROOT.0, tree::walk(self.connection, &DfsPath::root())?.copies_wanted());
        for name in path.components() {
            let mut name = name.to_string();
            let mut found = tree::child(self.connection, parent, &name)?;
            if found.as_ref().is_some_and(|entry| !entry.is_directory()) {
                name = renamed(&name, "restored");
                found = tree::child(self.connection, parent, &name)?;
            }
            let entry = match found {
                Some(entry) => entry,
                None => {
                    let row = EntryRow {
                        id: EntryId::generate().0,
                        parent: Some(parent),
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
            copies = entry.replication.unwrap_or(copies);
            parent = entry.id;
        }
        Ok((parent, copies))
    }

    /// Tells which changes were made and are not back: those behind the end of what the rows tell, but for contents that
    /// were found at the storage servers.
    pub(super) fn changes_lost(&mut self, marked: &[Marked]) {
        let (head, known) = (self.plan.head, &self.plan.known);
        let behind: HashSet<Version> = marked
            .iter()
            .map(|copy| copy.version)
            .filter(|version| (head + 1..=known.version).contains(version))
            .collect();
        let lost = (known.version - head - behind.len() as Version).max(0);
        let no_journal = self.status.source == "labels" && head == 0;
        if lost == 0 && !no_journal {
            return;
        }
        self.status.lost_changes += lost as u64;
        let back = match behind.len() {
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
    }
}
