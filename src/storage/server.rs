//! The storage daemon: options, start, end.

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actix_web::{App, middleware, web};
use prometheus::{Gauge, IntCounter, IntGauge};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::admission::Admission;
use super::collector::Collect;
use super::condition::Condition;
use super::heard::{self, Heard};
use super::identity::Identity;
use super::merger::MergeJournal;
use super::options::{Action, Command, JournalAction, OptionalOptions, Options, announced, checked};
use super::prober::ProveWrites;
use super::readiness::Readiness;
use super::registrar::Register;
use super::reporter::{CommitReporter, ReportCommits};
use super::room::Room;
use super::scrubber::{Scrub, look_first};
use super::store::{Index, Journal, Layout, ServerFile, index, inspect, journal, sweep};
use super::suspects::Suspects;
use super::writer::{FORGOTTEN_ROWS_MAX, INDEX_DEADLINE, IndexChange, IndexWriter, WriteIndex};
use super::{http, offline, readiness, salvage};
use crate::actors::{Batcher, Board, Handle, PassActor, Supervisor, certificate_keeper};
use crate::client::url::host_of;
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::security::tls::ServerCertificate;
use crate::security::{ClusterSecret, Recipient, Signer};
use crate::types::limits::BOOTS_MAX;
use crate::types::storage_api::{Told, Trouble};
use crate::types::words::counted;
use crate::types::{Error, Hidden, Result, ServerId};
use crate::web::auth::{Gate, Scrape};
use crate::web::metrics::ActorGauges;
use crate::web::{Metrics, metrics, request};

/// Port, unless it is said otherwise.
const DEFAULT_PORT: u16 = 7401;
/// Looks at the disk for `GET /status` at the same time. When all of them hang, nobody looks any more.
const DISK_LOOKS_MAX: usize = 4;
/// How long such a look is waited for; shorter than any name server waits for the answer.
const DISK_LOOK_TIME_MAX: Duration = Duration::from_millis(200);
/// How long it is remembered what a missing file was.
const MISSING_DAYS: i64 = 365;

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
    disk: Mutex<DiskFacts>,
    disk_looks: Arc<Semaphore>,
    /// The TLS certificate that it shows.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Who may read metrics.
    pub scrape: Scrape,
    /// How far it has come since its start.
    pub readiness: Readiness,
    /// When, and in which epoch.
    registered: Mutex<Option<(Instant, i64)>>,
    gauges: Gauges,
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
    fn look(layout: &Layout, index: &Index) -> Result<Self> {
        let (capacity_bytes, free_bytes) = layout.room()?;
        let read = |connection: &mut _| Ok((index::sums(connection)?, index::oldest_verified(connection)?));
        let ((objects, bytes), scrubbed) = index.read_here(read)?;
        Ok(Self { capacity_bytes, free_bytes, objects, bytes, scrubbed })
    }
}

struct Gauges {
    bytes: Gauge,
    objects: IntGauge,
    scrub_corrupt: IntCounter,
    scrub_age: Gauge,
    actors: ActorGauges,
}

impl Gauges {
    fn new(metrics: &Metrics) -> Result<Self> {
        let bytes = Gauge::new("holdfast_store_bytes", "Bytes of all replicas here").map_err(metrics::wrong)?;
        let objects = IntGauge::new("holdfast_store_objects", "Replicas here").map_err(metrics::wrong)?;
        let scrub_corrupt = IntCounter::new("holdfast_scrub_corrupt_total", "Corrupt replicas found since the start")
            .map_err(metrics::wrong)?;
        let scrub_age = Gauge::new("holdfast_scrub_age_seconds", "Time since the replica checked least recently was")
            .map_err(metrics::wrong)?;
        let all: [Box<dyn prometheus::core::Collector>; 4] = [
            Box::new(bytes.clone()),
            Box::new(objects.clone()),
            Box::new(scrub_corrupt.clone()),
            Box::new(scrub_age.clone()),
        ];
        for metric in all {
            metrics.registry.register(metric).map_err(metrics::wrong)?;
        }
        Ok(Self { bytes, objects, scrub_corrupt, scrub_age, actors: ActorGauges::new(metrics)? })
    }
}

