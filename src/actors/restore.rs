//! Bringing the metadata back from the storage servers.
//!
//! 0. A damaged database is put aside, and an empty one begun in its place ([`crate::db::aside`]).
//! 1. Fence: the cluster stops, and every server that answers persists a new epoch, before anything is read.
//! 2. Merge the copies of the journal and replay them into a temporary database; where the database itself made
//!    changes after the last common one, those win. What a database that was put aside proves to have known beyond the
//!    copies' end is brought back, too ([`crate::db::former`]).
//! 3. Read the inventories.
//! 4. Write the tables anew in one transaction, under a new history ([`crate::db::restore`]).
//!
//! An interrupted restore has changed nothing but the epoch, and is run again. It is started by any superuser's token and,
//! while the cluster waits for it, by the one that is derived from the secret, also when that was revoked: what the
//! tokens are, only the journal knows then.

mod arrival;
mod members;
mod room;
mod run;
mod sources;
mod state;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::run::Run;
pub use self::state::Restores;
use super::context::Context;
use crate::db::restore::progress::ABORTED;
use crate::db::{cluster, dialect, events, restores, server};
use crate::types::api::{ModeBefore, RestoreRequest, RestoreStatus};
use crate::types::storage_api::StorageStatus;
use crate::types::{Error, ErrorCode, EventKind, Mode, Result};
use chrono::Utc;
use futures_util::future::join_all;

/// How long a restore that a person ends may take for the statement that it is in the middle of.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether it has ended.
const ABORT_POLL: Duration = Duration::from_millis(50);

impl Restores {
    /// Refuses unless there is something that a restore would bring back: a database that is complete and sound loses by it
    /// whatever its journal's copies do not have yet.
    pub async fn refuse_needless(self: &Arc<Self>, context: &Context) -> Result<()> {
        if context.db.soundness().trouble().is_some() || self.status().state == "running" {
            return Ok(());
        }
        let look = context.db.read(|connection| {
            let state = cluster::state(connection)?;
            Ok((state, restores::is_new(connection)?, server::server_views(connection)?))
        });
        let (state, is_new, servers) = look.await?;
        if state.mode != Mode::Normal || is_new || !self.announced.knocking(state.cluster).is_empty() {
            return Ok(());
        }
        let run = Run::new(context.clone(), RestoreRequest::default(), self.clone(), false);
        let asked = servers.iter().map(|server| run.ask(&server.row));
        let answers: Vec<StorageStatus> = join_all(asked).await.into_iter().flatten().collect();
        // Read after they have answered: what they have heard of is in it, unless it was set back.
        let version = context.db.read(cluster::state).await?.version;
        if answers.iter().any(|status| status.heard_version > version || status.epoch > state.epoch) {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "the metadata is complete: the database is sound, and no storage server knows of a change after its version \
                 {version}. A restore would stop all changes and repair while it runs, and write every table anew from the \
                 storage servers' copies of the journal; changes of the last second may be lost. Nothing was changed; \
                 --force does it all the same"
            ),
        ))
    }

    /// Ends the restore that is under way, or was interrupted, and has the cluster be what it was before.
    pub async fn abort(&self, context: &Context) -> Result<RestoreStatus> {
        if self.status().state == "running" {
            self.end_running().await?;
            let status = self.status();
            if status.error.as_deref() == Some(ABORTED) && !context.db.read(restores::is_open).await? {
                return Ok(status);
            }
        }
        let aborted = EventKind::RestoreAborted;
        let taken_back = context.db.write(move |connection| {
            let status = restores::go_back(connection, None, ABORTED, aborted)?;
            Ok((status, cluster::state(connection)?))
        });
        let (Some(status), state) = taken_back.await? else {
            return Err(Error::new(
                ErrorCode::PreconditionFailed,
                "there is no restore to abort: none has begun to change anything, or it is done; `holdfast restore --status` \
                 says what the last one came to",
            ));
        };
        context.standing.set_membership(state.cluster, state.epoch);
        log::warn!("the restore was aborted; the cluster is {} again", state.mode);
        *self.status.lock() = status.clone();
        Ok(status)
    }

    /// Ends the one of this process. What it has written is rolled back.
    async fn end_running(&self) -> Result<()> {
        self.progress.stop();
        let asked = Instant::now();
        while self.status().state == "running" {
            if asked.elapsed() >= ABORT_TIMEOUT {
                return Err(Error::new(
                    ErrorCode::Busy,
                    "the restore is in the middle of a statement, and ends after it: ask again in a moment",
                ));
            }
            tokio::time::sleep(ABORT_POLL).await;
        }
        Ok(())
    }

    /// Starts a restore, unless one is under way, here or through another name server on the same database.
    pub async fn start(
        self: &Arc<Self>,
        context: Context,
        request: RestoreRequest,
        by_first_token: bool,
    ) -> Result<RestoreStatus> {
        let busy =
            || Error::new(ErrorCode::Busy, "a restore is under way already; `holdfast restore --status` follows it");
        // The one of this process holds the lock, too: it is told as what it is.
        if self.status().state == "running" {
            return Err(busy());
        }
        let doing = do_alone(&context).await?;
        let begun = {
            let mut status = self.status.lock();
            if status.state == "running" {
                return Err(busy());
            }
            *status = RestoreStatus { state: "running".into(), started: Some(Utc::now()), ..RestoreStatus::default() };
            self.by_first_token.store(by_first_token, Ordering::SeqCst);
            self.progress.reset();
            status.clone()
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _doing = doing;
            let run = Run::new(context.clone(), request, this.clone(), by_first_token);
            let id = run.id;
            let was_sound = context.db.soundness().trouble().is_none();
            let mut outcome = run.clone().guarded().await;
            if outcome.is_err() && was_sound && context.db.soundness().trouble().is_some() {
                // It has met damage that nobody knew of: now it is put aside.
                outcome = run.guarded().await;
            }
            let mut status = this.status();
            status.ended = Some(Utc::now());
            status.progress = None;
            match outcome {
                Ok(done) => status = RestoreStatus { state: "done".into(), ended: status.ended, ..done },
                Err(error) => {
                    match error.message() {
                        ABORTED => log::warn!("the restore was aborted"),
                        _ => log::error!("the restore failed: {}", error.chain()),
                    }
                    status.state = "failed".into();
                    status.error = Some(error.message().into());
                }
            }
            if status.state == "failed" {
                status.before = go_back(&context, id, &status).await;
            }
            crate::types::failpoint::RESTORE_DONE.passed();
            *this.status.lock() = status.clone();
            let kept = context
                .db
                .write(move |connection| {
                    let now = dialect::clock(connection)?;
                    if let Some(error) = status.error.as_ref().filter(|error| *error != ABORTED) {
                        let detail = format!("the restore failed: {error}");
                        let event = events::row(now, EventKind::RestoreFailed, detail);
                        dialect::insert_events(connection, &[event])?;
                    }
                    let started = status.started.map_or(now, |started| started.naive_utc());
                    restores::save_report(connection, id, started, Some(now), &status)
                })
                .await;
            if let Err(error) = kept {
                log::warn!("the report of the restore could not be kept: {}", error.chain());
            }
        });
        Ok(begun)
    }
}

