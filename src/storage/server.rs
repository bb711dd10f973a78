//! The storage daemon: options, start, end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actix_web::{App, middleware, web};
use prometheus::{Gauge, IntCounter, IntGauge};
use structopt::StructOpt;
use tokio::sync::Semaphore;

use super::collector::Collect;
use super::heard::{self, Heard};
use super::identity::Identity;
use super::readiness::Readiness;
use super::registrar::Register;
use super::reporter::{CommitReporter, ReportCommits};
use super::scrubber::Scrub;
use super::store::{Index, Journal, Layout, index, sweep};
use super::suspects::Suspects;
use super::writer::{IndexWriter, WriteIndex};
use super::{http, salvage};
use crate::actors::{Batcher, Board, Handle, PassActor, Supervisor, certificate_keeper};
use crate::client::name_server::{announced_url, host_of};
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::decisions::scrub::Pace;
use crate::security::ticket::Sender;
use crate::security::tls::ServerCertificate;
use crate::security::{ClusterSecret, Signer};
use crate::types::storage_api::Told;
use crate::types::{Error, Hidden, Result, ServerId};
use crate::web::metrics::ActorGauges;
use crate::web::{ListenOptions, Metrics, metrics, request};

/// Port, unless it is said otherwise.
const DEFAULT_PORT: u16 = 7401;
/// Uploads at the same time; one more is answered `busy`.
const UPLOADS_MAX: usize = 256;

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
    /// Make a new index from a damaged one, keeping every replica that can be verified
    Rebuild {
        /// The storage server's data directory
        #[structopt(long)]
        data_dir: PathBuf,
    },
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
    /// Checks tickets.
    pub signer: Signer,
    /// The name servers.
    pub name_server: NameServerClient,
    /// Other storage servers.
    pub storage: StorageClient,
    /// Uploads at the same time.
    pub upload_permits: Arc<Semaphore>,
    /// Copies that looked wrong when they were sent.
    pub suspects: Arc<Suspects>,
    /// The TLS certificate that it shows.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// How far it has come since its start.
    pub readiness: Readiness,
    /// When, and in which epoch.
    registered: Mutex<Option<(Instant, i64)>>,
    gauges: Gauges,
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

    /// Uploads under way.
    pub fn uploads_under_way(&self) -> usize {
        UPLOADS_MAX.saturating_sub(self.upload_permits.available_permits())
    }

    /// Notes a registration.
    pub fn note_registration(&self) {
        let now = (Instant::now(), self.identity.standing().epoch);
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
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
        Some(Action::Rebuild { data_dir }) => {
            let done = salvage::rebuild(&data_dir)?;
            println!("{} replicas kept, {} dropped", done.kept, done.dropped);
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
    let listener = typed.listen.bind(DEFAULT_PORT)?;
    let (url, public_url) = announced(&typed, &typed.listen.local_url(&listener)?)?;
    if let Some(certificate) = &certificate {
        warn_of_names(certificate, &[("--url", &url), ("--public-url", &public_url)]);
    }
    // Contents of files are for the service alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (layout, file) = Layout::open(&options.data_dir)?;
    let layout = Arc::new(layout);
    let mut connection = match file.cluster {
        // Only a directory that has never joined a cluster may be without an index.
        None if layout.holds_nothing()? => index::make(&layout.index_path())?,
        _ => index::open_writer(&layout.index_path())?,
    };
    let (epoch, term) = (index::setting(&mut connection, "epoch")?, index::setting(&mut connection, "term")?);
    let identity = Identity::new(file.identity, file.cluster, epoch, term);
    let [version, servers] = heard::SETTINGS;
    let (version, servers) = (index::setting(&mut connection, version)?, index::setting(&mut connection, servers)?);
    let heard = Heard::new(Told { version, servers });
    let (board, metrics) = (Board::default(), Metrics::new()?);
    metrics.show_certificate(certificate.as_ref())?;
    let supervisor = Supervisor::new(board.clone());
    let work = WriteIndex { layout: layout.clone(), connection: Arc::new(Mutex::new(connection)) };
    let writer = Batcher::supervise(&supervisor, &board, "IndexWriter", work);
    let (signer, client) = (Signer::new(secret), HttpClient::new(typed.ca_cert.as_deref())?);
    certificate_keeper::supervise(&supervisor, &board, certificate.clone(), client.trust())?;
    let credentials = Credentials::Server {
        signer: signer.clone(),
        sender: Sender::Storage { identity: file.identity },
        membership: identity.membership(),
    };
    let name_server = NameServerClient::new(client.clone(), typed.name_server.clone(), credentials.clone())?;
    let server = ServerId::of_identity(file.identity);
    let work = ReportCommits { server, name_server: name_server.clone(), writer: writer.clone() };
    let shared = Arc::new(Shared {
        board: board.clone(),
        url,
        public_url,
        index: Index::open(&layout.index_path())?,
        reporter: Batcher::supervise(&supervisor, &board, "CommitReporter", work),
        writer,
        journal: Journal::open(layout.clone(), file.cluster)?,
        heard,
        identity,
        signer,
        name_server,
        storage: StorageClient::new(client, credentials),
        upload_permits: Arc::new(Semaphore::new(UPLOADS_MAX)),
        suspects: Arc::default(),
        certificate: certificate.clone(),
        readiness: Readiness::default(),
        registered: Mutex::new(None),
        gauges: Gauges::new(&metrics)?,
        layout,
        options,
    });
    PassActor::supervise(&supervisor, &board, "Registrar", Register::TIMING, Register { shared: shared.clone() });
    PassActor::supervise(&supervisor, &board, "Collector", Collect::TIMING, Collect { shared: shared.clone() });
    let timing = Scrub::timing(shared.options.scrub.period);
    let scrubber = PassActor::supervise(&supervisor, &board, "Scrubber", timing, Scrub::new(shared.clone()));
    shared.suspects.serve_by(scrubber);
    actix::spawn(sweep_at_start(shared.clone(), started));
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
    Ok(Options {
        data_dir,
        name: typed.name.clone().unwrap_or_else(host_name),
        host: typed.host.clone().unwrap_or_else(host_name),
        zone: typed.zone.clone(),
        quarantine: Duration::from_secs(typed.quarantine_days * 24 * 3_600),
        scrub: pace(typed.scrub_period, typed.scrub_rate)?,
    })
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

/// Looks for what a crash left behind, and empties the quarantine once a day.
async fn sweep_at_start(shared: Arc<Shared>, started: SystemTime) {
    match sweep::quarantine_unknown(&shared.layout, &shared.index, started, |key| shared.identity.is_in_flight(key))
        .await
    {
        Ok(0) => {}
        Ok(count) => log::warn!("{count} files that no row knows were moved into quarantine"),
        Err(error) => log::error!("looking for unknown files failed: {}", error.chain()),
    }
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
        tokio::time::sleep(Duration::from_secs(24 * 3_600)).await;
    }
}
