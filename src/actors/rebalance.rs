//! Rebalancing, as a part of the `ReplicationManager`'s pass: what is left of a pass when repair has nothing to do.
//!
//! A run goes in rounds. Each begins with what the servers have by the kept numbers, and then goes over the copies of the
//! servers that are too full and begins to move some, by those numbers and by what was moved since. When a round has come to
//! its end, and its last copy to its place, the next one begins: a run ends when servers are even, or when a round moved
//! nothing. The run itself is in the database; where a round is is only here, so a name server that takes over begins one.
//!
//! Moves share the transfers of repair and take half of them at most, so that what becomes endangered meanwhile finds
//! room; none is begun while repair has anything that it can do, is paused, or while a server is away.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use parking_lot::Mutex;

use super::context::Context;
use super::transfers::{Transfers, carry};
use crate::db::moves;
use crate::db::rebalance as store;
use crate::db::repair::{Rules, server_facts};
use crate::db::rows::RebalanceRow;
use crate::db::server::ServerView;
use crate::decisions::rebalance::{Level, Levels, hindrance};
use crate::types::{Result, ServerId};

/// Pages of copies that one pass goes over.
const MOVE_PAGES_MAX: usize = 4;
/// Before the first copy of a server; ids are not negative.
const BEGINNING: i64 = -1;

/// Where the run under way is.
#[derive(Clone, Default)]
pub struct Rebalancing {
    run: Arc<Mutex<Option<Run>>>,
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Moved {
    /// Copies that are on their way now.
    pub begun: usize,
    /// There is more to do at once.
    pub more: bool,
}

#[derive(Clone)]
struct Run {
    /// The run, the percent, the term of the lease, and the servers among which it goes: with others it begins anew.
    of: (i64, i32, i64, Vec<i64>),
    stage: Stage,
    /// What was written down last.
    told: (Option<u64>, String),
}

#[derive(Clone)]
enum Stage {
    /// A round begins; the one before, if there was one, moved so many copies.
    Begin { moved_before: Option<usize> },
    /// Going over the copies of servers that are too full.
    Move { levels: Levels, cursors: HashMap<i64, Option<i64>>, moved: usize },
}

/// Servers among which copies are moved: those in service that can be relied on. One that takes nothing now is among them,
/// because it may give.
fn takes_part(view: &ServerView, rules: &Rules) -> bool {
    let facts = server_facts(std::slice::from_ref(view), Utc::now().naive_utc(), rules.repair_delay);
    facts.first().is_some_and(|facts| !facts.gone && facts.admin_state == crate::types::api::AdminState::InService)
        && !view.is_alarmed()
        && !view.is_failing()
}

/// How full servers are, by what each has.
pub fn levels(views: &[ServerView], rules: &Rules, within_percent: u32, bytes: impl Fn(&ServerView) -> u64) -> Levels {
    let level = |view: &ServerView| {
        let checked = view.checked.as_ref()?;
        let room_bytes = (checked.stored_bytes.max(0) as u64).saturating_add(checked.free_bytes.max(0) as u64);
        Some(Level { server: ServerId(view.row.id), bytes: bytes(view), room_bytes })
    };
    Levels::new(views.iter().filter(|view| takes_part(view, rules)).filter_map(level), within_percent)
}

/// Goes on with the run that is under way, if one is.
pub async fn step(
    context: &Context,
    transfers: &Transfers,
    rebalancing: &Rebalancing,
    rules: Rules,
    views: &[ServerView],
    (term, paused): (i64, Option<String>),
) -> Result<Moved> {
    let row = context.db.read(store::last).await?.filter(RebalanceRow::is_running);
    let Some(row) = row else {
        rebalancing.set(None);
        return Ok(Moved::default());
    };
    let servers: Vec<i64> = views.iter().filter(|view| takes_part(view, &rules)).map(|view| view.row.id).collect();
    let of = (row.id, row.within_percent, term, servers);
    let known = rebalancing.get().filter(|run| run.of == of);
    let mut run = known.unwrap_or_else(|| Run {
        stage: Stage::Begin { moved_before: None },
        told: (row.left_bytes.map(|bytes| bytes as u64), row.note.clone()),
        of,
    });
    let step = Pass { context, transfers, rules, views, run: &mut run };
    let moved = step.go(paused).await;
    rebalancing.set(Some(run));
    moved
}

impl Rebalancing {
    fn get(&self) -> Option<Run> {
        self.run.lock().clone()
    }

    fn set(&self, run: Option<Run>) {
        *self.run.lock() = run;
    }
}

struct Pass<'p> {
    context: &'p Context,
    transfers: &'p Transfers,
    rules: Rules,
    views: &'p [ServerView],
    run: &'p mut Run,
}

