//! What `report` says: every trouble that is known of, the worst first, each with what to do about it.
//!
//! The whole judgement is here, without I/O: the endpoint gathers the [`Facts`], the command prints, and monitors read the
//! codes, which stay as they are. A trouble is *danger* when something cannot be read or written, or when one more failure
//! would lose something; *degraded* when a person should see to it in the morning; a *notice* says what goes on, or ends, by
//! itself, and leaves the cluster healthy. A remedy is a sentence whose commands, between backquotes, can be carried out
//! word for word in the state that it is printed for.

mod code;
mod servers;
mod several;
#[cfg(test)]
mod tests;

use crate::types::Mode;
use std::collections::BTreeSet;

use chrono::TimeDelta;

pub use self::code::Code;
pub use self::several::of_several;
use super::placement::has_room;
use super::repair::paused;
use crate::types::api::{AdminState, CopiesCount, Health, Severity, Trouble};
use crate::types::storage_api::TroubleCode;

/// A journal that is behind its copies for longer is a trouble. In the ordinary course it is about a second.
const JOURNAL_LAG_ALARM: TimeDelta = TimeDelta::seconds(15);
/// Writes are refused when a million changes are not copied. From so many on that is near.
const JOURNAL_CHANGES_ALARM: u64 = 500_000;
/// Failures of an actor's passes in a row, and for how long, from which they are told.
const FAILURES_ALARM: (u32, TimeDelta) = (3, TimeDelta::seconds(4));
/// So many deletions that are due are told.
const DELETIONS_ALARM: u64 = 2_000;
/// Deletions that wait for longer are told.
const DELETIONS_AGE_ALARM: TimeDelta = TimeDelta::days(1);
/// A cluster, or a server, that is younger is still coming up.
const YOUNG: TimeDelta = TimeDelta::seconds(30);
/// A name server's disk with less room than this, and than a twentieth of it, is nearly full.
const DISK_LOW_BYTES: u64 = 512 << 20;
/// With less the database cannot be written.
const DISK_FULL_BYTES: u64 = 1 << 20;
/// Names of lost files that are told.
const LOST_NAMED_MAX: usize = 3;

/// A storage server.
#[derive(Debug, Clone)]
pub struct Server {
    /// What commands call it: its name, or its id where another server has the same name.
    pub name: String,
    /// The machine it runs on.
    pub host: String,
    /// How long the cluster has known it.
    pub age: TimeDelta,
    /// From checks.
    pub health: Health,
    /// From a person.
    pub admin_state: AdminState,
    /// Why it is not live; or, of one that is, what somebody should see to.
    pub reason: Option<String>,
    /// For how long it has had this health.
    pub since: TimeDelta,
    /// In this time what it has is made anew elsewhere, unless it is well before.
    pub given_up_in: Option<TimeDelta>,
    /// Its inventory is not compared since its start.
    pub syncing: bool,
    /// It no longer trusts its disk or its memory.
    pub alarmed: bool,
    /// It answers and cannot keep anything.
    pub trouble: Option<TroubleCode>,
    /// What it has does not last, though it answers.
    pub failing: bool,
    /// How long ago it went down each time, the last time first.
    pub downs: Vec<TimeDelta>,
    /// How long ago it was started each time, the last time first.
    pub starts: Vec<TimeDelta>,
    /// How far its clock is ahead, in milliseconds.
    pub clock_ahead_ms: i64,
    /// How long it took to answer.
    pub answer_ms: i64,
    /// Bytes of its file system; 0 before the first check.
    pub capacity_bytes: u64,
    /// Bytes that new objects may take.
    pub free_bytes: u64,
    /// At the present rate it is full in this time.
    pub full_in: Option<TimeDelta>,
    /// Copies on it that were found corrupt since yesterday.
    pub corrupt_lately: u64,
    /// Replicas that a drain still has to move.
    pub drain_left: u64,
}

impl Server {
    /// Whether it may be given new copies, if it has room.
    fn takes_files(&self) -> bool {
        self.health == Health::Live
            && self.admin_state == AdminState::InService
            && !self.syncing
            && !self.alarmed
            && self.trouble.is_none()
    }

    fn health_of_copies(&self) -> Health {
        if self.failing { Health::Down } else { self.health }
    }
}

