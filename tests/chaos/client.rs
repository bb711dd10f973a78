//! A client: asks the name server, moves the bytes, tries again and takes other copies, as the command line does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use holdfast::client::http::backoff;
use holdfast::client::storage::BodyFacts;
use holdfast::client::{NameServerClient, StorageClient};
use holdfast::types::api::{AvailableQuery, Entry, Health, ListQuery, Placement};
use holdfast::types::{DfsPath, Error, ErrorCode, ObjectId, Result, ServerId, Sha256};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::content;
use crate::history::{Action, Content, FILES, Op, Outcome, Place, Recorder, Seen, Value, When, dir_path};
use crate::workload::Chooser;

/// Further tries of an upload, and rounds of a download, as on the command line.
const UPLOAD_RETRIES_MAX: usize = 10;
const DOWNLOAD_ROUNDS_MAX: usize = 6;
/// How long a client waits for one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// And for a read after everything was healed.
const FINAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause between two operations.
const PAUSE_MS_MAX: u64 = 40;
/// Bytes of one piece of a body.
const PIECE_BYTES: usize = 64 << 10;
/// Of so many writes a lying client only pretends to make one.
const LIE_ODDS: u32 = 10;

/// What all clients share.
pub struct Shared {
    pub names: NameServerClient,
    pub storage: StorageClient,
    pub recorder: Recorder,
    pub stop: AtomicBool,
    /// The number of the next content.
    pub next_value: AtomicU32,
    /// A seeded bug: some writes are said to be done and are not.
    pub lies: bool,
}

/// One client.
pub struct Client {
    shared: Arc<Shared>,
    number: u16,
    groups: u8,
    dice: StdRng,
    /// The versions of files as this client saw them last.
    versions: HashMap<Place, i64>,
}

/// Why a try of an upload failed.
struct Fault {
    error: Error,
    curable: bool,
}

/// What the tries of one upload know of each other.
#[derive(Default)]
struct Tries {
    object: Option<ObjectId>,
    exclude: Vec<ServerId>,
    unclear: bool,
    expired: bool,
}

