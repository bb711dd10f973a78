//! `events`: what happened, one line for each cause.
//!
//! The name server sums up what is about single copies by kind, cause and server. Here sums of one cause and about one
//! time become one line: a server that was lost and repaired is one, whatever went where.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::TimeDelta;

use crate::cli::args::EventsArgs;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_count, human_time};
use crate::client::NameServerClient;
use crate::types::api::{Event, EventsQuery};
use crate::types::{CauseWord, EventId, EventKind, Result, Time};

/// Events that are asked for at once.
const EVENTS_PAGE_ROWS: usize = 500;
/// Sums of one cause that are further apart are told apart.
const APART: TimeDelta = TimeDelta::minutes(10);
/// How often `--follow` looks.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
/// Pages that one look of `--follow` reads.
const FOLLOW_PAGES_MAX: usize = 20;

/// `holdfast events`.
pub(crate) async fn events(context: &Context, args: &EventsArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let path = args.path.as_deref().map(|typed| context.resolve(typed)).transpose()?;
    let query = EventsQuery {
        before: None,
        limit: None,
        object: args.object,
        server: args.server.clone(),
        kind: args.kind.map(|kind| kind.word().to_string()),
        by: args.by.clone(),
        path,
        since: args.since,
        until: args.until,
        each_copy: context.args.verbose > 0,
    };
    let mut output = context.output();
    let events = newest(&names, &query, args.limit).await?;
    if context.json() && !args.follow {
        output.json(&events)?;
    } else if !context.json() {
        print_lines(&mut output, &events)?;
    }
    output.flush()?;
    if args.follow { follow(context, &names, query, events, &mut output).await } else { Ok(Exit::Done) }
}

/// The newest events, the newest first: as many as make `lines` lines.
async fn newest(names: &NameServerClient, query: &EventsQuery, lines: usize) -> Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    let mut before = None;
    loop {
        let have = grouped(&events).len();
        if have >= lines {
            break;
        }
        let limit = Some((lines - have).min(EVENTS_PAGE_ROWS));
        let page = names.events(&EventsQuery { before, limit, ..query.clone() }).await?;
        events.extend(page.events);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(events)
}

/// Prints what comes, for ever. A sum is printed when it has stopped growing.
async fn follow(
    context: &Context,
    names: &NameServerClient,
    query: EventsQuery,
    before: Vec<Event>,
    output: &mut Output,
) -> Result<Exit> {
    let newest = before.iter().map(|event| event.id).max();
    let counts = |events: &[Event]| events.iter().map(|event| (event.id, event.copies)).collect::<HashMap<_, _>>();
    let mut told = counts(&before);
    let mut last_look = told.clone();
    loop {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        let seen = match look(names, &query, newest).await {
            Ok(seen) => seen,
            Err(error) if error.code().is_temporary() => continue,
            Err(error) => return Err(error),
        };
        let is_new = |event: &&Event| told.get(&event.id) != Some(&event.copies);
        let is_quiet = |event: &&Event| event.copies.is_none() || last_look.get(&event.id) == Some(&event.copies);
        let fresh: Vec<Event> = seen.iter().filter(is_new).filter(is_quiet).cloned().collect();
        last_look = counts(&seen);
        told.extend(counts(&fresh));
        if context.json() {
            for event in fresh.iter().rev() {
                let line = serde_json::to_string(event)
                    .map_err(|error| crate::types::Error::internal("cannot encode an event").with_source(error))?;
                output.line(line)?;
            }
        } else {
            print_lines(output, &fresh)?;
        }
        output.flush()?;
        // What is older than the last look cannot change any more.
        told.retain(|id, _| last_look.contains_key(id));
    }
}

/// What is newer than the newest that was there at first, and the sums that may still have been growing then.
async fn look(names: &NameServerClient, query: &EventsQuery, newest: Option<EventId>) -> Result<Vec<Event>> {
    let (mut seen, mut before): (Vec<Event>, Option<EventId>) = (Vec::new(), None);
    for _ in 0..FOLLOW_PAGES_MAX {
        let page = names.events(&EventsQuery { before, limit: Some(EVENTS_PAGE_ROWS), ..query.clone() }).await?;
        let reached = page.events.iter().any(|event| Some(event.id) <= newest);
        seen.extend(page.events);
        before = page.next;
        if before.is_none() || reached {
            break;
        }
    }
    Ok(seen)
}

/// Events of one line: one, or sums of one cause.
#[derive(Debug)]
struct Line<'e> {
    events: Vec<&'e Event>,
    from: Time,
    until: Time,
}