/// An actor whose passes fail.
#[derive(Debug, Clone)]
pub struct Failing {
    /// Its name.
    pub actor: String,
    /// Failures in a row.
    pub failures: u32,
    /// For how long.
    pub since: TimeDelta,
    /// What the last one said.
    pub error: String,
}

/// A storage server that announces itself and is refused.
#[derive(Debug, Clone)]
pub struct Knocking {
    /// What it calls itself.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Why it is refused.
    pub why: String,
    /// It goes on asking.
    pub still: bool,
}

/// How the database is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Database {
    /// It answers.
    #[default]
    Well,
    /// It does not, for this reason.
    Unreachable(String),
    /// It is damaged; the sentence has the way out.
    Damaged(String),
}

/// What is in the cluster, as it was counted.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Objects in all.
    pub objects: u64,
    /// Short of copies, by the copies that can be counted on.
    pub short: Vec<CopiesCount>,
    /// Objects that no server is listed for.
    pub lost: u64,
    /// Paths of some of them, as they were at their commit.
    pub lost_labels: Vec<String>,
    /// Objects that wait for repair.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Transfers under way.
    pub in_flight: u64,
    /// At the present rate repair is done in this time.
    pub done_in: Option<TimeDelta>,
    /// Objects whose repair keeps failing, and what one of them met.
    pub stuck: Option<(u64, String)>,
    /// Age of the oldest change that is not on the journal's copies.
    pub journal_lag: TimeDelta,
    /// How many changes are not.
    pub journal_changes: u64,
    /// Which of the servers that keep the journal's copies are behind, and why; sentences.
    pub journal_behind: Vec<String>,
    /// Deletions that wait.
    pub deletions: u64,
    /// Age of the oldest of them.
    pub deletions_age: TimeDelta,
}

/// Filling servers evenly, while it is under way.
#[derive(Debug, Clone, Default)]
pub struct Rebalancing {
    /// Until servers are filled within so many percent of each other.
    pub within_percent: u32,
    /// Bytes of the copies that were moved.
    pub moved_bytes: u64,
    /// About how many are left; `None` before the servers' copies were counted.
    pub left_bytes: Option<u64>,
    /// About how long that takes.
    pub done_in: Option<TimeDelta>,
    /// What it does, or waits for.
    pub note: String,
}

/// Everything that the report judges.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How the database is.
    pub database: Database,
    /// `normal`, `read_only` or `restoring`.
    pub mode: Mode,
    /// Why the mode is not normal.
    pub mode_reason: Option<String>,
    /// What a restore that is under way does.
    pub restore_step: Option<String>,
    /// How long there has been this cluster.
    pub age: TimeDelta,
    /// The servers.
    pub servers: Vec<Server>,
    /// Two copies may be on one host.
    pub allow_same_host: bool,
    /// Copies that a write needs, in the root directory.
    pub write_needs: u32,
    /// Copies that files want, in the root directory.
    pub copies_wanted: u32,
    /// `None` when nothing could be counted, for this reason.
    pub counted: Result<Counted, String>,
    /// A larger share of servers than this that is down at once pauses repair.
    pub mass_down_share: f64,
    /// For how long no name server has held the lease.
    pub leaderless: Option<TimeDelta>,
    /// Filling servers evenly, if that is under way.
    pub rebalance: Option<Rebalancing>,
    /// Actors whose passes fail.
    pub failing: Vec<Failing>,
    /// Servers that announce themselves and are refused.
    pub knocking: Vec<Knocking>,
    /// Names of servers with the data of another cluster, and that cluster.
    pub foreign: Option<(Vec<String>, String)>,
    /// Addresses from which somebody announces a server with another secret.
    pub strangers: Vec<String>,
    /// What is wrong with this name server's certificate.
    pub certificate: Option<String>,
    /// Why the database takes nothing that makes it grow.
    pub no_room: Option<String>,
    /// Free and all bytes of the disk that the database is on, where this process sees it.
    pub disk: Option<(u64, u64)>,
    /// How long ago the kept numbers were found to be wrong and put right, if that was lately.
    pub counts_mended: Option<TimeDelta>,
}