impl Shared {
    /// Whether it has registered within this time, and since the last restore.
    pub fn registered_within(&self, time: Duration) -> bool {
        let registered = *self.registered.lock().unwrap_or_else(PoisonError::into_inner);
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
                *shared.disk.lock().unwrap_or_else(PoisonError::into_inner) = facts;
                Ok::<_, Error>(trouble)
            });
            // A disk that hangs is for the prober to say.
            if let Ok(looked) = tokio::time::timeout(DISK_LOOK_TIME_MAX, look).await {
                trouble =
                    looked.map_err(|error| Error::internal("a look at the disk panicked").with_source(error))??;
            }
        }
        let facts = *self.disk.lock().unwrap_or_else(PoisonError::into_inner);
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
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Has it register anew within a second.
    pub fn forget_registration(&self) {
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

/// Runs what the command line says, until the end. Must be called inside an actix system.
pub async fn run(command: Command) -> Result<()> {
    match command.action {
        Some(Action::Salvage { data_dir, to, committed_only }) => {
            print_salvaged(&salvage::salvage(&data_dir, &to, committed_only)?, &to)
        }
        Some(Action::Verify(args)) => offline::verify(&args, offline::What::Everything),
        Some(Action::Journal(JournalAction::Verify(args))) => offline::verify(&args, offline::What::Journal),
        Some(Action::Rebuild { data_dir }) => {
            let done = salvage::rebuild(&data_dir)?;
            println!("{} kept, {} dropped", counted(done.kept, "copy"), counted(done.dropped, "copy"));
            if let Some(reason) = done.ended_early {
                println!("the old index could be read only in part: {reason}");
            }
            Ok(())
        }
        None => serve(command.options).await,
    }
}

fn print_salvaged(done: &salvage::Salvaged, to: &Path) -> Result<()> {
    println!(
        "{} files ({} bytes) written to {}; {} older copies passed over",
        done.files,
        done.bytes,
        to.display(),
        done.passed_over
    );
    match done.journal {
        Some(version) => println!(
            "paths are those of the journal here, which reaches version {version}; {} newer files stand under the paths \
             of their commits",
            done.newer
        ),
        None => println!("there is no journal here that counts: paths are those of the commits"),
    }
    for note in done.notes.iter().chain(&done.problems) {
        eprintln!("holdfast-storage-server: {note}");
    }
    if done.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::internal(format!("{} files could not be written", done.problems.len())))
    }
}

async fn serve(typed: OptionalOptions) -> Result<()> {
    let started = SystemTime::now();
    let given = typed.cluster_secret.as_ref().map(Hidden::reveal);
    let secret = ClusterSecret::from_text_or_file(given, typed.cluster_secret_file.as_deref())?;
    let options = checked(&typed)?;
    let certificate = typed.listen.certificate()?;
    let scrape = typed.scrape.load()?;
    let listener = typed.listen.bind(DEFAULT_PORT)?;
    let (url, public_url) = announced(&typed, &typed.listen.local_url(&listener)?)?;
    if let Some(certificate) = &certificate {
        warn_of_names(certificate, &[("--url", &url), ("--public-url", &public_url)]);
    }
    // Contents of files are for the service alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // What can be refused is refused before the directory changes.
    let client = HttpClient::for_server(typed.ca_cert.as_deref())?;
    NameServerClient::new(client.clone(), typed.name_server.clone(), Credentials::None)?;
    let (layout, file) = Layout::open_if(&options.data_dir, |root, file| {
        let Some(cluster) = file.and_then(|file| file.cluster) else { return Ok(()) };
        inspect::require_sound(&root.path().join("index.sqlite"))?;
        journal::refuse_newer(root, cluster)
    })?;
    let layout = Arc::new(layout);
    let mut connection = match file.cluster {
        // Only a directory that has never joined a cluster may be without an index.
        None if layout.holds_nothing()? => index::make(&layout.index_path())?,
        _ => index::open_writer(&layout.index_path())?,
    };
    layout.remember_index()?;
    let is_doubtful = sweep::is_doubtful(&layout, &mut connection).unwrap_or_else(|error| {
        log::error!("{}", error.chain());
        true
    });
    let [epoch, term] = index::FENCE.map(|name| index::setting(&mut connection, name));
    let (epoch, term) = (epoch?, term?);
    let identity = Identity::new(file.identity, file.cluster, epoch, term);
    let [version, servers] = heard::SETTINGS;
    let (version, servers) = (index::setting(&mut connection, version)?, index::setting(&mut connection, servers)?);
    let heard = Heard::new(Told { version, servers });
    let (board, metrics) = (Board::default(), Metrics::new()?);
    metrics.show_certificate(certificate.as_ref())?;
    let supervisor = Supervisor::new(board.clone());
    if index::setting(&mut connection, index::CHANGES)? == 0 {
        index::count_change(&mut connection)?;
    }
    let index_changes = Arc::new(AtomicI64::new(index::setting(&mut connection, index::CHANGES)?));
    let work = WriteIndex {
        layout: layout.clone(),
        connection: Arc::new(Mutex::new(connection)),
        changes: index_changes.clone(),
    };
    let writer = Batcher::supervise(&supervisor, &board, "IndexWriter", work);
    let signer = Signer::new(secret);
    certificate_keeper::supervise(&supervisor, &board, certificate.clone(), client.trust())?;
    let credentials = Credentials::Server { signer: signer.clone(), standing: identity.signed_as() };
    let name_server = NameServerClient::new(client.clone(), typed.name_server.clone(), credentials.clone())?;
    let server = ServerId::of_identity(file.identity);
    let index = Index::open(&layout)?;
    let disk = Mutex::new(DiskFacts::look(&layout, &index)?);
    let work = ReportCommits { server, name_server: name_server.clone(), writer: writer.clone() };
    let boots = remember_start(&layout, &file, identity.boot_id);
    let shared = Arc::new(Shared {
        boots,
        board: board.clone(),
        url,
        public_url,
        room: Room::new(layout.clone(), options.name.clone()),
        condition: Condition::default(),
        index,
        reporter: Batcher::supervise(&supervisor, &board, "CommitReporter", work),
        writer,
        journal: Journal::open(layout.clone(), file.cluster)?,
        index_changes,
        heard,
        gate: Gate::new(signer.clone(), Recipient::Storage(identity.identity)),
        identity,
        signer,
        name_server,
        storage: StorageClient::new(client, credentials),
        admission: Admission::default(),
        suspects: Arc::default(),
        disk,
        disk_looks: Arc::new(Semaphore::new(DISK_LOOKS_MAX)),
        certificate: certificate.clone(),
        scrape,
        readiness: Readiness::default(),
        registered: Mutex::new(None),
        gauges: Gauges::new(&metrics)?,
        layout,
        options,
    });
    PassActor::supervise(&supervisor, &board, "Prober", ProveWrites::TIMING, ProveWrites { shared: shared.clone() });
    if is_doubtful {
        log::error!("files that the index knows are missing below objects/, or are back: all are looked for first");
        look_first(&shared, started).await;
    }
    PassActor::supervise(&supervisor, &board, "Registrar", Register::TIMING, Register { shared: shared.clone() });
    PassActor::supervise(&supervisor, &board, "Collector", Collect::TIMING, Collect::new(shared.clone()));
    PassActor::supervise(&supervisor, &board, "Merger", MergeJournal::TIMING, MergeJournal { shared: shared.clone() });
    let timing = Scrub::timing(shared.options.scrub.period);
    let scrubber = PassActor::supervise(&supervisor, &board, "Scrubber", timing, Scrub::new(shared.clone(), started));
    shared.suspects.serve_by(scrubber);
    actix::spawn(clean_each_day(shared.clone()));
    log::info!(
        "storage server {} listens at {} with {}",
        shared.options.name,
        shared.url,
        shared.options.data_dir.display()
    );
    let (daemon, metrics) = (web::Data::new(shared), web::Data::new(metrics));
    let server = crate::serve_http!(certificate, listener, move || {
        App::new()
            .app_data(daemon.clone())
            .app_data(metrics.clone())
            .wrap(middleware::from_fn(request::around))
            .configure(request::parsing)
            .configure(http::routes)
            .default_service(web::to(request::no_such_route))
    });
    server.await.map_err(|error| Error::io("serving", error))
}

