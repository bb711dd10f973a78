//! The name server: options, start, end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use actix_web::{App as WebApp, middleware, web};
use chrono::TimeDelta;
use structopt::StructOpt;

use super::gauges::Gauges;
use super::routes::{ROUTES, routes};
use super::state::App;
use super::{openapi, redirect};
use crate::actors::auditor::Audit;
use crate::actors::context::{Context, Settings};
use crate::actors::health_monitor::CheckServers;
use crate::actors::journal_keeper::KeepJournal;
use crate::actors::lease_keeper::{KeepLease, let_go, take_at_once};
use crate::actors::metadata_writer::WriteChanges;
use crate::actors::pass::Work;
use crate::actors::reaper::Reap;
use crate::actors::replication_manager::Replicate;
use crate::actors::snapshot_sender::SendSnapshots;
use crate::actors::sync_actor::Sync;
use crate::actors::transfers::Transfers;
use crate::actors::{Batcher, Board, PassActor, Standing, Supervisor, certificate_keeper};
use crate::client::{Credentials, HttpClient, StorageClient};
use crate::db::{Db, cluster};
use crate::security::{ClusterSecret, Signer};
use crate::types::limits::REPLICATION_MAX;
use crate::types::{Error, Hidden, Result};
use crate::web::auth::ScrapeOptions;
use crate::web::{ListenOptions, Metrics, request, serve};

/// Port, unless it is said otherwise.
const DEFAULT_PORT: u16 = 7400;

/// The name server of Holdfast: keeps the metadata and decides where copies go
#[derive(Debug, Clone, StructOpt)]
#[structopt(name = "holdfast-name-server")]
pub struct Options {
    /// Where the metadata is: postgres://USER@HOST/NAME or sqlite://PATH; with a password only in the environment
    #[structopt(long, env = "HOLDFAST_DATABASE", hide_env_values = true)]
    pub database: Hidden,
    /// Make a new cluster when the database is empty
    #[structopt(long)]
    pub initialize: bool,
    /// Copies of files in a new cluster
    #[structopt(long, default_value = "2")]
    pub replicas: u32,
    /// File with the cluster secret
    #[structopt(long)]
    pub cluster_secret_file: Option<PathBuf>,
    /// The cluster secret itself; in the environment, not on the command line
    #[structopt(long, env = "HOLDFAST_CLUSTER_SECRET", hide_env_values = true)]
    pub cluster_secret: Option<Hidden>,
    /// Copies that must be safe on disk before a write is acknowledged [default: the smaller of 2 and the copies wanted]
    #[structopt(long)]
    pub min_write_copies: Option<u32>,
    /// Allow two copies of a file on one host
    #[structopt(long)]
    pub allow_same_host: bool,
    /// Seconds between two rounds of health checks
    #[structopt(long, default_value = "2")]
    pub health_interval: f64,
    /// Seconds without an answer after which a storage server is down
    #[structopt(long, default_value = "6")]
    pub down_after: f64,
    /// Seconds that an object may be short of copies before it is repaired
    #[structopt(long, default_value = "30")]
    pub repair_delay: f64,
    /// Nothing is copied while a larger share of the storage servers than this is down
    #[structopt(long, default_value = "0.5")]
    pub mass_down_share: f64,
    /// Transfers of repair at the same time
    #[structopt(long, default_value = "64")]
    pub repair_transfers: usize,
    /// Transfers of repair at the same time from or to one storage server
    #[structopt(long, default_value = "16")]
    pub repair_transfers_per_server: usize,
    /// MiB that repair may copy each second [default: as many as it can]
    #[structopt(long)]
    pub repair_rate: Option<f64>,
    /// Storage servers that keep a copy of the metadata's journal
    #[structopt(long, default_value = "3")]
    pub journal_copies: usize,
    /// Days that the journal is kept in the database once it is on its copies
    #[structopt(long, default_value = "7")]
    pub journal_keep: f64,
    /// Days that events are kept
    #[structopt(long, default_value = "365")]
    pub events_keep: f64,
    /// Seconds that a permission to upload is good for, beyond the time that its bytes need
    #[structopt(long, default_value = "3600")]
    pub upload_ttl: u32,
    /// Seconds that a permission to read is good for; bytes of deleted files stay as long
    #[structopt(long, default_value = "60")]
    pub read_ttl: u32,
    /// Certificates to trust (PEM), when storage servers use TLS with a private authority
    #[structopt(long)]
    pub ca_cert: Option<PathBuf>,
    #[structopt(flatten)]
    #[allow(missing_docs)]
    pub scrape: ScrapeOptions,
    #[structopt(flatten)]
    #[allow(missing_docs)]
    pub listen: ListenOptions,
}