/// All troubles, the worst first.
pub fn judge(facts: &Facts) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    troubles.extend(database(facts));
    if facts.database == Database::Well && facts.mode == Mode::Normal {
        troubles.extend(writes(facts));
        match &facts.counted {
            Ok(counted) => troubles.extend(copies(facts, counted)),
            Err(why) => troubles.push(trouble(
                Code::NotCounted,
                Severity::Degraded,
                format!("it is not known whether copies are missing: {why}"),
                "look again with `holdfast report`; if it stays so, the database is overloaded: the name server's log has \
                 the reason",
            )),
        }
    }
    troubles.extend(facts.servers.iter().flat_map(servers::judge));
    troubles.extend(servers::clocks(&facts.servers));
    troubles.extend(drains(facts));
    troubles.extend(facts.rebalance.as_ref().map(rebalancing));
    troubles.extend(others(facts));
    // Stable: what was found first is told first among equals.
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.severity));
    troubles
}

/// `danger`, `degraded` or `healthy`.
pub fn word(troubles: &[Trouble]) -> &'static str {
    match troubles.iter().map(|trouble| trouble.severity).max() {
        Some(Severity::Danger) => "danger",
        Some(Severity::Degraded) => "degraded",
        _ => "healthy",
    }
}

/// What they say, without notices.
pub fn problems(troubles: &[Trouble]) -> Vec<String> {
    troubles.iter().filter(|told| told.severity > Severity::Notice).map(|told| told.what.clone()).collect()
}

/// After what time repair begins, of the servers whose files are not made anew yet.
pub fn begins_in(servers: &[Server]) -> Option<TimeDelta> {
    servers.iter().filter_map(|server| server.given_up_in).min()
}

/// Why no copying is started.
pub fn pause(servers: &[Server], mass_down_share: f64) -> Option<String> {
    paused(servers.iter().map(|server| (server.health_of_copies(), server.admin_state)), mass_down_share)
}

fn trouble(code: Code, severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Trouble {
    Trouble { code: code.word().into(), severity, what: what.into(), remedy: remedy.into(), due_seconds: None }
}

fn due(trouble: Trouble, after: Option<TimeDelta>) -> Trouble {
    Trouble { due_seconds: after.map(|after| after.num_seconds().max(0) as u64), ..trouble }
}

/// What is the matter with the database, and so with everything.
fn database(facts: &Facts) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let reason = facts.mode_reason.as_deref().unwrap_or("no reason was noted");
    let restore = "`holdfast restore` brings the metadata back from the storage servers: start all of them first";
    let danger = |code, what: String, remedy: &str| trouble(code, Severity::Danger, what, remedy);
    if let Some(step) = &facts.restore_step {
        let what = format!("a restore is under way: {step}");
        troubles.push(danger(Code::Restoring, what, "wait for it: `holdfast restore --status` follows it"));
    }
    match &facts.database {
        Database::Unreachable(why) => troubles.push(danger(
            Code::DatabaseUnreachable,
            format!("the database does not answer, so nothing can be read or written: {why}"),
            "start the database again, or make it reachable for the name server; nothing else has to be done. If it is lost, \
             start the name server on a new, empty database (`--database`), and run `holdfast restore`",
        )),
        // Its sentence has both.
        Database::Damaged(sentence) if facts.restore_step.is_none() => {
            troubles.push(danger(Code::DatabaseDamaged, sentence.clone(), restore));
        }
        Database::Damaged(_) => {}
        Database::Well => match facts.mode {
            Mode::Normal => {}
            Mode::Restoring if facts.restore_step.is_some() => {}
            Mode::Restoring => troubles.push(danger(
                Code::WaitsForRestore,
                format!("the cluster is restoring: there is no metadata to serve ({reason})"),
                "start all storage servers, then `holdfast restore`; `holdfast restore --status` shows how far it is",
            )),
            _ if reason.contains("damaged") => {
                troubles.push(danger(Code::DatabaseDamaged, format!("the cluster is read_only: {reason}"), restore));
            }
            _ if reason.contains("set back") || reason.contains("lost changes") => troubles.push(danger(
                Code::DatabaseSetBack,
                format!("the cluster is read_only, writes are refused and nothing is repaired: {reason}"),
                restore,
            )),
            mode => troubles.push(danger(
                Code::ReadOnly,
                format!("the cluster is {mode}, writes are refused and nothing is repaired: {reason}"),
                restore,
            )),
        },
    }
    troubles.extend(disk(facts));
    troubles
}

