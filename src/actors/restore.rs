//! Bringing the metadata back from the storage servers.
//!
//! 1. Fence: the cluster stops, and every server that answers persists a new epoch, before anything is read.
//! 2. Merge the copies of the journal and replay them into a temporary database; where the database itself made
//!    changes after the last common one, those win.
//! 3. Read the inventories.
//! 4. Write the tables anew in one transaction, under a new history ([`crate::db::restore`]).
//!
//! An interrupted restore has changed nothing but the epoch, and is run again.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use uuid::Uuid;

use super::context::Context;
use super::standing::LEASE_TTL;
use crate::db::branches::{self, Staged};
use crate::db::restore::{self, INVENTORY, Plan, say};
use crate::db::rows::{ServerRow, TokenRow};
use crate::db::server::ServerView;
use crate::db::{cluster, dialect, lease, migrate, server};
use crate::journal::collection::Added;
use crate::journal::{Collection, SERVERS};
use crate::types::api::{RegisterRequest, RestoreRequest, RestoreStatus};
use crate::types::error::IoContext;
use crate::types::storage_api::StorageStatus;
use crate::types::{Error, ErrorCode, ObjectId, Result, ServerId};

/// How long a server may take to say who it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers that announce themselves while the cluster takes none; more are not remembered.
const ANNOUNCED_MAX: usize = 10_000;
/// Copies wanted when nothing is left that tells, and nobody says it.
const COPIES_DEFAULT: i32 = 2;

/// Storage servers that have announced themselves lately, and the restore under way.
#[derive(Default)]
pub struct Restores {
    announced: Mutex<HashMap<Uuid, RegisterRequest>>,
    status: Arc<Mutex<RestoreStatus>>,
}

