//! The storage daemon: options, start, end.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actix_web::{App, middleware, web};
use prometheus::{Gauge, IntCounter, IntGauge};
use structopt::StructOpt;
use tokio::sync::Semaphore;

use super::admission::Admission;
use super::collector::Collect;
use super::condition::Condition;
use super::heard::{self, Heard};
use super::identity::Identity;
use super::prober::ProveWrites;
use super::readiness::Readiness;
use super::registrar::Register;
use super::reporter::{CommitReporter, ReportCommits};
use super::scrubber::{Scrub, look_first};
use super::store::{Index, Journal, Layout, index, inspect, journal, sweep};
use super::suspects::Suspects;
use super::writer::{FORGOTTEN_ROWS_MAX, INDEX_DEADLINE, IndexChange, IndexWriter, WriteIndex};
use super::{http, offline, readiness, salvage};
use crate::actors::{Batcher, Board, Handle, PassActor, Supervisor, certificate_keeper};
use crate::client::name_server::{announced_url, host_of};
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::decisions::scrub::Pace;
use crate::security::tls::ServerCertificate;
use crate::security::{ClusterSecret, Recipient, Signer};
use crate::types::storage_api::{Told, Trouble};
use crate::types::words::counted;
use crate::types::{Error, Hidden, Result, ServerId, label};
use crate::web::auth::{Gate, Scrape, ScrapeOptions};
use crate::web::metrics::ActorGauges;
use crate::web::{ListenOptions, Metrics, metrics, request};

/// Port, unless it is said otherwise.
const DEFAULT_PORT: u16 = 7401;
/// The longest time that quarantine lasts, in days.
const QUARANTINE_DAYS_MAX: u64 = 36_500;
/// Looks at the disk for `GET /status` at the same time. When all of them hang, nobody looks any more.
const DISK_LOOKS_MAX: usize = 4;
/// How long such a look is waited for; shorter than any name server waits for the answer.
const DISK_LOOK_TIME_MAX: Duration = Duration::from_millis(200);
/// How long it is remembered what a missing file was.
const MISSING_DAYS: i64 = 365;

/// The storage daemon of Holdfast: keeps replicas in a data directory
#[derive(Debug, Clone, StructOpt)]
#[structopt(name = "holdfast-storage-server")]
pub struct Command {
    #[structopt(flatten)]
    #[allow(missing_docs)]
    pub options: OptionalOptions,
    #[structopt(subcommand)]
    #[allow(missing_docs)]
    pub action: Option<Action>,
}

// A doc comment here would become the program's description.
#[allow(missing_docs, reason = "each variant has its help")]
#[derive(Debug, Clone, StructOpt)]
pub enum Action {
    /// Write the files of a data directory out under their paths, with no server running
    Salvage {
        /// The storage server's data directory
        #[structopt(long)]
        data_dir: PathBuf,
        /// Where to write the files; nothing there is written over
        #[structopt(long)]
        to: PathBuf,
        /// Leave out files whose commit this server had not heard of yet
        #[structopt(long)]
        committed_only: bool,
    },
    /// Read every byte of a data directory and say what is damaged, with no server running; nothing is changed
    Verify(offline::VerifyArgs),
    /// The copy of the metadata's journal in a data directory
    Journal(JournalAction),
    /// Make a new index from a damaged one, keeping every replica that can be verified
    Rebuild {
        /// The storage server's data directory
        #[structopt(long)]
        data_dir: PathBuf,
    },
}

#[allow(missing_docs, reason = "each variant has its help")]
#[derive(Debug, Clone, StructOpt)]
pub enum JournalAction {
    /// Read every byte of the journal's files and say what is damaged, with no server running; nothing is changed
    Verify(offline::VerifyArgs),
}

// Options of the daemon as they are typed. A doc comment here would become the program's description.
#[allow(missing_docs, reason = "each option has its help")]
#[derive(Debug, Clone, StructOpt)]
pub struct OptionalOptions {
    /// Where replicas are kept
    #[structopt(long)]
    pub data_dir: Option<PathBuf>,
    /// URL of the name server; several, separated by commas
    #[structopt(long, env = "HOLDFAST_NAME_SERVER", use_delimiter = true)]
    pub name_server: Vec<String>,
    /// What people call this server [default: the host's name]
    #[structopt(long)]
    pub name: Option<String>,
    /// The machine that this server shares its fate with [default: the host's name]
    #[structopt(long)]
    pub host: Option<String>,
    /// Rack, room or site; copies of an object go to different zones
    #[structopt(long, default_value = "")]
    pub zone: String,
    /// This data directory takes the place of a newer copy of it that is lost; only for the first start elsewhere
    #[structopt(long)]
    pub replace_newer: bool,
    /// Where other servers reach this one [default: the address that it listens on, if that is one]
    #[structopt(long)]
    pub url: Option<String>,
    /// Where clients reach this one [default: --url]
    #[structopt(long)]
    pub public_url: Option<String>,
    /// File with the cluster secret
    #[structopt(long)]
    pub cluster_secret_file: Option<PathBuf>,
    /// The cluster secret itself; in the environment, not on the command line
    #[structopt(long, env = "HOLDFAST_CLUSTER_SECRET", hide_env_values = true)]
    pub cluster_secret: Option<Hidden>,
    /// Certificates to trust (PEM), when servers use TLS with a private authority
    #[structopt(long)]
    pub ca_cert: Option<PathBuf>,
    /// How long corrupt copies and unknown files stay in quarantine, in days
    #[structopt(long, default_value = "7")]
    pub quarantine_days: u64,
    /// Within how many days everything is read again and checked; fractions are welcome
    #[structopt(long, default_value = "30")]
    pub scrub_period: f64,
    /// How fast that reads at most, in MiB per second
    #[structopt(long, default_value = "16")]
    pub scrub_rate: f64,
    #[structopt(flatten)]
    pub scrape: ScrapeOptions,
    #[structopt(flatten)]
    pub listen: ListenOptions,
}

