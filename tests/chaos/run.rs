//! One run: a cluster, clients, faults; then peace, healing, and the judgement.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast::client::{Credentials, HttpClient, StorageClient};
use holdfast::types::ErrorCode;
use holdfast::types::api::{FsckRequest, ServerInfo};
use tokio::runtime::Runtime;

use crate::check::{self, Judgement, scans::Finding};
use crate::client::{Client, Shared};
use crate::history::{self, Op, Recorder, dir_path};
use crate::nemesis::{self, Kind};
use crate::options::Options;
use crate::preload;
use crate::world::World;

/// How long the cluster may take to come back to full replication.
const HEAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a check of the metadata against the inventories may take.
const FSCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Findings of each kind that are printed whole.
const SHOWN_FINDINGS_MAX: usize = 3;

/// Whether a cluster must come back to full replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealCheck {
    Required,
    Off,
}

/// Set by Ctrl-C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a run has shown.
pub struct Summary {
    pub seed: u64,
    pub database: String,
    pub nemeses: String,
    pub ok: usize,
    pub failed: usize,
    pub unknown: usize,
    pub faults: usize,
    /// How often a server has ended by itself, other than for want of its database.
    pub gave_up: usize,
    pub judgement: Judgement,
    /// Seconds without an answer to anybody; to any change.
    pub outages: (f64, f64),
    /// Files that came to the file system below a mount point.
    pub strays: usize,
    /// Files that were there before and are not as they were.
    pub preloaded: Vec<String>,
    pub healed: Healed,
    pub fsck: Fsck,
    /// Where logs and history are, if they were kept.
    pub kept: Option<PathBuf>,
}

/// Whether the cluster came back to full replication.
pub enum Healed {
    After(f64),
    Not(String),
    NotAsked,
}

/// What the check of the metadata against the inventories said.
pub enum Fsck {
    Clean,
    Findings(String),
    NotAvailable,
    NotAsked,
}

impl Summary {
    pub fn is_good(&self) -> bool {
        self.judgement.is_clean()
            && self.ok > 0
            && self.strays == 0
            && self.preloaded.is_empty()
            && !matches!(self.healed, Healed::Not(_))
            && !matches!(self.fsck, Fsck::Findings(_))
    }
}