/// Puts events into lines, the oldest first.
fn grouped(events: &[Event]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut open: HashMap<(&str, Option<&str>, Option<&str>), usize> = HashMap::new();
    for event in events.iter().rev() {
        let until = event.until.unwrap_or(event.time);
        let cause = event.cause.as_deref().filter(|_| event.copies.is_some());
        let key = cause.map(|cause| (cause, cause_server(event), event.by.as_deref()));
        if let Some(index) = key.and_then(|key| open.get(&key))
            && event.time - lines[*index].until <= APART
        {
            let line = &mut lines[*index];
            line.until = line.until.max(until);
            line.events.push(event);
            continue;
        }
        if let Some(key) = key {
            open.insert(key, lines.len());
        }
        lines.push(Line { events: vec![event], from: event.time, until });
    }
    lines
}

fn print_lines(output: &mut Output, events: &[Event]) -> Result<()> {
    for line in grouped(events) {
        let (kind, text) = match line.events[..] {
            [event] if event.copies.is_none_or(|copies| copies == 1) => (event.kind.as_str(), sentence(event)),
            _ => (line.kind(), line.sum()),
        };
        let text = output.name(&text).into_owned();
        output.line(format_args!("{}  {kind:<20}  {text}", human_time(&line.from)))?;
    }
    Ok(())
}

/// Prints events one by one, the newest last.
pub(super) fn print_each<'a>(output: &mut Output, events: impl Iterator<Item = &'a Event>) -> Result<()> {
    for event in events {
        let text = output.name(&sentence(event)).into_owned();
        output.line(format_args!("{}  {:<20}  {text}", human_time(&event.time), event.kind))?;
    }
    Ok(())
}

/// The server that is the cause, as people know it.
fn cause_server(event: &Event) -> Option<&str> {
    event.cause_server_name.as_deref().or(event.cause_server.as_ref().map(|_| "a removed server"))
}

/// One event in full: its sentence, with the path, the server and the token where that does not name them.
fn sentence(event: &Event) -> String {
    let mut text = String::new();
    if let Some(path) = event.path.as_ref().filter(|path| !event.detail.contains(path.as_str())) {
        text.push_str(&format!("{path}: "));
    }
    text.push_str(&event.detail);
    let server = event.server_name.clone().or_else(|| event.server.map(|id| id.to_string()));
    if let Some(server) = server.filter(|server| !event.detail.contains(server.as_str())) {
        text.push_str(&format!(" (on {server})"));
    }
    if let Some(by) = event.by.as_ref().filter(|_| event.version.is_none()) {
        text.push_str(&format!(", by {by}"));
    }
    text
}

impl Line<'_> {
    /// The kind, if there is one of all.
    fn kind(&self) -> &str {
        let first = self.events[0].kind.as_str();
        if self.events.iter().all(|event| event.kind == first) { first } else { "copies" }
    }

    /// "after storage-2 went down: 304 copies made on storage-1 and storage-3, from 08:01:10 to 08:04:12".
    fn sum(&self) -> String {
        let mut counts: BTreeMap<(usize, &str), (u64, Vec<&str>)> = BTreeMap::new();
        for event in &self.events {
            let (order, _) = done(&event.kind);
            let (count, servers) = counts.entry((order, &event.kind)).or_default();
            *count += event.copies.unwrap_or(1);
            servers.extend(event.server_name.as_deref());
        }
        let count_of = |kind: EventKind| {
            let found = counts.iter().find(|((_, word), _)| *word == kind.word());
            found.map_or(0, |(_, (count, _))| *count)
        };
        // What is given up is deleted a moment later; one number for both is enough.
        let is_told_twice = count_of(EventKind::ReplicaDeleted) >= count_of(EventKind::ReplicaTrimmed);
        let parts: Vec<String> = counts
            .iter()
            .filter(|((_, kind), _)| !(*kind == EventKind::ReplicaTrimmed.word() && is_told_twice))
            .map(|((_, kind), (count, servers))| {
                let copies = if *count == 1 { "copy" } else { "copies" };
                format!("{} {copies} {} {}", human_count(*count), done(kind).1, listed(servers))
            })
            .collect();
        let until = self.until.with_timezone(&chrono::Local).format("%H:%M:%S");
        let from = self.from.with_timezone(&chrono::Local).format("%H:%M:%S");
        format!("{}: {}, from {from} to {until}", self.cause(), parts.join(", "))
    }

    fn cause(&self) -> String {
        let event = self.events[0];
        let server = cause_server(event).unwrap_or("a server");
        let by = event.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let word = event.cause.as_deref().and_then(CauseWord::of_word);
        match word {
            Some(CauseWord::Down) => format!("after {server} went down"),
            Some(CauseWord::Draining) => format!("for the drain of {server}"),
            Some(CauseWord::Short) => "for files that were short of copies".into(),
            Some(CauseWord::Spread) => "to spread copies better over hosts and zones".into(),
            Some(CauseWord::Rebalanced) => "to fill servers more evenly".into(),
            Some(CauseWord::Surplus) => "more copies than wanted".into(),
            Some(CauseWord::Removed) => format!("files removed{by}"),
            Some(CauseWord::Replaced) => format!("files given new content{by}"),
            Some(CauseWord::ServerRemoved) => format!("{server} was removed{by}"),
            Some(CauseWord::Returned) => format!("{server} came back"),
            Some(CauseWord::Outdated) => "outdated when their server came back".into(),
            Some(CauseWord::CopyFailed) => "transfers that failed or were interrupted".into(),
            Some(CauseWord::UploadFailed) => "uploads that were never committed".into(),
            Some(CauseWord::Unreferenced) => "no file referred to them (fsck --repair)".into(),
            Some(CauseWord::Corrupt) => "bytes that were wrong or gone (--verbose names the files)".into(),
            Some(CauseWord::Unknown) => "ordered by an older version, which wrote no reason down".into(),
            None => event.cause.clone().unwrap_or_else(|| "several".into()),
        }
    }
}