impl Client {
    pub fn new(shared: Arc<Shared>, number: u16, groups: u8, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed ^ (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self { shared, number, groups, dice, versions: HashMap::new() }
    }

    /// Does one operation after the other until it is told to stop.
    pub async fn run(mut self) -> Self {
        let mut chooser = Chooser::new(self.groups);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (shared, versions) = (self.shared.clone(), &self.versions);
            let value = || shared.next_value.fetch_add(1, Ordering::Relaxed);
            let action = chooser.choose(&mut self.dice, value, |at| versions.get(&at).copied());
            self.perform(action, false).await;
            let pause = self.dice.random_range(0..=PAUSE_MS_MAX);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self
    }

    /// Reads everything, after everything was healed.
    pub async fn read_all(mut self) {
        for group in 0..self.groups {
            for dir in 0..crate::history::DIRS as u8 {
                for file in 0..FILES as u8 {
                    self.perform(Action::Read { at: Place { group, dir, file } }, true).await;
                }
            }
        }
    }

    async fn perform(&mut self, action: Action, at_end: bool) {
        let shared = self.shared.clone();
        let invoked = shared.recorder.now();
        let limit = if at_end { FINAL_TIMEOUT } else { OPERATION_TIMEOUT };
        let outcome = match tokio::time::timeout(limit, self.outcome(action)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown(format!("no answer within {} s", limit.as_secs())),
        };
        let completed = shared.recorder.now();
        self.learn(&action, &outcome);
        shared.recorder.add(Op { client: self.number, invoked, completed, at_end, action, outcome });
    }

    fn learn(&mut self, action: &Action, outcome: &Outcome) {
        match (action, outcome) {
            (Action::Write { at, .. }, Outcome::Done { version: Some(version) }) => {
                self.versions.insert(*at, *version);
            }
            (Action::Read { at } | Action::Stat { at }, Outcome::Saw(seen)) => {
                self.versions.insert(*at, seen.version);
            }
            (Action::Read { at } | Action::Stat { at } | Action::Delete { at }, _) => {
                self.versions.remove(at);
            }
            _ => {}
        }
    }

    async fn outcome(&mut self, action: Action) -> Outcome {
        let names = self.shared.names.clone();
        let changed = match action {
            Action::Write { at, value, when } => return self.write(at, value, when).await,
            Action::Read { at } => return self.read(at).await,
            Action::Stat { at } => return self.stat(at).await,
            Action::List { group, dir } => return self.list(group, dir).await,
            Action::Delete { at } => names.delete(&at.path(), false, None).await,
            Action::Move { from, to } => names.mv(&from.path(), &to.path()).await,
            Action::Copy { from, to } => names.cp(&from.path(), &to.path(), false).await,
            Action::MoveDir { group, from, to } => names.mv(&dir_path(group, from), &dir_path(group, to)).await,
            Action::RemoveDir { group, dir } => names.delete(&dir_path(group, dir), true, None).await,
            Action::MakeDir { group, dir } => names.mkdir(&dir_path(group, dir), false).await,
        };
        match changed {
            Ok(changed) => Outcome::Done { version: Some(changed.version) },
            Err(error) => failed_change(&error),
        }
    }

    async fn write(&mut self, at: Place, value: Value, when: When) -> Outcome {
        let body = content::make(value, content::size(&mut self.dice));
        let sha256 = Sha256::of(&body);
        self.shared.recorder.announce(sha256, Content { value, size: body.len() as u64 });
        if self.shared.lies && self.dice.random_ratio(1, LIE_ODDS) {
            return Outcome::Done { version: None };
        }
        let facts = BodyFacts { size: Some(body.len() as u64), sha256: Some(sha256) };
        let (mut tries, mut waits) = (Tries::default(), backoff(UPLOAD_RETRIES_MAX));
        loop {
            let fault = match self.upload(&at.path(), &body, facts, when, &mut tries).await {
                Ok(version) => return Outcome::Done { version: Some(version) },
                Err(fault) => fault,
            };
            if tries.unclear && fault.error.code() == ErrorCode::PreconditionFailed {
                return self.perhaps_committed(at, value, &tries).await;
            }
            match waits.next() {
                Some(wait) if fault.curable => tokio::time::sleep(wait).await,
                _ if tries.unclear => return Outcome::Unknown(fault.error.chain()),
                _ if fault.error.code() == ErrorCode::Unavailable => return Outcome::NotDone(fault.error.chain()),
                _ => return failed_change(&fault.error),
            }
        }
    }

    /// After a lost answer and a condition that holds no more: perhaps it was our own write that changed it.
    async fn perhaps_committed(&self, at: Place, value: Value, tries: &Tries) -> Outcome {
        match self.shared.names.stat(&at.path()).await {
            // Its version may be that of a later move.
            Ok(entry) if entry.object.is_some() && entry.object == tries.object => Outcome::Done { version: None },
            Ok(_) | Err(_) => Outcome::Unknown(format!("#{value} may have been written before its condition failed")),
        }
    }

    async fn upload(
        &self,
        path: &DfsPath,
        body: &Bytes,
        facts: BodyFacts,
        when: When,
        tries: &mut Tries,
    ) -> Result<i64, Fault> {
        let placement = self.place(path, facts.size, when, tries).await?;
        let first = placement.servers.first().cloned();
        let first = first.ok_or_else(|| Fault { error: Error::internal("no servers were chosen"), curable: false })?;
        let pieces = (0..body.len()).step_by(PIECE_BYTES).map(|at| body.slice(at..body.len().min(at + PIECE_BYTES)));
        let pieces: Vec<std::io::Result<Bytes>> = pieces.map(Ok).collect();
        match self.shared.storage.upload(&first.url, &placement.ticket, facts, stream::iter(pieces)).await {
            Ok(committed) => Ok(committed.version),
            Err(error) => Err(tries.learn(error, &placement)),
        }
    }

    async fn place(
        &self,
        path: &DfsPath,
        size: Option<u64>,
        when: When,
        tries: &mut Tries,
    ) -> Result<Placement, Fault> {
        let exclude: Vec<_> = tries.exclude.iter().map(ToString::to_string).collect();
        let query = AvailableQuery {
            path: path.clone(),
            size,
            count: None,
            object: tries.object,
            exclude: (!exclude.is_empty()).then(|| exclude.join(",")),
            if_match: match when {
                When::Version(version) => Some(version),
                _ => None,
            },
            if_none_match: (when == When::Absent).then_some(true),
            parents: None,
        };
        let placement = self.shared.names.available(&query).await.map_err(|error| {
            let was_narrowed = !std::mem::take(&mut tries.exclude).is_empty();
            let curable = match error.code() {
                ErrorCode::NotEnoughServers | ErrorCode::Busy => true,
                ErrorCode::OutOfSpace => was_narrowed,
                _ => false,
            };
            Fault { error, curable }
        })?;
        let placement = placement.placements.into_iter().next();
        let placement =
            placement.ok_or_else(|| Fault { error: Error::internal("no placement was given"), curable: false })?;
        tries.object = Some(placement.object);
        Ok(placement)
    }

    async fn stat(&self, at: Place) -> Outcome {
        match self.shared.names.stat(&at.path()).await {
            Ok(entry) => self.seen(&entry).map_or_else(Outcome::Wrong, Outcome::Saw),
            Err(error) => failed_look(&error),
        }
    }

    async fn list(&self, group: u8, dir: u8) -> Outcome {
        let path = dir_path(group, dir);
        let query = ListQuery { path, after: None, limit: None, recursive: false, locations: false };
        let listed = match self.shared.names.list(&query).await {
            Ok(listed) => listed,
            Err(error) => return failed_look(&error),
        };
        let mut files = Vec::new();
        for entry in &listed.entries {
            let file = entry.path.strip_prefix('f').and_then(|number| number.parse().ok());
            match (file, self.seen(entry)) {
                (Some(file), Ok(seen)) => files.push((file, seen)),
                (None, _) => return Outcome::Wrong(format!("a file {:?} that nobody wrote", entry.path)),
                (_, Err(why)) => return Outcome::Wrong(why),
            }
        }
        Outcome::Listed(files)
    }

    /// A file in the metadata: its hash must be that of a content which some client has sent.
    fn seen(&self, entry: &Entry) -> Result<Seen, String> {
        let content = entry.sha256.and_then(|sha256| self.shared.recorder.content(sha256));
        match content {
            Some(content) if entry.size == Some(content.size) => {
                Ok(Seen { value: content.value, version: entry.version })
            }
            Some(content) => Err(format!("#{} with {:?} instead of {} bytes", content.value, entry.size, content.size)),
            None => Err(format!("{} with the hash {:?} that nobody wrote", entry.path, entry.sha256)),
        }
    }

    /// Reads a file whole. Mostly it is checked as the command line does, sometimes taken as it comes, as curl does.
    async fn read(&mut self, at: Place) -> Outcome {
        let checks = self.dice.random_ratio(3, 4);
        let mut waits = backoff(DOWNLOAD_ROUNDS_MAX);
        loop {
            let entry = match self.shared.names.stat(&at.path()).await {
                Ok(entry) => entry,
                Err(error) => return failed_look(&error),
            };
            let mut last = format!("{at} has no copy that can be read now");
            let live = |live: bool| entry.replicas.iter().filter(move |copy| (copy.health == Health::Live) == live);
            for url in live(true).chain(live(false)).filter_map(|copy| copy.url.as_deref()) {
                match self.fetch(url, &entry).await {
                    Ok(bytes) if checks && Some(Sha256::of(&bytes)) != entry.sha256 => {
                        last = format!("a copy of {at} has wrong bytes");
                    }
                    Ok(bytes) => return self.judge_bytes(&bytes, &entry),
                    Err(error) => last = error.chain(),
                }
            }
            match waits.next() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Outcome::Unknown(last),
            }
        }
    }

