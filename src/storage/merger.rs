//! The `Merger`: merges segments of the copy of the metadata's journal.
//!
//! One comes each 0.7 s, so a pass is short in the ordinary course of things. It needs room for the merged file beside its
//! parts: where there is none, it waits. Small files are merged all the same, of the room that is reserved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::state::Shared;
use crate::actors::pass::{Timing, Work};
use crate::actors::pass_report::PassReport;
use crate::types::{Error, ErrorCode, Result};

/// A merge that writes no more than this may take the room that is reserved for the journal.
const RESERVED_BYTES_MAX: u64 = 8 << 20;
/// After as long a pass ends, and the next one goes on.
const PASS_TIME_MAX: Duration = Duration::from_secs(10);

/// The work of the actor.
pub struct MergeJournal {
    /// The daemon.
    pub shared: Arc<Shared>,
}

impl MergeJournal {
    /// How often it looks whether there is something to merge.
    pub const TIMING: Timing = Timing { interval: Duration::from_secs(5), deadline: Duration::from_secs(600) };
}

impl Work for MergeJournal {
    fn pass(&self) -> BoxFuture<'static, Result<PassReport>> {
        Box::pin(pass(self.shared.clone()))
    }
}

async fn pass(shared: Arc<Shared>) -> Result<PassReport> {
    let began = Instant::now();
    let cluster = shared.identity.standing().cluster;
    let mut merged = 0;
    let removed = blocking(shared.clone(), move |shared| shared.journal.remove_covered(cluster)).await?;
    let report = |merged, removed, more, waiting| PassReport {
        counts: vec![
            ("segments merged", merged),
            ("segments removed that others have", removed),
            ("waiting for room", waiting),
        ],
        more,
        note: None,
    };
    while let Some(merge) = shared.journal.next_merge() {
        if began.elapsed() > PASS_TIME_MAX {
            return Ok(report(merged, removed, true, 0));
        }
        let promise = match merge.bytes() {
            bytes if bytes > RESERVED_BYTES_MAX => match shared.room.promise(bytes).await {
                Err(error) if error.code() == ErrorCode::OutOfSpace => return Ok(report(merged, removed, false, 1)),
                promise => Some(promise?),
            },
            _ => None,
        };
        let files = merge.files();
        let done = blocking(shared.clone(), move |shared| {
            let _promise = promise;
            shared.journal.merge(&merge, cluster)
        });
        if !done.await? {
            break;
        }
        merged += files;
    }
    Ok(report(merged, removed, removed > 0, 0))
}

async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(move || work(&shared))
        .await
        .map_err(|error| Error::internal("merging the journal panicked").with_source(error))?
}
