//! `holdfast`: the command-line client, and a whole cluster on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match holdfast::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.is_member() {
        return holdfast::cli::run(cli);
    }
    let log = env_logger::Env::default().default_filter_or(cli.log_filter());
    env_logger::Builder::from_env(log).init();
    holdfast::cli::run(cli)
}
