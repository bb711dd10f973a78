//! `holdfast-storage-server`: the per-machine storage daemon.

fn main() -> std::process::ExitCode {
    holdfast::cli::daemon::storage_server(std::env::args_os())
}