/// Makes this the one name server that does a restore. A database that does not say who does one, or one that was put
/// aside, is for the restore itself to judge; so is another name server whose restore was aborted and that has not
/// noticed yet: it may not write any more.
async fn do_alone(context: &Context) -> Result<Option<restores::Doing>> {
    let url = context.db.url().clone();
    let doing = tokio::task::spawn_blocking(move || restores::do_alone(&url)).await;
    let doing = doing.map_err(|error| Error::internal("asking who restores panicked").with_source(error))?;
    if let Ok(None) = doing
        && let Ok(Some(_)) = context.db.read(|connection| Ok(restores::elsewhere(connection)?)).await
    {
        return Err(Error::new(
            ErrorCode::Busy,
            "a restore is under way through another name server; `holdfast restore --status` follows it, and `holdfast restore \
             --abort` ends it",
        ));
    }
    Ok(doing.unwrap_or_else(|error| {
        log::warn!("it cannot be told whether another name server does a restore: {}", error.chain());
        None
    }))
}

/// A restore that came to nothing leaves the cluster as it was. Where that cannot be written, `--abort` does it later.
async fn go_back(context: &Context, id: i64, status: &RestoreStatus) -> Option<ModeBefore> {
    let why = status.error.clone().unwrap_or_default();
    let gone_back = context.db.write(move |connection| {
        let kind = if why == ABORTED { EventKind::RestoreAborted } else { EventKind::RestoreNote };
        let status = restores::go_back(connection, Some(id), &why, kind)?;
        Ok((status, cluster::state(connection)?))
    });
    match gone_back.await {
        Ok((Some(status), state)) => {
            context.standing.set_membership(state.cluster, state.epoch);
            log::info!("the cluster is {} again, as before the restore", state.mode);
            status.before
        }
        Ok((None, _)) => None,
        Err(error) => {
            log::warn!(
                "the cluster could not be set back to what it was before the restore, `holdfast restore --abort` does: {}",
                error.chain()
            );
            None
        }
    }
}
