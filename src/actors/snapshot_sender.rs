//! The `SnapshotSender`: sends snapshots of the metadata to the journal's holders, beside the stream of segments.
//!
//! A snapshot of ten million files is some gigabytes and takes as long as the slower of the database and the holder. So it is
//! work of its own: the [`super::journal_keeper`] goes on sending segments to all holders, this one too, and what is copied
//! goes on. Each holder has a snapshot of its own under way, so that a slow one holds up no other; each has a deadline; all
//! end with the pass, and so with the actor and with the lease.
//!
//! It is *fuzzy*: read in pages of some thousand rows by key, each in a statement of its own, so that neither Postgres keeps
//! old rows for it nor SQLite's log waits for it. It begins at version V0 and ends at V1; rows are whole and lines are applied
//! by key, so the rows under the lines from V0 + 1 on are right from V1 on, whichever of the states between each row was read
//! in. Whoever reads it back knows both versions and their tips (`crate::journal`), and takes it only with the lines between
//! them. The database's journal is not trimmed beyond V0 meanwhile, or the holder could not go on from there.
//!
//! What is broken off in the middle leaves nothing: the holder takes only a body that has its end and its seal, of a name
//! server that nobody has taken over from, and empties `incoming/` at its start. The keeper finds out anew who needs one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::context::Context;
use super::journal_holders::{Claim, Want};
use super::journal_keeper::{origin, tell_set_aside};
use super::pass::{Timing, Work};
use super::pass_report::PassReport;
use crate::db::server::ServerView;
use crate::db::{cluster, journal};
use crate::journal::{ENTRIES, OBJECTS, SERVERS, SnapshotWriter, TOKENS};
use crate::types::failpoint;
use crate::types::{Error, Mode, Result, Sha256};

/// Rows that are read at once.
const PAGE_ROWS: i64 = 1_000;
/// Pieces that wait to be sent.
const PIECES_MAX: usize = 4;
/// A snapshot that takes longer is given up.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(12 * 3_600);
/// How often it is looked for holders that need one while others are under way.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// After as long nothing new is begun, so that the pass ends when what is under way does.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(3_600);

/// The work of the actor.
pub struct SendSnapshots {
    /// What it works with.
    pub context: Context,
}

impl SendSnapshots {
    /// A pass is as long as its snapshots.
    pub const TIMING: Timing = Timing { interval: LOOK_AGAIN, deadline: Duration::from_secs(14 * 3_600) };
}

impl Work for SendSnapshots {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.context.clone()))
    }
}

async fn pass(context: Context) -> Result<PassReport> {
    let began = Instant::now();
    let mut under_way = FuturesUnordered::new();
    let (mut sent, mut failed) = (0, None);
    loop {
        // What is under way is dropped with the lease.
        if context.standing.held().is_none() {
            return Ok(context.standby());
        }
        while began.elapsed() < BEGIN_TIME_MAX
            && let Some((claim, want)) = context.journal.claim()
        {
            under_way.push(send_one(&context, claim, want));
        }
        if under_way.is_empty() {
            break;
        }
        tokio::select! {
            outcome = under_way.next() => match outcome {
                Some(Ok(())) => sent += 1,
                Some(Err(error)) => failed = Some(error),
                None => {}
            },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(PassReport::of(vec![("snapshots sent", sent)])),
    }
}

/// Sends one, and notes what came of it.
async fn send_one(context: &Context, claim: Claim, want: Want) -> Result<()> {
    let server = claim.server;
    let servers = context.servers().await?;
    let Some(view) = servers.iter().find(|view| view.row.id == server.0 && view.can_keep()) else {
        return Ok(());
    };
    let sending = tokio::time::timeout(SNAPSHOT_DEADLINE, snapshot(context, view, &claim));
    let outcome = sending
        .await
        .unwrap_or_else(|_| Err(Error::unavailable(format!("a snapshot took longer than {SNAPSHOT_DEADLINE:?}"))))
        .map_err(|error| error.context(&view.row.name));
    let is_news = {
        let mut memory = context.journal.lock();
        memory.sent(server, outcome.as_ref().copied());
        // One that can go on without it is served all the same.
        (want == Want::Filled || outcome.is_ok()) && memory.trials.note(server, outcome.is_ok(), Instant::now())
    };
    match &outcome {
        Ok(()) => log::info!("{} has a new snapshot of the metadata", view.row.name),
        Err(error) => {
            log::warn!("a snapshot of the metadata was broken off: {}", error.chain());
            if is_news {
                tell_set_aside(context, view, error).await?;
            }
        }
    }
    outcome
}

async fn snapshot(context: &Context, server: &ServerView, claim: &Claim) -> Result<()> {
    let (pieces, queue) = mpsc::channel::<std::io::Result<Bytes>>(PIECES_MAX);
    let body = futures_util::stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
    let reading = async {
        let read = write(context, claim, &pieces).await;
        if read.is_err() {
            // The receiver may be gone already; then the request has failed.
            let _ = pieces.send(Err(std::io::Error::other("the snapshot was broken off"))).await;
        }
        drop(pieces);
        read
    };
    let peer = server.row.peer();
    let (reading, sending) = (std::pin::pin!(reading), context.storage.journal_send_stream(&peer, body));
    let mut sending = std::pin::pin!(sending);
    tokio::select! {
        read = reading => match (read, sending.as_mut().await) {
            (_, Ok(_)) => Ok(()),
            (Err(error), Err(_)) => Err(error),
            (Ok(()), Err(error)) => Err(error),
        },
        // The holder has given up; what is being read is of no use.
        accepted = &mut sending => accepted.map(drop),
    }
}

async fn write(context: &Context, claim: &Claim, pieces: &mpsc::Sender<std::io::Result<Bytes>>) -> Result<()> {
    let gone = |_| Error::unavailable("nobody takes the snapshot any more");
    let term = context.standing.held().map(|held| held.term);
    let state = context.db.read(cluster::state).await?;
    claim.needs(state.version);
    let mut bytes = Vec::new();
    let mut writer =
        SnapshotWriter::start(&origin(&state), state.version, Sha256::from_slice(&state.tip)?, &mut bytes)?;
    for table in [SERVERS, TOKENS, OBJECTS, ENTRIES] {
        let mut after: Option<String> = None;
        loop {
            failpoint::held("snapshot-page").await;
            if term.is_none() || context.standing.held().map(|held| held.term) != term {
                return Err(Error::unavailable("this name server does not hold the lease any more"));
            }
            let from = after.take();
            let rows =
                context.db.read(move |connection| journal::page(connection, table, from.as_deref(), PAGE_ROWS)).await?;
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
    let version = state.version;
    let (end, there) = context
        .db
        .read_snapshot(move |connection| Ok((cluster::state(connection)?, journal::tip_at(connection, version)?)))
        .await?;
    if (end.history, end.epoch) != (state.history, state.epoch) {
        return Err(Error::unavailable("the cluster was restored meanwhile"));
    }
    // It must not take the place of what the holder has, which may be the evidence.
    if end.mode != Mode::Normal || end.version < state.version || there.is_some_and(|tip| tip != state.tip) {
        return Err(Error::unavailable("the cluster takes no changes, or its database was set back meanwhile"));
    }
    writer.finish(end.version, Sha256::from_slice(&end.tip)?, &mut bytes)?;
    pieces.send(Ok(Bytes::from(bytes))).await.map_err(gone)
}
