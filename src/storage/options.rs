//! What is typed to start the storage daemon, or to look into a data directory without it.

use std::path::PathBuf;
use std::time::Duration;

use structopt::StructOpt;

use super::offline;
use crate::client::url::announced_url;
use crate::decisions::scrub::Pace;
use crate::types::{Error, Hidden, Result, label};
use crate::web::ListenOptions;
use crate::web::auth::ScrapeOptions;

/// The longest time that quarantine lasts, in days.
const QUARANTINE_DAYS_MAX: u64 = 36_500;

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

/// The options that make sense.
pub(super) fn checked(typed: &OptionalOptions) -> Result<Options> {
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

/// Where servers and clients are told to reach this one.
pub(super) fn announced(typed: &OptionalOptions, listens_at: &str) -> Result<(String, String)> {
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
