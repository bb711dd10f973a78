//! What the endpoints share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::actors::context::Context;
use crate::actors::jobs::Jobs;
use crate::actors::metadata_writer::{Answer, Asked, Change, MetadataWriter};
use crate::actors::pass::Nudge;
use crate::actors::restore::Restores;
use crate::actors::{Board, Handle, PassActor};
use crate::db::migrate::FIRST_TOKEN;
use crate::db::report::Counts;
use crate::security::Recipient;
use crate::security::tls::ServerCertificate;
use crate::security::token::{self, Grant};
use crate::types::api::Role;
use crate::types::{Error, ErrorCode, Mode, Result, Sha256, Version};
use crate::web::auth::{Gate, Scrape};

/// How long a change of the namespace may wait for its batch and its commit.
const CHANGE_DEADLINE: Duration = Duration::from_secs(12);
/// How long a token that was found is believed; a revoked one works as long.
const TOKEN_TTL: Duration = Duration::from_secs(2);
/// How long it is believed for looking at how the cluster is, while the database does not answer.
const TOKEN_TTL_IN_NEED: Duration = Duration::from_secs(600);
/// How old the counts in the metrics may be.
const COUNTS_TTL: Duration = Duration::from_secs(5);
/// How old may be what anybody is told of the state.
const READINESS_TTL: Duration = Duration::from_millis(250);
/// Tokens that are remembered.
const TOKENS_MAX: usize = 10_000;

/// What the first token is told after the restore that it has started.
const REVOKED_AGAIN: &str =
    "the token is not valid: it was revoked. It has started the last restore, and may see what came of that";

/// The state of the application.
pub struct App {
    /// Database, storage client, signer, settings.
    pub context: Context,
    /// Group commit.
    pub writer: Handle<MetadataWriter>,
    /// Checks servers; nudged when one registers.
    pub health_monitor: Handle<PassActor>,
    /// How the actors are.
    pub board: Board,
    /// Judges what servers send.
    pub gate: Gate,
    /// Servers that have announced themselves, and the restore under way.
    pub restores: Arc<Restores>,
    /// Long work that somebody asked for.
    pub jobs: Jobs,
    /// The TLS certificate that this name server shows.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Who may read metrics.
    pub scrape: Scrape,
    tokens: Mutex<HashMap<Sha256, KnownToken>>,
    counts: tokio::sync::Mutex<Option<(Instant, Counts)>>,
    readiness: tokio::sync::Mutex<Option<(Instant, (bool, String))>>,
}

/// What the database said of a token.
#[derive(Clone)]
struct KnownToken {
    at: Instant,
    /// The cluster and epoch: after a restore there may be other tokens.
    of: (Uuid, i64),
    grant: Option<Grant>,
}

/// How handlers get it.
pub type Data = web::Data<App>;

impl App {
    /// Over its parts.
    pub fn new(
        context: Context,
        writer: Handle<MetadataWriter>,
        health_monitor: Handle<PassActor>,
        board: Board,
        scrape: Scrape,
    ) -> Self {
        let gate = Gate::new(context.signer.clone(), Recipient::NameServer);
        Self {
            context,
            writer,
            health_monitor,
            board,
            gate,
            restores: Arc::default(),
            jobs: Jobs::default(),
            certificate: None,
            scrape,
            tokens: Mutex::default(),
            counts: tokio::sync::Mutex::default(),
            readiness: tokio::sync::Mutex::default(),
        }
    }

    /// With the TLS certificate that it shows.
    pub fn with_certificate(self, certificate: Option<Arc<ServerCertificate>>) -> Self {
        Self { certificate, ..self }
    }

    /// Makes a change of the namespace that the bearer of the token with this name asks for; answers its version, or
    /// `None` when there was nothing to touch.
    pub async fn change(&self, by: &str, change: Change) -> Result<Option<Version>> {
        let by = Some(by.to_string());
        match self.writer.submit(Asked { change, by }, CHANGE_DEADLINE).await? {
            Answer::Changed(version) => Ok(Some(version)),
            Answer::Absent => Ok(None),
            Answer::Committed(committed) => Ok(Some(committed.version)),
        }
    }

    /// Hands in a change that tells by itself who asked for it, for those who wait for many.
    pub async fn submit(&self, change: Change) -> Result<Answer> {
        self.writer.submit(Asked { change, by: None }, CHANGE_DEADLINE).await
    }

    /// Asks for a round of health checks soon.
    pub fn check_servers_soon(&self) {
        self.health_monitor.nudge(Nudge);
    }

