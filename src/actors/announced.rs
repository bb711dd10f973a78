//! Storage servers that announce themselves, also those that are not taken now: a restore needs them, and `report` tells
//! of those with the data of another cluster.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::types::api::RegisterRequest;
use crate::types::{Error, ErrorCode, Result};

/// Storage servers that are remembered.
const SERVERS_MAX: usize = 10_000;
/// A server that is not taken announces itself every second; one that was not heard of for longer knocks no more.
const KNOCKS_WITHIN: Duration = Duration::from_secs(30);

/// One that ends when it is refused is told for so long.
const REFUSED_WITHIN: Duration = Duration::from_secs(600);
/// Refused servers, and addresses of strangers, that are remembered.
const REFUSED_MAX: usize = 100;
/// Starts of one server that are remembered.
const STARTS_MAX: usize = 12;

/// Who has announced itself since the start, and when last.
#[derive(Default)]
pub struct Announced(Mutex<HashMap<Uuid, (Instant, RegisterRequest)>>, Mutex<Memory>);

/// Who was not taken, and who was started when.
#[derive(Default)]
struct Memory {
    refused: HashMap<String, Refused>,
    strangers: HashMap<IpAddr, Instant>,
    starts: HashMap<Uuid, VecDeque<(Uuid, Instant)>>,
}

/// A storage server that was not taken.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What it calls itself.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Why.
    pub why: String,
    /// It has asked again, not long ago.
    pub still: bool,
    last: Instant,
}

impl Announced {
    /// Remembers a storage server.
    pub fn note(&self, request: &RegisterRequest) {
        let mut servers = self.0.lock();
        if servers.len() < SERVERS_MAX || servers.contains_key(&request.identity) {
            servers.insert(request.identity, (Instant::now(), request.clone()));
        }
    }

    /// One that is refused for good: it will not be waited for.
    pub fn forget(&self, identity: Uuid) {
        self.0.lock().remove(&identity);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.1.lock()
    }

    /// Notes one that was not taken.
    pub fn refuse(&self, request: &RegisterRequest, why: &str) {
        let mut memory = self.memory();
        memory.refused.retain(|_, refused| refused.last.elapsed() < REFUSED_WITHIN);
        // By its place: a copy has the same identity as what it was copied from.
        let still = memory.refused.contains_key(&request.url);
        if still || memory.refused.len() < REFUSED_MAX {
            let (name, url, last) = (request.name.clone(), request.url.clone(), Instant::now());
            memory.refused.insert(url.clone(), Refused { name, url, why: why.into(), still, last });
        }
    }

    /// Notes one that was taken, and whether it was started anew.
    pub fn took(&self, request: &RegisterRequest) {
        let mut memory = self.memory();
        memory.refused.remove(&request.url);
        if memory.starts.len() >= SERVERS_MAX && !memory.starts.contains_key(&request.identity) {
            return;
        }
        let starts = memory.starts.entry(request.identity).or_default();
        if starts.front().is_none_or(|(boot, _)| *boot != request.boot_id) {
            starts.push_front((request.boot_id, Instant::now()));
            starts.truncate(STARTS_MAX);
        }
    }

    /// Notes somebody who announces a server with another secret.
    pub fn stranger(&self, address: IpAddr) {
        let mut memory = self.memory();
        memory.strangers.retain(|_, last| last.elapsed() < REFUSED_WITHIN);
        if memory.strangers.len() < REFUSED_MAX {
            memory.strangers.insert(address, Instant::now());
        }
    }

    /// Servers that were not taken lately, by name.
    pub fn refused(&self) -> Vec<Refused> {
        let mut refused: Vec<Refused> = self.memory().refused.values().cloned().collect();
        refused.retain(|refused| refused.last.elapsed() < REFUSED_WITHIN);
        refused.iter_mut().for_each(|refused| refused.still &= refused.last.elapsed() < KNOCKS_WITHIN);
        refused.sort_by(|one, other| (&one.name, &one.url).cmp(&(&other.name, &other.url)));
        refused
    }

    /// Addresses from which somebody announces a server with another secret.
    pub fn strangers(&self) -> Vec<IpAddr> {
        let memory = self.memory();
        let lately = memory.strangers.iter().filter(|(_, last)| last.elapsed() < REFUSED_WITHIN);
        let mut strangers: Vec<IpAddr> = lately.map(|(address, _)| *address).collect();
        strangers.sort_unstable();
        strangers
    }

    /// How long ago a server was started each time that it was seen here, the last time first.
    pub fn starts(&self, identity: Uuid) -> Vec<Duration> {
        let memory = self.memory();
        memory.starts.get(&identity).into_iter().flatten().map(|(_, at)| at.elapsed()).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<RegisterRequest> {
        let servers = self.0.lock();
        servers.values().map(|(_, request)| request.clone()).collect()
    }

    /// Those that have the data of another cluster than `ours` and ask to be taken, by name.
    pub fn knocking(&self, ours: Uuid) -> Vec<RegisterRequest> {
        let servers = self.0.lock();
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

    #[test]
    fn who_is_refused_and_who_restarts_is_remembered() {
        let announced = Announced::default();
        let request = |url: &str, boot: u128| RegisterRequest {
            identity: Uuid::from_u128(1),
            name: "s1".into(),
            host: "h".into(),
            url: url.into(),
            public_url: url.into(),
            zone: String::new(),
            boot_id: Uuid::from_u128(boot),
            cluster: None,
            epoch: 0,
            index_changes: 0,
            boots: Vec::new(),
            replace_newer: false,
            capacity_bytes: 1,
            free_bytes: 1,
        };
        announced.refuse(&request("http://a", 1), "a twin");
        assert_eq!(announced.refused().iter().map(|one| one.still).collect::<Vec<_>>(), [false]);
        announced.refuse(&request("http://a", 2), "a twin");
        announced.took(&request("http://b", 3));
        assert!(announced.refused()[0].still, "the other one of the pair is another matter");
        (0..40).for_each(|boot| announced.took(&request("http://a", boot / 2)));
        assert!(announced.refused().is_empty());
        assert_eq!(announced.starts(Uuid::from_u128(1)).len(), STARTS_MAX);
        (0..300).for_each(|last| announced.stranger(IpAddr::from([10, 0, (last / 250) as u8, (last % 250) as u8])));
        assert_eq!(announced.strangers().len(), REFUSED_MAX);
    }
}