/// The room of the database.
fn disk(facts: &Facts) -> Option<Trouble> {
    let says_full = |failing: &&Failing| {
        ["no room left", "No space left", "disk is full"].iter().any(|sign| failing.error.contains(sign))
    };
    let (free, all) = facts.disk.unwrap_or((u64::MAX, u64::MAX));
    let failing = facts.failing.iter().find(says_full);
    // What storage servers have no room for is told by their names.
    let failing = failing.filter(|failing| facts.servers.iter().all(|server| !failing.error.contains(&server.name)));
    if facts.no_room.is_some() || failing.is_some() || free < DISK_FULL_BYTES {
        let why = facts.no_room.as_deref().unwrap_or("the database has no room left");
        return Some(trouble(
            Code::DatabaseFull,
            Severity::Danger,
            format!("writes are refused: {why}"),
            "make room on the disk of the database, or make it larger; the name server goes on by itself",
        ));
    }
    (free < DISK_LOW_BYTES && free < all / 20).then(|| {
        trouble(
            Code::DatabaseDiskLow,
            Severity::Degraded,
            format!("the disk of the database is nearly full: {} of {} are free", bytes(free), bytes(all)),
            "make room on the disk of the database, or make it larger; when it is full, writes are refused",
        )
    })
}

/// How many copies of one file can go to these servers.
fn places<'s>(servers: impl Iterator<Item = &'s Server>, allow_same_host: bool) -> u32 {
    let hosts: Vec<&str> = servers.map(|server| server.host.as_str()).collect();
    if allow_same_host { hosts.len() as u32 } else { hosts.into_iter().collect::<BTreeSet<_>>().len() as u32 }
}

fn takers(facts: &Facts) -> impl Iterator<Item = &Server> {
    facts.servers.iter().filter(|server| server.takes_files())
}

/// Whether writes are refused, and what ends that.
fn writes(facts: &Facts) -> Option<Trouble> {
    let (needed, live) = (facts.write_needs, places(takers(facts), facts.allow_same_host));
    let with_room = places(takers(facts).filter(|server| has_room(server.free_bytes, 0)), facts.allow_same_host);
    if with_room >= needed {
        return None;
    }
    if live >= needed {
        return Some(trouble(
            Code::StorageFull,
            Severity::Danger,
            format!("writes are refused: {with_room} storage servers have room, {needed} are needed"),
            "add a storage server, make disks larger, or remove files (`holdfast rm`); `holdfast df` shows the room",
        ));
    }
    let of = |pick: fn(&Server) -> bool| facts.servers.iter().filter(|server| pick(server)).collect::<Vec<_>>();
    let mut remedies = Vec::new();
    let away = of(|server| server.health == Health::Live && server.admin_state != AdminState::InService);
    let enough = away.iter().take((needed - live) as usize);
    let undrain: Vec<String> = enough.map(|server| format!("`holdfast undrain {}`", server.name)).collect();
    if !undrain.is_empty() {
        remedies.push(undrain.join(" and "));
    }
    let gone = of(|server| server.health != Health::Live && server.admin_state == AdminState::InService);
    if !gone.is_empty() {
        remedies.push(start_again(gone.iter().map(|server| server.name.as_str())));
    }
    let syncing = of(|server| server.health == Health::Live && server.syncing);
    if !syncing.is_empty() {
        remedies.push(format!("wait some seconds: the inventory of {} is being compared", names(&syncing)));
    }
    let sick = of(|server| server.health == Health::Live && (server.trouble.is_some() || server.alarmed));
    if !sick.is_empty() {
        remedies.push(format!("see below what {} lack", names(&sick)));
    }
    if places(facts.servers.iter(), facts.allow_same_host) < needed || remedies.is_empty() {
        remedies.push("start more storage servers, each on a machine of its own".into());
    }
    let on_hosts = if facts.allow_same_host { "" } else { " on hosts of their own" };
    // Servers that have come and were taken out or went down are no matter of age.
    let has_fallen = facts.servers.iter().any(|server| server.health == Health::Down) || !away.is_empty();
    let young = facts.age < YOUNG && !has_fallen;
    let what = match young {
        true => format!("the cluster is new: {live} storage servers have come so far, a write needs {needed}"),
        false => format!("writes are refused: {live} storage servers take files{on_hosts}, {needed} are needed"),
    };
    let severity = if young { Severity::Notice } else { Severity::Danger };
    Some(trouble(Code::WritesRefused, severity, what, remedies.join("; or ")))
}