    async fn fetch(&self, url: &str, entry: &Entry) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut download = self.shared.storage.download(url, 0).await?;
        while let Some(piece) = download.chunk().await? {
            bytes.extend_from_slice(&piece);
        }
        if Some(bytes.len() as u64) != entry.size {
            return Err(Error::unavailable(format!("{} of {:?} bytes came", bytes.len(), entry.size)));
        }
        Ok(bytes)
    }

    fn judge_bytes(&self, bytes: &[u8], entry: &Entry) -> Outcome {
        match (content::recognize(bytes), self.seen(entry)) {
            (Ok(value), Ok(seen)) if value == seen.value => Outcome::Saw(seen),
            (Ok(value), Ok(seen)) => Outcome::Wrong(format!("#{value} where the metadata has #{}", seen.value)),
            (Err(why), _) | (_, Err(why)) => Outcome::Wrong(why),
        }
    }
}

impl Tries {
    /// Draws the conclusions from a storage server's failure, as the command line does.
    fn learn(&mut self, error: Error, placement: &Placement) -> Fault {
        let servers: Vec<ServerId> = placement.servers.iter().map(|target| target.server).collect();
        let suspects = match error.code() {
            ErrorCode::NotEnoughServers => servers.get(1..).unwrap_or_default(),
            ErrorCode::Unavailable | ErrorCode::OutOfSpace | ErrorCode::Internal | ErrorCode::ChecksumMismatch => {
                servers.get(..1).unwrap_or_default()
            }
            _ => &[],
        };
        self.unclear |= matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Internal);
        if error.code() == ErrorCode::TicketExpired {
            if self.expired && !self.unclear {
                self.object = None;
            }
            self.expired = true;
        }
        self.exclude.extend(suspects);
        let curable = !suspects.is_empty() || matches!(error.code(), ErrorCode::Busy | ErrorCode::TicketExpired);
        Fault { error, curable }
    }
}

/// Whether the cluster has looked at its namespace and refused.
fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotFound | ErrorCode::AlreadyExists | ErrorCode::DirectoryNotEmpty | ErrorCode::PreconditionFailed
    )
}

/// Whether no request of these clients deserves this answer.
fn is_odd(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidPath
            | ErrorCode::InvalidRequest
            | ErrorCode::NotADirectory
            | ErrorCode::IsADirectory
            | ErrorCode::Unauthorized
            | ErrorCode::Forbidden
            | ErrorCode::TooLarge
    )
}

fn failed_change(error: &Error) -> Outcome {
    let (code, why) = (error.code(), format!("{}: {}", error.code(), error.chain()));
    // The client repeats a change only as long as no try has reached a server.
    let was_not_sent = code == ErrorCode::Unavailable && error.message().contains("cannot be reached");
    match code {
        _ if is_refusal(code) => Outcome::Refused(code),
        _ if is_odd(code) => Outcome::Odd(why),
        _ if was_not_sent => Outcome::NotDone(why),
        ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::ChecksumMismatch => Outcome::Unknown(why),
        _ => Outcome::NotDone(why),
    }
}

fn failed_look(error: &Error) -> Outcome {
    let (code, why) = (error.code(), format!("{}: {}", error.code(), error.chain()));
    match code {
        _ if is_refusal(code) => Outcome::Refused(code),
        _ if is_odd(code) => Outcome::Odd(why),
        _ => Outcome::Unknown(why),
    }
}
