//! `servers` and `df`: the storage servers, and the room that there is.
//!
//! The table of servers fits a terminal of a hundred columns; what would make it wider (reasons, what a drain still has to
//! do, other URLs) stands below it, a line for each server.

use crate::cli::args::ServersArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_ago, human_ago_or, human_bytes, human_count, human_span, percent};
use crate::decisions::room::usable;
use crate::types::api::{AdminState, Health, ScrubServer, ServerInfo};
use crate::types::{DfsPath, Result};

/// A clock that is further off is told.
const CLOCK_TOLD_SECONDS: f64 = 30.0;

/// `holdfast servers`.
pub(crate) async fn servers(context: &Context, args: &ServersArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let answer = names.servers().await?;
    let scrubs = if args.long { names.scrub_status().await?.servers } else { Vec::new() };
    let mut output = context.output();
    if context.json() {
        let long = |server| Long { server, scrub: scrubs.iter().find(|one| one.server == server.server) };
        output.json(&answer.servers.iter().map(long).collect::<Vec<_>>())?;
    } else {
        print_servers(&mut output, &answer.servers)?;
        if args.long {
            output.line("")?;
            let rows = answer.servers.iter().map(|server| ages(server, &scrubs)).collect();
            output.table(&["NAME", "ALL CHECKED WITHIN", "LAST WHOLE PASS", "CORRUPT IN IT", ""], rows)?;
        }
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// What `--json` prints: with `--long` also how far its scrubbing is.
#[derive(serde::Serialize)]
struct Long<'s> {
    #[serde(flatten)]
    server: &'s ServerInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<&'s ScrubServer>,
}

/// How long ago a server has read what it has: the copy that was read least recently, and its last pass over everything.
fn ages(server: &ServerInfo, scrubs: &[ScrubServer]) -> Vec<String> {
    let scrub = scrubs.iter().find(|one| one.server == server.server);
    let status = scrub.and_then(|one| one.status.as_ref());
    let last = status.and_then(|status| status.last.as_ref());
    let now = match (status, scrub.and_then(|one| one.error.as_ref())) {
        (Some(status), _) if status.is_under_way() => {
            let percent = (status.done_bytes * 100).checked_div(status.total_bytes).unwrap_or(0).min(99);
            format!("reading now, {percent} %")
        }
        (None, Some(error)) => error.clone(),
        _ => String::new(),
    };
    vec![
        server.name.clone(),
        human_ago_or(server.scrubbed.as_ref(), "-"),
        human_ago_or(last.map(|last| &last.ended), "never"),
        last.map_or_else(|| "-".into(), |last| human_count(last.corrupt)),
        now,
    ]
}

fn print_servers(output: &mut Output, servers: &[ServerInfo]) -> Result<()> {
    let zones = servers.iter().any(|server| !server.zone.is_empty());
    let mut headings = vec!["NAME", "STATE", "COPIES", "FREE", "SEEN", "URL"];
    if zones {
        headings.insert(2, "ZONE");
    }
    let rows = servers.iter().map(|server| row(server, zones)).collect();
    output.table(&headings, rows)?;
    let notes: Vec<String> = servers.iter().flat_map(|server| notes(server, servers)).collect();
    if !notes.is_empty() {
        output.line("")?;
    }
    for note in notes {
        let note = output.name(&note).into_owned();
        output.line(note)?;
    }
    output.line("")?;
    output.line(totals(servers))?;
    let oldest = servers.iter().filter_map(|server| Some((server.scrubbed?, &server.name))).min();
    if let Some((time, name)) = oldest {
        let name = output.name(name).into_owned();
        output.line(format_args!("the copy that was checked least recently: {} ({name})", human_ago(&time)))?;
    }
    Ok(())
}

fn row(server: &ServerInfo, zones: bool) -> Vec<String> {
    let mut row = vec![
        server.name.clone(),
        state(server),
        human_count(server.replicas),
        format!("{} ({})", human_bytes(server.free_bytes), percent(server.free_bytes, server.capacity_bytes)),
        human_ago_or(server.last_seen.as_ref(), "never"),
        server.url.clone(),
    ];
    if zones {
        row.insert(2, server.zone.clone());
    }
    row
}

fn state(server: &ServerInfo) -> String {
    let health = match server.health {
        Health::Live => "live",
        Health::Suspect => "suspect",
        Health::Down => "down",
    };
    let also = match (server.admin_state, server.trouble) {
        _ if server.scrub_alarm => ", CORRUPTION ALARM",
        (AdminState::Draining, _) => ", draining",
        (AdminState::Drained, _) => ", drained",
        (_, Some(_)) => ", in trouble",
        _ if server.syncing => ", syncing",
        _ => "",
    };
    format!("{health}{also}")
}

/// What is to be said of one server besides.
fn notes(server: &ServerInfo, all: &[ServerInfo]) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(server.reason.clone());
    if server.admin_state == AdminState::Draining {
        notes.push(draining(server));
    }
    if server.clock_ahead_seconds.abs() > CLOCK_TOLD_SECONDS {
        let side = if server.clock_ahead_seconds > 0.0 { "ahead of" } else { "behind" };
        notes.push(format!("its clock is {} {side} the cluster's time", human_span(server.clock_ahead_seconds.abs())));
    }
    if server.public_url != server.url && !server.public_url.is_empty() {
        notes.push(format!("clients reach it at {}", server.public_url));
    }
    if all.iter().filter(|other| other.name == server.name).count() > 1 {
        notes.push(format!("its id is {}, because another server has the same name", server.server));
    }
    notes.into_iter().map(|note| format!("{}: {note}", server.name)).collect()
}

