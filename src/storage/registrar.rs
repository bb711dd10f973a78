//! The `Registrar`: announces the server to the name server, at start and again and again, so that a name
//! server that forgot it learns of it, and so that this server knows the cluster's epoch and time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::state::Shared;
use super::store::ServerFile;
use super::store::layout::FORMAT_VERSION;
use super::writer::{INDEX_DEADLINE, IndexChange};
use crate::actors::pass::{Timing, Work};
use crate::actors::pass_report::PassReport;
use crate::types::api::{RegisterRequest, RegisterResponse};
use crate::types::{Error, ErrorCode, Result};

/// The exit code of a daemon that its cluster refuses ("not permitted").
const EXIT_REFUSED: i32 = 5;

/// The work of the actor.
pub struct Register {
    /// The daemon.
    pub shared: Arc<Shared>,
}

impl Register {
    /// How often a server that is registered announces itself.
    const REFRESH: Duration = Duration::from_secs(10);
    /// A pass each second; those in between have nothing to do.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(1), deadline: Duration::from_secs(30) };
}

impl Work for Register {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.shared.clone()))
    }
}

async fn pass(shared: Arc<Shared>) -> Result<PassReport> {
    let fresh = shared.registered_within(Register::REFRESH);
    if fresh {
        return Ok(PassReport::default());
    }
    let (capacity_bytes, free_bytes) = shared.room.look().await?;
    let standing = shared.identity.standing();
    let request = RegisterRequest {
        identity: shared.identity.identity,
        name: shared.options.name.clone(),
        host: shared.options.host.clone(),
        url: shared.url.clone(),
        public_url: shared.public_url.clone(),
        zone: shared.options.zone.clone(),
        boot_id: shared.identity.boot_id,
        cluster: standing.cluster,
        epoch: standing.epoch,
        index_changes: shared.index_changes.load(Ordering::Relaxed),
        boots: shared.boots.clone(),
        replace_newer: shared.options.replace_newer,
        capacity_bytes,
        free_bytes,
    };
    let answer = match shared.name_server.clone().with_retries(0).register(&request).await {
        Ok(answer) => answer,
        Err(error) if error.code() == ErrorCode::TicketExpired => {
            // This machine's clock is another one than the cluster's; the next pass signs by that.
            let time = shared.name_server.time().await?;
            log::warn!("this machine's clock is {} s off the cluster's", (chrono::Utc::now() - time).num_seconds());
            shared.identity.set_clock(time);
            return Err(error);
        }
        Err(error) if is_final(&error) => elsewhere(&shared, &request, error).await?,
        Err(error) => return Err(error),
    };
    crate::types::failpoint::REGISTER_ANSWERED.passed();
    match standing.cluster {
        None => {
            let file = ServerFile {
                format_version: FORMAT_VERSION,
                identity: shared.identity.identity,
                cluster: Some(answer.cluster),
                boots: shared.boots.clone(),
            };
            let layout = shared.layout.clone();
            let write = tokio::task::spawn_blocking(move || layout.write_server_file(&file));
            write.await.map_err(|error| Error::internal("writing server.json panicked").with_source(error))??;
        }
        Some(cluster) if cluster != answer.cluster => {
            refused(&Error::new(
                ErrorCode::Forbidden,
                "the name server belongs to another cluster than this data directory",
            ));
        }
        Some(_) => {}
    }
    if answer.epoch > standing.epoch {
        // Remembered before it is acted on: nothing older is accepted from now on, across restarts too.
        let change = IndexChange::Fence { epoch: answer.epoch, term: 0 };
        shared.writer.submit(change, INDEX_DEADLINE).await?;
    }
    shared.identity.joined(answer.cluster, answer.server, answer.epoch, answer.time);
    shared.note_registration();
    Ok(PassReport::of(vec![("registration", 1)]))
}

/// Whether asking again cannot help: the secret or the cluster is another one, or another process is this server.
fn is_final(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Unauthorized | ErrorCode::Forbidden)
}

/// A name server has refused this server. One alone may be set up wrongly, or belong to others: only when each of them says
/// so is it true.
async fn elsewhere(shared: &Shared, request: &RegisterRequest, error: Error) -> Result<RegisterResponse> {
    if shared.name_server.urls().len() > 1 {
        for name_server in shared.name_server.each() {
            match name_server.with_retries(0).register(request).await {
                Ok(answer) => {
                    log::error!(
                        "one of the name servers refuses this storage server, another takes it: {}",
                        error.chain()
                    );
                    return Ok(answer);
                }
                Err(other) if is_final(&other) => {}
                Err(_) => return Err(error),
            }
        }
    }
    refused(&error)
}

/// A server that its cluster refuses must not look alive. Nothing is lost: all that was acknowledged is durable.
fn refused(error: &Error) -> ! {
    log::error!("the name server refuses this storage server: {}", error.chain());
    log::logger().flush();
    std::process::exit(EXIT_REFUSED)
}
