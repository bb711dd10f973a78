//! The `JournalKeeper`: copies the metadata's journal to storage servers, so that the database is disposable.
//!
//! Progress is asked from the servers, never remembered. A holder gets the changes behind its tip as segments; that one
//! cannot go on from its tip, or has outgrown its last snapshot, is noted for the [`super::snapshot_sender`], and holds up
//! nobody. A holder that knows more than the database, or something else, is the evidence that the database was set back:
//! the cluster goes read-only.
//!
//! Deletions wait for the journal's copies, and in the end changes do. So nothing waits for a holder that cannot keep its
//! copy: one that says so ([`ServerView::can_keep`]) is none, and one that fails again and again is set aside
//! ([`crate::decisions::journal::Trials`]). What `--journal-copies` others have, or all others that there are, is enough
//! then. One that is being filled is waited for only where the others are fewer than two ([`copied`]).

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};

use super::context::Context;
use super::journal_holders::Want;
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::cluster::{self, ClusterState};
use crate::db::rows::EventRow;
use crate::db::server::ServerView;
use crate::db::{dialect, events, journal};
use crate::decisions::journal::{
    Able, FAILED_PASSES_MAX, Head, Holder, SNAPSHOT_FLOOR_BYTES, Send, choose, copied, next, snapshot_is_due,
};
use crate::journal::{Origin, format};
use crate::types::api::AdminState;
use crate::types::failpoint;
use crate::types::storage_api::{JournalPosition, JournalStatus};
use crate::types::{Error, ErrorCode, EventKind, Mode, Result, ServerId, Sha256, Version};

/// Rows of one segment; a single change may have more.
const SEGMENT_ROWS: i64 = 5_000;
/// Segments that one holder is sent in one pass.
const SEGMENTS_MAX: usize = 20;
/// How often it is looked for better holders while the present ones answer.
const CHOOSE_INTERVAL: Duration = Duration::from_secs(20);
/// How long a server may take to say how far its copy reaches.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the database's journal is trimmed, and how many versions at a time.
const TRIM_INTERVAL: Duration = Duration::from_secs(60);
/// See [`TRIM_INTERVAL`].
const TRIM_VERSIONS: i64 = 20_000;

/// The work of the actor.
pub struct KeepJournal {
    context: Context,
}

impl KeepJournal {
    /// The interval is what a lost database takes with it.
    pub const TIMING: Timing = Timing { interval: Duration::from_millis(700), deadline: Duration::from_secs(300) };

    /// Without holders yet.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

impl Work for KeepJournal {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone()))
    }
}

/// Why a holder was not served.
enum Fault {
    /// It did not do its part.
    Holder(Error),
    /// It was not its fault.
    Own(Error),
}

/// From what a holder was asked.
fn by_holder(server: &ServerView) -> impl Fn(Error) -> Fault {
    |error| Fault::Holder(error.context(&server.row.name))
}

/// What came of one holder.
struct Served {
    reached: Option<Version>,
    segments: usize,
    want: Option<Want>,
    more: bool,
}

