//! Who gets a connection when: the control plane never queues behind users.
//!
//! A lease that is not renewed in time is lost, and repair that waits for a thousand slow listings leaves files in danger.
//! So users take turns among themselves for all connections but one, and at most that many of them stand in the queue
//! that the acting actors join. Where there is one connection (to write to SQLite with), an actor waits for the user
//! before it and for one more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::{Error, ErrorCode, Result};

/// Users that wait for a connection of one kind; one more is answered `busy`.
const WAITERS_MAX: usize = 1_000;

/// For whom a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Requests of clients and servers.
    Users,
    /// The actors, which are as many as there are, and each waits for its own answers.
    Acting,
}

/// The turns at the connections of one pool.
#[derive(Debug)]
pub(super) struct Turns {
    connections: u32,
    all: Arc<Semaphore>,
    users: Arc<Semaphore>,
    waiters: Semaphore,
}

/// A turn: the connection may be used until it is dropped. It goes with the work, which goes on when nobody waits for
/// its answer any more.
#[derive(Debug)]
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _user: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Of as many connections.
    pub(super) fn new(connections: u32) -> Self {
        let users = connections.saturating_sub(1).max(1);
        let of = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self { connections, all: of(connections), users: of(users), waiters: Semaphore::new(WAITERS_MAX) }
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, lane: Lane) -> Result<Turn> {
        let user = match lane {
            Lane::Acting => None,
            Lane::Users => {
                let _waiting = self
                    .waiters
                    .try_acquire()
                    .map_err(|_| Error::new(ErrorCode::Busy, "too many requests wait for the database; try again"))?;
                Some(self.users.clone().acquire_owned().await.map_err(closed)?)
            }
        };
        Ok(Turn { _all: self.all.clone().acquire_owned().await.map_err(closed)?, _user: user })
    }

    /// Waits until nobody uses any connection, and keeps it so.
    pub(super) async fn take_all(&self) -> Result<Turn> {
        let all = self.all.clone().acquire_many_owned(self.connections).await.map_err(closed)?;
        Ok(Turn { _all: all, _user: None })
    }
}

fn closed(error: tokio::sync::AcquireError) -> Error {
    Error::internal("the database is closed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn users_leave_a_connection_to_those_who_act() {
        let turns = Arc::new(Turns::new(8));
        let taken: Vec<Turn> =
            futures_util::future::try_join_all((0..7).map(|_| turns.take(Lane::Users))).await.unwrap();
        let waiting: Vec<_> = (0..WAITERS_MAX)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(Lane::Users).await.map(drop) })
            })
            .collect();
        while turns.waiters.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = turns.take(Lane::Users).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Busy);
        for _ in 0..3 {
            drop(turns.take(Lane::Acting).now_or_never().unwrap().unwrap());
        }
        drop(taken);
        for waiter in waiting {
            waiter.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn where_there_is_one_connection_one_user_at_most_is_before_those_who_act() {
        let turns = Arc::new(Turns::new(1));
        let first = turns.take(Lane::Users).await.unwrap();
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, lane) in [("user", Lane::Users), ("user", Lane::Users), ("actor", Lane::Acting)] {
            let (turns, order) = (turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let turn = turns.take(lane).await.unwrap();
                order.lock().push(name);
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(order.lock()[0], "actor");
    }

    #[tokio::test]
    async fn whoever_takes_all_is_alone() {
        let turns = Turns::new(2);
        let alone = turns.take_all().await.unwrap();
        assert!(turns.take(Lane::Acting).now_or_never().is_none());
        drop(alone);
        assert!(turns.take(Lane::Acting).now_or_never().is_some());
    }
}
