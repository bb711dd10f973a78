//! What the name server's actors and endpoints work with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use parking_lot::Mutex;
use uuid::Uuid;

use super::journal_holders::JournalHolders;
use super::pass_report::PassReport;
use super::standing::Standing;
use crate::client::StorageClient;
use crate::db::change::{Changes, ReleaseTimes};
use crate::db::server::{ServerView, server_views};
use crate::db::{AnyConnection, Db, Step, cluster, lease};
use crate::decisions::leaving;
use crate::security::Signer;
use crate::types::api::AdminState;
use crate::types::{Error, Mode, Result, Version};

/// How old the view of the servers may be.
const SERVERS_TTL: Duration = Duration::from_millis(500);

/// Numbers that an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Copies that must be fsynced before a write is acknowledged; by default the smaller of 2 and the
    /// number wanted.
    pub min_write_copies: Option<u32>,
    /// Whether two copies of an object may be on one host.
    pub allow_same_host: bool,
    /// How long a write ticket is good for, beyond the time that its bytes need at a slow rate.
    pub upload_ttl: TimeDelta,
    /// How long a read ticket is good for.
    pub read_ttl: TimeDelta,
    /// Time between two rounds of health checks.
    pub health_interval: Duration,
    /// Misses for as long make a server down.
    pub down_after: TimeDelta,
    /// How long an object may be short of copies before it is repaired.
    pub repair_delay: TimeDelta,
    /// When a larger share of the servers is down, nothing is copied: the trouble is somewhere else.
    pub mass_down_share: f64,
    /// Transfers of repair at the same time, in all and of one server.
    pub repair_transfers: (usize, usize),
    /// Bytes that repair may copy each second; 0 for as many as it can.
    pub repair_bytes_per_second: u64,
    /// Copies of the journal.
    pub journal_copies: usize,
    /// How long the journal is kept in the database once it is on its copies.
    pub journal_keep: TimeDelta,
    /// How long events are kept.
    pub events_keep: TimeDelta,
}

/// The slowest upload that its ticket outlives, in bytes a second.
const SLOWEST_UPLOAD_BYTES_PER_SECOND: u64 = 256 << 10;
/// No ticket is good for longer.
const UPLOAD_TTL_MAX: TimeDelta = TimeDelta::days(3);

impl Settings {
    /// How long the ticket of an upload of this size is good for.
    pub fn upload_ttl_of(&self, size: Option<u64>) -> TimeDelta {
        let seconds = size.map_or(12 * 3_600, |size| size / SLOWEST_UPLOAD_BYTES_PER_SECOND);
        (self.upload_ttl + TimeDelta::seconds(seconds.min(1 << 30) as i64)).min(UPLOAD_TTL_MAX.max(self.upload_ttl))
    }

    /// How long tickets may name an object that is deleted now.
    pub fn release_times(&self) -> ReleaseTimes {
        ReleaseTimes { read_ticket: self.read_ttl, write_ticket: UPLOAD_TTL_MAX.max(self.upload_ttl) }
    }

    /// What decides whether a storage server may leave.
    pub fn leaving(&self) -> leaving::Rules {
        leaving::Rules { min_write_copies: self.min_write_copies, allow_same_host: self.allow_same_host }
    }

    /// Copies that must be fsynced before a write of something that wants `copies` is acknowledged.
    pub fn min_write_copies_of(&self, copies: u32) -> u32 {
        self.leaving().write_needs(copies)
    }
}

/// The servers, and when they were read.
type Seen = (Instant, Arc<Vec<ServerView>>);

/// Shared by all actors and endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The metadata store.
    pub db: Db,
    /// Calls storage servers, as this name server.
    pub storage: StorageClient,
    /// Signs tickets.
    pub signer: Signer,
    /// What an operator set.
    pub settings: Arc<Settings>,
    /// Cluster, epoch, lease.
    pub standing: Standing,
    /// What is known of the journal's holders.
    pub journal: JournalHolders,
    servers: Arc<Mutex<Option<Seen>>>,
}

impl Context {
    /// A context over its parts; `standing` is shared with the credentials inside `storage`.
    pub fn new(db: Db, storage: StorageClient, signer: Signer, settings: Settings, standing: Standing) -> Self {
        Self {
            db,
            storage,
            signer,
            settings: Arc::new(settings),
            standing,
            journal: JournalHolders::default(),
            servers: Arc::default(),
        }
    }

    /// The same for the actors, whose turns at the database do not depend on how many users wait.
    pub fn for_actors(&self) -> Self {
        Self { db: self.db.for_actors(), ..self.clone() }
    }

    /// The cluster and its epoch.
    pub fn membership(&self) -> (Uuid, i64) {
        self.standing.membership()
    }

    /// What a pass of an acting actor reports when it must not act now: another name server does, the servers were not
    /// asked yet whether they know more than the database, or the cluster takes no changes.
    pub async fn hindrance(&self) -> Result<Option<PassReport>> {
        let waiting = |why| Some(PassReport::noting(why));
        match self.standing.held() {
            None => return Ok(Some(self.standby())),
            Some(held) if !held.looked_around => return Ok(waiting("waiting: the servers are asked first")),
            Some(_) => {}
        }
        let normal = self.db.read(cluster::state).await?.mode == Mode::Normal;
        Ok(if normal { None } else { waiting("waiting: the cluster takes no changes") })
    }

