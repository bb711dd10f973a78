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

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::announced::{Announced, cluster_to_restore};
use super::context::Context;
use super::standing::LEASE_TTL;
use crate::db::branches::{self, Staged};
use crate::db::former::{self, Former};
use crate::db::restore::{self, INVENTORY, Known, Plan, say};
use crate::db::rows::{ServerRow, TokenRow};
use crate::db::server::ServerView;
use crate::db::{DatabaseUrl, cluster, dialect, events, lease, migrate, restores, server};
use crate::journal::collection::Added;
use crate::journal::{Collection, SERVERS};
use crate::types::api::{RegisterRequest, RestoreRequest, RestoreStatus};
use crate::types::error::IoContext;
use crate::types::storage_api::{JournalPosition, StorageStatus};
use crate::types::{Error, ErrorCode, EventKind, ObjectId, Result, ServerId, Version, bounds};

/// A database that is locked is asked as often again.
const LOCKED_TRIES: usize = 10;
/// After this time each.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);
/// How long a server may take to say who it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long storage servers that are known to belong to the cluster may take to announce themselves.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const ARRIVAL_POLL: Duration = Duration::from_millis(500);
/// Why a restore has ended that a person has ended.
const ABORTED: &str = "it was aborted";
/// Copies wanted when nothing is left that tells, and nobody says it.
const COPIES_DEFAULT: i32 = 2;
/// What the directory of a restore is called, and a few random letters.
const WORK_PREFIX: &str = "holdfast-restore-";
/// Bytes that a restore needs for each byte of the journal's copies: the copy itself, and the rows with their indexes.
const ROOM_FACTOR: u64 = 3;

/// Storage servers that have announced themselves, and the restore under way.
#[derive(Default)]
pub struct Restores {
    /// Whoever may be needed for a restore.
    pub announced: Announced,
    status: Arc<Mutex<RestoreStatus>>,
    /// The last one was started by the first token.
    by_first_token: AtomicBool,
    /// Ends the one that runs.
    running: Mutex<Option<AbortHandle>>,
}