fn names(servers: &[&Server]) -> String {
    servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// How servers are started.
fn start_again<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    format!(
        "start {} again (`systemctl start holdfast-storage-server` on its machine; `holdfast up` where that started it)",
        names.join(", ")
    )
}

/// Copies that are missing, and what becomes of that.
fn copies(facts: &Facts, counted: &Counted) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let begins = begins_in(&facts.servers);
    let down: Vec<&Server> = facts.servers.iter().filter(|server| server.health == Health::Down).collect();
    for row in &counted.short {
        let objects = if row.copies == 0 { row.objects.saturating_sub(counted.lost) } else { row.objects };
        let many = count(objects, "object");
        let (code, severity, what) = match row.copies {
            0 if objects == 0 => continue,
            0 => {
                let what = format!("{many} cannot be read: no server that answers has a copy");
                (Code::Unreadable, Severity::Danger, what)
            }
            1 => (Code::SingleCopy, Severity::Danger, format!("{many} hang on a single copy")),
            copies => (Code::ShortOfCopies, Severity::Degraded, format!("{many} have {copies} copies and want more")),
        };
        if row.copies == 0 && !down.is_empty() {
            let remedy =
                format!("{}: what they have counts at once", start_again(down.iter().map(|one| one.name.as_str())));
            troubles.push(trouble(code, severity, what, remedy));
        } else {
            let what = format!("{what} ({})", bytes(row.bytes));
            let told = trouble(code, severity, what, repair_words(facts, counted, row, begins));
            troubles.push(due(told, begins.filter(|_| counted.in_flight == 0)));
        }
    }
    if counted.lost > 0 {
        let named: Vec<&str> = counted.lost_labels.iter().take(LOST_NAMED_MAX).map(String::as_str).collect();
        let which = if named.is_empty() { String::new() } else { format!(", for instance {}", named.join(", ")) };
        troubles.push(trouble(
            Code::Lost,
            Severity::Danger,
            format!("no copy is left of {}{which}", count(counted.lost, "object")),
            "`holdfast events --kind last_copy_corrupt` says what happened and where the bytes were put aside; send the files \
             again (`holdfast import`, `holdfast push`), or remove them (`holdfast rm`); `holdfast fsck` names all of them",
        ));
    }
    if let Some(why) = pause(&facts.servers, facts.mass_down_share) {
        let dead = down.iter().filter(|server| server.admin_state == AdminState::InService);
        let drains: Vec<String> = dead.map(|server| format!("`holdfast drain {}`", server.name)).collect();
        let remedy = format!(
            "{}; or, if they will not come back, {}",
            start_again(down.iter().map(|server| server.name.as_str())),
            if drains.is_empty() { "drain them".into() } else { drains.join(", ") }
        );
        troubles.push(trouble(Code::RepairPaused, Severity::Danger, why, remedy));
    }
    if let Some((objects, error)) = &counted.stuck {
        troubles.push(trouble(
            Code::RepairStuck,
            Severity::Degraded,
            format!("the repair of {} or more keeps failing: {error}", count(*objects, "object")),
            "they are listed with the reason of the last try; `holdfast why PATH` says what each waits for",
        ));
    }
    troubles
}

/// What repair does about objects that are short of copies.
fn repair_words(facts: &Facts, counted: &Counted, row: &CopiesCount, begins: Option<TimeDelta>) -> String {
    let takers = places(takers(facts).filter(|server| has_room(server.free_bytes, 0)), facts.allow_same_host);
    let waiting = format!("{}, {}", count(row.objects, "object"), bytes(row.bytes));
    if pause(&facts.servers, facts.mass_down_share).is_some() {
        return "repair is paused, see below".into();
    }
    if takers <= row.copies {
        let undrain = facts
            .servers
            .iter()
            .filter(|server| server.health == Health::Live && server.admin_state != AdminState::InService);
        let undrain: Vec<String> = undrain.map(|server| format!("; or `holdfast undrain {}`", server.name)).collect();
        let begins = begins.map(|left| format!(" (that begins in {})", span(left))).unwrap_or_default();
        return format!(
            "no storage server is left that may take the missing copies{begins}: bring back those that are down, or start \
             more, each on a machine of its own{}",
            undrain.concat()
        );
    }
    if counted.in_flight == 0
        && let Some(left) = begins
    {
        return format!("nothing, if the server comes back: else {waiting}, begin to be copied in {}", span(left));
    }
    match counted.done_in {
        Some(left) if counted.queued > 0 => format!(
            "nothing: {} ({}) are being copied, about {} left",
            count(counted.queued, "object"),
            bytes(counted.queued_bytes),
            span(left)
        ),
        _ => format!("nothing yet: {waiting}, are copied next; `holdfast why PATH` says what a file waits for"),
    }
}