async fn pass(context: Context) -> Result<PassReport> {
    if context.standing.held().is_none() {
        context.journal.forget();
        return Ok(context.standby());
    }
    let state = context.db.read(cluster::state).await?;
    if state.mode != Mode::Normal {
        // What the holders have is the evidence.
        return Ok(PassReport::noting("waiting for a restore"));
    }
    let servers = context.servers().await?;
    let able: Vec<&ServerView> = servers.iter().filter(|server| server.can_keep()).collect();
    let holders = holders(&context, &state, &able).await;
    let chosen: Vec<&ServerView> =
        able.iter().copied().filter(|server| holders.contains(&ServerId(server.row.id))).collect();
    let asked = Instant::now();
    let outcomes = join_all(chosen.iter().map(|server| serve(&context, server))).await;
    let (mut served, mut failed, mut unable, mut filling) = (Vec::new(), None, Vec::new(), 0);
    for (server, outcome) in chosen.into_iter().zip(outcomes) {
        let (id, now) = (ServerId(server.row.id), Instant::now());
        match outcome {
            Ok(one) => {
                let mut memory = context.journal.lock();
                memory.served(id, asked, one.reached, one.want);
                match one.reached {
                    Some(_) => drop(memory.trials.note(id, true, now)),
                    // Whether it does its part its snapshot will show.
                    None if memory.has_no_room(id) => unable.push(server.row.id),
                    None if memory.trials.is_set_aside(id) => {}
                    None => filling += 1,
                }
                served.push(one);
            }
            Err(Fault::Own(error)) => failed = Some(error),
            Err(Fault::Holder(error)) => {
                let is_news = {
                    let mut memory = context.journal.lock();
                    memory.not_served(id, &error);
                    memory.trials.note(id, false, now)
                };
                if is_news {
                    tell_set_aside(&context, server, &error).await?;
                }
                // A full disk must not hold up the deletions that would make room on it.
                if error.code() == ErrorCode::OutOfSpace {
                    unable.push(server.row.id);
                }
                failed = Some(error);
            }
        }
    }
    let needed = able.iter().filter(|server| {
        let is_set_aside = || context.journal.lock().trials.is_set_aside(ServerId(server.row.id));
        !unable.contains(&server.row.id) && !is_set_aside()
    });
    let reached = served.iter().filter_map(|one| one.reached).collect();
    let copied = copied(reached, context.settings.journal_copies, Able { servers: needed.count(), filling });
    if copied > state.journal_copied {
        failpoint::JOURNAL_SENT.passed();
        let history = state.history.to_string();
        context.act(move |connection| Ok(journal::note_copied(connection, &history, copied)?)).await?;
    }
    let trimmed = trim(&context).await?;
    if let Some(error) = failed {
        context.journal.lock().chosen = None;
        return Err(error);
    }
    Ok(PassReport {
        counts: vec![
            ("copies", served.len()),
            ("segments sent", served.iter().map(|one| one.segments).sum()),
            ("waiting for snapshots", served.iter().filter(|one| one.want == Some(Want::Filled)).count()),
            ("old rows trimmed", trimmed),
        ],
        more: served.iter().any(|one| one.more),
        note: None,
    })
}

pub(super) async fn tell_set_aside(context: &Context, server: &ServerView, error: &Error) -> Result<()> {
    let (id, why) = (server.row.id, error.chain());
    let detail = format!(
        "{} failed {FAILED_PASSES_MAX} times to take the journal of the metadata ({why}): other servers keep it, and \
         nothing waits for this one",
        server.row.name
    );
    log::warn!("{detail}");
    context
        .act(move |connection| {
            let event = events::row(dialect::clock(connection)?, EventKind::JournalHolderSetAside, detail);
            dialect::insert_events(connection, &[EventRow { server: Some(id), ..event }])?;
            Ok(())
        })
        .await
}

/// The servers that keep copies: those of before while they answer, newly chosen ones from time to time.
async fn holders(context: &Context, state: &ClusterState, able: &[&ServerView]) -> Vec<ServerId> {
    let now = Instant::now();
    let candidates: Vec<(&ServerView, bool)> = {
        let mut memory = context.journal.lock();
        memory.retain(|server| able.iter().any(|view| view.row.id == server.0));
        let is_able = |holder: &ServerId| able.iter().any(|server| server.row.id == holder.0);
        let all_able = memory.holders.iter().all(is_able);
        let may_be_tried = |server: &&&ServerView| memory.trials.may_be_tried(ServerId(server.row.id), now);
        // When there is nobody else, they are tried all the time.
        let tried: Vec<&ServerView> = able.iter().filter(may_be_tried).copied().collect();
        let tried = if tried.is_empty() { able.to_vec() } else { tried };
        let wanted = context.settings.journal_copies.min(tried.len());
        let fresh = memory.chosen.is_some_and(|at| at.elapsed() < CHOOSE_INTERVAL);
        if fresh && all_able && memory.holders.len() >= wanted {
            return memory.holders.clone();
        }
        let set_aside = |server: &ServerView| memory.trials.is_set_aside(ServerId(server.row.id));
        tried.into_iter().map(|server| (server, set_aside(server))).collect()
    };
    let asked = candidates.iter().map(|(server, set_aside)| async move {
        let status = context.storage.status(&server.row.peer(), STATUS_TIMEOUT).await.ok()?;
        let held = status.journal.filter(|position| position.history == state.history);
        Some(Holder {
            server: ServerId(server.row.id),
            host: server.row.host.clone(),
            in_service: server.admin_state == AdminState::InService,
            set_aside: *set_aside,
            version: held.map(|position| position.version),
        })
    });
    let candidates: Vec<Holder> = join_all(asked).await.into_iter().flatten().collect();
    let chosen = choose(&candidates, context.settings.journal_copies);
    let mut memory = context.journal.lock();
    memory.holders.clone_from(&chosen);
    memory.chosen = Some(now);
    chosen
}