/// Writes down that the directory was started again, before anybody is told of it: what was copied from it earlier does not
/// know of this start. Answers the starts to announce. A disk that takes nothing has its own way of being told.
fn remember_start(layout: &Layout, file: &ServerFile, boot_id: Uuid) -> Vec<Uuid> {
    let earlier = file.boots.len().saturating_sub(BOOTS_MAX - 1);
    let boots: Vec<Uuid> = file.boots[earlier..].iter().copied().chain([boot_id]).collect();
    if let Err(error) = layout.write_server_file(&ServerFile { boots: boots.clone(), ..file.clone() }) {
        log::warn!("this start could not be written down: {}", error.chain());
    }
    // A program that remembers no starts has run here: that it does not know one proves nothing this time.
    if file.boots.is_empty() && file.cluster.is_some() { Vec::new() } else { boots }
}

/// A certificate that is not for the host in a URL makes everybody who uses the URL refuse the server.
fn warn_of_names(certificate: &ServerCertificate, urls: &[(&str, &String)]) {
    for (option, url) in urls.iter().filter(|(_, url)| url.starts_with("https://")) {
        let Some(host) = host_of(url) else { continue };
        if let Err(names) = certificate.covers(&host) {
            let file = certificate.file().display();
            log::warn!(
                "the TLS certificate in {file} is for {}, and not for {host}, which stands in {option} ({url}): whoever \
                 uses that will refuse it",
                if names.is_empty() { "no name".into() } else { names.join(", ") }
            );
        }
    }
}

/// Empties the quarantine, and forgets what has been missing for very long.
async fn clean_each_day(shared: Arc<Shared>) {
    loop {
        let (layout, keep) = (shared.layout.clone(), shared.options.quarantine);
        match tokio::task::spawn_blocking(move || sweep::empty_quarantine(&layout, keep)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => {
                log::info!("{count} files were removed from quarantine after {} days", keep.as_secs() / 86_400)
            }
            Ok(Err(error)) => log::error!("emptying the quarantine failed: {}", error.chain()),
            Err(error) => log::error!("emptying the quarantine panicked: {error}"),
        }
        loop {
            let before = (shared.identity.now() - chrono::TimeDelta::days(MISSING_DAYS)).naive_utc();
            match shared.writer.submit(IndexChange::ForgetMissing(before), INDEX_DEADLINE).await {
                Ok(count) if count as i64 == FORGOTTEN_ROWS_MAX => {}
                Ok(_) => break,
                Err(error) => {
                    log::error!("forgetting missing files failed: {}", error.chain());
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(24 * 3_600)).await;
    }
}
