//! Uploading one file, with other servers when some fail.
//!
//! All tries of one upload carry the same object id. When an answer was lost nobody knows whether that try
//! was committed; a commit of the same id again returns the first result, so that a repetition can neither
//! write twice nor overwrite what others wrote in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Source;
use super::of_storage_server;
use super::source::{Facts, Reading};
use crate::cli::context::Cluster;
use crate::cli::host::FileStat;
use crate::cli::progress::Meter;
use crate::client::http::backoff;
use crate::types::api::{AvailableQuery, Committed, Condition, Kind, Placement};
use crate::types::{DfsPath, Error, ErrorCode, ObjectId, Result, ServerId, Version};

/// Further tries of an upload: long enough that servers which died are noticed.
const UPLOAD_RETRIES_MAX: usize = 10;
/// How long an upload waits for enough servers to write to, when no server failed before: one may be about to come back.
const PLACEMENT_PATIENCE: Duration = Duration::from_secs(8);

/// A finished upload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploaded {
    pub(crate) version: Version,
    pub(crate) facts: Facts,
    /// Copies wanted.
    pub(crate) copies_wanted: u32,
}

/// What the tries of one upload know of each other.
#[derive(Default)]
struct Tries {
    object: Option<ObjectId>,
    exclude: Vec<ServerId>,
    /// A try may have been committed though nobody heard of it.
    unclear: bool,
    /// A try has found its ticket expired.
    expired: bool,
    /// Why the servers failed that are excluded.
    last_failure: Option<Error>,
    /// Since when there have been too few servers.
    too_few_since: Option<Instant>,
    stat: Option<FileStat>,
}

/// A failed try.
struct Fault {
    error: Error,
    /// Another try may succeed.
    curable: bool,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { error, curable: false }
    }
}

impl Cluster {
    /// Uploads a source to `path` under a condition.
    pub(crate) async fn upload(
        &self,
        source: &mut Source,
        path: &DfsPath,
        condition: Condition,
        meter: &Arc<Meter>,
    ) -> Result<Uploaded> {
        let mut tries = Tries { exclude: self.hung_servers(), ..Tries::default() };
        let mut waits = backoff(UPLOAD_RETRIES_MAX);
        loop {
            let fault = match self.upload_once(source, path, condition, &mut tries, meter).await {
                Ok(uploaded) => return Ok(uploaded),
                Err(fault) => fault,
            };
            if tries.unclear
                && fault.error.code() == ErrorCode::PreconditionFailed
                && let Some(uploaded) = self.committed_before(source, path, &tries).await?
            {
                return Ok(uploaded);
            }
            match waits.next() {
                Some(wait) if fault.curable && source.can_repeat() => {
                    log::info!("{path}: {}; trying again", fault.error.chain());
                    meter.restart();
                    tokio::time::sleep(wait).await;
                }
                Some(_) if fault.curable => {
                    return Err(fault.error.context("the upload broke off, and standard input cannot be read again"));
                }
                _ => return Err(fault.error),
            }
        }
    }

    async fn upload_once(
        &self,
        source: &mut Source,
        path: &DfsPath,
        condition: Condition,
        tries: &mut Tries,
        meter: &Arc<Meter>,
    ) -> Result<Uploaded, Fault> {
        let reading = source.read(meter).await?;
        // The same object id stands for the same bytes.
        if tries.stat.is_some() && tries.stat != reading.stat {
            return Err(Error::new(ErrorCode::Internal, "it changed while it was being sent").into());
        }
        tries.stat = reading.stat;
        let placement = match self.place(path, condition, reading.facts.size, tries).await {
            Ok(placement) => placement,
            Err(fault) => {
                give_back(source, reading);
                return Err(fault);
            }
        };
        let Some(first) = placement.servers.first().cloned() else {
            return Err(Error::internal("the name server chose no servers").into());
        };
        let Reading { facts, body, mut verdict, .. } = reading;
        for (target, name) in placement.servers.iter().zip(&placement.names) {
            self.storage.call(&target.url, name);
        }
        match self.storage.upload(&first.url, &placement.ticket, facts, body).await {
            Ok(committed) => {
                let facts = match verdict.await {
                    Ok(facts) => facts?,
                    Err(_) => source.facts_anew().await?,
                };
                checked(path, committed, facts).map_err(Fault::from)
            }
            Err(error) => {
                let verdict = match verdict.try_recv() {
                    Ok(Err(of_source)) => return Err(of_source.into()),
                    Ok(known) => {
                        let (tell, again) = tokio::sync::oneshot::channel();
                        // The receiver is right here.
                        let _ = tell.send(known);
                        again
                    }
                    Err(_) => verdict,
                };
                if let Source::Stdin(stdin) = source {
                    stdin.take_back(verdict);
                }
                if self.storage.has_hung(&first.url) {
                    self.note_hung(first.server);
                }
                let name = placement.names.first().map_or("", String::as_str);
                Err(tries.learn(of_storage_server(error, name), &placement))
            }
        }
    }