    /// What the token with this hash allows.
    pub async fn grant(&self, hash: Sha256) -> Result<Option<Grant>> {
        let membership = self.context.membership();
        let known = self.tokens.lock().get(&hash).cloned();
        if let Some(known) = known
            && known.at.elapsed() < TOKEN_TTL
            && known.of == membership
        {
            let now = self.context.standing.now();
            return Ok(known.grant.filter(|grant| !grant.has_ended(now)));
        }
        let asked = Instant::now();
        let is_first = self.is_first_token(hash);
        let waiting = if is_first { self.waits_for_restore().await } else { None };
        let found = self.context.db.read(move |connection| crate::db::token::find(connection, hash)).await;
        let follows = is_first && self.restores.was_started_by_first_token();
        let grant = match found {
            Ok(Some(grant)) => Some(grant),
            _ if is_first && let Some(why) = &waiting => Some(only_restore((ErrorCode::ReadOnly, why.clone()))),
            Ok(None) if follows => Some(only_restore((ErrorCode::Unauthorized, REVOKED_AGAIN.into()))),
            // Anybody may ask with any token: where the database is, is not for them.
            Err(_) if self.context.db.soundness().trouble().is_some() => {
                return Err(Error::unavailable(
                    "the database is damaged, and this token cannot be looked up: the name server's log tells the way out; \
                     the token that is derived from the cluster's secret may start the restore",
                ));
            }
            found => found?,
        };
        if waiting.is_some() {
            // When the restore is done, the journal says what it is.
            return Ok(grant);
        }
        let mut tokens = self.tokens.lock();
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(hash, KnownToken { at: asked, of: membership, grant: grant.clone() });
        Ok(grant)
    }

    /// What a token allows while the database does not answer: to see that, if it was valid not long ago, or is the one that
    /// is derived from the cluster's secret.
    pub fn grant_in_need(&self, hash: Sha256, why: &Error) -> Option<Grant> {
        let known = self.tokens.lock().get(&hash).cloned();
        let known =
            known.filter(|known| known.at.elapsed() < TOKEN_TTL_IN_NEED && known.of == self.context.membership());
        let only = || only_restore((ErrorCode::Unavailable, why.message().into()));
        let now = self.context.standing.now();
        let grant = known.and_then(|known| known.grant).filter(|grant| !grant.has_ended(now));
        grant.or_else(|| self.is_first_token(hash).then(only))
    }

    /// Whether it is the token that is derived from the cluster's secret.
    pub fn is_first_token(&self, hash: Sha256) -> bool {
        hash == token::hash(&self.context.signer.secret().superuser_token())
    }

    /// Why the cluster waits for a restore, if it does.
    pub async fn waits_for_restore(&self) -> Option<String> {
        if let Some(trouble) = self.context.db.soundness().trouble() {
            return Some(trouble.sentence.clone());
        }
        let state = self.context.db.read(crate::db::cluster::state).await.ok()?;
        (state.mode == Mode::Restoring).then(|| crate::db::cluster::refusal(state.mode_reason.as_deref()))
    }

    /// The numbers for the metrics, a few seconds old at most. They are read by one caller at a time.
    pub async fn recent_counts(&self) -> Result<Counts> {
        let mut known = self.counts.lock().await;
        if let Some((at, counts)) = known.as_ref()
            && at.elapsed() < COUNTS_TTL
        {
            return Ok(counts.clone());
        }
        let asked = Instant::now();
        let counts = self.context.db.read(crate::db::report::counts).await?;
        *known = Some((asked, counts.clone()));
        Ok(counts)
    }

    /// Whether this server is ready and the mode, as `look` finds them. It is looked for by one caller at a time and a few
    /// times a second at most: those who ask need not show anything.
    pub async fn recent_readiness(&self, look: impl Future<Output = Result<(bool, String)>>) -> Result<(bool, String)> {
        let mut known = self.readiness.lock().await;
        if let Some((at, readiness)) = known.as_ref()
            && at.elapsed() < READINESS_TTL
        {
            return Ok(readiness.clone());
        }
        let asked = Instant::now();
        let readiness = look.await?;
        *known = Some((asked, readiness.clone()));
        Ok(readiness)
    }

    /// Forgets tokens that were found, after one was revoked here.
    pub fn forget_tokens(&self) {
        self.tokens.lock().clear();
    }
}

/// What the first token allows where it is not known or revoked, and the cluster waits for its restore.
fn only_restore(answer: (ErrorCode, String)) -> Grant {
    Grant { name: FIRST_TOKEN.into(), role: Role::Superuser, prefix: None, only_restore: Some(answer), expires: None }
}

/// The version of a change that always has one.
pub fn version_of(answer: Option<Version>) -> Result<Version> {
    answer.ok_or_else(|| Error::internal("a change had no version"))
}
