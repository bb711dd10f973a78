//! What requests and passes cost a cluster that has nothing else to do.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use holdfast::client::NameServerClient;
use holdfast::storage::store::ServerFile;
use holdfast::types::Sha256;
use holdfast::types::api::{AvailableQuery, CommitOutcome, CommitReport, CommitRequest, ListQuery};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::common::cluster::{Cluster, SCRAPE_TOKEN};
use crate::figures::Cost;
use crate::fill::Filled;

/// Of each request.
const TIMES: usize = 300;
/// Of requests before those that count: connections, caches and plans are there then.
const WARM_UP: usize = 40;
/// Entries of a page.
const PAGE_ROWS: usize = 100;
/// How long passes are watched. Numbers for metrics are read anew after 5 s, so each scrape that counts has its own.
const WATCHED: Duration = Duration::from_secs(48);
const SCRAPE_INTERVAL: Duration = Duration::from_millis(5_200);
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

pub type Costs = BTreeMap<String, Cost>;

/// A cluster that is asked, and what it has cost so far.
pub struct Asked<'a> {
    cluster: &'a Cluster,
    client: &'a NameServerClient,
    filled: &'a Filled,
    /// Speaks as a storage server.
    storage: NameServerClient,
    scraper: reqwest::Client,
    rng: StdRng,
    seconds: BTreeMap<&'static str, Vec<f64>>,
    passes: BTreeMap<String, Vec<f64>>,
    last_pass: BTreeMap<String, DateTime<Utc>>,
}

/// What one after the other costs, asked of all clusters in turns: what else the machine does meanwhile, it does to all of
/// them. Answers the costs of each.
pub async fn costs(asked: &mut [Asked<'_>]) -> Vec<Costs> {
    let clusters = asked.len();
    for number in 0..TIMES + WARM_UP {
        // Another one begins each time.
        for turn in number..number + clusters {
            asked[turn % clusters].read().await;
        }
        for turn in number..number + clusters {
            asked[turn % clusters].change(number).await;
        }
    }
    asked.iter_mut().flat_map(|one| one.seconds.values_mut()).for_each(|seconds| drop(seconds.drain(..WARM_UP)));
    let (began, mut scraped) = (Instant::now(), Instant::now());
    while began.elapsed() < WATCHED {
        let is_time = scraped.elapsed() >= SCRAPE_INTERVAL;
        for one in &mut *asked {
            one.look_at_passes().await;
            if is_time {
                one.scrape().await;
            }
        }
        if is_time {
            scraped = Instant::now();
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    asked.iter().map(Asked::told).collect()
}

impl<'a> Asked<'a> {
    pub async fn new(cluster: &'a Cluster, client: &'a NameServerClient, filled: &'a Filled) -> Self {
        let path = cluster.storage_dir(0).join("server.json");
        let identity = ServerFile::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap().identity;
        let epoch = client.status().await.unwrap().details.unwrap().epoch;
        Self {
            cluster,
            client,
            filled,
            storage: cluster.as_storage(identity, epoch),
            scraper: reqwest::Client::new(),
            rng: StdRng::seed_from_u64(7),
            seconds: BTreeMap::new(),
            passes: BTreeMap::new(),
            last_pass: BTreeMap::new(),
        }
    }

    async fn timed<T>(&mut self, what: &'static str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let answer = work.await;
        self.seconds.entry(what).or_default().push(began.elapsed().as_secs_f64());
        answer
    }

    async fn read(&mut self) {
        let (client, filled) = (self.client, self.filled);
        let (path, size) = filled.samples.choose(&mut self.rng).unwrap();
        let entry = self.timed("stat", client.stat(path)).await.unwrap();
        assert_eq!(entry.size, Some(*size as u64), "{path}");
        let path = filled.large.choose(&mut self.rng).unwrap().clone();
        let query = ListQuery { path, after: None, limit: Some(PAGE_ROWS), recursive: false, locations: false };
        let page = self.timed("page of ls", client.list(&query)).await.unwrap();
        assert_eq!(page.entries.len(), PAGE_ROWS);
        self.timed("report", client.report()).await.unwrap();
    }

    /// A file is placed, committed, moved and deleted again. Its bytes are nowhere: the report of a storage server that has
    /// fsynced them is all that a commit takes, and what a write costs besides hangs on the disks.
    async fn change(&mut self, number: usize) {
        let (client, storage, filled) = (self.client, self.storage.clone(), self.filled);
        let (beside, _) = filled.samples.choose(&mut self.rng).unwrap();
        let (parent, _) = beside.split().unwrap();
        let path = parent.join(&format!("measured {number}")).unwrap();
        let moved = parent.join(&format!("measured and moved {number}")).unwrap();
        let query = AvailableQuery {
            path: path.clone(),
            size: Some(4),
            count: None,
            object: None,
            exclude: None,
            if_match: None,
            if_none_match: None,
            parents: None,
        };
        let placement = self.timed("place a file", client.available(&query)).await.unwrap().placements.remove(0);
        let holders = placement.servers.iter().map(|target| target.server).collect();
        let report = CommitReport { ticket: placement.ticket, size: 4, sha256: Sha256::of(b"four"), holders };
        let request = CommitRequest { reports: vec![report] };
        let answer = self.timed("commit", storage.commit(&request)).await.unwrap();
        assert!(matches!(answer.outcomes[..], [CommitOutcome::Committed(_)]), "{answer:?}");
        self.timed("mv", client.mv(&path, &moved)).await.unwrap();
        self.timed("delete", client.delete(&moved, false, None)).await.unwrap();
    }

    /// What the actors note of their own passes.
    async fn look_at_passes(&mut self) {
        for actor in self.client.actors().await.unwrap().actors {
            let (Some(at), Some(seconds)) = (actor.last_pass, actor.last_pass_seconds) else { continue };
            if self.last_pass.insert(actor.name.clone(), at) != Some(at) {
                self.passes.entry(actor.name).or_default().push(seconds);
            }
        }
    }

    async fn scrape(&mut self) {
        let url = format!("{}/metrics", self.cluster.name_server.url());
        let request = self.scraper.get(url).bearer_auth(SCRAPE_TOKEN);
        let scrape = async { request.send().await.unwrap().text().await.unwrap() };
        let answer = self.timed("/metrics", scrape).await;
        assert!(answer.contains("holdfast_counted 1"), "{answer}");
    }

    fn told(&self) -> Costs {
        let requests = self.seconds.iter().map(|(name, seconds)| ((*name).to_string(), Cost::of(seconds.clone())));
        let passes = self.passes.iter().map(|(name, seconds)| (format!("pass of {name}"), Cost::of(seconds.clone())));
        requests.chain(passes).collect()
    }
}