impl Restores {
    /// How the restore of this process goes on, or went.
    pub fn status(&self) -> RestoreStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the last restore of this process was started by the first token: then that may follow it to its end, also
    /// when the journal says that it is revoked.
    pub fn was_started_by_first_token(&self) -> bool {
        self.by_first_token.load(Ordering::SeqCst)
    }

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
        if state.mode != "normal" || is_new || !self.announced.knocking(state.cluster).is_empty() {
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
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.abort();
        }
        let mode = context.db.write(|connection| restores::go_back(connection, None, ABORTED)).await?;
        let Some(mode) = mode else {
            return Err(Error::new(
                ErrorCode::PreconditionFailed,
                "there is no restore to abort: none has begun to change anything, or it is done; `holdfast restore --status` \
                 says what the last one came to",
            ));
        };
        let state = context.db.read(cluster::state).await?;
        context.standing.set_membership(state.cluster, state.epoch);
        log::warn!("the restore was aborted; the cluster is {mode} again");
        let last = context.db.read(restores::last_report).await?.unwrap_or_default();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = last.clone();
        Ok(last)
    }

    /// Starts a restore, unless one is under way.
    pub fn start(
        self: &Arc<Self>,
        context: Context,
        request: RestoreRequest,
        by_first_token: bool,
    ) -> Result<RestoreStatus> {
        let begun = {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if status.state == "running" {
                return Err(Error::new(
                    ErrorCode::Busy,
                    "a restore is under way already; `holdfast restore --status` follows it",
                ));
            }
            *status = RestoreStatus { state: "running".into(), started: Some(Utc::now()), ..RestoreStatus::default() };
            self.by_first_token.store(by_first_token, Ordering::SeqCst);
            status.clone()
        };
        let this = self.clone();
        tokio::spawn(async move {
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
            match outcome {
                Ok(done) => status = RestoreStatus { state: "done".into(), ended: status.ended, ..done },
                Err(error) => {
                    log::error!("the restore failed: {}", error.chain());
                    status.state = "failed".into();
                    status.error = Some(error.message().into());
                }
            }
            if status.state == "failed" {
                go_back(&context, id, &status).await;
            }
            crate::types::failpoint::RESTORE_DONE.passed();
            *this.status.lock().unwrap_or_else(PoisonError::into_inner) = status.clone();
            let kept = context
                .db
                .write(move |connection| {
                    let now = dialect::clock(connection)?;
                    if let Some(error) = &status.error {
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

    fn step(&self, step: impl Into<String>) {
        let step = step.into();
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.step != step {
            log::info!("restore: {step}");
            status.step = step;
        }
    }
}

/// A restore that came to nothing leaves the cluster as it was. Where that cannot be written, `--abort` does it later.
async fn go_back(context: &Context, id: i64, status: &RestoreStatus) {
    let why = status.error.clone().unwrap_or_default();
    let gone_back = context.db.write(move |connection| {
        let mode = restores::go_back(connection, Some(id), &why)?;
        Ok((mode, cluster::state(connection)?))
    });
    match gone_back.await {
        Ok((Some(mode), state)) => {
            context.standing.set_membership(state.cluster, state.epoch);
            log::info!("the cluster is {mode} again, as before the restore");
        }
        Ok((None, _)) => {}
        Err(error) => log::warn!(
            "the cluster could not be set back to what it was before the restore, `holdfast restore --abort` does: {}",
            error.chain()
        ),
    }
}

#[derive(Clone)]
struct Run {
    /// In the table of restores.
    id: i64,
    context: Context,
    request: RestoreRequest,
    shared: Arc<Restores>,
    by_first_token: bool,
}

/// Who takes part, and of what.
struct Parts {
    members: Vec<Member>,
    cluster: Uuid,
    /// Servers that answer and do not take part: they hold nothing of the cluster.
    newcomers: Vec<String>,
    /// Servers that do not answer.
    absent: Vec<String>,
}

/// A server that takes part.
#[derive(Clone)]
struct Member {
    name: String,
    row: ServerRow,
    status: StorageStatus,
}

impl Run {
    fn new(context: Context, request: RestoreRequest, shared: Arc<Restores>, by_first_token: bool) -> Self {
        Self { id: ObjectId::generate().0, context, request, shared, by_first_token }
    }

    /// A task of its own: a panic in it must not leave the status at "running", and it can be aborted.
    async fn guarded(self) -> Result<RestoreStatus> {
        let shared = self.shared.clone();
        let running = tokio::spawn(self.run());
        *shared.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.abort_handle());
        let outcome = running.await;
        shared.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|error| match error.is_cancelled() {
            true => Err(Error::unavailable(ABORTED)),
            false => Err(Error::internal("the restore panicked").with_source(error)),
        })
    }

    /// The servers that take part, after those that are on their way had time to come. Who is missing then is for the later
    /// steps to judge, which know more.
    async fn arrived(&self) -> Result<Parts> {
        let deadline = Instant::now() + ARRIVAL_TIMEOUT;
        loop {
            let parts = self.parts().await;
            let complete = match &parts {
                Ok(parts) => self.refuse_absent(&parts.absent).and_then(|()| self.refuse_missing(&parts.members)),
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    Err(Error::unavailable(error.message().to_string()))
                }
                Err(_) => Ok(()),
            };
            let Err(missing) = complete else { return parts };
            if Instant::now() >= deadline {
                return parts;
            }
            self.shared.step(format!("waiting up to {ARRIVAL_TIMEOUT:?} for storage servers: {}", missing.message()));
            tokio::time::sleep(ARRIVAL_POLL).await;
        }
    }

    async fn run(self) -> Result<RestoreStatus> {
        self.shared.step("looking for the storage servers");
        let Parts { members, cluster, newcomers, absent } = self.arrived().await?;
        self.refuse_absent(&absent)?;
        let mut status = RestoreStatus {
            started: self.shared.status().started,
            servers: members.iter().map(|member| member.name.clone()).collect(),
            without: self.request.without.clone(),
            ..RestoreStatus::default()
        };
        self.put_damage_aside(&members, &mut status).await?;
        for name in newcomers {
            status.notes.push(format!(
                "{name} holds nothing of this cluster and was left out. If it does not register by itself, start it with \
                 another, empty directory."
            ));
        }
        let epoch = self.fence(&members, cluster).await?;
        crate::types::failpoint::RESTORE_FENCED.passed();
        status.epoch = epoch;
        self.shared.step("reading the copies of the journal");
        let dir = self.work_directory()?;
        let collection = self.collect(&members, cluster, dir.path(), &mut status).await?;
        let (staged, known) = self.stage(collection, &members, epoch, status, dir.path()).await?;
        let staged = self.inventories(staged, &members).await?;
        self.shared.step("writing the tables");
        let done = self.write(staged, known, &members, cluster, epoch).await?;
        drop(dir);
        self.context.fresh_servers().await?;
        Ok(done)
    }

    /// A damaged database can neither be read nor written with confidence: an empty one takes its place.
    async fn put_damage_aside(&self, members: &[Member], status: &mut RestoreStatus) -> Result<()> {
        let Some(trouble) = self.context.db.soundness().trouble() else { return Ok(()) };
        // Until the restore can begin, what can still be read of it shall be.
        self.refuse_missing(members)?;
        self.shared.step("putting the damaged database aside");
        log::warn!("a restore begins an empty database: {}", trouble.sentence);
        if let Some(place) = self.context.db.begin_anew(self.context.signer.secret()).await? {
            status
                .notes
                .push(format!("The damaged database was put aside: it is {place} now. Nothing of it was removed."));
        }
        Ok(())
    }

    /// The servers that answer and belong to the cluster, and the names of those that do not.
    async fn parts(&self) -> Result<Parts> {
        let known = self.context.db.read(|connection| {
            let ours = (cluster::state(connection)?.cluster, !restores::has_files(connection)?);
            Ok((server::server_views(connection)?, ours))
        });
        let (known, (ours, ours_is_empty)) = match known.await {
            Ok(known) => known,
            // A damaged database does not tell; the servers themselves do.
            Err(_) if self.context.db.soundness().trouble().is_some() => (Vec::new(), (Uuid::nil(), false)),
            Err(error) => return Err(error),
        };
        let mut rows: HashMap<i64, (ServerRow, Option<Uuid>)> = HashMap::new();
        for ServerView { row, .. } in known {
            rows.insert(row.id, (row, Some(ours)));
        }
        for request in self.shared.announced.all() {
            let id = ServerId::of_identity(request.identity).0;
            let admin_state = rows.get(&id).map_or("in_service".into(), |(row, _)| row.admin_state.clone());
            let cluster = request.cluster;
            rows.insert(id, (row_of(request, admin_state), cluster));
        }
        let asked = rows.into_values().map(|(row, cluster)| async move {
            let status = self.ask(&row).await;
            (row, cluster, status)
        });
        let (mut members, mut absent): (Vec<Member>, Vec<(String, Option<Uuid>)>) = (Vec::new(), Vec::new());
        for (row, cluster, status) in join_all(asked).await {
            match status {
                Ok(status) if status.identity.to_string() == row.identity => {
                    members.push(Member { name: row.name.clone(), row, status });
                }
                _ if row.admin_state == "drained" => {}
                _ => absent.push((row.name, cluster)),
            }
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        if members.is_empty() {
            return Err(Error::unavailable(
                "no storage server has announced itself yet; start them, they come within seconds",
            ));
        }
        let clusters: Vec<(&str, Option<Uuid>)> =
            members.iter().map(|member| (member.name.as_str(), member.status.cluster)).collect();
        let cluster = cluster_to_restore(&clusters, ours, ours_is_empty)?;
        // What an empty cluster knows belongs to it alone.
        absent.retain(|(_, theirs)| cluster == ours || *theirs != Some(ours));
        let (members, newcomers): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.status.cluster == Some(cluster));
        Ok(Parts {
            members,
            cluster,
            newcomers: newcomers.into_iter().map(|member| member.name).collect(),
            absent: absent.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// Who it is, after it has proven that it belongs here: nothing else is sent to a URL that somebody announced.
    async fn ask(&self, row: &ServerRow) -> Result<StorageStatus> {
        let answerer = self.context.who_answers(&row.url).await?;
        if answerer.identity.to_string() != row.identity {
            return Err(Error::unavailable(format!("another server answers at {}", row.url)));
        }
        self.context.storage.status(&row.peer(), STATUS_TIMEOUT).await
    }

    fn refuse_absent(&self, absent: &[String]) -> Result<()> {
        let unnamed: Vec<&str> =
            absent.iter().filter(|name| !self.request.without.contains(name)).map(String::as_str).collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "{} storage servers do not answer: {}. Start them; or, if they will not come back, run the restore with \
                 --without NAME for each of them: what they alone have is left out",
                unnamed.len(),
                unnamed.join(", ")
            ),
        ))
    }

    /// Stops the cluster, and has every server persist the new epoch. Answers the epoch.
    async fn fence(&self, members: &[Member], cluster: Uuid) -> Result<i64> {
        self.shared.step("stopping the cluster and fencing the storage servers");
        let newest = members.iter().max_by_key(|member| member.status.epoch);
        let seen = newest.map_or(0, |member| member.status.epoch);
        if let Some(member) = newest {
            bounds::next("epoch", seen, bounds::EPOCH_MAX)
                .map_err(|error| error.context(format!("the storage server {}", member.name)))?;
        }
        let (id, holder) = (self.id, self.context.standing.holder.to_string());
        let ttl = TimeDelta::from_std(LEASE_TTL).unwrap_or(TimeDelta::seconds(8));
        let asked = std::time::Instant::now();
        let begin = || {
            let holder = holder.clone();
            self.context.db.write(move |connection| {
                // Whoever acts now is waited for; afterwards nobody can who does not know of the restore.
                let term = lease::seize(connection, &holder, ttl)?;
                Ok((restores::begin(connection, id, cluster, seen)?, term))
            })
        };
        let mut begun = begin().await;
        // A database that is a moment old may be locked by whoever opens it beside this.
        for _ in 0..LOCKED_TRIES {
            if !begun.as_ref().is_err_and(|error| error.code() == ErrorCode::Busy) {
                break;
            }
            tokio::time::sleep(LOCKED_PAUSE).await;
            begun = begin().await;
        }
        let (epoch, term) = begun?;
        self.context.standing.set_membership(cluster, epoch);
        self.context.standing.took(term, asked + LEASE_TTL - Duration::from_secs(1));
        let storage = &self.context.storage;
        let fenced = members.iter().map(|member| async move { storage.journal_status(&member.row.peer()).await });
        let fenced = join_all(fenced).await;
        for (member, outcome) in members.iter().zip(fenced) {
            outcome.map_err(|error| error.context(format!("fencing {}", member.name)))?;
        }
        Ok(epoch)
    }

    /// Where the journal's copies and the rows that are made of them are kept meanwhile: beside the database, whose disk has
    /// to have room for them anyway; with Postgres, where temporary files are. It goes when the restore ends.
    fn work_directory(&self) -> Result<tempfile::TempDir> {
        let place = match self.context.db.url() {
            DatabaseUrl::Sqlite(path) => path.parent().map(Path::to_path_buf).filter(|dir| !dir.as_os_str().is_empty()),
            DatabaseUrl::Postgres(_) => Some(std::env::temp_dir()),
        };
        let place = place.unwrap_or_else(|| ".".into());
        remove_left_behind(&place);
        let made = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(&place);
        made.io_context(|| format!("making a directory for the restore in {}", place.display()))
    }

    /// Refuses what would not fit before any of it is fetched.
    fn require_room(dir: &Path, journal_bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(dir)
            .map_err(|error| Error::io(format!("looking at {}", dir.display()), error.into()))?;
        let (there, needed) = (stat.f_bavail * stat.f_frsize, journal_bytes.saturating_mul(ROOM_FACTOR));
        if there >= needed {
            return Ok(());
        }
        let place = dir.parent().unwrap_or(dir).display();
        Err(Error::new(
            ErrorCode::OutOfSpace,
            format!(
                "the restore needs about {needed} bytes in {place} for the copies of the journal and the rows made of them, and \
                 {there} are free there: make room and run it again"
            ),
        ))
    }

    /// Fetches the journal's files of all members; defective ones are told and left out.
    async fn collect(
        &self,
        members: &[Member],
        cluster: Uuid,
        dir: &Path,
        status: &mut RestoreStatus,
    ) -> Result<Collection> {
        let mut collection = Collection::new(Some(cluster));
        let mut all = Vec::new();
        for member in members {
            all.push((member, self.context.storage.journal_status(&member.row.peer()).await?));
        }
        let bytes: u64 = all.iter().flat_map(|(_, held)| &held.files).map(|file| file.bytes).sum();
        Self::require_room(dir, bytes)?;
        for (member, held) in all {
            for file in held.files {
                let path = dir.join(format!("{}-{}", ServerId(member.row.id), file.name));
                self.fetch(member, &file.name, &path).await?;
                let added = tokio::task::spawn_blocking(move || {
                    let added = collection.add(&path);
                    if !matches!(added, Ok(Added::Kept)) {
                        // It is not needed any more; the directory goes anyway.
                        let _ = std::fs::remove_file(&path);
                    }
                    (collection, added)
                });
                let (back, added) =
                    added.await.map_err(|error| Error::internal("reading the journal panicked").with_source(error))?;
                collection = back;
                if let Err(defect) = added {
                    let sentence = format!("the journal's file {} on {} is left out: {defect}", file.name, member.name);
                    say(&mut status.conflicts, &mut status.conflicts_total, sentence);
                }
            }
        }
        Ok(collection)
    }

    async fn fetch(&self, member: &Member, name: &str, path: &Path) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        let writing = || format!("writing {}", path.display());
        let mut download = self.context.storage.journal_file(&member.row.peer(), name).await?;
        let mut file = tokio::fs::File::create(path).await.io_context(writing)?;
        while let Some(piece) = download.chunk().await? {
            file.write_all(&piece).await.io_context(writing)?;
        }
        file.flush().await.io_context(writing)
    }

    /// Merges and replays the journal; without one, takes what the database has.
    async fn stage(
        &self,
        collection: Collection,
        members: &[Member],
        epoch: i64,
        mut status: RestoreStatus,
        dir: &Path,
    ) -> Result<(Staged, Known)> {
        let dir = dir.to_path_buf();
        let merged = collection.merge();
        let head = merged.chain.as_ref().map(|chain| chain.head.clone());
        status.journal_version = head.as_ref().map_or(0, |head| head.version);
        let former = self.former(head.clone()).await?;
        if let Some(former) = former.as_ref().filter(|former| former.later_changes > 0) {
            status.lost_changes += former.later_changes;
            let sentence = format!(
                "{} changes that were made after the last restore are not back: the database that was put aside ({}) had them, \
                 and no copy of the journal",
                former.later_changes, former.place
            );
            say(&mut status.losses, &mut status.losses_total, sentence);
            status.losses.extend(former.lost_rows.iter().map(|row| format!("not back, {row}")));
        }
        let reach = former.as_ref().map_or(status.journal_version, |former| former.reach);
        let known = known_of(members, merged.newest, former.as_ref());
        let expected = heard_by(members).map_or(0, |member| member.status.heard_version).max(merged.newest);
        let without_journal = merged.chain.is_none() && merged.newest == 0;
        if without_journal || (expected > reach && !self.request.accept_gap) {
            // Who has more may be on its way.
            self.refuse_missing(members)?;
        }
        if expected > reach && !without_journal && !self.request.accept_gap {
            return Err(Error::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "the copies of the journal that are here end at version {reach}, and changes up to {expected} are known to \
                     exist: start the storage servers that are missing; or, if they are lost, run the restore with \
                     --accept-gap: those changes of names are lost then (contents that were committed come back under \
                     the paths of their commits)"
                ),
            ));
        }
        self.shared.step("replaying the journal");
        let context = self.context.clone();
        let identities: HashSet<String> = members.iter().map(|member| member.row.identity.clone()).collect();
        let without = self.request.without.clone();
        let staged = context
            .db
            .read(move |connection| branches::stage(connection, &collection, &merged, epoch, status, &dir))
            .await?;
        let staged = match former.zip(head) {
            Some((former, head)) => self.bring_back(former, head, staged).await?,
            None => staged,
        };
        let staged = refuse_unknown(staged, &identities, &without).await?;
        self.refuse_missing(members)?;
        Ok((staged, known))
    }

    /// What a database that was put aside tells beyond the end of the journal's copies.
    async fn former(&self, head: Option<JournalPosition>) -> Result<Option<Former>> {
        let Some(head) = head else { return Ok(None) };
        let url = self.context.db.url().clone();
        let task = tokio::task::spawn_blocking(move || former::find(&url, &head));
        task.await
            .map_err(|error| Error::internal("reading the database that was put aside panicked").with_source(error))
    }

    /// Lays the changes that the former database proves over those of the journal's copies.
    async fn bring_back(&self, former: Former, head: JournalPosition, mut staged: Staged) -> Result<Staged> {
        if former.reach > head.version {
            staged.status.notes.push(format!(
                "Changes {} to {} had not reached the journal's copies; they were read from the database that was put aside \
                 ({}).",
                head.version + 1,
                former.reach,
                former.place
            ));
            let url = self.context.db.url().clone();
            let task = tokio::task::spawn_blocking(move || -> Result<Staged> {
                former::bring_back(&url, &former, &head, &mut staged.staging)?;
                // Where histories have parted, it is the end of the copies that counts for what was committed behind it.
                if staged.told == staged.head {
                    staged.told = former.reach;
                }
                staged.head = staged.head.max(former.reach);
                Ok(staged)
            });
            staged =
                task.await.map_err(|error| Error::internal("bringing back changes panicked").with_source(error))??;
        }
        crate::types::failpoint::RESTORE_FORMER_READ.passed();
        Ok(staged)
    }

    /// Fewer servers than those that are here have heard of stop the restore, unless as many are named. It is the newest
    /// word that counts.
    fn refuse_missing(&self, members: &[Member]) -> Result<()> {
        let newest = members.iter().map(|member| member.status.heard_version).max();
        let told = members.iter().filter(|member| Some(member.status.heard_version) == newest);
        let belong = told.map(|member| member.status.heard_servers).max().unwrap_or(0);
        // A machine that was set up anew may have the name of the one that was lost: it is the lost one that is named.
        let named: HashSet<&String> = self.request.without.iter().collect();
        let here =
            members.iter().filter(|member| member.status.cluster.is_some() && member.row.admin_state != "drained");
        let here: Vec<&str> = here.map(|member| member.name.as_str()).collect();
        if here.len() + named.len() >= belong as usize {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "{belong} storage servers belonged to the cluster, and only {} have announced themselves ({}). Start the \
                 others, they come within seconds; or, if they will not come back, run the restore with --without NAME for \
                 each of them",
                here.len(),
                here.join(", ")
            ),
        ))
    }

    /// Puts the inventories beside the rows.
    async fn inventories(&self, mut staged: Staged, members: &[Member]) -> Result<Staged> {
        for member in members {
            self.shared.step(format!("reading the inventory of {}", member.name));
            let mut after = None;
            loop {
                let lines = self.context.storage.inventory(&member.row.peer(), after).await?;
                let Some(last) = lines.last() else { break };
                after = Some(last.replica);
                let server = ServerId(member.row.id);
                let task = tokio::task::spawn_blocking(move || -> Result<Staged> {
                    for line in &lines {
                        let content = serde_json::to_string(line)
                            .map_err(|error| Error::internal("cannot encode an inventory").with_source(error))?;
                        staged.staging.apply(INVENTORY, &format!("{server}/{}", line.replica), Some(&content))?;
                    }
                    Ok(staged)
                });
                staged = task
                    .await
                    .map_err(|error| Error::internal("staging an inventory panicked").with_source(error))??;
            }
        }
        Ok(staged)
    }

    async fn write(
        &self,
        staged: Staged,
        known: Known,
        members: &[Member],
        cluster: Uuid,
        epoch: i64,
    ) -> Result<RestoreStatus> {
        let secret = self.context.signer.secret();
        let now = self.context.db.read(cluster::state).await?.now.naive_utc();
        let superuser = TokenRow {
            name: migrate::FIRST_TOKEN.into(),
            sha256: crate::security::token::hash(&secret.superuser_token()).0.to_vec(),
            role: "superuser".into(),
            prefix: None,
            created: now,
            expires: None,
        };
        let own_copies = self.context.db.read(restores::root_copies).await?;
        let plan = Plan {
            cluster,
            epoch,
            head: staged.head,
            told: staged.told,
            known,
            servers: members.iter().map(|member| member.row.clone()).collect(),
            superuser,
            by_first_token: self.by_first_token,
            copies: self.request.replicas.map(|copies| copies as i32).or(own_copies).unwrap_or(COPIES_DEFAULT),
            own: staged.own,
        };
        let (mut staging, status) = (staged.staging, staged.status);
        self.context.db.write(move |connection| restore::rebuild(connection, &mut staging, &plan, status)).await
    }
}

