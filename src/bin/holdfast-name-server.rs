//! `holdfast-name-server`: the long-running name server.

fn main() -> std::process::ExitCode {
    holdfast::cli::daemon::name_server(std::env::args_os())
}
