//! Running a server: logging, the actix system, exit codes. Used by the two daemons' programs, and by the hidden
//! command that `holdfast up` starts its members with.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use structopt::StructOpt;
use structopt::clap::ErrorKind;

use super::args::utf8::read;
use super::exit::Exit;
use crate::http::server as name_server;
use crate::storage::server as storage_server;
use crate::types::Result;

/// What servers log unless `RUST_LOG` says something else.
const LOG_FILTER: &str = "info,actix_server=warn";

/// The program `holdfast-name-server`.
pub fn name_server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run("holdfast-name-server", args, name_server::run)
}

/// The program `holdfast-storage-server`.
pub fn storage_server(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run("holdfast-storage-server", args, storage_server::run)
}

fn run<O, F, W>(program: &str, args: impl IntoIterator<Item = OsString>, work: W) -> ExitCode
where
    O: StructOpt,
    F: Future<Output = Result<()>> + 'static,
    W: FnOnce(O) -> F,
{
    let options = match read::<O>(args.into_iter().collect()) {
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
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(LOG_FILTER))
        .format_timestamp_millis()
        .init();
    crate::types::failpoint::setup();
    match actix::System::new().block_on(work(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error.chain());
            eprintln!("{program}: {}", error.message());
            ExitCode::from(Exit::from(error.code()))
        }
    }
}