    /// What a pass of an acting actor reports when the lease is not held.
    pub fn standby(&self) -> PassReport {
        match self.db.soundness().trouble() {
            Some(_) => PassReport::noting("waiting: the database is damaged"),
            // Nobody else has it: it could not be renewed.
            None if self.db.room().trouble().is_some() => {
                PassReport::noting("waiting: the disk of the database is full")
            }
            None => PassReport::standby(),
        }
    }

    /// A transaction of an acting actor, in any mode: refused unless the lease is held until its end.
    pub async fn lead<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        let held =
            self.standing.held().ok_or_else(|| Error::unavailable("this name server does not hold the lease"))?;
        let holder = self.standing.holder.to_string();
        self.db
            .write(move |connection| {
                lease::hold(connection, &holder, held.term)?;
                work(connection)
            })
            .await
    }

    /// Stops all changes, because of what was seen of the state `judged`: see [`cluster::protect`].
    pub async fn protect(&self, judged: cluster::ClusterState, reason: &str) -> Result<()> {
        let stored = reason.to_string();
        if self.lead(move |connection| cluster::protect(connection, &judged, &stored)).await? {
            log::error!("{reason}");
        }
        Ok(())
    }

    /// A transaction of an acting actor: refused unless the lease is held and the cluster takes changes.
    pub async fn act<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection) -> Step<T> + Send + 'static,
    {
        self.lead(move |connection| {
            cluster::require_normal(connection)?;
            work(connection)
        })
        .await
    }

    /// A journaled transaction of an acting actor.
    pub async fn act_change<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Changes<'_>) -> Step<T> + Send + 'static,
    {
        self.lead(move |connection| {
            let mut changes = Changes::begin(connection)?;
            let answer = work(&mut changes)?;
            changes.finish()?;
            Ok(answer)
        })
        .await
    }

    /// A journaled transaction of a single change. Answers its version too.
    pub async fn change<T, F>(&self, work: F) -> Result<(T, Version)>
    where
        T: Send + 'static,
        F: FnOnce(&mut Changes<'_>) -> Step<T> + Send + 'static,
    {
        self.db
            .write(move |connection| {
                let mut changes = Changes::begin(connection)?;
                let answer = work(&mut changes)?;
                let version = changes.end_item();
                changes.finish()?;
                Ok((answer, version))
            })
            .await
    }

    /// As [`Self::change`], of one that makes the database grow: refused at once while it is short of room.
    pub async fn grow<T, F>(&self, work: F) -> Result<(T, Version)>
    where
        T: Send + 'static,
        F: FnOnce(&mut Changes<'_>) -> Step<T> + Send + 'static,
    {
        self.db.room().require()?;
        self.change(work).await
    }

    /// The storage servers, at most half a second old.
    pub async fn servers(&self) -> Result<Arc<Vec<ServerView>>> {
        let cached = self.servers.lock().clone();
        match cached {
            Some((at, servers)) if at.elapsed() < SERVERS_TTL => Ok(servers),
            _ => self.fresh_servers().await,
        }
    }

    /// The storage servers as they are now.
    pub async fn fresh_servers(&self) -> Result<Arc<Vec<ServerView>>> {
        let asked = Instant::now();
        let servers = Arc::new(self.db.read(|connection| Ok(server_views(connection)?)).await?);
        keep_newest(&mut self.servers.lock(), asked, servers.clone());
        Ok(servers)
    }
}

/// Remembers what was seen, by the time at which it was asked for: what a slow read brings must not take the place of what a
/// later one has seen, nor pass for younger than it is.
fn keep_newest<T>(known: &mut Option<(Instant, T)>, asked: Instant, seen: T) {
    if known.as_ref().is_none_or(|(at, _)| *at <= asked) {
        *known = Some((asked, seen));
    }
}

/// Whether a server may get new copies.
pub fn takes_files(server: &ServerView) -> bool {
    server.can_keep() && server.admin_state == AdminState::InService && !server.is_syncing() && !server.is_alarmed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_read_takes_no_newer_ones_place() {
        let (early, mut known) = (Instant::now(), None);
        let late = early + Duration::from_millis(1);
        keep_newest(&mut known, late, "a server is down");
        keep_newest(&mut known, early, "all are live");
        assert_eq!(known, Some((late, "a server is down")));
        keep_newest(&mut known, late + Duration::from_secs(1), "it is back");
        assert_eq!(known.map(|(_, seen)| seen), Some("it is back"));
    }

    #[test]
    fn tickets_outlive_slow_uploads_and_not_more() {
        let settings = Settings {
            min_write_copies: None,
            allow_same_host: false,
            upload_ttl: TimeDelta::hours(1),
            read_ttl: TimeDelta::minutes(1),
            health_interval: Duration::from_secs(2),
            down_after: TimeDelta::seconds(6),
            repair_delay: TimeDelta::seconds(30),
            mass_down_share: 0.5,
            repair_transfers: (64, 16),
            repair_bytes_per_second: 0,
            journal_copies: 3,
            journal_keep: TimeDelta::days(7),
            events_keep: TimeDelta::days(365),
        };
        assert_eq!(settings.upload_ttl_of(Some(0)), TimeDelta::hours(1));
        assert_eq!(settings.upload_ttl_of(Some(1 << 30)), TimeDelta::hours(1) + TimeDelta::seconds(4_096));
        assert_eq!(settings.upload_ttl_of(Some(u64::MAX)), UPLOAD_TTL_MAX);
        for (copies, want) in [(1, 1), (2, 2), (3, 2)] {
            assert_eq!(settings.min_write_copies_of(copies), want);
        }
    }
}
