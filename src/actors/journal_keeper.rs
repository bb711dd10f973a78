//! The `JournalKeeper`: copies the metadata's journal to storage servers, so that the database is disposable.
//!
//! Progress is asked from the servers, never remembered. A holder gets the changes behind its tip as segments; one
//! that cannot go on from its tip gets a snapshot. A holder that knows more than the database, or something else,
//! is the evidence that the database was set back: the cluster goes read-only.
//!
//! Deletions wait for the journal's copies, and in the end changes do. So nothing waits for a holder that cannot keep its
//! copy: one that says so ([`ServerView::can_keep`]) is none, and one that fails again and again is set aside
//! ([`Trials`]). What `--journal-copies` others have, or all others that there are, is enough then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::mpsc;

use super::context::Context;
use super::pass::{PassReport, Timing, Work};
use crate::db::cluster::{self, ClusterState};
use crate::db::rows::EventRow;
use crate::db::server::ServerView;
use crate::db::{dialect, events, journal};
use crate::decisions::journal::{FAILED_PASSES_MAX, Head, Holder, Send, Trials, choose, copied, next};
use crate::journal::{ENTRIES, OBJECTS, Origin, SERVERS, SnapshotWriter, TOKENS, format};
use crate::types::api::AdminState;
use crate::types::storage_api::{JournalPosition, JournalStatus, Peer};
use crate::types::{Error, ErrorCode, EventKind, Mode, Result, ServerId, Sha256, Version};

/// Rows of one segment; a single change may have more.
const SEGMENT_ROWS: i64 = 5_000;
/// Segments that one holder is sent in one pass.
const SEGMENTS_MAX: usize = 20;
/// Rows that are read at once for a snapshot.
const SNAPSHOT_PAGE_ROWS: i64 = 1_000;
/// Pieces of a snapshot that wait to be sent.
const SNAPSHOT_PIECES_MAX: usize = 4;
/// A holder gets a new snapshot when the segments since its last one have more bytes than this, and twice as many as
/// the snapshot has.
const SEGMENT_BYTES_MIN: u64 = 32 << 20;
/// As many segments since the last snapshot are enough too.
const SEGMENTS_SINCE_SNAPSHOT_MAX: usize = 5_000;
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
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    holders: Vec<ServerId>,
    chosen: Option<Instant>,
    trimmed: Option<Instant>,
    trials: Trials,
}

impl KeepJournal {
    /// The interval is what a lost database takes with it.
    pub const TIMING: Timing = Timing { interval: Duration::from_millis(700), deadline: Duration::from_secs(3_600) };

    /// Without holders yet.
    pub fn new(context: Context) -> Self {
        Self { context, memory: Arc::default() }
    }
}

impl Work for KeepJournal {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone(), self.memory.clone()))
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
    snapshots: usize,
    more: bool,
}