impl Options {
    fn settings(&self) -> Result<Settings> {
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .ok()
                .filter(|duration| (0.01..=86_400.0).contains(&duration.as_secs_f64()))
                .ok_or_else(|| Error::invalid(format!("--{name} {value} must be 0.01 to 86400 seconds")))
        };
        let days = |name: &str, days: f64| {
            let milliseconds = (0.0..=36_500.0).contains(&days).then_some((days * 86_400_000.0) as i64);
            let delta = milliseconds.and_then(TimeDelta::try_milliseconds);
            delta.ok_or_else(|| Error::invalid(format!("--{name} {days} must be 0 to 36500 days")))
        };
        let delta = |duration: Duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        for (name, copies) in [("replicas", Some(self.replicas)), ("min-write-copies", self.min_write_copies)] {
            if copies.is_some_and(|copies| !(1..=REPLICATION_MAX).contains(&copies)) {
                return Err(Error::invalid(format!("--{name} must be 1 to {REPLICATION_MAX}")));
            }
        }
        let share = self.mass_down_share;
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::invalid(format!("--mass-down-share {share} must be 0 to 1")));
        }
        if self.repair_rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err(Error::invalid("--repair-rate must be more than 0 MiB per second"));
        }
        Ok(Settings {
            min_write_copies: self.min_write_copies,
            allow_same_host: self.allow_same_host,
            upload_ttl: TimeDelta::seconds(self.upload_ttl.into()),
            read_ttl: TimeDelta::seconds(self.read_ttl.into()),
            health_interval: seconds("health-interval", self.health_interval)?,
            down_after: delta(seconds("down-after", self.down_after)?),
            repair_delay: delta(seconds("repair-delay", self.repair_delay)?),
            mass_down_share: share,
            repair_transfers: (self.repair_transfers.max(1), self.repair_transfers_per_server.max(1)),
            repair_bytes_per_second: self.repair_rate.map_or(0, |rate| (rate * f64::from(1 << 20)).max(1.0) as u64),
            journal_copies: self.journal_copies.max(1),
            journal_keep: days("journal-keep", self.journal_keep)?,
            events_keep: days("events-keep", self.events_keep)?,
        })
    }
}

