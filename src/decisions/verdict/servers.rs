//! What is the matter with single storage servers.

use chrono::TimeDelta;

use super::{Code, Server, YOUNG, count, due, span, start_again, trouble};
use crate::decisions::health::{is_apart, is_slow};
use crate::decisions::placement::has_room;
use crate::types::api::{AdminState, Health, Severity, Trouble};
use crate::types::storage_api::TroubleCode;

/// A server that came so often within [`RESTLESS_WINDOW`] is not counted on.
const RESTLESS_TIMES: usize = 4;
/// See [`RESTLESS_TIMES`].
const RESTLESS_WINDOW: TimeDelta = TimeDelta::hours(1);
/// One that is quiet for longer has come to rest, however short its runs were.
const RESTED_MIN: TimeDelta = TimeDelta::seconds(30);
/// So many corrupt copies on one server since yesterday are not chance.
const CORRUPT_ALARM: u64 = 10;
/// A disk that is full sooner than this is told; sooner than [`FULL_ALARM`], somebody should see to it.
const FULL_WITHIN: TimeDelta = TimeDelta::days(14);
/// See [`FULL_WITHIN`].
const FULL_ALARM: TimeDelta = TimeDelta::days(2);
/// What is done about certificates.
pub(super) const RENEW: &str = "make it anew where the authority is, `holdfast certs renew --dir certs HOST` with the host of \
                                its URL, and copy both files to it; servers take them without a restart";

/// The troubles of one server.
pub(super) fn judge(server: &Server) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    troubles.extend(health(server));
    troubles.extend(restless(server));
    if server.health == Health::Live {
        troubles.extend(condition(server));
        troubles.extend(room(server));
    }
    troubles.extend(corrupt(server));
    troubles
}

fn in_service(server: &Server) -> bool {
    server.admin_state == AdminState::InService
}

fn health(server: &Server) -> Option<Trouble> {
    let name = &server.name;
    let reason = server.reason.as_deref().unwrap_or("it was never checked");
    match server.health {
        Health::Down => {
            let severity = if in_service(server) { Severity::Degraded } else { Severity::Notice };
            let away = match server.admin_state {
                AdminState::InService => {
                    format!("`holdfast drain {name}`, and when it is drained `holdfast remove {name}`")
                }
                AdminState::Draining => format!("`holdfast remove {name}` when it is drained"),
                AdminState::Drained => format!("`holdfast remove {name}`"),
            };
            let what = format!("storage server {name} is down since {}: {reason}", span(server.since));
            let remedy = format!("{}; or, if it will not come back, {away}", start_again([name.as_str()].into_iter()));
            Some(due(trouble(Code::ServerDown, severity, what, remedy), server.given_up_in))
        }
        Health::Suspect => Some(trouble(
            Code::ServerSuspect,
            if server.age < YOUNG { Severity::Notice } else { Severity::Degraded },
            format!("storage server {name} is suspect: {reason}"),
            "nothing yet: it is down when it goes on missing its checks",
        )),
        Health::Live if server.syncing => Some(trouble(
            Code::ServerSyncing,
            Severity::Notice,
            format!(
                "storage server {name} is back, and its inventory is still being compared: copies that it lost count until \
                 they are found to be missing"
            ),
            "nothing: it gets new files when that is done",
        )),
        Health::Live => None,
    }
}

/// How often something happened, when it goes on happening: the time since the last is shorter than twice that between.
fn goes_on(ago: &[TimeDelta]) -> Option<usize> {
    let times = ago.iter().take_while(|ago| **ago <= RESTLESS_WINDOW).count();
    let (last, first) = (ago.first()?, ago.get(RESTLESS_TIMES - 1).filter(|_| times >= RESTLESS_TIMES)?);
    let between = (*first - *last) / (RESTLESS_TIMES as i32 - 1);
    (*last < RESTED_MIN.max(between * 2)).then_some(times)
}

fn restless(server: &Server) -> Option<Trouble> {
    let name = &server.name;
    if let Some(times) = goes_on(&server.starts) {
        return Some(trouble(
            Code::ServerRestarts,
            Severity::Degraded,
            format!("storage server {name} was started {times} times in the last hour, and does not stay"),
            "the end of its log says why it ended (`journalctl -u holdfast-storage-server`; `logs` of `holdfast up`)",
        ));
    }
    let times = goes_on(&server.downs)?;
    Some(trouble(
        Code::ServerFlaps,
        Severity::Degraded,
        format!("storage server {name} went down {times} times in the last hour"),
        format!("look at its network, its disk and its log; `holdfast events --server {name}` shows when it was"),
    ))
}

