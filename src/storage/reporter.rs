//! The `CommitReporter`: reports fsynced uploads to the name server, those that wait together in one request.
//!
//! From its fsync an upload belongs to this actor, not to the request that brought it: a client that hangs up
//! or an answer that is lost undoes nothing. A report whose outcome stays unknown is answered `unavailable`,
//! never as a failure; the collector asks later what became of it.

use futures_util::future::BoxFuture;

use super::writer::{INDEX_DEADLINE, IndexChange, IndexWriter};
use crate::actors::Handle;
use crate::actors::batch::{BatchWork, Batcher};
use crate::client::NameServerClient;
use crate::types::api::{CommitOutcome, CommitReport, CommitRequest, Committed};
use crate::types::limits::COMMIT_BATCH_ITEMS_MAX;
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, ErrorCode, Result, ServerId};

/// The actor.
pub type CommitReporter = Batcher<ReportCommits>;

/// Bytes of all tickets of one request; well below `JSON_BODY_BYTES_MAX`.
const TICKETS_BYTES_MAX: usize = 2 << 20;

/// A report together with the copy here that it is about.
#[derive(Debug, Clone)]
pub struct Report {
    /// The copy here.
    pub key: ReplicaKey,
    /// What the name server is told.
    pub report: CommitReport,
}

/// The work of the actor.
pub struct ReportCommits {
    /// This server.
    pub server: ServerId,
    /// The name servers.
    pub name_server: NameServerClient,
    /// Marks what is committed.
    pub writer: Handle<IndexWriter>,
}

impl BatchWork for ReportCommits {
    type Item = Report;
    type Answer = Committed;

    fn batch_items_max(&self) -> usize {
        COMMIT_BATCH_ITEMS_MAX
    }

    /// All tickets together must fit the body of one request.
    fn fits(&self, batch: &[Report], item: &Report) -> bool {
        let bytes: usize = batch.iter().chain([item]).map(|item| item.report.ticket.len()).sum();
        batch.is_empty() || bytes <= TICKETS_BYTES_MAX
    }

    fn run(&self, items: Vec<Report>) -> BoxFuture<'static, Vec<Result<Committed>>> {
        let (server, name_server, writer) = (self.server, self.name_server.clone(), self.writer.clone());
        Box::pin(async move {
            let reports = items.iter().map(|item| item.report.clone()).collect();
            let outcomes = match name_server.commit(&CommitRequest { reports }).await {
                Ok(response) if response.outcomes.len() == items.len() => response.outcomes,
                Ok(_) => {
                    let error = Error::internal("the name server answered another number of reports than it was sent");
                    return items.iter().map(|_| Err(error.clone())).collect();
                }
                Err(error) => {
                    let error = outcome_unknown(error);
                    return items.iter().map(|_| Err(error.clone())).collect();
                }
            };
            crate::types::failpoint::UPLOAD_REPORTED.passed();
            let mut answers = Vec::with_capacity(items.len());
            for (item, outcome) in items.iter().zip(outcomes) {
                answers.push(match outcome {
                    CommitOutcome::Committed(committed) => {
                        if committed.listed.contains(&server) {
                            let change = IndexChange::Committed { key: item.key, version: committed.version };
                            // Nothing depends on the mark; the collector asks for it should it be lost.
                            drop(writer.hand_in(change, INDEX_DEADLINE).await);
                        }
                        Ok(committed)
                    }
                    CommitOutcome::Failed(body) => {
                        Err(Error::new(body.code, body.message).with_request_id(body.request_id))
                    }
                });
            }
            answers
        })
    }
}

fn outcome_unknown(error: Error) -> Error {
    let message = format!(
        "whether the file was committed is not known ({}); upload it again under the same object id",
        error.message()
    );
    Error::new(ErrorCode::Unavailable, message).with_source(error)
}
