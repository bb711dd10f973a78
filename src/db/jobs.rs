//! Long work that somebody asked for: the last of each kind, with what came of it.
//!
//! A job is done by one process, which gives a sign of life every few seconds. One that runs by its row and has given none
//! for a while was interrupted: the next may begin. Its last step and what it had found stay readable until then.

use chrono::{NaiveDateTime, TimeDelta};
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::dialect;
use super::error::Step;
use super::rows::JobRow;
use super::schema::jobs;
use crate::types::{ObjectId, Result};

/// Without a sign of life for longer a job of another process was interrupted.
const SILENT_MAX: TimeDelta = TimeDelta::seconds(20);

/// A job to be begun.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `fsck` or `scrub`.
    pub kind: &'static str,
    /// The process that does it.
    pub holder: String,
    /// The token that asked for it.
    pub by: String,
    /// What was asked for.
    pub request: String,
    /// Nobody else works on this database: a job of another process is one of a process that has ended.
    pub alone: bool,
}

/// What became of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It is this process's.
    Here(JobRow),
    /// One is under way.
    Already(JobRow),
}

impl JobRow {
    /// It runs by its row, and nobody does it any more.
    pub fn is_interrupted(&self, now: NaiveDateTime, me: &str, alone: bool) -> bool {
        // What this process does it knows better; see `crate::actors::jobs`.
        let is_silent = now - self.beat > SILENT_MAX || alone || self.holder == me;
        self.state == Self::RUNNING && is_silent
    }
}

/// The last job of a kind, with the database's time.
pub fn last(connection: &mut AnyConnection, kind: &str) -> Result<Option<(JobRow, NaiveDateTime)>> {
    let row: Option<JobRow> = jobs::table.find(kind).select(JobRow::as_select()).first(connection).optional()?;
    let now = dialect::clock(connection)?;
    Ok(row.map(|row| (row, now)))
}

/// Begins a job, unless one of its kind is under way.
pub fn begin(connection: &mut AnyConnection, asked: &Asked) -> Step<Begun> {
    dialect::lock_cluster(connection)?;
    if let Some((row, now)) = last(connection, asked.kind)?
        && row.state == JobRow::RUNNING
        && !row.is_interrupted(now, &asked.holder, asked.alone)
    {
        return Ok(Begun::Already(row));
    }
    let now = dialect::clock(connection)?;
    let row = JobRow {
        kind: asked.kind.into(),
        id: ObjectId::generate().0,
        holder: asked.holder.clone(),
        state: JobRow::RUNNING.into(),
        started: now,
        beat: now,
        ended: None,
        by_token: Some(asked.by.clone()),
        request: asked.request.clone(),
        step: String::new(),
        report: "null".into(),
    };
    diesel::delete(jobs::table.find(asked.kind)).execute(connection)?;
    diesel::insert_into(jobs::table).values(&row).execute(connection)?;
    Ok(Begun::Here(row))
}

/// A sign of life, with how far the job is; with a state, its end. Answers whether it is still this process's job.
pub fn tell(connection: &mut AnyConnection, id: i64, step: &str, report: &str, ended: Option<&str>) -> Step<bool> {
    let now = dialect::clock(connection)?;
    let row = jobs::table.filter(jobs::id.eq(id).and(jobs::state.eq(JobRow::RUNNING)));
    let told = (
        jobs::beat.eq(now),
        jobs::step.eq(step),
        jobs::report.eq(report),
        jobs::state.eq(ended.unwrap_or(JobRow::RUNNING)),
        jobs::ended.eq(ended.map(|_| now)),
    );
    Ok(diesel::update(row).set(told).execute(connection)? > 0)
}