/// What a server that answers says of itself, or what was noticed.
fn condition(server: &Server) -> Vec<Trouble> {
    let name = &server.name;
    let mut troubles = Vec::new();
    let reason = server.reason.as_deref();
    if let Some(code) = server.trouble {
        let copies = match server.failing {
            true => "what it has can be read for now, and is copied elsewhere",
            false => "what it has is well",
        };
        let reason = reason.unwrap_or("it does not say why");
        let again = start_again([name.as_str()].into_iter());
        let (code, remedy) = match code {
            TroubleCode::ReadOnly => (
                Code::DiskReadOnly,
                format!(
                    "look at the disk (`dmesg`), check its file system and mount it again, then {again}; or `holdfast drain {name}`"
                ),
            ),
            TroubleCode::IoError | TroubleCode::Hung => (
                Code::DiskFails,
                format!(
                    "look at the disk (`dmesg`, `smartctl`); when it is well, {again}; else `holdfast drain {name}`"
                ),
            ),
            _ => (Code::CannotKeep, format!("put that right; it goes on by itself. Or `holdfast drain {name}`")),
        };
        let what = format!("storage server {name} cannot keep new files: {reason}; {copies}");
        let severity = if in_service(server) { Severity::Degraded } else { Severity::Notice };
        troubles.push(due(trouble(code, severity, what, remedy), server.given_up_in));
    } else if let Some(reason) = reason {
        troubles.push(trouble(
            Code::CertificateEnds,
            Severity::Degraded,
            format!("storage server {name}: {reason}"),
            RENEW,
        ));
    }
    if server.alarmed {
        troubles.push(trouble(
            Code::DiskNotTrusted,
            Severity::Degraded,
            format!(
                "storage server {name} found so many corrupt copies at once that it no longer trusts its disk or its memory; \
                 it gets no new files"
            ),
            format!("look at its hardware; if it is to be replaced, `holdfast drain {name}`; if it is well, stop it and {}",
                start_again([name.as_str()].into_iter())),
        ));
    }
    if is_slow(server.answer_ms) {
        troubles.push(trouble(
            Code::ServerSlow,
            Severity::Notice,
            format!("storage server {name} took {:.1} s to answer its last check", server.answer_ms as f64 / 1e3),
            "look at its load, its disk and its network, if it stays so",
        ));
    }
    troubles
}

fn room(server: &Server) -> Option<Trouble> {
    let name = &server.name;
    if !in_service(server) || server.capacity_bytes == 0 {
        return None;
    }
    if !has_room(server.free_bytes, 0) {
        return Some(trouble(
            Code::DiskFull,
            Severity::Degraded,
            format!("the disk of storage server {name} is full: it gets no new files"),
            "add a storage server, make its disk larger, or remove files (`holdfast rm`); `holdfast df` shows the room of all",
        ));
    }
    let left = server.full_in.filter(|left| *left < FULL_WITHIN)?;
    let told = trouble(
        Code::DiskFills,
        if left < FULL_ALARM { Severity::Degraded } else { Severity::Notice },
        format!("the disk of storage server {name} is full in {}, if it goes on as since yesterday", span(left)),
        "add a storage server, make its disk larger, or remove files; `holdfast df` shows the room of all",
    );
    Some(due(told, Some(left)))
}

fn corrupt(server: &Server) -> Option<Trouble> {
    let (name, copies) = (&server.name, server.corrupt_lately);
    if copies == 0 {
        return None;
    }
    let what = format!("{} on {name} were found corrupt since yesterday, and are replaced", count(copies, "copy"));
    let events = format!("`holdfast events --kind replica_corrupt --server {name}` names them");
    Some(match copies >= CORRUPT_ALARM && in_service(server) {
        true => trouble(
            Code::DiskCorrupts,
            Severity::Degraded,
            what,
            format!("replace the disk: `holdfast drain {name}`; {events}"),
        ),
        false => trouble(
            Code::CorruptCopies,
            Severity::Notice,
            what,
            format!("nothing, if it does not happen again; {events}"),
        ),
    })
}

/// Clocks that are wrong; when most are, it is the name server's.
pub(super) fn clocks(servers: &[Server]) -> Vec<Trouble> {
    let live: Vec<&Server> = servers.iter().filter(|server| server.health == Health::Live).collect();
    let apart: Vec<&&Server> = live.iter().filter(|server| is_apart(server.clock_ahead_ms)).collect();
    let set = "set the clock by a time service (`timedatectl set-ntp true`)";
    if apart.len() >= 2 && apart.len() == live.len() {
        let what = "the clocks of all storage servers differ from the cluster's time: that of the name server's or the \
                    database's machine may be wrong";
        return vec![trouble(Code::ClocksApart, Severity::Degraded, what, format!("{set} on those machines"))];
    }
    let told = |server: &&&Server| {
        let (by, side) = (server.clock_ahead_ms, if server.clock_ahead_ms > 0 { "ahead of" } else { "behind" });
        let what = format!(
            "the clock of storage server {} is {} {side} the cluster's time",
            server.name,
            span(TimeDelta::milliseconds(by.saturating_abs()))
        );
        trouble(Code::ClocksApart, Severity::Degraded, what, format!("{set} on its machine"))
    };
    apart.iter().map(told).collect()
}