fn totals(servers: &[ServerInfo]) -> String {
    let with = |health| servers.iter().filter(|server| server.health == health).count();
    let sum = |of: fn(&ServerInfo) -> u64| servers.iter().map(of).sum::<u64>();
    let (free, capacity) = (sum(|server| server.free_bytes), sum(|server| server.capacity_bytes));
    format!(
        "{} live, {} suspect, {} down; {} copies; {} of {} free ({})",
        with(Health::Live),
        with(Health::Suspect),
        with(Health::Down),
        human_count(sum(|server| server.replicas)),
        human_bytes(free),
        human_bytes(capacity),
        percent(free, capacity),
    )
}

/// How far a draining server is.
pub(super) fn draining(server: &ServerInfo) -> String {
    let mut text = "draining".to_string();
    if let Some(left) = server.drain_left {
        text.push_str(&format!(", {} left", human_count(left)));
    }
    if let Some(seconds) = server.drain_seconds_left.filter(|_| server.drain_left != Some(0)) {
        text.push_str(&format!(", about {}", human_span(seconds)));
    }
    if let Some(deletions) = server.drain_deletions.filter(|deletions| *deletions > 0) {
        text.push_str(&format!(", {} to delete", human_count(deletions)));
    }
    text
}

/// The room of the cluster.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
struct Room {
    /// Bytes of the file systems of all servers.
    capacity_bytes: u64,
    /// Bytes of the copies on them.
    holdfast_bytes: u64,
    /// Bytes that new copies may take, on servers that take files.
    free_bytes: u64,
    /// Copies of new files in the root directory.
    copies: u32,
    /// Bytes of new files that fit with so many copies.
    usable_bytes: u64,
}

impl Room {
    fn of(servers: &[ServerInfo], copies: u32) -> Self {
        let takes = |server: &&ServerInfo| {
            server.health == Health::Live
                && server.admin_state == AdminState::InService
                && !server.scrub_alarm
                && server.trouble.is_none()
        };
        let free: Vec<u64> = servers.iter().filter(takes).map(|server| server.free_bytes).collect();
        Self {
            capacity_bytes: servers.iter().map(|server| server.capacity_bytes).sum(),
            holdfast_bytes: servers.iter().map(|server| server.stored_bytes).sum(),
            free_bytes: free.iter().sum(),
            copies,
            usable_bytes: usable(&free, copies),
        }
    }
}

