//! The `MetadataWriter`: group commit of waiting changes of the namespace.
//!
//! One lock of the cluster row and one flush serve a whole batch. A change whose condition fails is its own
//! result; only a failed database touches the others: when the transaction was certainly rolled back they are
//! repeated one by one, so that one bad item cannot fail its neighbours. While the database is short of room only what
//! frees some is written.

use futures_util::future::BoxFuture;

use super::batch::{BatchWork, Batcher};
use super::context::Context;
use crate::db::change::Changes;
use crate::db::commit::{Upload, commit};
use crate::db::{Failure, Step, namespace};
use crate::types::api::Committed;
use crate::types::{DfsPath, Error, ErrorCode, Result, Version};

/// Changes of one transaction. Bounds how long the cluster row is locked.
const BATCH_ITEMS_MAX: usize = 256;

/// The actor.
pub type MetadataWriter = Batcher<WriteChanges>;

/// A change of the namespace.
#[derive(Debug, Clone)]
pub enum Change {
    /// Commits an upload.
    Commit(Box<Upload>),
    /// Makes a directory.
    Mkdir {
        /// Where.
        path: DfsPath,
        /// Missing parents too.
        parents: bool,
    },
    /// Removes an empty directory.
    Rmdir(DfsPath),
    /// Removes a file or, with `recursive`, a directory.
    Remove {
        /// What.
        path: DfsPath,
        /// Directories too.
        recursive: bool,
        /// Only this version.
        if_match: Option<Version>,
    },
    /// Moves.
    Move {
        /// What.
        from: DfsPath,
        /// The new path.
        to: DfsPath,
    },
    /// Copies a file.
    CopyFile {
        /// What.
        from: DfsPath,
        /// The new path.
        to: DfsPath,
    },
    /// Renews the time of what exists.
    Touch(DfsPath),
}

impl Change {
    /// Whether it leaves more room than it takes, in the long run: then a full disk does not stop it.
    fn frees_room(&self) -> bool {
        matches!(self, Self::Remove { .. } | Self::Rmdir(_))
    }
}

/// A change, and who asked for it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What.
    pub change: Change,
    /// The name of the token; a commit's ticket names its own.
    pub by: Option<String>,
}

/// What a change answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A commit.
    Committed(Committed),
    /// Any other change.
    Changed(Version),
    /// Nothing is there to touch.
    Absent,
}

/// The work of the actor.
pub struct WriteChanges {
    /// What it works with.
    pub context: Context,
}

impl BatchWork for WriteChanges {
    type Item = Asked;
    type Answer = Answer;

    fn batch_items_max(&self) -> usize {
        BATCH_ITEMS_MAX
    }

    /// A batch holds each path and each object of its commits once.
    fn fits(&self, batch: &[Asked], item: &Asked) -> bool {
        let Change::Commit(item) = &item.change else { return true };
        !batch.iter().any(|other| match &other.change {
            Change::Commit(other) => other.ticket.object == item.ticket.object || other.ticket.path == item.ticket.path,
            _ => false,
        })
    }

    fn run(&self, items: Vec<Asked>) -> BoxFuture<'static, Vec<Result<Answer>>> {
        let context = self.context.clone();
        Box::pin(async move {
            crate::types::failpoint::CHANGE_WAITING.passed();
            if let Some(full) = context.db.room().refusal() {
                return only_what_frees_room(&context, items, full).await;
            }
            match write(&context, items.clone()).await {
                Ok(answers) => answers,
                Err(Failure::Database(error)) if error.code() == ErrorCode::Internal && items.len() > 1 => {
                    log::error!(
                        "a batch of {} changes failed and is repeated one by one: {}",
                        items.len(),
                        error.chain()
                    );
                    one_by_one(&context, items).await
                }
                // Nothing of it was written, and the ballast is given up.
                Err(Failure::Database(full)) if full.code() == ErrorCode::OutOfSpace => {
                    only_what_frees_room(&context, items, full).await
                }
                Err(failure) => {
                    let error = failure.into_error();
                    items.iter().map(|_| Err(error.clone())).collect()
                }
            }
        })
    }
}

