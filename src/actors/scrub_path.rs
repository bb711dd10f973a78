//! `scrub now PATH`, a job ([`super::jobs`]): the storage servers read the copies of a file, or of all files below a directory,
//! and compare them with what was acknowledged.
//!
//! It goes page by page through the files. For each page every server that has copies of them is asked, in batches, to read
//! those that it has not read since the job asked it first; asking again tells how far it is. Its scrubber does the reading,
//! before its own round and at its own rate, and deals with what is wrong as it always does: so a copy that the metadata lists
//! no longer, and that was told to be corrupt or missing meanwhile, is a finding. A server that is away, or does not get on,
//! is told with the number of its copies that nobody has read.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::context::Context;
use super::jobs::Job;
use crate::db::server::ServerView;
use crate::db::verify::{self, ListedCopy};
use crate::types::api::{Health, ScrubFinding, ScrubPathReport};
use crate::types::limits::VERIFY_BATCH_ITEMS_MAX;
use crate::types::storage_api::{CopyState, VerifyRequest};
use crate::types::words::counted;
use crate::types::{DfsPath, Error, Result};

/// What this job is called.
pub const KIND: &str = "scrub";

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 1_000;
/// How often a server is asked how far it is with a batch; soon at first.
const ASK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// See [`ASK_INTERVAL_MIN`].
const ASK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How long a server may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// A batch of which nothing was read for as long, and as long as the largest copy needs at the slowest rate, is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// See [`PATIENCE`].
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// Has everything at and below a path read.
pub async fn run(context: Context, path: DfsPath, job: Job) -> Result<()> {
    let mut scrub = Scrub {
        context,
        report: ScrubPathReport { path: path.to_string(), ..ScrubPathReport::default() },
        since: HashMap::new(),
        unread: BTreeMap::new(),
        began: Instant::now(),
    };
    let mut after: Option<String> = None;
    loop {
        let (at, from) = (path.clone(), after.clone());
        let page = scrub.context.db.read(move |connection| verify::page(connection, &at, from.as_deref())).await?;
        scrub.report.files += page.files;
        scrub.read(page.copies, &job).await?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    scrub.finish();
    job.tell("", &scrub.report);
    Ok(())
}

struct Scrub {
    context: Context,
    report: ScrubPathReport,
    /// What each server's clock said when it was asked first: what it has read since then is read.
    since: HashMap<i64, i64>,
    /// Copies that nobody has read, by server and why.
    unread: BTreeMap<(String, String), u64>,
    began: Instant,
}

/// What came of the copies of one server.
struct Outcome {
    server: i64,
    since_ms: i64,
    /// Copies that are right, those that are not there any more, and those that were not read.
    right: Vec<ListedCopy>,
    gone: Vec<ListedCopy>,
    unread: Vec<ListedCopy>,
    why: String,
}

impl Scrub {
    /// Has the copies of a page read, by all their servers at once.
    async fn read(&mut self, copies: Vec<ListedCopy>, job: &Job) -> Result<()> {
        let views = self.context.fresh_servers().await?;
        let mut by_server: BTreeMap<i64, Vec<ListedCopy>> = BTreeMap::new();
        for copy in copies {
            by_server.entry(copy.server).or_default().push(copy);
        }
        let asked = by_server.into_iter().map(|(server, copies)| {
            let view = views.iter().find(|view| view.row.id == server);
            one_server(&self.context, server, view, self.since.get(&server).copied().unwrap_or(0), copies)
        });
        let outcomes = join_all(asked).await;
        for outcome in outcomes {
            let name = views.iter().find(|view| view.row.id == outcome.server).map(|view| view.row.name.clone());
            self.take(outcome, name.unwrap_or_default()).await?;
        }
        job.tell(
            format!(
                "{} and {} read, {} corrupt",
                counted(self.report.files, "file"),
                counted(self.report.copies, "copy"),
                self.report.corrupt
            ),
            &self.report,
        );
        Ok(())
    }

    async fn take(&mut self, outcome: Outcome, name: String) -> Result<()> {
        if outcome.since_ms > 0 {
            self.since.insert(outcome.server, outcome.since_ms);
        }
        self.report.copies += outcome.right.len() as u64;
        self.report.bytes += outcome.right.iter().map(|copy| copy.size).sum::<u64>();
        if !outcome.unread.is_empty() {
            *self.unread.entry((name.clone(), outcome.why)).or_default() += outcome.unread.len() as u64;
        }
        if outcome.gone.is_empty() {
            return Ok(());
        }
        let (copies, age) = (outcome.gone, self.began.elapsed());
        let found = self.context.db.read(move |connection| verify::found_bad(connection, &copies, age)).await?;
        for (copy, what) in found {
            self.report.corrupt += 1;
            self.report.copies += 1;
            if self.report.findings.len() < FINDINGS_MAX {
                self.report.findings.push(ScrubFinding { path: copy.path, server: name.clone(), detail: what });
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.report.unread = self.unread.values().sum();
        let told = |((server, why), copies): (&(String, String), &u64)| {
            format!("{server}: {} not read: {why}", counted(*copies, "copy"))
        };
        self.report.skipped = self.unread.iter().map(told).collect();
    }
}

/// Has one server read its copies.
async fn one_server(
    context: &Context,
    server: i64,
    view: Option<&ServerView>,
    mut since_ms: i64,
    copies: Vec<ListedCopy>,
) -> Outcome {
    let mut outcome =
        Outcome { server, since_ms, right: Vec::new(), gone: Vec::new(), unread: Vec::new(), why: String::new() };
    let Some(view) = view.filter(|view| view.health != Health::Down) else {
        (outcome.unread, outcome.why) = (copies, "it is down".into());
        return outcome;
    };
    for batch in copies.chunks(VERIFY_BATCH_ITEMS_MAX) {
        if outcome.why.is_empty() {
            let left = one_batch(context, view, &mut since_ms, batch, &mut outcome).await;
            if let Err((left, error)) = left {
                outcome.unread.extend(left);
                outcome.why = error.message().into();
            }
        } else {
            outcome.unread.extend_from_slice(batch);
        }
    }
    outcome.since_ms = since_ms;
    outcome
}

/// Has it read a batch. Fails with what is left of it.
async fn one_batch(
    context: &Context,
    view: &ServerView,
    since_ms: &mut i64,
    batch: &[ListedCopy],
    outcome: &mut Outcome,
) -> Result<(), (Vec<ListedCopy>, Error)> {
    let mut left: Vec<ListedCopy> = batch.to_vec();
    let (mut wait, mut last_news) = (ASK_INTERVAL_MIN, Instant::now());
    loop {
        let request = VerifyRequest { since_ms: *since_ms, replicas: left.iter().map(|copy| copy.key).collect() };
        let largest = left.iter().map(|copy| copy.size).max().unwrap_or(0);
        let patience = PATIENCE + Duration::from_secs(largest / SLOWEST_BYTES_PER_SECOND);
        match context.storage.verify(&view.row.peer(), &request, ASK_TIMEOUT).await {
            Ok(answer) => {
                *since_ms = answer.since_ms;
                let before = left.len();
                let mut waiting = Vec::new();
                for (index, copy) in left.into_iter().enumerate() {
                    match answer.states.get(index) {
                        Some(CopyState::Right) => outcome.right.push(copy),
                        Some(CopyState::Gone) => outcome.gone.push(copy),
                        Some(CopyState::Waiting) | None => waiting.push(copy),
                    }
                }
                left = waiting;
                if left.is_empty() {
                    return Ok(());
                }
                if left.len() < before {
                    (wait, last_news) = (ASK_INTERVAL_MIN, Instant::now());
                }
            }
            Err(error) if last_news.elapsed() > patience => return Err((left, error)),
            // It may be back in a moment, and has lost only what it was asked.
            Err(_) => {}
        }
        if last_news.elapsed() > patience {
            return Err((left, Error::unavailable(format!("it has read none of them for {} s", patience.as_secs()))));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_INTERVAL_MAX);
    }
}