impl Restores {
    /// Remembers a storage server, for a restore.
    pub fn announce(&self, request: &RegisterRequest) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.len() < ANNOUNCED_MAX || announced.contains_key(&request.identity) {
            announced.insert(request.identity, request.clone());
        }
    }

    /// How the restore of this process goes on, or went.
    pub fn status(&self) -> RestoreStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a restore, unless one is under way.
    pub fn start(self: &Arc<Self>, context: Context, request: RestoreRequest) -> Result<RestoreStatus> {
        let begun = {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if status.state == "running" {
                return Err(Error::new(
                    ErrorCode::Busy,
                    "a restore is under way already; `holdfast restore --status` follows it",
                ));
            }
            *status = RestoreStatus { state: "running".into(), started: Some(Utc::now()), ..RestoreStatus::default() };
            status.clone()
        };
        let this = self.clone();
        tokio::spawn(async move {
            let run = Run { context: context.clone(), request, shared: this.clone() };
            // A task of its own: a panic in it must not leave the status at "running".
            let outcome = tokio::spawn(run.run()).await;
            let outcome =
                outcome.unwrap_or_else(|error| Err(Error::internal("the restore panicked").with_source(error)));
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
            *this.status.lock().unwrap_or_else(PoisonError::into_inner) = status.clone();
            let kept = context
                .db
                .write(move |connection| {
                    let now = dialect::clock(connection)?;
                    restore::save_report(connection, ObjectId::generate().0, now, Some(now), &status)
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
        log::info!("restore: {step}");
        self.status.lock().unwrap_or_else(PoisonError::into_inner).step = step;
    }
}

struct Run {
    context: Context,
    request: RestoreRequest,
    shared: Arc<Restores>,
}

/// A server that takes part.
#[derive(Clone)]
struct Member {
    name: String,
    row: ServerRow,
    status: StorageStatus,
}

impl Run {
    async fn run(self) -> Result<RestoreStatus> {
        self.shared.step("looking for the storage servers");
        let (members, absent) = self.members().await?;
        self.refuse_absent(&absent)?;
        let (cluster, epoch) = self.fence(&members).await?;
        let mut status = RestoreStatus {
            started: self.shared.status().started,
            epoch,
            servers: members.iter().map(|member| member.name.clone()).collect(),
            without: self.request.without.clone(),
            ..RestoreStatus::default()
        };
        self.shared.step("reading the copies of the journal");
        let dir = tempfile::tempdir().io_context(|| "making a temporary directory".into())?;
        let collection = self.collect(&members, cluster, dir.path(), &mut status).await?;
        let staged = self.stage(collection, &members, epoch, status).await?;
        let staged = self.inventories(staged, &members).await?;
        self.shared.step("writing the tables");
        let done = self.write(staged, &members, cluster, epoch).await?;
        drop(dir);
        self.context.fresh_servers().await?;
        Ok(done)
    }

    /// The servers that answer and belong to the cluster, and the names of those that do not answer.
    async fn members(&self) -> Result<(Vec<Member>, Vec<String>)> {
        let known = self.context.db.read(|connection| Ok(server::server_views(connection)?)).await?;
        let announced: Vec<RegisterRequest> =
            self.shared.announced.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut rows: HashMap<i64, ServerRow> = HashMap::new();
        for ServerView { row, .. } in known {
            rows.insert(row.id, row);
        }
        for request in announced {
            let id = ServerId::of_identity(request.identity).0;
            let admin_state = rows.get(&id).map_or("in_service".into(), |row| row.admin_state.clone());
            rows.insert(id, row_of(request, admin_state));
        }
        let asked = rows.into_values().map(|row| async {
            let status = self.ask(&row).await;
            (row, status)
        });
        let (mut members, mut absent) = (Vec::new(), Vec::new());
        for (row, status) in join_all(asked).await {
            match status {
                Ok(status) if status.identity.to_string() == row.identity => {
                    members.push(Member { name: row.name.clone(), row, status });
                }
                _ if row.admin_state == "drained" => {}
                _ => absent.push(row.name),
            }
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        if members.is_empty() {
            return Err(Error::unavailable(
                "no storage server has announced itself yet; start them, they come within seconds",
            ));
        }
        Ok((members, absent))
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

    /// Stops the cluster, and has every server persist the new epoch. Answers cluster and epoch.
    async fn fence(&self, members: &[Member]) -> Result<(Uuid, i64)> {
        self.shared.step("stopping the cluster and fencing the storage servers");
        let cluster = cluster_of(members)?;
        let seen = members.iter().map(|member| member.status.epoch).max().unwrap_or(0);
        let holder = self.context.standing.holder.to_string();
        let ttl = TimeDelta::from_std(LEASE_TTL).unwrap_or(TimeDelta::seconds(8));
        let asked = std::time::Instant::now();
        let (epoch, term) = self
            .context
            .db
            .write(move |connection| {
                // Whoever acts now is waited for; afterwards nobody can who does not know of the restore.
                let term = lease::seize(connection, &holder, ttl)?;
                Ok((restore::begin(connection, cluster, seen)?, term))
            })
            .await?;
        self.context.standing.set_membership(cluster, epoch);
        self.context.standing.took(term, asked + LEASE_TTL - Duration::from_secs(1));
        let storage = &self.context.storage;
        let fenced = members.iter().map(|member| async move { storage.journal_status(&member.row.peer()).await });
        let fenced = join_all(fenced).await;
        for (member, outcome) in members.iter().zip(fenced) {
            outcome.map_err(|error| error.context(format!("fencing {}", member.name)))?;
        }
        Ok((cluster, epoch))
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
        for member in members {
            let held = self.context.storage.journal_status(&member.row.peer()).await?;
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
    ) -> Result<Staged> {
        let merged = collection.merge();
        let heard = members.iter().map(|member| member.status.heard_version).max().unwrap_or(0);
        status.journal_version = merged.chain.as_ref().map_or(0, |chain| chain.head.version);
        let expected = heard.max(merged.newest);
        let without_journal = merged.chain.is_none() && merged.newest == 0;
        if without_journal || (expected > status.journal_version && !self.request.accept_gap) {
            // Who has more may be on its way.
            self.refuse_missing(members)?;
        }
        if expected > status.journal_version && !without_journal && !self.request.accept_gap {
            return Err(Error::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "the copies of the journal that are here end at version {}, and changes up to {expected} are known to \
                     exist: start the storage servers that are missing; or, if they are lost, run the restore with \
                     --accept-gap: those changes of names are lost then (contents that were committed come back under \
                     the paths of their commits)",
                    status.journal_version
                ),
            ));
        }
        self.shared.step("replaying the journal");
        let context = self.context.clone();
        let known: HashSet<String> = members.iter().map(|member| member.row.identity.clone()).collect();
        let without = self.request.without.clone();
        let staged =
            context.db.read(move |connection| branches::stage(connection, &collection, &merged, epoch, status)).await?;
        let staged = refuse_unknown(staged, &known, &without).await?;
        self.refuse_missing(members)?;
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

    async fn write(&self, staged: Staged, members: &[Member], cluster: Uuid, epoch: i64) -> Result<RestoreStatus> {
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
        let heard = members.iter().map(|member| member.status.heard_version).max().unwrap_or(0);
        let own_copies = self.context.db.read(restore::root_copies).await?;
        let plan = Plan {
            cluster,
            epoch,
            head: staged.head,
            told: staged.told,
            newest: heard.max(staged.head),
            servers: members.iter().map(|member| member.row.clone()).collect(),
            superuser,
            copies: self.request.replicas.map(|copies| copies as i32).or(own_copies).unwrap_or(COPIES_DEFAULT),
            own: staged.own,
        };
        let (mut staging, status) = (staged.staging, staged.status);
        self.context.db.write(move |connection| restore::rebuild(connection, &mut staging, &plan, status)).await
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

/// The cluster that the members belong to; they must agree.
fn cluster_of(members: &[Member]) -> Result<Uuid> {
    let mut clusters: Vec<Uuid> = members.iter().filter_map(|member| member.status.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    match clusters[..] {
        [one] => Ok(one),
        [] => Err(Error::new(
            ErrorCode::PreconditionFailed,
            "the storage servers that answer have never belonged to a cluster: there is nothing to restore; start the name server with --initialize to make a new cluster",
        )),
        _ => {
            let of = |member: &Member| format!("{} of {}", member.name, member.status.cluster.unwrap_or_default());
            let list: Vec<String> = members.iter().map(of).collect();
            Err(Error::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "storage servers of {} clusters answer ({}); stop those that do not belong here",
                    clusters.len(),
                    list.join(", ")
                ),
            ))
        }
    }
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