    /// Asks where to write.
    async fn place(
        &self,
        path: &DfsPath,
        condition: Condition,
        size: Option<u64>,
        tries: &mut Tries,
    ) -> Result<Placement, Fault> {
        let exclude: Vec<_> = tries.exclude.iter().map(ToString::to_string).collect();
        let query = AvailableQuery {
            path: path.clone(),
            size,
            count: None,
            object: tries.object,
            exclude: (!exclude.is_empty()).then(|| exclude.join(",")),
            if_match: match condition {
                Condition::Version(version) => Some(version),
                _ => None,
            },
            parents: None,
            if_none_match: (condition == Condition::Absent).then_some(true),
        };
        match self.names.available(&query).await {
            Ok(answer) => {
                let placement = answer.placements.into_iter().next();
                let placement = placement.ok_or_else(|| Error::internal("the name server gave no placement"))?;
                tries.object = Some(placement.object);
                Ok(placement)
            }
            Err(error) => {
                // Perhaps only because of those that were excluded. Then their failure says more.
                let was_narrowed = !std::mem::take(&mut tries.exclude).is_empty();
                let failure = tries.last_failure.take().filter(|_| was_narrowed);
                let curable = match error.code() {
                    ErrorCode::Busy => true,
                    ErrorCode::NotEnoughServers if was_narrowed => true,
                    ErrorCode::NotEnoughServers => {
                        tries.too_few_since.get_or_insert_with(Instant::now).elapsed() < PLACEMENT_PATIENCE
                    }
                    ErrorCode::OutOfSpace => was_narrowed,
                    _ => false,
                };
                let narrow = matches!(error.code(), ErrorCode::NotEnoughServers | ErrorCode::OutOfSpace);
                Err(Fault { error: failure.filter(|_| narrow).unwrap_or(error), curable })
            }
        }
    }

    /// After a lost answer and a condition that holds no more: perhaps it was our own write that changed it.
    async fn committed_before(&self, source: &Source, path: &DfsPath, tries: &Tries) -> Result<Option<Uploaded>> {
        let Some(entry) = self.stat(path).await? else { return Ok(None) };
        if entry.kind != Kind::File || entry.object.is_none() || entry.object != tries.object {
            return Ok(None);
        }
        let facts = source.facts_anew().await?;
        if entry.sha256 != Some(facts.sha256) {
            return Ok(None);
        }
        Ok(Some(Uploaded { version: entry.version, facts, copies_wanted: entry.copies_wanted }))
    }
}

impl Tries {
    /// Draws the conclusions from a storage server's failure.
    fn learn(&mut self, error: Error, placement: &Placement) -> Fault {
        let servers: Vec<ServerId> = placement.servers.iter().map(|target| target.server).collect();
        let suspects = match error.code() {
            // The first server works: it could tell. Some of the others do not.
            ErrorCode::NotEnoughServers => servers.get(1..).unwrap_or_default(),
            ErrorCode::Unavailable | ErrorCode::OutOfSpace | ErrorCode::Internal | ErrorCode::ChecksumMismatch => {
                servers.get(..1).unwrap_or_default()
            }
            _ => &[],
        };
        self.unclear |= error.code() == ErrorCode::Unavailable;
        if error.code() == ErrorCode::TicketExpired {
            // With a new ticket too: then the id itself was given up, because an earlier try's copies were
            // collected. Nothing can have been committed under it.
            if self.expired && !self.unclear {
                self.object = None;
            }
            self.expired = true;
        }
        if !suspects.is_empty() {
            self.last_failure = Some(error.clone());
        }
        for suspect in suspects {
            if !self.exclude.contains(suspect) {
                self.exclude.push(*suspect);
            }
        }
        let curable = !suspects.is_empty() || matches!(error.code(), ErrorCode::Busy | ErrorCode::TicketExpired);
        Fault { error, curable }
    }
}

fn give_back(source: &mut Source, reading: Reading) {
    if let Source::Stdin(stdin) = source {
        stdin.take_back(reading.verdict);
    }
}

/// What the cluster says that it has must be what was read.
fn checked(path: &DfsPath, committed: Committed, facts: Facts) -> Result<Uploaded> {
    if committed.sha256 != facts.sha256 || committed.size != facts.stat.size {
        return Err(Error::new(
            ErrorCode::ChecksumMismatch,
            format!("{path} arrived with other bytes than were sent; import it again"),
        ));
    }
    let Committed { version, copies_wanted, .. } = committed;
    Ok(Uploaded { version, facts, copies_wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::api::Target;
    use crate::types::{Generation, id::ObjectId};

    fn placement() -> Placement {
        let servers = [1, 2, 3].map(|id| Target { server: ServerId(id), url: String::new() });
        Placement {
            object: ObjectId(1),
            generation: Generation(1),
            ticket: String::new(),
            servers: servers.into(),
            names: Vec::new(),
            min_write_copies: 2,
            expires: chrono::Utc::now(),
        }
    }

    #[test]
    fn who_is_asked_next_follows_from_the_failure() {
        for (code, suspects, curable, unclear) in [
            (ErrorCode::Unavailable, &[1][..], true, true),
            (ErrorCode::OutOfSpace, &[1], true, false),
            (ErrorCode::NotEnoughServers, &[2, 3], true, false),
            (ErrorCode::Busy, &[], true, false),
            (ErrorCode::TicketExpired, &[], true, false),
            (ErrorCode::PreconditionFailed, &[], false, false),
            (ErrorCode::Forbidden, &[], false, false),
        ] {
            let mut tries = Tries::default();
            let fault = tries.learn(Error::new(code, "x"), &placement());
            assert_eq!(tries.exclude.iter().map(|id| id.0).collect::<Vec<_>>(), suspects, "{code:?}");
            assert_eq!((fault.curable, tries.unclear), (curable, unclear), "{code:?}");
        }
    }

    #[test]
    fn an_id_that_was_given_up_is_replaced_but_never_after_an_unknown_outcome() {
        for (unclear, want) in [(false, None), (true, Some(ObjectId(1)))] {
            let mut tries = Tries { object: Some(ObjectId(1)), unclear, ..Tries::default() };
            tries.learn(Error::new(ErrorCode::TicketExpired, "x"), &placement());
            assert_eq!(tries.object, Some(ObjectId(1)), "a new ticket is tried first");
            tries.learn(Error::new(ErrorCode::TicketExpired, "x"), &placement());
            assert_eq!(tries.object, want);
        }
    }
}