/// Serves until the end. Must be called inside an actix system.
pub async fn run(options: Options) -> Result<()> {
    let settings = options.settings()?;
    let scrape = options.scrape.load()?;
    let given = options.cluster_secret.as_ref().map(Hidden::reveal);
    let secret = ClusterSecret::from_text_or_file(given, options.cluster_secret_file.as_deref())?;
    let url = crate::db::DatabaseUrl::parse(options.database.reveal())?;
    let certificate = options.listen.certificate()?;
    let listener = options.listen.bind(DEFAULT_PORT)?;
    // The metadata is for the service alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let is_alone = matches!(url, crate::db::DatabaseUrl::Sqlite(_));
    let db = Db::open(&url)?;
    db.prepare(options.initialize, &secret, options.replicas).await?;
    let asked = Instant::now();
    let (cluster, epoch, now) = match db.read(cluster::state).await {
        Ok(state) => (state.cluster, state.epoch, Some(state.now)),
        // It does not tell any more; the storage servers will.
        Err(_) if db.soundness().trouble().is_some() => (uuid::Uuid::nil(), 0, None),
        Err(error) => return Err(error),
    };
    let standing = Standing::new(cluster, epoch, db.soundness());
    if let Some(now) = now {
        standing.set_clock(now, asked);
    }
    let signer = Signer::new(secret);
    let credentials = Credentials::Server { signer: signer.clone(), standing: standing.signed_as() };
    let client = HttpClient::for_server(options.ca_cert.as_deref())?;
    let storage = StorageClient::new(client.clone(), credentials);
    let requests = Context::new(db, storage, signer, settings, standing);
    let context = requests.for_actors();
    // A failure is the LeaseKeeper's to report.
    if is_alone {
        drop(take_at_once(&context).await);
    } else {
        drop(KeepLease::new(context.clone()).pass().await);
    }
    let (board, metrics) = (Board::default(), Metrics::new()?);
    metrics.show_certificate(certificate.as_ref())?;
    let supervisor = Supervisor::new(board.clone());
    certificate_keeper::supervise(&supervisor, &board, certificate.clone(), client.trust())?;
    let writer = Batcher::supervise(&supervisor, &board, "MetadataWriter", WriteChanges { context: context.clone() });
    let timing = CheckServers::timing(context.settings.health_interval);
    let monitor =
        PassActor::supervise(&supervisor, &board, "HealthMonitor", timing, CheckServers::new(context.clone()));
    PassActor::supervise(&supervisor, &board, "LeaseKeeper", KeepLease::TIMING, KeepLease::new(context.clone()));
    PassActor::supervise(&supervisor, &board, "JournalKeeper", KeepJournal::TIMING, KeepJournal::new(context.clone()));
    let work = SendSnapshots { context: context.clone() };
    PassActor::supervise(&supervisor, &board, "SnapshotSender", SendSnapshots::TIMING, work);
    PassActor::supervise(&supervisor, &board, "SyncActor", Sync::TIMING, Sync::new(context.clone()));
    PassActor::supervise(&supervisor, &board, "Auditor", Audit::TIMING, Audit::new(context.clone()));
    PassActor::supervise(&supervisor, &board, "Reaper", Reap::TIMING, Reap { context: context.clone() });
    let transfers = Transfers::default();
    let work = Replicate::new(context.clone(), transfers.clone());
    transfers.wakes(PassActor::supervise(&supervisor, &board, "ReplicationManager", Replicate::TIMING, work));
    let (gauges, acting) = (web::Data::new(Gauges::new(&metrics)?), context);
    log::info!("name server listens at {} for cluster {cluster}", options.listen.local_url(&listener)?);
    let app = App::new(requests, writer, monitor, board, scrape).with_certificate(certificate.clone());
    let (app, metrics) = (web::Data::new(app), web::Data::new(metrics));
    let description = web::Data::new(openapi::description(ROUTES));
    let server = serve::serve(certificate, listener, redirect::leaves_body, move || {
        WebApp::new()
            .app_data(app.clone())
            .app_data(metrics.clone())
            .app_data(gauges.clone())
            .wrap(middleware::from_fn(request::around))
            .configure(request::parsing)
            .app_data(description.clone())
            .configure(routes)
            .default_service(web::to(request::no_such_route))
    })?;
    let served = server.await.map_err(|error| Error::io("serving", error));
    let_go(&acting).await;
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_that_mean_nothing_are_refused() {
        let settings = |option: &str| {
            Options::from_iter_safe(["x", "--database", "sqlite://x", option]).unwrap().settings().map(drop)
        };
        for name in ["journal-keep", "events-keep", "health-interval", "down-after", "repair-delay", "repair-rate"] {
            // "Keep the journal for NaN days" removed it as soon as it was copied.
            for value in ["NaN", "-1", "-inf"] {
                let option = format!("--{name}={value}");
                let message = settings(&option).unwrap_err().message().to_string();
                assert!(message.contains(name), "{option}: {message}");
            }
            settings(&format!("--{name}=1")).unwrap();
        }
        settings("--journal-keep=0").unwrap();
    }
}
