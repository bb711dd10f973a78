//! `holdfast demo`: the tour. A cluster of real processes on this machine loses a storage server, then its
//! database, and nothing of what was stored in it.

mod story;
mod tour;
mod tree;

use std::net::TcpListener;

use rand::Rng;
use tokio::signal::unix::{SignalKind, signal};

use self::story::Story;
use super::args::DemoArgs;
use super::exit::Exit;
use super::options::GlobalArgs;
use super::progress::say;
use super::up::LocalCluster;
use crate::types::{Error, Result};

/// Storage servers of the tour: one more than its copies need when one is dead.
const STORAGE_SERVERS: u16 = 4;
/// Copies of each file.
const COPIES: u32 = 2;
/// Where ports are looked for: below those that systems give to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How often.
const PORT_TRIES_MAX: usize = 100;

/// `holdfast demo`.
pub(crate) async fn run(global: &GlobalArgs, args: &DemoArgs) -> Result<Exit> {
    let listen = |kind| signal(kind).map_err(|error| Error::io("listening for signals", error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let home = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir()
        .map_err(|error| Error::io("making a temporary directory", error))?;
    let port = args.port.map_or_else(free_ports, Ok)?;
    let mut cluster = LocalCluster::new(&home.path().join("cluster"), port, STORAGE_SERVERS, COPIES)?;
    let mut story = Story::new(global.quiet);
    let outcome = tokio::select! {
        outcome = tour::run(&mut cluster, &mut story, home.path()) => outcome.map(|()| Exit::Done),
        _ = interrupt.recv() => Ok(Exit::Interrupted),
        _ = terminate.recv() => Ok(Exit::Interrupted),
    };
    if matches!(outcome, Ok(Exit::Interrupted)) {
        say("holdfast: interrupted; everything that was started is stopped and removed");
    }
    let stopped = cluster.stop().await;
    if args.keep {
        let kept = home.keep();
        say(&format!("Everything is left in {}.", kept.display()));
    } else {
        home.close().map_err(|error| Error::io("removing the temporary directory", error))?;
    }
    let exit = outcome?;
    stopped?;
    Ok(exit)
}

/// Neighbouring ports that are free now.
fn free_ports() -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..PORT_TRIES_MAX {
        let port = random.random_range(PORTS);
        if (port..=port + STORAGE_SERVERS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(port);
        }
    }
    Err(Error::unavailable("no free ports were found; name one by --port"))
}