pub fn run(options: &Options, kinds: &[Kind], heal_check: HealCheck) -> Summary {
    let dir = tempfile::Builder::new().prefix("holdfast-chaos-").tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.spawn(async {
        while tokio::signal::ctrl_c().await.is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    let mut world = World::start(options, kinds, dir.path().into(), runtime.handle().clone());
    let shared = Arc::new(Shared {
        names: world.client.clone(),
        storage: StorageClient::new(HttpClient::new(None).unwrap(), Credentials::None),
        recorder: Recorder::new(),
        stop: AtomicBool::new(false),
        next_value: AtomicU32::new(1),
        lies: options.lie,
    });
    runtime.block_on(make_directories(&shared, options.groups));
    preload::fill(&world, options.preload);
    world.begin();
    let clients = rage(options, kinds, &world, &shared, &runtime);
    let healed = heal(&world, heal_check, preload::healing(options.preload));
    let more = preload::checking(options.preload);
    let fsck = if matches!(healed, Healed::After(_)) { fsck(&world, FSCK_TIMEOUT + more) } else { Fsck::NotAsked };
    let preloaded = preload::findings(&world, options.preload);
    runtime.block_on(async {
        futures_util::future::join_all(clients.into_iter().map(Client::read_all)).await;
    });
    let ops = shared.recorder.ops();
    let judgement = check::judge(&ops);
    let (ok, failed, unknown) = check::counts(&ops);
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let mut summary = Summary {
        seed: options.seed,
        database: options.database.clone(),
        nemeses: if names.is_empty() { "none".into() } else { names.join(",") },
        ok,
        failed,
        unknown,
        faults: world.faults.load(Ordering::Relaxed),
        gave_up: world.gave_up.load(Ordering::Relaxed),
        judgement,
        outages: check::outages(&ops),
        strays: world.strays(),
        preloaded,
        healed,
        fsck,
        kept: None,
    };
    let diary = world.diary();
    if !summary.is_good() || options.keep {
        history::save(&ops, &dir.path().join("history.jsonl"));
        let diary: Vec<String> = diary.iter().map(|(seconds, what)| format!("{seconds:>10.4}  {what}")).collect();
        fs::write(dir.path().join("faults.txt"), diary.join("\n") + "\n").unwrap();
        summary.kept = Some(dir.path().into());
    }
    if !summary.is_good() {
        explain(&summary, options, &ops, &diary);
    }
    drop(world);
    if summary.kept.is_some() {
        let _ = dir.keep();
    }
    summary
}

async fn make_directories(shared: &Shared, groups: u8) {
    for group in 0..groups {
        for dir in 0..history::DIRS as u8 {
            shared.names.mkdir(&dir_path(group, dir), true).await.unwrap();
        }
    }
}

/// Clients and faults at the same time. The clients come back when they have ended what they did.
fn rage(options: &Options, kinds: &[Kind], world: &World, shared: &Arc<Shared>, runtime: &Runtime) -> Vec<Client> {
    let calm = AtomicBool::new(false);
    let tasks: Vec<_> = (0..options.clients)
        .map(|number| {
            let client = Client::new(shared.clone(), number, options.groups, options.seed);
            runtime.spawn(client.run())
        })
        .collect();
    std::thread::scope(|scope| {
        for kind in kinds {
            let calm = &calm;
            scope.spawn(move || nemesis::rage(*kind, kinds.len(), world, options.seed, calm));
        }
        let end = Instant::now() + Duration::from_secs(options.seconds);
        while Instant::now() < end && !INTERRUPTED.load(Ordering::Relaxed) {
            world.revive();
            std::thread::sleep(Duration::from_millis(200));
        }
        calm.store(true, Ordering::Relaxed);
    });
    shared.stop.store(true, Ordering::Relaxed);
    world.heal();
    runtime.block_on(async { futures_util::future::join_all(tasks).await }).into_iter().map(Result::unwrap).collect()
}

/// Heals all that was done and waits for what the cluster has to do itself.
fn heal(world: &World, check: HealCheck, more: Duration) -> Healed {
    let started = Instant::now();
    world.note("everything is healed".into());
    let limit = if check == HealCheck::Off { Duration::from_secs(30) } else { HEAL_TIMEOUT + more };
    let mut why = String::from("nobody answers");
    while started.elapsed() < limit {
        world.revive();
        world.heal();
        let in_service = nemesis::drain::undrain_all(world);
        let refused = nemesis::join::remove_gone(world);
        if let Some(report) = world.ask(world.client.report()) {
            let wanted = world.storage().len() - world.leaving.lock().unwrap().len();
            let mut reasons = Vec::new();
            if (report.servers_live as usize) < wanted {
                reasons.push(format!("{} of {wanted} servers are live", report.servers_live));
            }
            reasons.extend(troubles(world));
            if !in_service {
                reasons.push("a server cannot be taken back from draining".into());
            }
            if check != HealCheck::Off {
                let short: u64 = report.under_replicated.iter().map(|row| row.objects).sum();
                if short > 0 || report.missing_objects > 0 || report.repair.queued > 0 {
                    let (missing, queued) = (report.missing_objects, report.repair.queued);
                    reasons.push(format!("{short} objects are short of copies, {missing} missing, {queued} queued"));
                }
                reasons.extend(refused.iter().map(|why| format!("not removed: {why}")));
            }
            if reasons.is_empty() {
                let seconds = started.elapsed().as_secs_f64();
                return if check == HealCheck::Off { Healed::NotAsked } else { Healed::After(seconds) };
            }
            why = reasons.join("; ");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Healed::Not(format!("after {} s still: {why}", limit.as_secs()))
}

/// Servers that say that they cannot keep anything.
fn troubles(world: &World) -> Vec<String> {
    let servers = world.ask(world.client.servers()).map(|answer| answer.servers).unwrap_or_default();
    let told = |server: ServerInfo| server.trouble.map(|trouble| format!("{} is in trouble: {trouble:?}", server.name));
    servers.into_iter().filter_map(told).collect()
}

/// Asks for a check of the metadata against the inventories.
fn fsck(world: &World, limit: Duration) -> Fsck {
    let answer = world.runtime.block_on(async {
        let request = FsckRequest::default();
        let fsck = world.client.fsck(&request, |_| ());
        match tokio::time::timeout(limit, fsck).await {
            Ok(Ok(report)) => Ok(Some(report)),
            Ok(Err(error)) if error.code() == ErrorCode::NotFound => Ok(None),
            Ok(Err(error)) => Err(error.chain()),
            Err(_) => Err(format!("it took longer than {limit:?}")),
        }
    });
    match answer {
        Ok(None) => Fsck::NotAvailable,
        Ok(Some(report)) if report.clean => Fsck::Clean,
        Ok(Some(report)) => {
            let mut lines: Vec<String> =
                report.servers_skipped.iter().map(|why| format!("server not asked: {why}")).collect();
            lines.extend(report.findings.iter().take(20).map(|finding| {
                let on = finding.server.as_ref().map(|server| format!(" on {server}")).unwrap_or_default();
                format!("{}{on}: {}", finding.kind, finding.detail)
            }));
            Fsck::Findings(format!("{} findings\n    {}", report.findings_total, lines.join("\n    ")))
        }
        Err(why) => Fsck::Findings(format!("it failed: {why}")),
    }
}

/// Prints what was found, the part of the history that shows it, and how to see it again.
fn explain(summary: &Summary, options: &Options, ops: &[Op], diary: &[(f64, String)]) {
    println!();
    let mut shown = std::collections::HashMap::new();
    for (kind, finding) in summary.judgement.findings() {
        let count: &mut usize = shown.entry(kind).or_default();
        *count += 1;
        if *count <= SHOWN_FINDINGS_MAX {
            print_finding(kind, finding, ops, diary);
        }
    }
    shown.iter().filter(|(_, count)| **count > SHOWN_FINDINGS_MAX).for_each(|(kind, count)| {
        println!("{kind}: {} more", count - SHOWN_FINDINGS_MAX);
    });
    if let Healed::Not(why) = &summary.healed {
        println!("not healed: {why}");
    }
    if let Fsck::Findings(what) = &summary.fsck {
        println!("fsck: {what}");
    }
    summary.preloaded.iter().for_each(|finding| println!("preloaded: {finding}"));
    if summary.strays > 0 {
        println!("{} files came to where a disk was not mounted", summary.strays);
    }
    if summary.ok == 0 {
        println!("no operation succeeded");
    }
    let more = if options.no_heal_check { " --no-heal-check" } else { "" };
    println!(
        "to repeat: scripts/chaos --seed {} --seconds {} --nemesis {} --database {} --clients {} --servers {} --groups {} --preload {}{more}",
        options.seed,
        options.seconds,
        summary.nemeses,
        options.database,
        options.clients,
        options.servers,
        options.groups,
        options.preload
    );
    if let Some(dir) = &summary.kept {
        println!("kept: {}; the history again: scripts/chaos --judge {0}/history.jsonl", dir.display());
    }
}

/// Prints a finding with its operations, and the faults of that time.
pub fn print_finding(kind: &str, finding: &Finding, ops: &[Op], diary: &[(f64, String)]) {
    println!("{}: {}", kind.to_uppercase(), finding.what);
    let mut lines: Vec<(f64, String)> =
        finding.ops.iter().map(|index| (ops[*index].invoked as f64 / 1e6, ops[*index].to_string())).collect();
    if let (Some(first), Some(last)) = (lines.first().map(|line| line.0), lines.last().map(|line| line.0)) {
        let near = diary.iter().filter(|(at, _)| (first - 2.0..=last + 1.0).contains(at));
        lines.extend(near.map(|(at, what)| (*at, format!("{at:>10.4}                 {what}"))));
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines.iter().for_each(|(_, line)| println!("  {line}"));
    println!();
}
