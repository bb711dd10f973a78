//! Copies that storage servers report as corrupt: which are counted out, and what becomes of their bytes.
//!
//! Each object is locked, so that of two servers that report the same object at once the second one is asked for
//! the last copy and knows it. What is decided is in [`crate::decisions::scrub::judge`].
//!
//! While a server's inventory is being compared, nothing is decided about its copies: the comparison has read the
//! copy and would list it again after its row went here. One that begins after the answer and reads the inventory
//! before the bytes are moved does so too; therefore the server asks once more when it has moved them, and is told to
//! wait while that comparison lasts.

use std::collections::{HashMap, HashSet};

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::Step;
use super::repair::server_facts;
use super::rows::{EventRow, ObjectRow, ReplicaRow};
use super::schema::{objects, replicas, server_health};
use super::server_view::server_views;
use super::{chunks, cluster, dialect, events, queue};
use crate::decisions::scrub::{Judgement, Listed, Reported, judge as decide};
use crate::types::api::{CorruptFate, CorruptJournalFile, CorruptReplica, Health};
use crate::types::{CauseWord, EventKind, Mode, ServerId, Version};

/// Characters of a reason that are kept; the sender is trusted with its own copies, not with the size of the log.
const REASON_CHARS_MAX: usize = 300;
/// An alarm that lasts is written down again after this time, and so is what it is about.
const ALARM_REPEAT: TimeDelta = TimeDelta::hours(24);

/// Judges copies that `server` reports, in one transaction; one fate for each, in order. With `alarm` the server
/// doubts itself: it is told to leave everything where it is.
pub fn judge(
    connection: &mut AnyConnection,
    server: ServerId,
    found: &[CorruptReplica],
    alarm: bool,
) -> Step<Vec<CorruptFate>> {
    let state = cluster::state(connection)?;
    let mut bench = Bench::load(connection, server, found, alarm, state.now.naive_utc())?;
    if state.mode != Mode::Normal || is_being_compared(connection, server)? {
        return Ok(vec![CorruptFate::Wait; found.len()]);
    }
    let fates = found.iter().map(|copy| bench.hear(connection, copy)).collect::<Step<_>>()?;
    if alarm {
        bench.note_alarm(connection)?;
    }
    events::tell(connection, bench.happened)?;
    Ok(fates)
}

/// Writes down that files of a server's copy of the journal were damaged: one event for each of them.
pub fn note_journal(connection: &mut AnyConnection, server: ServerId, files: &[CorruptJournalFile]) -> Step<()> {
    if files.is_empty() {
        return Ok(());
    }
    let now = dialect::clock(connection)?;
    let event = |file: &CorruptJournalFile| {
        let cut = |text: &str| text.chars().take(REASON_CHARS_MAX).collect::<String>();
        let detail = format!(
            "the file {} of the metadata's journal was damaged ({}) and is in quarantine; what is missing is sent anew",
            cut(&file.name),
            cut(&file.reason)
        );
        EventRow { server: Some(server.0), ..events::row(now, EventKind::JournalCorrupt, detail) }
    };
    dialect::insert_events(connection, &files.iter().map(event).collect::<Vec<_>>())?;
    Ok(())
}

/// Whether an inventory of the server may have been read and not been put right yet. Asked under the objects' locks:
/// what is put right before them is seen, and what comes after them sees that the row is gone.
fn is_being_compared(connection: &mut AnyConnection, server: ServerId) -> QueryResult<bool> {
    let compared = server_health::table
        .find(server.0)
        .select(server_health::boot_id.eq(server_health::synced_boot))
        .first(connection)
        .optional()?;
    Ok(compared != Some(true))
}

/// What is known of the objects that are reported.
struct Bench {
    server: ServerId,
    alarm: bool,
    now: NaiveDateTime,
    /// Label, version and whether it is live.
    objects: HashMap<i64, (String, Version, bool)>,
    /// Rows of all copies, by object.
    copies: HashMap<i64, Vec<ReplicaRow>>,
    /// Servers whose copies count when another one is given up.
    safe: HashSet<i64>,
    /// Servers that are not down: what they have is there, and may not be certain.
    up: HashSet<i64>,
    happened: Vec<EventRow>,
}

impl Bench {
    /// Locks the objects first: nobody commits, deletes or repairs them until the end.
    fn load(
        connection: &mut AnyConnection,
        server: ServerId,
        found: &[CorruptReplica],
        alarm: bool,
        now: NaiveDateTime,
    ) -> Step<Self> {
        let mut ids: Vec<i64> = found.iter().map(|copy| copy.object.0).collect();
        ids.sort_unstable();
        ids.dedup();
        dialect::lock_objects(connection, &ids)?;
        let rows: Vec<ObjectRow> = chunks::load(&ids, |piece| {
            objects::table.filter(objects::id.eq_any(piece)).select(ObjectRow::as_select()).load(connection)
        })?;
        let copies: Vec<ReplicaRow> = chunks::load(&ids, |piece| {
            replicas::table.filter(replicas::object.eq_any(piece)).select(ReplicaRow::as_select()).load(connection)
        })?;
        let views = server_views(connection)?;
        // How long one has been down says nothing here.
        let facts = server_facts(&views, now, TimeDelta::MAX);
        let safe = facts.iter().filter(|facts| facts.is_safe()).map(|facts| facts.place.server.0).collect();
        let up = views.iter().filter(|view| view.health != Health::Down).map(|view| view.row.id).collect();
        let mut by_object: HashMap<i64, Vec<ReplicaRow>> = HashMap::new();
        for copy in copies {
            by_object.entry(copy.object).or_default().push(copy);
        }
        let facts = |row: ObjectRow| (row.id, (row.label, row.version, row.state == ObjectRow::LIVE));
        Ok(Self {
            server,
            alarm,
            now,
            objects: rows.into_iter().map(facts).collect(),
            copies: by_object,
            safe,
            up,
            happened: Vec::new(),
        })
    }