async fn pass(context: Context, memory: Arc<Mutex<Memory>>) -> Result<PassReport> {
    if context.standing.held().is_none() {
        *lock(&memory) = Memory::default();
        return Ok(context.standby());
    }
    let state = context.db.read(cluster::state).await?;
    if state.mode != Mode::Normal {
        // What the holders have is the evidence.
        return Ok(PassReport { counts: vec![("waiting for a restore", 1)], more: false });
    }
    let servers = context.servers().await?;
    let able: Vec<&ServerView> = servers.iter().filter(|server| server.can_keep()).collect();
    let holders = holders(&context, &memory, &state, &able).await;
    let chosen: Vec<&ServerView> =
        able.iter().copied().filter(|server| holders.contains(&ServerId(server.row.id))).collect();
    let outcomes = join_all(chosen.iter().map(|server| serve(&context, server))).await;
    let (mut served, mut failed, mut unable) = (Vec::new(), None, Vec::new());
    for (server, outcome) in chosen.into_iter().zip(outcomes) {
        let now = Instant::now();
        let is_news = |succeeded| lock(&memory).trials.note(ServerId(server.row.id), succeeded, now);
        match outcome {
            Ok(one) => {
                is_news(true);
                served.push(one);
            }
            Err(Fault::Own(error)) => failed = Some(error),
            Err(Fault::Holder(error)) => {
                if is_news(false) {
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
        !unable.contains(&server.row.id) && !lock(&memory).trials.is_set_aside(ServerId(server.row.id))
    });
    let reached = served.iter().filter_map(|one| one.reached).collect();
    let copied = copied(reached, context.settings.journal_copies, needed.count());
    if copied > state.journal_copied {
        crate::types::failpoint::JOURNAL_SENT.passed();
        let history = state.history.to_string();
        context.act(move |connection| Ok(journal::note_copied(connection, &history, copied)?)).await?;
    }
    let trimmed = trim(&context, &memory).await?;
    if let Some(error) = failed {
        lock(&memory).chosen = None;
        return Err(error);
    }
    Ok(PassReport {
        counts: vec![
            ("copies", served.len()),
            ("segments sent", served.iter().map(|one| one.segments).sum()),
            ("snapshots sent", served.iter().map(|one| one.snapshots).sum()),
            ("old rows trimmed", trimmed),
        ],
        more: served.iter().any(|one| one.more),
    })
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn tell_set_aside(context: &Context, server: &ServerView, error: &Error) -> Result<()> {
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
async fn holders(
    context: &Context,
    memory: &Mutex<Memory>,
    state: &ClusterState,
    able: &[&ServerView],
) -> Vec<ServerId> {
    let now = Instant::now();
    let candidates: Vec<(&ServerView, bool)> = {
        let mut memory = lock(memory);
        memory.trials.retain(|server| able.iter().any(|view| view.row.id == server.0));
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
    let mut memory = lock(memory);
    memory.holders.clone_from(&chosen);
    memory.chosen = Some(now);
    chosen
}

/// Brings one holder up to date.
async fn serve(context: &Context, server: &ServerView) -> Result<Served, Fault> {
    let (peer, by_holder) = (&server.row.peer(), by_holder(server));
    let status = context.storage.journal_status(peer).await.map_err(&by_holder)?;
    let (mut position, mut complete) = (status.position.clone(), status.complete);
    let mut served = Served { reached: None, segments: 0, snapshots: 0, more: false };
    let mut due = snapshot_due(&status);
    loop {
        let (judged, what) = decide(context, position.clone()).await.map_err(Fault::Own)?;
        let what = if due && !matches!(what, Send::Diverged(_)) { Send::Snapshot } else { what };
        match what {
            Send::Nothing => break,
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
            Send::Snapshot if served.snapshots > 0 => {
                return Err(by_holder(Error::internal("it took a snapshot and asks for another one")));
            }
            Send::Snapshot => {
                match snapshot(context, peer).await {
                    Ok(accepted) => {
                        (position, complete) = (Some(accepted.position), accepted.complete);
                        served.snapshots += 1;
                    }
                    // It has outgrown its last snapshot and can go on without a new one: changes must not wait.
                    Err(error) if due => {
                        log::warn!("{} took no new snapshot of the metadata: {}", server.row.name, error.chain());
                    }
                    Err(error) => return Err(by_holder(error)),
                }
                due = false;
            }
        }
    }
    served.reached = position.filter(|_| complete).map(|position| position.version);
    Ok(served)
}

fn snapshot_due(status: &JournalStatus) -> bool {
    let bytes = status.bytes_since_snapshot;
    bytes > SEGMENT_BYTES_MIN && bytes / 2 > status.snapshot_bytes
        || status.segments_since_snapshot > SEGMENTS_SINCE_SNAPSHOT_MAX
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

fn origin(state: &ClusterState) -> Origin {
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

/// Streams a snapshot: short pages, while changes go on.
async fn snapshot(context: &Context, peer: &Peer) -> Result<crate::types::storage_api::JournalAccepted> {
    let (pieces, queue) = mpsc::channel::<std::io::Result<Bytes>>(SNAPSHOT_PIECES_MAX);
    let reading = context.clone();
    let writer = tokio::spawn(async move {
        if let Err(error) = write_snapshot(&reading, &pieces).await {
            log::warn!("a snapshot of the metadata was broken off: {}", error.chain());
            // The receiver may be gone already; then the request has failed.
            let _ = pieces.send(Err(std::io::Error::other("the snapshot was broken off"))).await;
        }
    });
    let body = futures_util::stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
    let accepted = context.storage.journal_send_stream(peer, body).await;
    writer.abort();
    accepted
}

async fn write_snapshot(context: &Context, pieces: &mpsc::Sender<std::io::Result<Bytes>>) -> Result<()> {
    let gone = |_| Error::unavailable("nobody takes the snapshot any more");
    let state = context.db.read(cluster::state).await?;
    let mut bytes = Vec::new();
    let mut writer =
        SnapshotWriter::start(&origin(&state), state.version, Sha256::from_slice(&state.tip)?, &mut bytes)?;
    for table in [SERVERS, TOKENS, OBJECTS, ENTRIES] {
        let mut after: Option<String> = None;
        loop {
            let from = after.take();
            let rows = context
                .db
                .read(move |connection| journal::page(connection, table, from.as_deref(), SNAPSHOT_PAGE_ROWS))
                .await?;
            for (key, content) in &rows {
                writer.row(table, key, content, &mut bytes)?;
            }
            pieces.send(Ok(Bytes::from(std::mem::take(&mut bytes)))).await.map_err(gone)?;
            match rows.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
    }
    let end = context.db.read(cluster::state).await?;
    if (end.history, end.epoch) != (state.history, state.epoch) {
        return Err(Error::unavailable("the cluster was restored meanwhile"));
    }
    writer.finish(end.version, Sha256::from_slice(&end.tip)?, &mut bytes)?;
    pieces.send(Ok(Bytes::from(bytes))).await.map_err(gone)
}

async fn trim(context: &Context, memory: &Mutex<Memory>) -> Result<usize> {
    {
        let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.trimmed.is_some_and(|at| at.elapsed() < TRIM_INTERVAL) {
            return Ok(0);
        }
        memory.trimmed = Some(Instant::now());
    }
    let keep = context.settings.journal_keep;
    context
        .act(move |connection| {
            let before = crate::db::dialect::clock(connection)? - keep;
            Ok(journal::trim(connection, before, TRIM_VERSIONS)?)
        })
        .await
}
