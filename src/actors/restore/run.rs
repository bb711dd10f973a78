//! One restore, from its fence to the tables that it writes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use uuid::Uuid;

use super::members::{Member, Parts};
use super::state::Restores;
use crate::actors::context::Context;
use crate::actors::standing::LEASE_TTL;
use crate::db::branches::Staged;
use crate::db::restore::progress::ABORTED;
use crate::db::restore::{self, Known, Plan};
use crate::db::rows::TokenRow;
use crate::db::{cluster, lease, migrate, restores};
use crate::types::api::{RestoreRequest, RestoreStatus};
use crate::types::{Error, ErrorCode, ObjectId, Result, bounds};

/// A database that is locked is asked as often again.
const LOCKED_TRIES: usize = 10;
/// After this time each.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);
/// Copies wanted when nothing is left that tells, and nobody says it.
const COPIES_DEFAULT: i32 = 2;

#[derive(Clone)]
pub(super) struct Run {
    /// In the table of restores.
    pub(super) id: i64,
    pub(super) context: Context,
    pub(super) request: RestoreRequest,
    pub(super) shared: Arc<Restores>,
    pub(super) by_first_token: bool,
}

impl Run {
    pub(super) fn new(context: Context, request: RestoreRequest, shared: Arc<Restores>, by_first_token: bool) -> Self {
        Self { id: ObjectId::generate().0, context, request, shared, by_first_token }
    }

    /// A task of its own: a panic in it must not leave the status at "running".
    pub(super) async fn guarded(self) -> Result<RestoreStatus> {
        let outcome = tokio::spawn(self.run()).await;
        outcome.unwrap_or_else(|error| Err(Error::internal("the restore panicked").with_source(error)))
    }

    /// Work that changes nothing which would stay: when somebody ends the restore it is left at once. What does change
    /// something looks by itself whether it is to end, so that it has happened or not when the restore says that it has
    /// ended.
    async fn unless_ended<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.shared.progress.stopped() => Err(Error::unavailable(ABORTED)),
            outcome = work => outcome,
        }
    }

    async fn run(self) -> Result<RestoreStatus> {
        self.shared.step("looking for the storage servers");
        let Parts { members, cluster, newcomers, absent } = self.unless_ended(self.arrived()).await?;
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
        let room = self.work_directory()?;
        let reading = async {
            crate::types::failpoint::held("restore-reading").await;
            self.shared.step("reading the copies of the journal");
            let collection = self.collect(&members, cluster, room.path(), &mut status).await?;
            let (staged, known) = self.stage(collection, &members, epoch, status, room.path()).await?;
            Ok((self.inventories(staged, &members).await?, known))
        };
        let (staged, known) = self.unless_ended(reading).await?;
        self.shared.step("writing the tables");
        let done = self.write(staged, known, &members, cluster, epoch).await?;
        drop(room);
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
            progress: self.shared.progress.clone(),
        };
        let (mut staging, status) = (staged.staging, staged.status);
        self.context.db.write(move |connection| restore::rebuild(connection, &mut staging, &plan, status)).await
    }
}
