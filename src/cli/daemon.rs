//! Running a server: logging, signals, the actix system, exit codes. Used by the two daemons' programs, and by the hidden
//! command that `holdfast up` starts its members with.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use structopt::StructOpt;
use structopt::clap::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};

use super::args::utf8::read;
use super::exit::Exit;
use crate::db::url::has_password;
use crate::http::server as name_server;
use crate::storage::command as storage_server;
use crate::types::{ErrorCode, Result};

/// What servers log unless `RUST_LOG` says something else. The library tells of each connection that sends garbage or
/// breaks off; what is lost by it on this side is told by the servers themselves.
const LOG_FILTER: &str = "info,actix_server=warn,actix_http::h1=off";

/// Where a server's log goes, when not to standard error.
pub(crate) type LogSink = Box<dyn Write + Send>;

/// The program `holdfast-name-server`.
pub fn name_server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_name_server(args, None)
}

/// The program `holdfast-storage-server`.
pub fn storage_server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_storage_server(args, None)
}

/// The name server with its log in a place of its own.
pub(crate) fn run_name_server(args: impl IntoIterator<Item = OsString>, log: Option<LogSink>) -> ExitCode {
    run("holdfast-name-server", args, name_server::run, log)
}

/// The storage server with its log in a place of its own.
pub(crate) fn run_storage_server(args: impl IntoIterator<Item = OsString>, log: Option<LogSink>) -> ExitCode {
    run("holdfast-storage-server", args, storage_server::run, log)
}

fn run<O, F, W>(program: &str, args: impl IntoIterator<Item = OsString>, work: W, log: Option<LogSink>) -> ExitCode
where
    O: StructOpt,
    F: Future<Output = Result<()>> + 'static,
    W: FnOnce(O) -> F,
{
    let args: Vec<OsString> = args.into_iter().collect();
    let options = match read::<O>(args.clone()) {
        Ok(options) => options,
        Err(error) => {
            let helpful = matches!(error.kind, ErrorKind::HelpDisplayed | ErrorKind::VersionDisplayed);
            if helpful {
                println!("{}", error.message)
            } else {
                eprintln!("{}", error.message)
            }
            return ExitCode::from(if helpful { Exit::Done } else { Exit::Usage });
        }
    };
    let mut logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(LOG_FILTER));
    logger.format_timestamp_millis();
    if let Some(sink) = log {
        logger.target(env_logger::Target::Pipe(sink));
    }
    logger.init();
    for warning in exposed(&args) {
        log::warn!("{warning}");
    }
    crate::types::failpoint::setup();
    let files_max = crate::web::connections::raise_file_limit();
    log::debug!("{files_max} files may be open");
    let served = actix::System::new().block_on(async {
        survive_hangups();
        work(options).await
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.chain());
            eprintln!("{program}: {}", error.message());
            // Bytes that are not what they were are what a `verify` has found.
            ExitCode::from(match error.code() {
                ErrorCode::ChecksumMismatch => Exit::Partly,
                code => Exit::from(code),
            })
        }
    }
}

/// SIGHUP ends a process that does not listen to it. Who has something to read again listens too
/// (`actors::certificate_keeper`).
fn survive_hangups() {
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => drop(actix::spawn(async move {
            while hangups.recv().await.is_some() {
                log::info!("SIGHUP: certificates are read again, if there are any");
            }
        })),
        Err(error) => log::warn!("SIGHUP would end this process: {error}"),
    }
}

/// What stands on the command line and should not, because every user of the machine can read it there.
fn exposed(args: &[OsString]) -> Vec<&'static str> {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).take_while(|arg| arg != "--").collect();
    let values = |option: &str| -> Vec<String> {
        let inside = args.iter().filter_map(|arg| arg.strip_prefix(option)?.strip_prefix('=').map(String::from));
        let behind = args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].to_string());
        inside.chain(behind).collect()
    };
    let mut found = Vec::new();
    if !values("--cluster-secret").is_empty() {
        found.push(
            "--cluster-secret is on the command line, where every user of this machine can read it; give it by \
             --cluster-secret-file FILE or in the environment (HOLDFAST_CLUSTER_SECRET), and make a new one",
        );
    }
    if values("--database").iter().any(|url| has_password(url)) {
        found.push(
            "the URL of --database has a password, and every user of this machine can read the command line; give the \
             URL in the environment (HOLDFAST_DATABASE), and change the password",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_on_the_command_line_are_found() {
        let found = |line: &str| exposed(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).len();
        for (line, want) in [
            ("d --cluster-secret abc", 1),
            ("d --cluster-secret=abc --database=postgres://u:p@h/d", 2),
            ("d --database postgres://u:p@h/d", 1),
            ("d --database postgres://h/d?password=p", 1),
            ("d --cluster-secret-file f --database postgres://u@h/d", 0),
            ("d --cluster-secret-file=f --database sqlite:///a:b@c", 0),
            ("d -- --cluster-secret abc", 0),
            ("d", 0),
        ] {
            assert_eq!(found(line), want, "{line}");
        }
    }
}
