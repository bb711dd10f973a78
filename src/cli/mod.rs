//! The command-line client: commands, workspaces, progress.
//!
//! [`parse`] reads the command line and [`run`] carries it out; between them the program starts logging. Data
//! goes to standard output, everything else to standard error; the exit codes are those of `exit`. All work
//! runs on one thread that only moves bytes between sockets and channels; disks and digests have threads of
//! their own (`transfer`).
//!
//! Memory is bounded everywhere: listings are fetched page by page, trees are compared as sorted streams
//! (`merge`), files travel in chunks, and a bounded number of them at the same time (`parallel`).

mod args;
mod commands;
mod complaint;
mod config;
mod context;
pub mod daemon;
mod demo;
mod exit;
mod export;
mod failure;
mod host;
mod human;
mod import;
pub mod inputs;
mod merge;
mod options;
mod output;
mod parallel;
mod progress;
mod remote;
mod shell;
mod transfer;
mod up;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use structopt::StructOpt;

pub use args::Cli;

use self::args::{Command, TokenCommand};
use self::complaint::complain;
use self::context::Context;
use self::exit::Exit;
use self::failure::Failure;
use crate::types::{Error, Result};

/// How long the threads of a broken-off command get to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads a command line. When there is nothing to carry out (help, version, wrong usage), that has been said
/// and the exit code is the answer.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    args::parse_from(args.into_iter().collect()).map_err(ExitCode::from)
}

impl Cli {
    /// Whether this process is a server of `up`, which logs as servers do.
    pub fn is_member(&self) -> bool {
        matches!(self.command, Command::Member(_))
    }

    /// What is logged unless `RUST_LOG` says something else.
    pub fn log_filter(&self) -> &'static str {
        match self.global.verbose {
            0 => "error",
            1 => "warn,holdfast=info",
            _ => "info,holdfast=debug",
        }
    }
}

/// Carries a command out.
pub fn run(cli: Cli) -> ExitCode {
    if let Command::Member(args) = cli.command {
        return up::run_member(args);
    }
    progress::speak_json(cli.global.json);
    finished(carry_out(cli)).into()
}

fn carry_out(cli: Cli) -> Result<Exit> {
    match &cli.command {
        Command::Completions(args) => return completions(args.shell),
        Command::Version => return commands::version(cli.global.json),
        Command::Certs(command) => return commands::certs::run(&cli.global, command),
        Command::Token(TokenCommand::First { cluster_secret_file }) => {
            return commands::administration::first_token(cluster_secret_file);
        }
        _ => crate::client::proxy::obey_environment(),
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("starting the runtime", error))?;
    let result = match &cli.command {
        Command::Shell => shell::run(cli.global, &runtime),
        Command::Up(args) => runtime.block_on(up::up(&cli.global, args)),
        Command::Down(args) => runtime.block_on(up::down(&cli.global, args)),
        Command::Demo(args) => runtime.block_on(demo::run(&cli.global, args)),
        command => {
            Context::new(cli.global, false).and_then(|context| runtime.block_on(interruptible(&context, command)))
        }
    };
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    // Whatever thread did not get to it: nothing of ours stays behind.
    host::remove_temporaries();
    result
}

/// The exit code of a result, after its failure was said.
fn finished(result: Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if output::is_reader_gone(&error) => Exit::Done,
        Err(error) => {
            complain(&error);
            Exit::from(error.code())
        }
    }
}

/// Carries a command out until Ctrl-C or a signal to end, which take temporary files away.
async fn interruptible(context: &Context, command: &Command) -> Result<Exit> {
    tokio::select! {
        result = execute(context, command) => result,
        _ = tokio::signal::ctrl_c() => {
            let message = "interrupted; running it again goes on where it stopped";
            progress::tell(&Failure::plain("interrupted", message, Exit::Interrupted));
            Ok(Exit::Interrupted)
        }
        () = told_to_end(context.in_shell) => {
            let message = "told to end; running it again goes on where it stopped";
            progress::tell(&Failure::plain("terminated", message, Exit::Terminated));
            Ok(Exit::Terminated)
        }
    }
}

/// Waits for SIGTERM. The shell, which waits for lines in between, ends by it at once.
async fn told_to_end(in_shell: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    if !in_shell && let Ok(mut signal) = signal(SignalKind::terminate()) {
        signal.recv().await;
        return;
    }
    std::future::pending().await
}

async fn execute(context: &Context, command: &Command) -> Result<Exit> {
    use commands::*;
    match command {
        Command::Ls(args) => ls::run(context, args).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::Cat(args) => files::cat(context, args).await,
        Command::Stat(args) => show::stat(context, args).await,
        Command::Touch(args) => files::touch(context, args).await,
        Command::Rm(args) => files::rm(context, args).await,
        Command::Mv(args) => move_copy::mv(context, args).await,
        Command::Cp(args) => move_copy::cp(context, args).await,
        Command::Mkdir(args) => files::mkdir(context, args).await,
        Command::Rmdir(args) => files::rmdir(context, args).await,
        Command::Tree(args) => tree::run(context, args).await,
        Command::Du(args) => explore::du(context, args).await,
        Command::Find(args) => explore::find(context, args).await,
        Command::Cd(args) => files::cd(context, args).await,
        Command::Pwd => files::pwd(context),
        Command::Init(args) => workspace::init(context, args).await,
        Command::Status(args) => workspace::status(context, args).await,
        Command::Push(args) => workspace::sync(context, args, workspace::Direction::Push).await,
        Command::Pull(args) => workspace::sync(context, args, workspace::Direction::Pull).await,
        Command::Servers(args) => servers::servers(context, args).await,
        Command::Df => servers::df(context).await,
        Command::Report(args) => report::run(context, args).await,
        Command::Actors => cluster::actors(context).await,
        Command::Events(args) => events::events(context, args).await,
        Command::Why(args) => show::why(context, args).await,
        Command::Drain(args) => administration::drain(context, args).await,
        Command::Undrain(args) => administration::undrain(context, args).await,
        Command::Remove(args) => administration::remove(context, args).await,
        Command::Setrep(args) => administration::setrep(context, args).await,
        Command::Rebalance(args) => rebalance::run(context, args).await,
        Command::Fsck(args) => fsck::run(context, args).await,
        Command::Scrub(args) => scrub::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Token(command) => administration::token(context, command).await,
        Command::Version => version(context.json()),
        // What cannot run inside the shell.
        Command::Shell
        | Command::Completions(_)
        | Command::Certs(_)
        | Command::Up(_)
        | Command::Down(_)
        | Command::Demo(_)
        | Command::Member(_) => Err(Error::invalid("this command does not work inside the shell")),
    }
}

fn completions(shell: structopt::clap::Shell) -> Result<Exit> {
    let mut text = Vec::new();
    Cli::clap().gen_completions_to("holdfast", shell, &mut text);
    let mut output = output::Output::new();
    output.bytes(&text)?;
    output.flush()?;
    Ok(Exit::Done)
}
