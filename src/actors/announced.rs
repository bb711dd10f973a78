//! Storage servers that announce themselves, also those that are not taken now: a restore needs them, and `report` tells
//! of those with the data of another cluster.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::types::api::RegisterRequest;
use crate::types::{Error, ErrorCode, Result};

/// Storage servers that are remembered.
const SERVERS_MAX: usize = 10_000;
/// A server that is not taken announces itself every second; one that was not heard of for longer knocks no more.
const KNOCKS_WITHIN: Duration = Duration::from_secs(30);

/// Who has announced itself since the start, and when last.
#[derive(Default)]
pub struct Announced(Mutex<HashMap<Uuid, (Instant, RegisterRequest)>>);

impl Announced {
    /// Remembers a storage server.
    pub fn note(&self, request: &RegisterRequest) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() < SERVERS_MAX || servers.contains_key(&request.identity) {
            servers.insert(request.identity, (Instant::now(), request.clone()));
        }
    }

    /// One that is refused for good: it will not be waited for.
    pub fn forget(&self, identity: Uuid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&identity);
    }

    /// All of them.
    pub fn all(&self) -> Vec<RegisterRequest> {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.values().map(|(_, request)| request.clone()).collect()
    }

    /// Those that have the data of another cluster than `ours` and ask to be taken, by name.
    pub fn knocking(&self, ours: Uuid) -> Vec<RegisterRequest> {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut knocking: Vec<RegisterRequest> = servers
            .values()
            .filter(|(at, request)| {
                at.elapsed() < KNOCKS_WITHIN && request.cluster.is_some_and(|theirs| theirs != ours)
            })
            .map(|(_, request)| request.clone())
            .collect();
        knocking.sort_by(|one, other| one.name.cmp(&other.name));
        knocking
    }
}

/// What `report` says of storage servers with the data of another cluster.
pub fn knocking_problem(knocking: &[RegisterRequest]) -> Option<String> {
    let first = knocking.first()?;
    let names: Vec<&str> = knocking.iter().map(|request| request.name.as_str()).collect();
    Some(format!(
        "{} storage servers with the data of another cluster ({}) ask to be taken, and this one is empty: {}; if the database \
         of that cluster was lost, `holdfast restore` brings its files back",
        knocking.len(),
        first.cluster.unwrap_or_default(),
        names.join(", ")
    ))
}

/// The cluster whose metadata is to be restored, of storage servers with their names: they must agree. Those that have
/// joined the name server's own cluster (`ours`) hold nothing when it is empty; then it is the others' that counts.
pub fn cluster_to_restore(members: &[(&str, Option<Uuid>)], ours: Uuid, ours_is_empty: bool) -> Result<Uuid> {
    let mut clusters: Vec<Uuid> = members.iter().filter_map(|(_, cluster)| *cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if ours_is_empty && clusters.len() > 1 {
        clusters.retain(|cluster| *cluster != ours);
    }
    match clusters[..] {
        [one] => Ok(one),
        [] => Err(Error::new(
            ErrorCode::PreconditionFailed,
            "the storage servers that answer have never belonged to a cluster: there is nothing to restore; start the name \
             server with --initialize to make a new cluster",
        )),
        _ => {
            let of = |(name, cluster): &(&str, Option<Uuid>)| format!("{name} of {}", cluster.unwrap_or_default());
            let list: Vec<String> = members.iter().map(of).collect();
            Err(Error::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "storage servers of {} clusters answer ({}); stop those that do not belong here",
                    clusters.len(),
                    list.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_clusters_own_servers_do_not_stand_in_the_way() {
        let [ours, lost, third] = [1, 2, 3].map(Uuid::from_u128);
        let of = |clusters: &[Option<Uuid>], empty| {
            let members: Vec<(&str, Option<Uuid>)> = clusters.iter().map(|cluster| ("s", *cluster)).collect();
            cluster_to_restore(&members, ours, empty).map_err(|error| error.message().to_string())
        };
        assert_eq!(of(&[Some(lost), Some(lost), None], false), Ok(lost));
        assert_eq!(of(&[Some(ours), Some(lost)], true), Ok(lost));
        assert_eq!(of(&[Some(ours), None], true), Ok(ours), "a restore of its own");
        assert!(of(&[Some(ours), Some(lost)], false).unwrap_err().contains("2 clusters answer"));
        assert!(of(&[Some(third), Some(lost)], true).unwrap_err().contains("2 clusters answer"));
        assert!(of(&[None], true).unwrap_err().contains("--initialize"));
    }
}
