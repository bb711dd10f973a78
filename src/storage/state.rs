//! What the endpoints and the actors of the daemon share.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use actix_web::web;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::admission::Admission;
use super::condition::Condition;
use super::gauges::Gauges;
use super::heard::Heard;
use super::identity::Identity;
use super::options::Options;
use super::readiness::{self, Readiness};
use super::reporter::CommitReporter;
use super::room::Room;
use super::store::{Index, Journal, Layout, index};
use super::suspects::Suspects;
use super::writer::IndexWriter;
use crate::actors::{Board, Handle};
use crate::client::{NameServerClient, StorageClient};
use crate::security::Signer;
use crate::security::tls::ServerCertificate;
use crate::types::storage_api::Trouble;
use crate::types::{Error, Result};
use crate::web::auth::{Gate, Scrape};

/// Looks at the disk for `GET /status` at the same time. When all of them hang, nobody looks any more.
pub(super) const DISK_LOOKS_MAX: usize = 4;
/// How long such a look is waited for; shorter than any name server waits for the answer.
const DISK_LOOK_TIME_MAX: Duration = Duration::from_millis(200);
/// How handlers get it.
pub type Daemon = web::Data<Arc<Shared>>;

/// What all parts of the daemon share.
pub struct Shared {
    /// The options.
    pub options: Options,
    /// How the actors are.
    pub board: Board,
    /// Where servers reach it.
    pub url: String,
    /// Where clients reach it.
    pub public_url: String,
    /// The directory.
    pub layout: Arc<Layout>,
    /// Room in it for what is on its way.
    pub room: Arc<Room>,
    /// Whether it can keep what it is given.
    pub condition: Condition,
    /// The reading side of the index.
    pub index: Index,
    /// The writing side.
    pub writer: Handle<IndexWriter>,
    /// Reports uploads.
    pub reporter: Handle<CommitReporter>,
    /// The copy of the metadata's journal.
    pub journal: Journal,
    /// What it has heard of the cluster.
    pub heard: Heard,
    /// Who it is.
    pub identity: Identity,
    /// The starts of its directory that it announces.
    pub boots: Vec<Uuid>,
    /// Judges what servers send.
    pub gate: Gate,
    /// Changes of the index that are durable.
    pub index_changes: Arc<AtomicI64>,
    /// Checks tickets.
    pub signer: Signer,
    /// The name servers.
    pub name_server: NameServerClient,
    /// Other storage servers.
    pub storage: StorageClient,
    /// Uploads at the same time.
    pub admission: Admission,
    /// Copies that looked wrong when they were sent.
    pub suspects: Arc<Suspects>,
    /// What the last look at the disk showed.
    pub(super) disk: Mutex<DiskFacts>,
    pub(super) disk_looks: Arc<Semaphore>,
    /// The TLS certificate that it shows.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Who may read metrics.
    pub scrape: Scrape,
    /// How far it has come since its start.
    pub readiness: Readiness,
    /// When, and in which epoch.
    pub(super) registered: Mutex<Option<(Instant, i64)>>,
    pub(super) gauges: Gauges,
}

/// What a look at the disk shows.
#[derive(Debug, Clone, Copy)]
pub struct DiskFacts {
    /// Bytes of the file system.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
    /// Replicas.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the replica that was checked least recently was checked.
    pub scrubbed: Option<chrono::NaiveDateTime>,
}

impl DiskFacts {
    /// May wait for a disk.
    pub(super) fn look(layout: &Layout, index: &Index) -> Result<Self> {
        let (capacity_bytes, free_bytes) = layout.room()?;
        let read = |connection: &mut _| Ok((index::sums(connection)?, index::oldest_verified(connection)?));
        let ((objects, bytes), scrubbed) = index.read_here(read)?;
        Ok(Self { capacity_bytes, free_bytes, objects, bytes, scrubbed })
    }
}

impl Shared {
    /// Whether it has registered within this time, and since the last restore.
    pub fn registered_within(&self, time: Duration) -> bool {
        let registered = *self.registered.lock();
        registered.is_some_and(|(at, epoch)| at.elapsed() < time && epoch == self.identity.standing().epoch)
    }

    /// How the disk is, and what is wrong with it. Answers also when the disk does not: then what was seen last.
    pub async fn look_at_disk(self: &Arc<Self>) -> Result<(DiskFacts, Option<Trouble>)> {
        let mut trouble = None;
        if let Ok(permit) = self.disk_looks.clone().try_acquire_owned() {
            let shared = self.clone();
            let look = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let trouble = shared.layout.trouble();
                let facts = DiskFacts::look(&shared.layout, &shared.index)?;
                *shared.disk.lock() = facts;
                Ok::<_, Error>(trouble)
            });
            // A disk that hangs is for the prober to say.
            if let Ok(looked) = tokio::time::timeout(DISK_LOOK_TIME_MAX, look).await {
                trouble =
                    looked.map_err(|error| Error::internal("a look at the disk panicked").with_source(error))??;
            }
        }
        let facts = *self.disk.lock();
        Ok((facts, trouble.or_else(|| self.condition.known())))
    }

    /// How far it has come since its start, and whether it can keep what it is given: one of the words of [`readiness`].
    pub fn status_word(&self) -> &'static str {
        match self.condition.known() {
            Some(_) => readiness::TROUBLE,
            None => self.readiness.word(&self.identity.standing()),
        }
    }

    /// Uploads under way.
    pub fn uploads_under_way(&self) -> usize {
        self.admission.under_way()
    }

    /// Notes a registration.
    pub fn note_registration(&self) {
        let now = (Instant::now(), self.identity.standing().epoch);
        *self.registered.lock() = Some(now);
    }

    /// Has it register anew within a second.
    pub fn forget_registration(&self) {
        *self.registered.lock() = None;
    }

    /// Reads what the gauges show.
    pub async fn refresh_metrics(&self) -> Result<()> {
        let read = |connection: &mut _| Ok((index::sums(connection)?, index::oldest_verified(connection)?));
        let ((objects, bytes), oldest) = self.index.read(read).await?;
        self.gauges.objects.set(objects as i64);
        self.gauges.bytes.set(bytes as f64);
        let age = oldest.map_or(0, |oldest| (self.identity.now().naive_utc() - oldest).num_milliseconds());
        self.gauges.scrub_age.set(age.max(0) as f64 / 1e3);
        self.gauges.actors.set(&self.board.all());
        Ok(())
    }

    /// Counts a copy that was found corrupt.
    pub fn count_corrupt(&self) {
        self.gauges.scrub_corrupt.inc();
    }
}