/// What a restore has left behind whose process was killed. Only one name server works on a SQLite database; where
/// temporary files are, those of another one may be in use.
fn remove_left_behind(place: &Path) {
    if place == std::env::temp_dir() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(place) else { return };
    let left = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK_PREFIX));
    for entry in left {
        if let Err(error) = std::fs::remove_dir_all(entry.path()) {
            log::warn!("{} of an earlier restore cannot be removed: {error}", entry.path().display());
        }
    }
}

fn row_of(request: RegisterRequest, admin_state: String) -> ServerRow {
    ServerRow {
        id: ServerId::of_identity(request.identity).0,
        identity: request.identity.to_string(),
        name: request.name,
        host: request.host,
        url: request.url,
        public_url: request.public_url,
        zone: request.zone,
        admin_state,
        registered: Utc::now().naive_utc(),
    }
}

/// The one that has heard of the newest change.
fn heard_by(members: &[Member]) -> Option<&Member> {
    members.iter().max_by_key(|member| member.status.heard_version)
}

/// The newest change that anybody here knows to have been made, and who does.
fn known_of(members: &[Member], newest: Version, former: Option<&Former>) -> Known {
    let heard = heard_by(members).map(|member| Known {
        version: member.status.heard_version,
        by: format!("the storage server {} has heard of version {}", member.name, member.status.heard_version),
        rows: Vec::new(),
    });
    let copies =
        Known { version: newest, by: format!("a copy of the journal names version {newest}"), rows: Vec::new() };
    let former = former.map(|former| Known {
        version: former.knows,
        by: format!("the database that was put aside ({}) knew of version {}", former.place, former.knows),
        rows: former.lost_rows.clone(),
    });
    let known = [former, heard].into_iter().flatten();
    known.fold(copies, |best, known| if known.version > best.version { known } else { best })
}