fn drains(facts: &Facts) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let takers_here = places(takers(facts), facts.allow_same_host);
    let with_room = places(takers(facts).filter(|server| has_room(server.free_bytes, 0)), facts.allow_same_host);
    let paused = pause(&facts.servers, facts.mass_down_share);
    let wanted = facts.copies_wanted;
    let stuck = facts.counted.as_ref().ok().and_then(|counted| counted.stuck.as_ref());
    for server in facts.servers.iter().filter(|server| server.admin_state == AdminState::Draining) {
        let name = &server.name;
        if server.drain_left == 0 {
            let what = format!("{name} is drained: nothing is left to copy, its last deletions are carried out");
            troubles.push(trouble(Code::Draining, Severity::Notice, what, "nothing: that ends by itself"));
            continue;
        }
        let why = if facts.database != Database::Well || facts.mode != Mode::Normal {
            Some("nothing is copied now, see above".into())
        } else if takers_here < wanted {
            Some(format!("{takers_here} other storage servers take files, and its files want {wanted} copies"))
        } else if with_room < wanted {
            Some(format!("{with_room} other storage servers have room, and its files want {wanted} copies"))
        } else {
            paused.clone().or_else(|| stuck.map(|(_, error)| error.clone()))
        };
        let left = count(server.drain_left, "object");
        troubles.push(match why {
            Some(why) => trouble(
                Code::DrainStuck,
                Severity::Degraded,
                format!("the drain of {name} cannot go on, {left} left: {why}"),
                format!("start more storage servers, each on a machine of its own; or `holdfast undrain {name}`"),
            ),
            None => trouble(
                Code::Draining,
                Severity::Notice,
                format!("{name} is drained: {left} left"),
                format!("nothing: `holdfast servers` shows when it may be switched off; `holdfast undrain {name}` takes it back"),
            ),
        });
    }
    troubles
}

fn rebalancing(run: &Rebalancing) -> Trouble {
    let left = run.left_bytes.map(|left| format!(", about {} left", bytes(left))).unwrap_or_default();
    let time = run.done_in.map(|left| format!(", about {}", span(left))).unwrap_or_default();
    let note = if run.note.is_empty() { String::new() } else { format!("; {}", run.note) };
    let what = format!(
        "copies are moved until servers are filled within {} % of each other: {} moved{left}{time}{note}",
        run.within_percent,
        bytes(run.moved_bytes)
    );
    let remedy = "nothing: `holdfast rebalance --status` shows how far it is; `holdfast rebalance --stop` ends it";
    due(trouble(Code::Rebalancing, Severity::Notice, what, remedy), run.done_in)
}