/// Writes what frees room, and refuses the rest.
async fn only_what_frees_room(context: &Context, items: Vec<Asked>, full: Error) -> Vec<Result<Answer>> {
    let freeing: Vec<Asked> = items.iter().filter(|item| item.change.frees_room()).cloned().collect();
    let mut written = match freeing.is_empty() {
        true => Vec::new(),
        false => write(context, freeing.clone()).await.unwrap_or_else(|failure| {
            let error = failure.into_error();
            freeing.iter().map(|_| Err(error.clone())).collect()
        }),
    }
    .into_iter();
    let answer = |item: &Asked| match item.change.frees_room() {
        true => written.next().unwrap_or_else(|| Err(Error::internal("a change had no answer"))),
        false => Err(full.clone()),
    };
    items.iter().map(answer).collect()
}

async fn one_by_one(context: &Context, items: Vec<Asked>) -> Vec<Result<Answer>> {
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let answer = match write(context, vec![item]).await {
            Ok(mut answers) => answers.pop().unwrap_or_else(|| Err(Error::internal("a change had no answer"))),
            Err(failure) => Err(failure.into_error()),
        };
        answers.push(answer);
    }
    answers
}

async fn write(context: &Context, items: Vec<Asked>) -> Step<Vec<Result<Answer>>> {
    let settings = context.settings.clone();
    context
        .db
        .write_step(move |connection| {
            let mut changes = Changes::begin(connection)?;
            crate::types::failpoint::CHANGE_LOCKED.passed();
            let mut answers = Vec::with_capacity(items.len());
            let mut rest = items.as_slice();
            while let Some(first) = rest.first() {
                let uploads: Vec<Upload> = leading_commits(rest);
                if uploads.is_empty() {
                    changes.asked_by(first.by.clone());
                    answers.push(one(&mut changes, &first.change, &settings)?);
                    rest = &rest[1..];
                } else {
                    let outcomes = commit(&mut changes, &uploads, &settings.release_times(), settings.repair_delay)?;
                    answers.extend(outcomes.into_iter().map(|outcome| outcome.map(Answer::Committed)));
                    rest = &rest[uploads.len()..];
                }
            }
            changes.finish()?;
            Ok(answers)
        })
        .await
        .inspect(|_| crate::types::failpoint::CHANGE_COMMITTED.passed())
}

/// The commits at the front, which are written together.
fn leading_commits(items: &[Asked]) -> Vec<Upload> {
    items
        .iter()
        .map_while(|item| match &item.change {
            Change::Commit(upload) => Some(upload.as_ref().clone()),
            _ => None,
        })
        .collect()
}

/// Any change but a commit. A refusal is its result; a refused change must not have written anything.
fn one(changes: &mut Changes<'_>, item: &Change, settings: &super::context::Settings) -> Step<Result<Answer>> {
    let times = settings.release_times();
    let outcome = match item {
        Change::Mkdir { path, parents } => namespace::mkdir(changes, path, *parents).map(|()| true),
        Change::Rmdir(path) => namespace::rmdir(changes, path).map(|()| true),
        Change::Remove { path, recursive, if_match } => {
            namespace::remove(changes, path, *recursive, *if_match, &times).map(|()| true)
        }
        Change::Move { from, to } => namespace::mv(changes, from, to, &times).map(|()| true),
        Change::CopyFile { from, to } => namespace::cp_file(changes, from, to, &times).map(|()| true),
        Change::Touch(path) => namespace::touch_existing(changes, path),
        Change::Commit(_) => Err(Failure::Database(Error::internal("a commit was not written with its set"))),
    };
    match outcome {
        Ok(true) => Ok(Ok(Answer::Changed(changes.end_item()))),
        Ok(false) => Ok(Ok(Answer::Absent)),
        Err(Failure::Refused(error)) => Ok(Err(changes.refused(error)?)),
        Err(failure) => Err(failure),
    }
}
