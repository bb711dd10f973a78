//! What requests and passes cost a cluster that has nothing else to do.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use holdfast::client::NameServerClient;
use holdfast::storage::store::ServerFile;
use holdfast::types::api::{AvailableQuery, CommitOutcome, CommitReport, CommitRequest, ListQuery};
use holdfast::types::{DfsPath, Sha256};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

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

async fn timed<T>(seconds: &mut Vec<f64>, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = work.await;
    seconds.push(began.elapsed().as_secs_f64());
    answer
}

/// Leaves out what came before everything was warm.
fn cost(mut seconds: Vec<f64>, warm_up: usize) -> Cost {
    seconds.drain(..warm_up.min(seconds.len()));
    Cost::of(seconds)
}

/// Requests, one after the other.
pub async fn requests(cluster: &Cluster, client: &NameServerClient, filled: &Filled) -> Costs {
    let mut rng = StdRng::seed_from_u64(7);
    let mut costs = Costs::new();
    let (mut stat, mut list, mut report) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES + WARM_UP {
        let (path, size) = filled.samples.choose(&mut rng).unwrap();
        let entry = timed(&mut stat, client.stat(path)).await.unwrap();
        assert_eq!(entry.size, Some(*size as u64), "{path}");
        let path = filled.large.choose(&mut rng).unwrap().clone();
        let query = ListQuery { path, after: None, limit: Some(PAGE_ROWS), recursive: false, locations: false };
        let page = timed(&mut list, client.list(&query)).await.unwrap();
        assert_eq!(page.entries.len(), PAGE_ROWS);
        if rng.random_bool(0.3) {
            timed(&mut report, client.report()).await.unwrap();
        }
    }
    costs.insert("stat".into(), cost(stat, WARM_UP));
    costs.insert("page of ls".into(), cost(list, WARM_UP));
    costs.insert("report".into(), cost(report, WARM_UP / 4));
    costs.extend(changes(cluster, client, filled, &mut rng).await);
    costs
}

/// A file is placed, committed, moved and deleted again. Its bytes are nowhere: the report of a storage server that has
/// fsynced them is all that a commit takes, and what a write costs besides hangs on the disks.
async fn changes(cluster: &Cluster, client: &NameServerClient, filled: &Filled, rng: &mut StdRng) -> Costs {
    let path = cluster.storage_dir(0).join("server.json");
    let identity = ServerFile::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap().identity;
    let epoch = client.status().await.unwrap().details.unwrap().epoch;
    let storage = cluster.as_storage(identity, epoch);
    let (mut available, mut commit, mut mv, mut delete) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..TIMES + WARM_UP {
        let (beside, _) = filled.samples.choose(rng).unwrap();
        let (parent, _) = beside.split().unwrap();
        let path = parent.join(&format!("measured {number}")).unwrap();
        let moved = parent.join(&format!("measured and moved {number}")).unwrap();
        let report = placed(client, &path, &mut available).await;
        let answer = timed(&mut commit, storage.commit(&CommitRequest { reports: vec![report] })).await.unwrap();
        assert!(matches!(answer.outcomes[..], [CommitOutcome::Committed(_)]), "{answer:?}");
        timed(&mut mv, client.mv(&path, &moved)).await.unwrap();
        timed(&mut delete, client.delete(&moved, false, None)).await.unwrap();
    }
    let named = [("place a file", available), ("commit", commit), ("mv", mv), ("delete", delete)];
    named.map(|(name, seconds)| (name.to_string(), cost(seconds, WARM_UP))).into_iter().collect()
}

async fn placed(client: &NameServerClient, path: &DfsPath, seconds: &mut Vec<f64>) -> CommitReport {
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
    let placement = timed(seconds, client.available(&query)).await.unwrap().placements.remove(0);
    let holders = placement.servers.iter().map(|target| target.server).collect();
    CommitReport { ticket: placement.ticket, size: 4, sha256: Sha256::of(b"four"), holders }
}

/// What the actors note of their own passes, and scrapes, for some time.
pub async fn passes_and_metrics(cluster: &Cluster, client: &NameServerClient) -> Costs {
    let http = reqwest::Client::new();
    let url = format!("{}/metrics", cluster.name_server.url());
    let mut scrapes = Vec::new();
    let mut passes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut last = BTreeMap::new();
    let (began, mut scraped) = (Instant::now(), Instant::now());
    while began.elapsed() < WATCHED {
        for actor in client.actors().await.unwrap().actors {
            let (Some(at), Some(seconds)) = (actor.last_pass, actor.last_pass_seconds) else { continue };
            if last.insert(actor.name.clone(), at) != Some(at) {
                passes.entry(actor.name).or_default().push(seconds);
            }
        }
        if scraped.elapsed() >= SCRAPE_INTERVAL {
            let request = http.get(&url).bearer_auth(SCRAPE_TOKEN);
            let answer = timed(&mut scrapes, async { request.send().await.unwrap().text().await.unwrap() }).await;
            assert!(answer.contains("holdfast_counted 1"), "{answer}");
            scraped = Instant::now();
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let mut costs: Costs =
        passes.into_iter().map(|(name, seconds)| (format!("pass of {name}"), Cost::of(seconds))).collect();
    costs.insert("/metrics".into(), cost(scrapes, 1));
    costs
}