/// `holdfast df`.
pub(crate) async fn df(context: &Context) -> Result<Exit> {
    let names = context.cluster()?.names;
    let servers = names.servers().await?.servers;
    let room = Room::of(&servers, names.stat(&DfsPath::root()).await?.copies_wanted);
    let mut output = context.output();
    if context.json() {
        output.json(&room)?;
    } else {
        let row = |name: &str, capacity: u64, stored: u64, free: u64| {
            let used = capacity.saturating_sub(free);
            vec![
                name.to_string(),
                human_bytes(capacity),
                human_bytes(stored),
                human_bytes(free),
                percent(used, capacity),
            ]
        };
        let mut rows: Vec<Vec<String>> = servers
            .iter()
            .map(|server| row(&server.name, server.capacity_bytes, server.stored_bytes, server.free_bytes))
            .collect();
        rows.push(row(
            "all",
            room.capacity_bytes,
            room.holdfast_bytes,
            servers.iter().map(|server| server.free_bytes).sum(),
        ));
        output.table(&["SERVER", "CAPACITY", "HOLDFAST", "FREE", "USED"], rows)?;
        output.line("")?;
        output.line(format_args!(
            "New files in / have {} copies: {} of them fit.",
            room.copies,
            human_bytes(room.usable_bytes)
        ))?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;

    use crate::types::ServerId;
    use crate::types::storage_api::{ScrubResult, ScrubStatus};

    fn server(id: i64, name: &str) -> ServerInfo {
        ServerInfo {
            server: ServerId(id),
            name: name.into(),
            host: "h".into(),
            url: "http://store-17.lan:7401".into(),
            public_url: "http://store-17.lan:7401".into(),
            zone: "rack-a".into(),
            health: Health::Live,
            reason: None,
            admin_state: AdminState::InService,
            capacity_bytes: 1_000 << 30,
            free_bytes: 250 << 30,
            stored_bytes: 7,
            replicas: 1_234_567,
            last_seen: Some(Utc::now()),
            since: None,
            scrubbed: None,
            clock_ahead_seconds: 0.0,
            syncing: false,
            scrub_alarm: false,
            trouble: None,
            drain_left: None,
            drain_deletions: None,
            drain_waits: Vec::new(),
            drain_seconds_left: None,
        }
    }

    #[test]
    fn a_row_fits_a_hundred_columns_and_the_rest_stands_below() {
        let mut sick = server(1, "storage-17");
        (sick.health, sick.admin_state, sick.drain_left) = (Health::Down, AdminState::Draining, Some(624));
        sick.reason = Some("connection refused ".repeat(4));
        let row = row(&sick, true);
        let width: usize = row.iter().map(|cell| cell.len() + 2).sum();
        assert!(width <= 100 && row.contains(&"250.0 GiB (25%)".to_string()), "{width}: {row:?}");
        let below = notes(&sick, &[sick.clone()]).join("\n");
        assert!(below.contains("storage-17: connection refused") && below.contains("draining, 624 left"), "{below}");
        assert!(notes(&server(1, "a"), &[server(1, "a")]).is_empty());
        let twins = [server(1, "a"), server(2, "a")];
        assert!(notes(&twins[0], &twins)[0].contains("its id is 0000000000000001"));
        let totals = totals(&[sick, server(2, "b")]);
        assert!(totals.starts_with("1 live, 0 suspect, 1 down; 2,469,134 copies; 500.0 GiB of"), "{totals}");
    }

    #[test]
    fn the_age_of_a_scrub_is_that_of_the_oldest_copy_and_of_the_last_pass() {
        let ago = |days| Utc::now() - chrono::TimeDelta::days(days);
        let last = ScrubResult { asked_ms: 5, started: ago(3), ended: ago(2), copies: 9, bytes: 9, corrupt: 1_200 };
        let status = ScrubStatus { wanted_ms: 7, total_bytes: 10, done_bytes: 5, corrupt: 0, last: Some(last) };
        let one = ScrubServer { server: ServerId(1), name: "a".into(), status: Some(status), error: None };
        let mut shown = server(1, "a");
        shown.scrubbed = Some(ago(9));
        let row = ages(&shown, std::slice::from_ref(&one));
        assert_eq!(row[1..], [human_ago(&ago(9)), human_ago(&ago(2)), "1,200".into(), "reading now, 50 %".into()]);
        let silent = ScrubServer { status: None, error: Some("it is down".into()), ..one };
        assert_eq!(ages(&server(1, "a"), &[silent])[1..], ["-", "never", "-", "it is down"].map(String::from));
    }

    #[test]
    fn room_is_that_of_servers_that_take_files() {
        let mut leaving = server(3, "c");
        leaving.admin_state = AdminState::Draining;
        let room = Room::of(&[server(1, "a"), server(2, "b"), leaving], 2);
        assert_eq!((room.free_bytes, room.usable_bytes, room.holdfast_bytes), (500 << 30, 250 << 30, 21));
    }
}
