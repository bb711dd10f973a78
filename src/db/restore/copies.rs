//! The copies that the storage servers have, as their inventories tell.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};

use super::{BATCH_ROWS, INVENTORY, Rebuild, parse, say};
use crate::db::dialect;
use crate::db::error::Step;
use crate::db::rows::{ObjectRow, ReplicaRow};
use crate::db::schema::objects;
use crate::decisions::restore::{Fate, Found, Held};
use crate::types::storage_api::InventoryLine;
use crate::types::{Error, ObjectId, Result, ServerId, Version};

/// The staged table of copies whose objects the rows do not tell of, in the order of the objects. Its keys are
/// `OBJECT.GENERATION/SERVER`.
const UNKNOWN: &str = "copies of unknown objects";
/// The staged table of files to bring back, by the paths of their commits.
pub(super) const FOUND: &str = "found";
/// The staged table of versions behind the end of what the rows tell that copies have.
pub(super) const BEHIND: &str = "versions behind the end";

/// A copy and who has it.
#[derive(Serialize, Deserialize)]
struct Line {
    server: ServerId,
    line: InventoryLine,
}

impl Line {
    fn replica(&self, now: NaiveDateTime) -> ReplicaRow {
        ReplicaRow {
            object: self.line.replica.object.0,
            server: self.server.0,
            generation: self.line.replica.generation.0,
            state: ReplicaRow::PRESENT.into(),
            created: now,
            verified: Some(self.line.verified.naive_utc()),
        }
    }
}

fn encode(row: &impl Serialize) -> Result<String> {
    serde_json::to_string(row).map_err(|error| Error::internal("cannot encode a row").with_source(error))
}

impl Rebuild<'_> {
    /// Takes the copies of live objects from the inventories. Those of objects that the rows do not tell of are staged.
    pub(super) fn replicas(&mut self) -> Step<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(INVENTORY, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let mut lines = Vec::with_capacity(page.len());
            for row in &page {
                let server = row.key.split('/').next().and_then(|text| text.parse::<ServerId>().ok());
                let Some(server) = server else { continue };
                lines.push(Line { server, line: parse(&row.content)? });
            }
            for unknown in self.take(lines)? {
                let key = format!("{}/{}", unknown.line.replica, unknown.server);
                self.staging.apply(UNKNOWN, &key, Some(&encode(&unknown)?))?;
            }
            self.wrote(page.len())?;
        }
    }

    /// Takes the copies of objects that were unknown before, and are known now.
    pub(super) fn replicas_of_found(&mut self) -> Step<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(UNKNOWN, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let lines = page.iter().map(|row| parse(&row.content)).collect::<Result<Vec<Line>>>()?;
            self.take(lines)?;
            self.plan.progress.check()?;
        }
    }

    /// Writes those that are copies of live objects. Answers those whose objects nobody knows.
    fn take(&mut self, lines: Vec<Line>) -> Step<Vec<Line>> {
        let mut ids: Vec<i64> = lines.iter().map(|line| line.line.replica.object.0).collect();
        ids.dedup();
        let known: Vec<ObjectRow> =
            objects::table.filter(objects::id.eq_any(ids)).select(ObjectRow::as_select()).load(self.connection)?;
        let known: HashMap<i64, ObjectRow> = known.into_iter().map(|row| (row.id, row)).collect();
        let (mut rows, mut unknown) = (Vec::new(), Vec::new());
        for line in lines {
            match known.get(&line.line.replica.object.0) {
                Some(row) if row.state == ObjectRow::LIVE => {
                    if row.sha256 == line.line.sha256.0 && row.size as u64 == line.line.size {
                        rows.push(line.replica(self.now));
                    } else {
                        let server = line.server;
                        let sentence =
                            format!("{}: the copy on {server} has other bytes; it is not counted", row.label);
                        say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
                    }
                }
                // What was deleted stays deleted; the server is told when its inventory is compared.
                Some(_) => {}
                None => unknown.push(line),
            }
        }
        dialect::load_replicas(self.connection, &rows)?;
        Ok(unknown)
    }

    /// Decides about the objects that the rows do not tell of. Files to bring back are staged by their paths.
    pub(super) fn judge_unknown(&mut self) -> Step<()> {
        let mut copies: Vec<Line> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.staging.page(UNKNOWN, after.as_deref(), BATCH_ROWS as i64)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for row in &page {
                let line: Line = parse(&row.content)?;
                if copies.last().is_some_and(|last| last.line.replica.object != line.line.replica.object) {
                    self.judge(&copies)?;
                    copies.clear();
                }
                copies.push(line);
            }
            self.plan.progress.check()?;
        }
        self.judge(&copies)
    }

    /// Decides about an object, by all its copies.
    fn judge(&mut self, copies: &[Line]) -> Step<()> {
        let Some(object) = copies.first().map(|copy| copy.line.replica.object) else { return Ok(()) };
        let held = |Line { server, line }: &Line| Held {
            server: *server,
            version: line.version,
            label: line.label.clone(),
            size: line.size,
            sha256: line.sha256,
        };
        let held: Vec<Held> = copies.iter().map(held).collect();
        let (fate, said) = Fate::of(object, &held, self.plan.told);
        if let Some(sentence) = said {
            say(&mut self.status.conflicts, &mut self.status.conflicts_total, sentence);
        }
        match fate {
            Fate::Forgotten => {}
            Fate::Doubtful => copies.iter().for_each(|copy| {
                let Line { server, line } = copy;
                let sentence = format!(
                    "{}: copy {} on {server} was stored, and nobody has heard of its commit; it is kept there as it is",
                    line.label, line.replica
                );
                say(&mut self.status.doubts, &mut self.status.doubts_total, sentence);
            }),
            Fate::Found(found) => {
                self.note_behind(held.iter().filter_map(|copy| copy.version))?;
                self.stage_found(found)?;
            }
        }
        Ok(())
    }

    fn note_behind(&mut self, versions: impl Iterator<Item = Version>) -> Step<()> {
        let (head, told, known) = (self.plan.head, self.plan.told, self.plan.known.version);
        for version in versions.filter(|version| *version > told && (head + 1..=known).contains(version)) {
            self.staging.apply(BEHIND, &version.to_string(), Some(""))?;
        }
        Ok(())
    }

    /// Of several that were committed at one path the newest stays.
    fn stage_found(&mut self, found: Found) -> Step<()> {
        let there: Option<Found> = self.staging.get(FOUND, &found.label)?.map(|content| parse(&content)).transpose()?;
        let stays = match there {
            Some(there) => found.or_newer(there),
            None => found,
        };
        self.staging.apply(FOUND, &stays.label.clone(), Some(&encode(&stays)?))?;
        Ok(())
    }

    /// Says of which objects no copy was found.
    pub(super) fn lost(&mut self) -> Step<()> {
        let (rows, total) = super::settle::without_copies(self.connection)?;
        self.status.losses_total += total.saturating_sub(rows.len() as u64);
        for (id, label) in rows {
            let sentence = format!("{label} (object {}): no copy was found", ObjectId(id));
            say(&mut self.status.losses, &mut self.status.losses_total, sentence);
        }
        Ok(())
    }
}
