//! Long work of the name server, followed to its end. Whoever stops following stops nothing.

use std::time::Duration;

use super::NameServerClient;
use crate::types::api::{FsckReport, FsckRequest, JobStatus, ScrubPathReport, ScrubPathRequest};
use crate::types::{Error, Result};

/// How often it is asked how far a job is: soon at first, as most are done at once.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// See [`POLL_INTERVAL_MIN`].
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// As often as that in a row nobody may answer. A name server that does not is asked again: its jobs go on.
const POLLS_FAILED_MAX: usize = 240;

impl NameServerClient {
    /// Has the copies at and below a path read, or joins the same that is under way, and follows it to its end.
    pub async fn scrub_path(
        &self,
        request: &ScrubPathRequest,
        tell: impl FnMut(&JobStatus),
    ) -> Result<ScrubPathReport> {
        let begun = self.scrub_path_start(request).await?;
        followed("scrub", begun, async || self.scrub_path_status().await, tell).await?.report_as()
    }

    /// Begins an fsck, or joins the same that is under way, and follows it to its end.
    pub async fn fsck(&self, request: &FsckRequest, tell: impl FnMut(&JobStatus)) -> Result<FsckReport> {
        let begun = self.fsck_start(request).await?;
        let job = followed("fsck", begun, async || self.fsck_status().await, tell).await?;
        job.report_as()
    }
}

/// Follows a job to its end. One that failed or was interrupted is an error.
async fn followed(
    kind: &str,
    begun: JobStatus,
    ask: impl AsyncFn() -> Result<JobStatus>,
    mut tell: impl FnMut(&JobStatus),
) -> Result<JobStatus> {
    let (id, mut job, mut failed, mut wait) = (begun.id.clone(), begun, 0, POLL_INTERVAL_MIN);
    loop {
        match job.state.as_str() {
            "done" if job.id == id => return Ok(job),
            "running" if job.id == id => tell(&job),
            "failed" if job.id == id => {
                let why = job.error.as_deref().unwrap_or("no reason was told");
                return Err(Error::unavailable(format!("{kind} failed: {why}")));
            }
            _ => {
                let message = format!("{kind} was interrupted: the name server that did it has ended; run it again");
                return Err(Error::unavailable(message));
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(POLL_INTERVAL_MAX);
        match ask().await {
            Ok(now) => (job, failed) = (now, 0),
            Err(error) if failed >= POLLS_FAILED_MAX => return Err(error),
            Err(_) => failed += 1,
        }
    }
}