fn others(facts: &Facts) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if let (Some((names, cluster)), Ok(Counted { objects: 0, .. })) = (&facts.foreign, &facts.counted) {
        troubles.push(trouble(
            Code::ForeignServers,
            Severity::Danger,
            format!(
                "{} storage servers with the data of another cluster ({cluster}) ask to be taken, and this one is empty: {}",
                names.len(),
                names.join(", ")
            ),
            "if the database of that cluster was lost, `holdfast restore` brings its files back",
        ));
    }
    let works = facts.database == Database::Well && facts.mode == Mode::Normal;
    if let Some(counted) = facts.counted.as_ref().ok().filter(|_| works) {
        troubles.extend(journal(facts, counted));
        if counted.deletions > DELETIONS_ALARM || counted.deletions > 0 && counted.deletions_age > DELETIONS_AGE_ALARM {
            troubles.push(trouble(
                Code::DeletionsWait,
                Severity::Notice,
                format!(
                    "{} wait to be carried out, the oldest for {}",
                    count(counted.deletions, "deletion"),
                    span(counted.deletions_age)
                ),
                "nothing: they go on by themselves; those of a server that is away wait for it",
            ));
        }
    }
    if let Some(ago) = facts.counts_mended.filter(|_| works) {
        troubles.push(trouble(
            Code::CountsMended,
            Severity::Notice,
            format!("numbers of this report were wrong until {} ago, and have been put right", span(ago)),
            "nothing for the files, which are not concerned; `holdfast events --kind counts_mended` has the numbers. If nobody has \
             written to the database by hand, it is an error of Holdfast's: tell its makers",
        ));
    }
    if let Some(since) = facts.leaderless.filter(|_| works) {
        troubles.push(trouble(
            Code::NobodyActs,
            Severity::Degraded,
            format!("no name server has acted for {}: nothing is checked, repaired or deleted", span(since)),
            "`holdfast actors` shows why under LeaseKeeper; start the name servers again",
        ));
    }
    troubles.extend(facts.certificate.as_ref().map(|what| {
        let what = format!("this name server: {what}");
        trouble(Code::CertificateEnds, Severity::Degraded, what, servers::RENEW)
    }));
    // What the database's trouble brings with it has been told.
    let told = facts.database != Database::Well || disk(facts).is_some_and(|told| told.severity == Severity::Danger);
    let (failures, since) = FAILURES_ALARM;
    let failing = facts.failing.iter().filter(|one| !told && one.failures >= failures && one.since >= since);
    troubles.extend(failing.map(|one| {
        trouble(
            Code::ActorFails,
            Severity::Degraded,
            format!("{} has failed {} times in a row for {}: {}", one.actor, one.failures, span(one.since), one.error),
            "`holdfast actors` shows how it goes on, the name server's log the detail; it tries again by itself",
        )
    }));
    troubles.extend(facts.knocking.iter().map(|one| {
        trouble(
            Code::ServerRefused,
            if one.still { Severity::Degraded } else { Severity::Notice },
            format!("a storage server {} at {} announces itself and is not taken: {}", one.name, one.url, one.why),
            "do what the sentence says, or stop that server",
        )
    }));
    if !facts.strangers.is_empty() {
        troubles.push(trouble(
            Code::SecretRefused,
            Severity::Notice,
            format!("somebody announces a storage server with another secret, from {}", facts.strangers.join(", ")),
            "if it is one of this cluster's, give it the cluster's secret (`--cluster-secret-file`) and start it again",
        ));
    }
    troubles
}

fn journal(facts: &Facts, counted: &Counted) -> Option<Trouble> {
    let near = counted.journal_changes > JOURNAL_CHANGES_ALARM;
    if counted.journal_lag <= JOURNAL_LAG_ALARM && !near {
        return None;
    }
    let error =
        facts.failing.iter().find(|failing| failing.actor == "JournalKeeper").map(|failing| failing.error.clone());
    let sick = |server: &&Server| server.trouble.is_some() || server.health == Health::Suspect;
    let sick: Vec<&Server> = facts.servers.iter().filter(sick).collect();
    let because = match error {
        Some(error) => format!(", because of this: {error}"),
        None if !counted.journal_behind.is_empty() => format!(": {}", counted.journal_behind.join("; ")),
        None if sick.is_empty() => String::new(),
        None => format!(", perhaps because of {}", names(&sick)),
    };
    let refused = if near { "; writes are refused when it is a million" } else { "" };
    Some(trouble(
        Code::JournalBehind,
        if near { Severity::Danger } else { Severity::Degraded },
        format!(
            "changes of the last {} ({}) are in the database only, the copies of its journal are behind{because}{refused}",
            span(counted.journal_lag),
            count(counted.journal_changes, "change")
        ),
        "bring back the storage servers that are named, or start more; `holdfast actors` shows how it goes on under \
         JournalKeeper. Do not lose the database meanwhile",
    ))
}

/// `1 object`, `2 objects`, `1,234 copies`.
pub(super) fn count(count: u64, noun: &str) -> String {
    let digits = count.to_string();
    let mut number = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            number.push(',');
        }
        number.push(digit);
    }
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("{number} {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `21 s`, `4 min`, `3 h`, `5 days`.
pub fn span(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