/// Brings one holder up to date, as far as segments can.
async fn serve(context: &Context, server: &ServerView) -> Result<Served, Fault> {
    let (peer, by_holder) = (&server.row.peer(), by_holder(server));
    let status = context.storage.journal_status(peer).await.map_err(&by_holder)?;
    let want = has_outgrown(&status).then_some(Want::Renewed);
    let (mut position, mut complete) = (status.position, status.complete);
    let mut served = Served { reached: None, segments: 0, want, more: false };
    loop {
        let (judged, what) = decide(context, position.clone()).await.map_err(Fault::Own)?;
        match what {
            Send::Nothing => {
                if !complete {
                    // It has every change, and no snapshot of its own leads to them.
                    served.want = Some(Want::Filled);
                }
                break;
            }
            Send::Diverged(why) => return protect(context, server, judged, &why).await.map_err(Fault::Own),
            Send::After(..) if served.segments == SEGMENTS_MAX => {
                served.more = true;
                break;
            }
            Send::After(version, tip) => {
                let bytes = segment(context, version, tip).await.map_err(Fault::Own)?;
                let accepted = context.storage.journal_send(peer, bytes).await.map_err(&by_holder)?;
                (position, complete) = (Some(accepted.position), accepted.complete);
                served.segments += 1;
            }
            Send::Snapshot => {
                served.want = Some(Want::Filled);
                // What it has is of no use for what is to come.
                complete = false;
                break;
            }
        }
    }
    served.reached = position.filter(|_| complete).map(|position| position.version);
    Ok(served)
}

fn has_outgrown(status: &JournalStatus) -> bool {
    let floor = failpoint::limit("snapshot-floor-bytes", SNAPSHOT_FLOOR_BYTES);
    snapshot_is_due(status.bytes_since_snapshot, status.snapshot_bytes, floor)
}

/// The database's head is read after the holder's position, so that the holder cannot be ahead of it by chance. Answers
/// the state that was judged, too.
async fn decide(context: &Context, position: Option<JournalPosition>) -> Result<(ClusterState, Send)> {
    context
        .db
        .read_snapshot(move |connection| {
            let state = cluster::state(connection)?;
            let head = Head {
                history: state.history,
                epoch: state.epoch,
                version: state.version,
                tip: Sha256::from_slice(&state.tip)?,
            };
            let version = position.as_ref().map_or(0, |position| position.version);
            let there = journal::tip_at(connection, version)?.as_deref().map(Sha256::from_slice).transpose()?;
            let begins_at_first = journal::first_version(connection)? == Some(1);
            Ok((state, next(&head, position.as_ref(), there, begins_at_first)))
        })
        .await
}

async fn protect<T>(context: &Context, server: &ServerView, judged: ClusterState, why: &str) -> Result<T> {
    let reason = format!(
        "the journal's copy on {} and the database tell different histories ({why}): the database was set back, or is \
         not the one that this cluster used last; bring the changes together with `holdfast restore`",
        server.row.name
    );
    context.protect(judged, &reason).await?;
    Err(Error::new(ErrorCode::ReadOnly, reason))
}

pub(super) fn origin(state: &ClusterState) -> Origin {
    Origin { cluster: state.cluster, history: state.history, epoch: state.epoch }
}

async fn segment(context: &Context, version: Version, tip: Sha256) -> Result<Bytes> {
    context
        .db
        .read_snapshot(move |connection| {
            let state = cluster::state(connection)?;
            let lines = journal::lines_after(connection, version, SEGMENT_ROWS)?;
            let (_, bytes) = format::segment(&origin(&state), tip, &lines)?;
            Ok(Bytes::from(bytes))
        })
        .await
}

async fn trim(context: &Context) -> Result<usize> {
    {
        let mut memory = context.journal.lock();
        if memory.trimmed.is_some_and(|at| at.elapsed() < TRIM_INTERVAL) {
            return Ok(0);
        }
        memory.trimmed = Some(Instant::now());
    }
    let (keep, needed) = (context.settings.journal_keep, context.journal.needed());
    context
        .act(move |connection| {
            let before = crate::db::dialect::clock(connection)? - keep;
            Ok(journal::trim(connection, before, needed, TRIM_VERSIONS)?)
        })
        .await
}