    fn hear(&mut self, connection: &mut AnyConnection, copy: &CorruptReplica) -> Step<CorruptFate> {
        let object = copy.object.0;
        let rows = self.copies.entry(object).or_default();
        let is_this = |row: &ReplicaRow| row.server == self.server.0 && row.generation == copy.generation.0;
        let listed = rows.iter().find(|row| is_this(row)).map(|row| match row.state.as_str() {
            ReplicaRow::COPYING => Listed::Copying,
            _ => Listed::Present,
        });
        let counts = |on: &HashSet<i64>| {
            let is_other =
                |row: &&ReplicaRow| !is_this(row) && row.state == ReplicaRow::PRESENT && on.contains(&row.server);
            rows.iter().filter(is_other).count()
        };
        let (others, uncertain) = (counts(&self.safe), counts(&self.up));
        let live = self.objects.get(&object).is_some_and(|(_, _, live)| *live);
        let reported = Reported { alarm: self.alarm, aside: copy.aside, live, listed, others };
        let judgement = decide(&reported);
        if judgement.count_out {
            rows.retain(|row| !is_this(row));
            diesel::delete(replicas::table.find((object, self.server.0))).execute(connection)?;
            queue::look_again(connection, &[object], self.now)?;
        }
        if let Some((kind, detail)) = self.words(copy, &reported, uncertain, &judgement)
            // A server in alarm tells the same again and again.
            && !(judgement.fate == CorruptFate::Leave
                && !judgement.count_out
                && events::was_told(connection, kind, self.server.0, Some(object), self.now - ALARM_REPEAT)?)
        {
            let event =
                EventRow { object: Some(object), server: Some(self.server.0), ..events::row(self.now, kind, detail) };
            // A last copy stands by itself: each is a file that somebody misses.
            let summed = (kind == EventKind::ReplicaCorrupt).then(|| CauseWord::Corrupt.word().to_string());
            self.happened.push(EventRow { cause: summed, ..event });
        }
        Ok(judgement.fate)
    }

    /// What the event says; nothing while there is nothing decided. So many other copies are there, certain or not.
    fn words(
        &self,
        copy: &CorruptReplica,
        reported: &Reported,
        others: usize,
        judgement: &Judgement,
    ) -> Option<(EventKind, String)> {
        let what = match self.objects.get(&copy.object.0) {
            Some((label, version, _)) => {
                format!("copy {}.{} of {label} (version {version})", copy.object, copy.generation)
            }
            None => format!("copy {}.{}", copy.object, copy.generation),
        };
        let reason: String = copy.reason.chars().take(REASON_CHARS_MAX).collect();
        let place = if copy.gone {
            "it counts no longer"
        } else if copy.aside {
            "it is in quarantine"
        } else if self.alarm {
            "the server has raised an alarm and leaves it where it is"
        } else {
            "it goes into quarantine"
        };
        let listed = reported.listed == Some(Listed::Present);
        let (kind, rest) = match judgement.fate {
            CorruptFate::Wait => return None,
            // It was told before.
            _ if copy.aside && !listed => return None,
            CorruptFate::QuarantineForGood if others > 0 => (
                EventKind::ReplicaCorrupt,
                format!(
                    "it counts no longer; {others} others are left, and none of them is certain (their servers do not answer, \
                     are being compared, leave, or do not trust their disks), so the bytes stay in that server's quarantine until a \
                     person removes them"
                ),
            ),
            CorruptFate::QuarantineForGood if copy.gone => (
                EventKind::LastCopyCorrupt,
                "no other copy is on a server that is not down, so this file cannot be read before one of its copies is \
                 back: is a disk of that server not mounted?"
                    .to_string(),
            ),
            CorruptFate::QuarantineForGood => (
                EventKind::LastCopyCorrupt,
                "no other copy is on a server that is not down, so this file is damaged; the bytes stay in that \
                 server's quarantine until a person removes them"
                    .to_string(),
            ),
            CorruptFate::Leave if listed && !judgement.count_out && others > 0 => {
                (EventKind::ReplicaCorrupt, format!("none of the {others} others is certain; {place}"))
            }
            CorruptFate::Leave if listed && !judgement.count_out => {
                (EventKind::LastCopyCorrupt, format!("no other copy is on a server that is not down; {place}"))
            }
            _ if listed => {
                (EventKind::ReplicaCorrupt, format!("{place}; {} others are left, repair is queued", reported.others))
            }
            CorruptFate::Quarantine => (EventKind::ReplicaCorrupt, format!("the metadata does not list it; {place}")),
            CorruptFate::Leave => return None,
        };
        let state = if copy.gone { "lost" } else { "corrupt" };
        Some((kind, format!("{what} is {state} ({reason}): {rest}")))
    }

    fn note_alarm(&mut self, connection: &mut AnyConnection) -> Step<()> {
        if !events::was_told(connection, EventKind::ScrubAlarm, self.server.0, None, self.now - ALARM_REPEAT)? {
            let detail = "so many copies were found corrupt at once that the server no longer trusts its disk or its \
                          memory: it quarantines nothing until it is started again; look at the hardware first";
            let event = events::row(self.now, EventKind::ScrubAlarm, detail.into());
            self.happened.push(EventRow { server: Some(self.server.0), ..event });
        }
        Ok(())
    }
}