/// In which order kinds are told, and what was done to copies.
fn done(kind: &str) -> (usize, &'static str) {
    match EventKind::of_word(kind) {
        Some(EventKind::ReplicaCopied) => (0, "made on"),
        Some(EventKind::ReplicaAdopted) => (1, "counted again on"),
        Some(EventKind::ReplicaOutdated) => (2, "outdated on"),
        Some(EventKind::ReplicaMissing) => (3, "missing on"),
        Some(EventKind::ReplicaQuarantined) => (4, "put aside on"),
        Some(EventKind::ReplicaCorrupt) => (5, "found corrupt on"),
        Some(EventKind::ReplicaTrimmed) => (6, "given up on"),
        Some(EventKind::ReplicaDeleted) => (7, "deleted on"),
        _ => (8, "concerned on"),
    }
}

/// Names as one says them: "a, b and c".
fn listed(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [] => "a removed server".into(),
        [one] => one.into(),
        [ref first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ServerId;

    /// A sum, some seconds after the first.
    fn sum(at: i64, kind: EventKind, server: &str, cause: CauseWord, of: Option<&str>, copies: u64) -> Event {
        let time = chrono::DateTime::from_timestamp(1_700_000_000 + at, 0).unwrap();
        Event {
            id: EventId(at),
            time,
            kind: kind.word().into(),
            object: None,
            server: Some(ServerId(1)),
            detail: "a sentence".into(),
            server_name: Some(server.into()),
            path: Some("/d/f".into()),
            other_path: None,
            by: None,
            version: None,
            cause: Some(cause.word().into()),
            cause_server: of.map(|_| ServerId(2)),
            cause_server_name: of.map(String::from),
            copies: Some(copies),
            until: Some(time + TimeDelta::seconds(60)),
        }
    }

    #[test]
    fn a_cause_is_one_line_whatever_went_where() {
        use CauseWord::{Down, Draining, Surplus};
        use EventKind::{ReplicaCopied, ReplicaDeleted, ReplicaTrimmed};
        let down = EventKind::ServerDown;
        let alone = Event { copies: None, cause: None, ..sum(1, down, "s2", Surplus, None, 1) };
        let mut events = vec![
            alone,
            sum(10, ReplicaCopied, "s1", Down, Some("s2"), 150),
            sum(11, ReplicaCopied, "s3", Down, Some("s2"), 154),
            // Another cause in between.
            sum(12, ReplicaCopied, "s1", Draining, Some("s4"), 7),
            sum(13, ReplicaTrimmed, "s4", Draining, Some("s4"), 7),
            sum(15, ReplicaDeleted, "s4", Draining, Some("s4"), 7),
            sum(60, ReplicaCopied, "s1", Down, Some("s2"), 1_000),
            // Much later.
            sum(9_000, ReplicaCopied, "s1", Down, Some("s2"), 2),
        ];
        events.reverse();
        let lines = grouped(&events);
        assert_eq!(lines.iter().map(|line| line.events.len()).collect::<Vec<_>>(), [1, 3, 3, 1]);
        let text = lines[1].sum();
        assert!(text.starts_with("after s2 went down: 1,304 copies made on s1 and s3, from "), "{text}");
        let text = lines[2].sum();
        assert!(text.starts_with("for the drain of s4: 7 copies made on s1, 7 copies deleted on s4, from"), "{text}");
        assert_eq!((lines[1].kind(), lines[2].kind()), ("replica_copied", "copies"));
    }

    #[test]
    fn what_a_sentence_does_not_name_is_added() {
        let event = Event {
            copies: None,
            by: Some("alice".into()),
            ..sum(0, EventKind::ReplicaDeleted, "s1", CauseWord::Removed, None, 1)
        };
        assert_eq!(sentence(&event), "/d/f: a sentence (on s1), by alice");
        let event = Event { detail: "/d/f on s1 went".into(), by: None, ..event };
        assert_eq!(sentence(&event), "/d/f on s1 went");
        assert_eq!(
            (listed(&[]), listed(&["b", "a", "b"]), listed(&["c", "a", "b"])),
            ("a removed server".into(), "a and b".into(), "a, b and c".into())
        );
    }
}
