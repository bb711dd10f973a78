//! The storage daemon: start and end.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime};

use actix_web::{App, middleware, web};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::admission::Admission;
use super::collector::Collect;
use super::condition::Condition;
use super::gauges::Gauges;
use super::heard::{self, Heard};
use super::http;
use super::identity::Identity;
use super::merger::MergeJournal;
use super::options::{OptionalOptions, announced, checked};
use super::prober::ProveWrites;
use super::readiness::Readiness;
use super::registrar::Register;
use super::reporter::ReportCommits;
use super::room::Room;
use super::scrubber::{Scrub, look_first};
use super::state::{DISK_LOOKS_MAX, DiskFacts, Shared};
use super::store::{Index, Journal, Layout, ServerFile, index, inspect, journal, opening, sweep};
use super::writer::{FORGOTTEN_ROWS_MAX, INDEX_DEADLINE, IndexChange, WriteIndex};
use crate::actors::{Batcher, Board, PassActor, Supervisor, certificate_keeper};
use crate::client::url::host_of;
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::security::tls::ServerCertificate;
use crate::security::{ClusterSecret, Recipient, Signer};
use crate::types::limits::BOOTS_MAX;
use crate::types::storage_api::Told;
use crate::types::{Error, Hidden, Result, ServerId};
use crate::web::auth::Gate;
use crate::web::{Metrics, request, serve};

/// Port, unless it is said otherwise.
const DEFAULT_PORT: u16 = 7401;
/// How long it is remembered what a missing file was.
const MISSING_DAYS: i64 = 365;

/// Runs the daemon, until the end. Must be called inside an actix system.
pub(super) async fn serve(typed: OptionalOptions) -> Result<()> {
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
        None if layout.holds_nothing()? => opening::make(&layout.index_path())?,
        _ => opening::open_writer(&layout.index_path())?,
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
    let description = web::Data::new(http::description(http::ROUTES));
    let server = serve::serve(
        certificate,
        listener,
        |_| false,
        move || {
            App::new()
                .app_data(daemon.clone())
                .app_data(metrics.clone())
                .wrap(middleware::from_fn(request::around))
                .configure(request::parsing)
                .app_data(description.clone())
                .configure(http::routes)
                .default_service(web::to(request::no_such_route))
        },
    )?;
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