/// Servers that the journal knows and that did not answer stop the restore, unless they are named.
async fn refuse_unknown(mut staged: Staged, known: &HashSet<String>, without: &[String]) -> Result<Staged> {
    let task = {
        let (known, without) = (known.clone(), without.to_vec());
        tokio::task::spawn_blocking(move || -> Result<(Staged, Vec<String>)> {
            let mut absent = Vec::new();
            staged.staging.each(SERVERS, |page| {
                for row in page {
                    let row: ServerRow = serde_json::from_str(&row.content).map_err(|error| {
                        Error::internal("a server in the journal is not what it must be").with_source(error)
                    })?;
                    let named = without.contains(&row.name) || without.contains(&ServerId(row.id).to_string());
                    if !known.contains(&row.identity) && !named && row.admin_state != "drained" {
                        absent.push(format!("{} ({}, id {})", row.name, row.url, ServerId(row.id)));
                    }
                }
                Ok(())
            })?;
            Ok((staged, absent))
        })
    };
    let (staged, absent) =
        task.await.map_err(|error| Error::internal("reading the staged servers panicked").with_source(error))??;
    if absent.is_empty() {
        return Ok(staged);
    }
    Err(Error::new(
        ErrorCode::PreconditionFailed,
        format!(
            "the journal knows storage servers that have not announced themselves: {}. Start them, they come within \
             seconds; or, if they will not come back, run the restore with --without NAME for each of them",
            absent.join(", ")
        ),
    ))
}
