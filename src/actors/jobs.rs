//! Long work that somebody asked for, done by this process beside everything else.
//!
//! A request begins a job and is answered at once; the client may go away. One of a kind runs at a time, over all name
//! servers of a cluster: its row in the database ([`crate::db::jobs`]) gets a sign of life every few seconds with how far it
//! is, and keeps what came of it. A panic in a job is its failure. A job whose process ends is told as interrupted, and
//! whoever asks next begins anew.
//!
//! A database that takes no writes is no reason not to look: then how far it is and what came of it are only here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{NaiveDateTime, Utc};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Serialize;

use super::context::Context;
use super::pass::join_message;
use crate::db::jobs::{self, Asked, Begun};
use crate::db::rows::{JobRow, utc};
use crate::types::api::JobStatus;
use crate::types::{Error, Result};

/// From one sign of life to the next.
const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// The jobs of this process.
#[derive(Clone, Default)]
pub struct Jobs {
    running: Arc<Mutex<HashMap<&'static str, Job>>>,
}

/// A job that runs here.
#[derive(Clone)]
pub struct Job {
    row: Arc<Mutex<JobRow>>,
}

/// What a job does. What it answers is its report; with an error it has failed.
pub type Work = Box<dyn FnOnce(Job) -> BoxFuture<'static, Result<()>> + Send>;

impl Job {
    fn with<T>(&self, change: impl FnOnce(&mut JobRow) -> T) -> T {
        change(&mut self.row.lock())
    }

    fn is_running(&self) -> bool {
        self.with(|row| row.state == JobRow::RUNNING)
    }

    fn now(&self) -> JobRow {
        self.with(|row| row.clone())
    }

    /// Says how far it is, and what it has found so far.
    pub fn tell(&self, step: impl Into<String>, report: &impl Serialize) {
        let report = serde_json::to_string(report).unwrap_or_else(|_| "null".into());
        self.with(|row| (row.step, row.report) = (step.into(), report));
    }
}

impl Jobs {
    fn here(&self, kind: &str) -> Option<Job> {
        self.running.lock().get(kind).cloned()
    }

    /// Begins a job. One of the same kind that is under way is answered instead, if the same was asked for.
    pub async fn begin(
        &self,
        context: &Context,
        kind: &'static str,
        by: &str,
        request: &impl Serialize,
        work: Work,
    ) -> Result<JobStatus> {
        let request = serde_json::to_string(request)
            .map_err(|error| Error::internal("cannot encode what was asked for").with_source(error))?;
        if let Some(job) = self.here(kind).filter(Job::is_running) {
            return joined(job.now(), &request);
        }
        let (holder, by) = (context.standing.holder.to_string(), by.to_string());
        let asked = Asked { kind, holder, by, request: request.clone(), alone: context.db.is_alone() };
        let stored = asked.clone();
        let row = match context.db.write(move |connection| jobs::begin(connection, &stored)).await {
            Ok(Begun::Here(row)) => row,
            Ok(Begun::Already(row)) => return joined(row, &request),
            Err(error) => {
                log::warn!("{kind} goes on without a note in the database: {}", error.chain());
                unwritten(asked)
            }
        };
        let job = Job { row: Arc::new(Mutex::new(row)) };
        {
            let mut running = self.running.lock();
            // Two that could not be written down.
            if let Some(other) = running.get(kind).filter(|job| job.is_running()) {
                return joined(other.now(), &request);
            }
            running.insert(kind, job.clone());
        }
        let begun = told(job.now(), JobRow::RUNNING);
        tokio::spawn(run(self.clone(), context.clone(), kind, job, work));
        Ok(begun)
    }

    /// How the last job of a kind goes on, or what came of it.
    pub async fn status(&self, context: &Context, kind: &'static str) -> Result<JobStatus> {
        if let Some(job) = self.here(kind) {
            let row = job.now();
            let state = row.state.clone();
            return Ok(told(row, &state));
        }
        let last = context.db.read(move |connection| jobs::last(connection, kind)).await?;
        let Some((row, now)) = last else { return Ok(JobStatus { state: "none".into(), ..JobStatus::default() }) };
        let is_interrupted = row.is_interrupted(now, &context.standing.holder.to_string(), context.db.is_alone());
        let state = if is_interrupted { "interrupted".into() } else { row.state.clone() };
        Ok(told(row, &state))
    }
}

/// The row of a job that could not be written down.
fn unwritten(asked: Asked) -> JobRow {
    let now: NaiveDateTime = Utc::now().naive_utc();
    JobRow {
        kind: asked.kind.into(),
        id: 0,
        holder: asked.holder,
        state: JobRow::RUNNING.into(),
        started: now,
        beat: now,
        ended: None,
        by_token: Some(asked.by),
        request: asked.request,
        step: String::new(),
        report: "null".into(),
    }
}

fn joined(row: JobRow, request: &str) -> Result<JobStatus> {
    if row.request != request {
        let (kind, by) = (&row.kind, row.by_token.as_deref().unwrap_or("somebody"));
        return Err(Error::new(
            crate::types::ErrorCode::Busy,
            format!(
                "another {kind} is under way, begun by {by} for something else; wait until it is done \
                 (`holdfast {kind} --status` shows how far it is)"
            ),
        ));
    }
    let mut status = told(row, JobRow::RUNNING);
    status.joined = true;
    Ok(status)
}

fn told(row: JobRow, state: &str) -> JobStatus {
    let value = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    JobStatus {
        state: state.into(),
        id: row.id.to_string(),
        joined: false,
        started: Some(utc(row.started)),
        ended: row.ended.map(utc),
        by: row.by_token,
        request: value(&row.request),
        error: (row.state == JobRow::FAILED).then(|| row.step.clone()),
        step: row.step,
        report: value(&row.report),
    }
}

/// Runs a job to its end, whatever end that is, and writes down how far it is meanwhile.
async fn run(jobs: Jobs, context: Context, kind: &'static str, job: Job, work: Work) {
    let mut task = tokio::spawn(work(job.clone()));
    let outcome = loop {
        tokio::select! {
            ended = &mut task => break ended,
            () = tokio::time::sleep(BEAT_INTERVAL) => {
                write_down(&context, &job, None).await;
            }
        }
    };
    let outcome = outcome.unwrap_or_else(|error| Err(Error::internal(format!("it panicked: {}", join_message(error)))));
    let state = match outcome {
        Ok(()) => JobRow::DONE,
        Err(error) => {
            log::error!("{kind} has failed: {}", error.chain());
            job.with(|row| row.step = error.chain());
            JobRow::FAILED
        }
    };
    job.with(|row| (row.state, row.ended) = (state.into(), Some(Utc::now().naive_utc())));
    let is_written = write_down(&context, &job, Some(state)).await;
    // What could not be written down can be asked here until the next one begins.
    if is_written {
        jobs.running.lock().remove(kind);
    } else {
        log::warn!("what came of {kind} is only known here");
    }
}

/// Answers whether it is written down.
async fn write_down(context: &Context, job: &Job, ended: Option<&'static str>) -> bool {
    let row = job.now();
    let told = context.db.write(move |connection| jobs::tell(connection, row.id, &row.step, &row.report, ended)).await;
    match told {
        Ok(is_written) => is_written,
        Err(error) => {
            log::warn!("how far a job is could not be written down: {}", error.chain());
            false
        }
    }
}