impl Pass<'_> {
    async fn go(mut self, paused: Option<String>) -> Result<Moved> {
        if let Some(why) = self.waits(paused).await? {
            self.tell(None, &why).await?;
            return Ok(Moved::default());
        }
        match self.run.stage.clone() {
            Stage::Begin { moved_before } => self.begin_round(moved_before).await,
            Stage::Move { levels, cursors, moved } => self.move_some(levels, cursors, moved).await,
        }
    }

    /// What has to come first.
    async fn waits(&self, paused: Option<String>) -> Result<Option<String>> {
        let name = |id: ServerId| {
            self.views
                .iter()
                .find(|view| view.row.id == id.0)
                .map_or_else(|| id.to_string(), |view| view.row.name.clone())
        };
        let facts = server_facts(self.views, Utc::now().naive_utc(), self.rules.repair_delay);
        match paused.map(|why| format!("it waits: {why}")).or_else(|| hindrance(&facts, name)) {
            Some(why) => Ok(Some(why)),
            None => self.context.db.read(store::repair_first).await,
        }
    }

    /// Writes down how far it is, if that is news.
    async fn tell(&mut self, left_bytes: Option<u64>, note: &str) -> Result<()> {
        let told = (left_bytes.or(self.run.told.0), note.to_string());
        if self.run.told != told {
            let (id, note) = (self.run.of.0, note.to_string());
            self.context.act(move |connection| store::progress(connection, id, left_bytes, &note)).await?;
            self.run.told = told;
        }
        Ok(())
    }

    async fn end(&self, note: String) -> Result<Moved> {
        let id = self.run.of.0;
        log::info!("rebalancing has ended: {note}");
        let done = RebalanceRow::DONE;
        self.context.act(move |connection| store::finish(connection, id, done, &note)).await?;
        Ok(Moved::default())
    }

    async fn begin_round(mut self, moved_before: Option<usize>) -> Result<Moved> {
        let bytes = self.context.db.read(store::bytes_by_server).await?;
        let within = self.run.of.1.max(0) as u32;
        let of = |view: &ServerView| bytes.get(&view.row.id).copied().unwrap_or(0);
        let levels = levels(self.views, &self.rules, within, of);
        if levels.is_even() {
            return self.end(format!("servers are filled within {within} % of each other")).await;
        }
        if moved_before == Some(0) {
            let apart = (levels.difference() * 100.0).ceil();
            let note = format!(
                "servers are filled within {apart} % of each other, and no copy is left that may move: what is on the fuller \
                 ones has its other copies where room is, or would be worse spread over hosts and zones"
            );
            return self.end(note).await;
        }
        self.tell(Some(levels.left_bytes()), "copies are being moved").await?;
        self.run.stage = Stage::Move { levels, cursors: HashMap::new(), moved: 0 };
        Ok(Moved { begun: 0, more: true })
    }

    async fn move_some(
        mut self,
        mut levels: Levels,
        mut cursors: HashMap<i64, Option<i64>>,
        mut moved: usize,
    ) -> Result<Moved> {
        let mut now = Moved::default();
        for _ in 0..MOVE_PAGES_MAX {
            let givers = levels.givers().into_iter();
            let from = givers.map(|id| (id, cursors.get(&id.0).copied().unwrap_or(Some(BEGINNING))));
            let Some((from, after)) = from.filter_map(|(id, after)| Some((id, after?))).next() else {
                return self.end_round(moved, now).await;
            };
            let settings = &self.context.settings;
            let room = self.transfers.room_for_moves(settings.repair_transfers, settings.repair_bytes_per_second);
            if room.transfers == 0 || room.bytes == 0 {
                break;
            }
            let (rules, before) = (self.rules, levels.clone());
            let (planned, after_it) =
                self.context.act(move |connection| store::plan(connection, &rules, from, after, before, room)).await?;
            now.begun += planned.transfers.len();
            moved += planned.transfers.len();
            for transfer in planned.transfers {
                self.transfers.start(transfer.clone(), carry(self.context.clone(), transfer));
            }
            levels = after_it;
            cursors.insert(from.0, planned.next);
            now.more = !planned.full;
            // What was begun is remembered, whatever the next page meets.
            self.run.stage = Stage::Move { levels: levels.clone(), cursors: cursors.clone(), moved };
            if planned.full {
                break;
            }
        }
        self.tell(Some(levels.left_bytes()), "copies are being moved").await?;
        Ok(now)
    }

    /// Nothing is left to begin: when the last copy is where it belongs, the next round begins.
    async fn end_round(mut self, moved: usize, now: Moved) -> Result<Moved> {
        if self.context.db.read(moves::is_moving).await? {
            self.tell(None, "the last copies are on their way").await?;
            return Ok(Moved { more: false, ..now });
        }
        self.run.stage = Stage::Begin { moved_before: Some(moved) };
        Ok(Moved { more: true, ..now })
    }
}