/// Options of the daemon.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where replicas are kept.
    pub data_dir: PathBuf,
    /// What people call this server.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// Rack, room or site.
    pub zone: String,
    /// It takes the place of a newer copy of its directory.
    pub replace_newer: bool,
    /// How long corrupt copies and unknown files stay in quarantine.
    pub quarantine: Duration,
    /// How fast everything is read again.
    pub scrub: Pace,
}

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
    let client = HttpClient::new(typed.ca_cert.as_deref())?;
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
    let (epoch, term) = (index::setting(&mut connection, "epoch")?, index::setting(&mut connection, "term")?);
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
    let shared = Arc::new(Shared {
        board: board.clone(),
        url,
        public_url,
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

/// Where servers and clients are told to reach this one.
fn announced(typed: &OptionalOptions, listens_at: &str) -> Result<(String, String)> {
    let option = |name: &'static str| move |error: Error| error.context(name);
    let url = match &typed.url {
        Some(url) => announced_url(url).map_err(option("--url"))?,
        None => announced_url(listens_at).map_err(|_| {
            Error::invalid(format!(
                "--url is missing: this server listens on every address of the machine ({listens_at}), and others must be \
                 told one by which they reach it, for instance --url http://{}:PORT",
                gethostname::gethostname().to_string_lossy()
            ))
        })?,
    };
    let public_url = match &typed.public_url {
        Some(public_url) => announced_url(public_url).map_err(option("--public-url"))?,
        None => url.clone(),
    };
    Ok((url, public_url))
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

fn checked(typed: &OptionalOptions) -> Result<Options> {
    let host_name = || gethostname::gethostname().to_string_lossy().into_owned();
    let data_dir =
        typed.data_dir.clone().ok_or_else(|| Error::invalid("--data-dir is missing: where shall replicas be kept?"))?;
    if typed.name_server.is_empty() {
        return Err(Error::invalid(
            "--name-server is missing: the URL of the name server, for instance http://10.0.0.1:7400",
        ));
    }
    let (name, host) = (typed.name.clone().unwrap_or_else(host_name), typed.host.clone().unwrap_or_else(host_name));
    for (option, text) in [("--name", &name), ("--host", &host), ("--zone", &typed.zone)] {
        if option != "--zone" || !text.is_empty() {
            label::check(option, text)?;
        }
    }
    Ok(Options {
        data_dir,
        name,
        host,
        zone: typed.zone.clone(),
        replace_newer: typed.replace_newer,
        quarantine: quarantine(typed.quarantine_days)?,
        scrub: pace(typed.scrub_period, typed.scrub_rate)?,
    })
}

fn quarantine(days: u64) -> Result<Duration> {
    if days > QUARANTINE_DAYS_MAX {
        return Err(Error::invalid(format!("--quarantine-days {days} must be 0 to {QUARANTINE_DAYS_MAX}")));
    }
    Ok(Duration::from_secs(days * 24 * 3_600))
}

/// At least a second and at most ten years; at least a KiB and at most a TiB in a second.
fn pace(period_days: f64, rate_mib: f64) -> Result<Pace> {
    let seconds = period_days * 86_400.0;
    if !(1.0..=315_360_000.0).contains(&seconds) {
        return Err(Error::invalid(format!("--scrub-period {period_days} must be 0.00002 to 3650 days")));
    }
    if !(0.001..=1_048_576.0).contains(&rate_mib) {
        return Err(Error::invalid(format!("--scrub-rate {rate_mib} must be 0.001 to 1048576 MiB per second")));
    }
    Ok(Pace { period: Duration::from_secs_f64(seconds), rate_bytes: (rate_mib * f64::from(1 << 20)) as u64 })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_end_are_refused() {
        assert_eq!(quarantine(7).unwrap(), Duration::from_secs(604_800));
        // In seconds these are beyond the range, and became short times.
        for days in [u64::MAX, u64::MAX / 86_400 + 1, QUARANTINE_DAYS_MAX + 1] {
            assert!(quarantine(days).is_err(), "{days}");
        }
        for (period, rate) in [(f64::NAN, 16.0), (30.0, f64::NAN), (-1.0, 16.0), (f64::INFINITY, 16.0), (30.0, 0.0)] {
            assert!(pace(period, rate).is_err(), "{period} {rate}");
        }
    }
}
