//! What happened, as people ask for it: events and, for those who ask who or where, the changes of the namespace, merged by
//! time in pages.
//!
//! Each page costs about the same, whatever is asked. A filter is either answered by an index in the order of time, or a
//! bounded *window* of rows is looked through; then a page may have few events, or none, and says where to go on.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::NaiveDateTime;
use diesel::prelude::*;

use super::connection::AnyConnection;
use super::events;
use super::rows::{AuditRow, EventRow, utc};
use super::schema::{audit, events as stored, removed_servers, servers};
use crate::types::api::Event;
use crate::types::id::floor_at;
use crate::types::{DfsPath, EventId, EventKind, ObjectId, Result, ServerId};

/// Rows of a window.
const WINDOW_ROWS_MAX: usize = 5_000;
/// Rows of one path, or below it, that are read at once instead of looking for them in windows.
const FEW_ROWS_MAX: usize = 1_000;

/// Which events are wanted; all, unless something is set.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// About this object.
    pub object: Option<i64>,
    /// About this server.
    pub server: Option<i64>,
    /// Of this kind.
    pub kind: Option<EventKind>,
    /// What the token of this name asked for.
    pub by: Option<String>,
    /// At or below this path.
    pub path: Option<DfsPath>,
    /// Not before this time.
    pub since: Option<NaiveDateTime>,
    /// Before this time.
    pub until: Option<NaiveDateTime>,
    /// Each copy instead of their sums.
    pub each_copy: bool,
}

impl Filter {
    /// Whether single copies are wanted: what is about an object or a path is about one copy each.
    fn each(&self) -> bool {
        self.each_copy || self.object.is_some() || self.path.is_some()
    }

    /// Whether changes of the namespace are wanted.
    fn wants_changes(&self) -> bool {
        let asked = self.by.is_some() || self.path.is_some() || self.kind.is_some();
        asked && self.object.is_none() && self.server.is_none() && self.kind.is_none_or(EventKind::is_change)
    }

    /// Whether events are wanted.
    fn wants_events(&self) -> bool {
        !self.kind.is_some_and(EventKind::is_change)
    }

    /// The ids from and up to which it is looked for.
    fn ids(&self, before: Option<EventId>) -> (i64, i64) {
        let from = self.since.map_or(i64::MIN, |since| floor_at(utc(since)));
        let until = self.until.map_or(i64::MAX, |until| floor_at(utc(until)));
        (from, before.map_or(until, |before| before.0.min(until)))
    }

    fn takes_event(&self, row: &EventRow) -> bool {
        row.copies.is_none()
            && self.object.is_none_or(|object| row.object == Some(object))
            && self.server.is_none_or(|server| row.server == Some(server))
            && self.kind.is_none_or(|kind| row.kind == kind.word())
            && self.by.as_ref().is_none_or(|by| row.by_token.as_ref() == Some(by))
            && self.path.as_ref().is_none_or(|path| row.path.as_ref().is_some_and(|other| covers(path, other)))
    }

    fn takes_change(&self, row: &AuditRow) -> bool {
        let at =
            |path: &DfsPath| [Some(&row.path), row.other_path.as_ref()].into_iter().flatten().any(|p| covers(path, p));
        self.kind.is_none_or(|kind| row.kind == kind.word())
            && self.by.as_ref().is_none_or(|by| row.by_token.as_ref() == Some(by))
            && self.path.as_ref().is_none_or(at)
    }
}

/// Whether a path is this one or below it.
fn covers(path: &DfsPath, other: &str) -> bool {
    path.is_root() || other.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The first text below a path, and the first behind all of them: `/` comes right before `0`.
fn below(path: &DfsPath) -> (String, String) {
    (format!("{path}/"), format!("{path}0"))
}

/// What a source has of a page.
struct Part<R> {
    rows: Vec<R>,
    /// It has everything from this id on; `None` when it has all that there is.
    complete_from: Option<i64>,
}

impl<R> Part<R> {
    /// Rows that were asked for with a limit, in descending order.
    fn of_limited(rows: Vec<R>, limit: usize, id: impl Fn(&R) -> i64) -> Self {
        let complete_from = if rows.len() >= limit { rows.last().map(id) } else { None };
        Self { rows, complete_from }
    }

    fn retain(mut self, takes: impl Fn(&R) -> bool) -> Self {
        self.rows.retain(takes);
        self
    }
}

/// One page, the newest first, and where the next one begins.
pub fn page(
    connection: &mut AnyConnection,
    filter: &Filter,
    before: Option<EventId>,
    limit: usize,
) -> Result<(Vec<Event>, Option<EventId>)> {
    let ids = filter.ids(before);
    let none = Part { rows: Vec::new(), complete_from: None };
    let told = if filter.wants_events() { event_rows(connection, filter, ids, limit)? } else { none };
    let none = Part { rows: Vec::new(), complete_from: None };
    let changes = if filter.wants_changes() { change_rows(connection, filter, ids, limit)? } else { none };
    let complete_from = told.complete_from.max(changes.complete_from);
    let names = Names::load(connection, &told.rows)?;
    let mut merged: BTreeMap<i64, Event> = BTreeMap::new();
    merged.extend(told.rows.into_iter().map(|row| (row.id, names.event(row))));
    merged.extend(changes.rows.into_iter().map(|row| (row.id, change(row))));
    // What is older than what a source has looked through comes with the next page.
    let known = merged.into_iter().rev().filter(|(id, _)| complete_from.is_none_or(|from| *id >= from));
    let mut all: Vec<Event> = known.map(|(_, event)| event).collect();
    let next = if all.len() > limit {
        all.truncate(limit);
        all.last().map(|event| event.id)
    } else {
        complete_from.map(EventId)
    };
    Ok((all, next))
}

fn event_rows(
    connection: &mut AnyConnection,
    filter: &Filter,
    (from, before): (i64, i64),
    limit: usize,
) -> Result<Part<EventRow>> {
    use stored::dsl;
    let newest = || {
        dsl::events
            .filter(dsl::id.lt(before).and(dsl::id.ge(from)))
            .order(dsl::id.desc())
            .select(EventRow::as_select())
            .into_boxed()
    };
    if !filter.each() {
        // Sums and what stands by itself are few.
        let mut query = newest().filter(dsl::part_of.is_null()).limit(limit as i64);
        if let Some(server) = filter.server {
            query = query.filter(dsl::server.eq(server));
        }
        if let Some(kind) = filter.kind {
            query = query.filter(dsl::kind.eq(kind.word()));
        }
        if let Some(by) = &filter.by {
            query = query.filter(dsl::by_token.eq(by));
        }
        return Ok(Part::of_limited(query.load(connection)?, limit, |row: &EventRow| row.id));
    }
    let takes = |row: &EventRow| filter.takes_event(row);
    if let Some(object) = filter.object {
        let query = newest().filter(dsl::object.eq(object)).limit(WINDOW_ROWS_MAX as i64);
        return Ok(Part::of_limited(query.load(connection)?, WINDOW_ROWS_MAX, |row: &EventRow| row.id).retain(takes));
    }
    if let Some(path) = filter.path.as_ref().filter(|path| !path.is_root()) {
        let (first, end) = below(path);
        let most = FEW_ROWS_MAX as i64 + 1;
        let mut few: Vec<i64> =
            dsl::events.filter(dsl::path.eq(path.as_str())).limit(most).select(dsl::id).load(connection)?;
        let more = dsl::events.filter(dsl::path.ge(first).and(dsl::path.lt(end))).limit(most).select(dsl::id);
        few.extend(more.load::<i64>(connection)?);
        if few.len() <= FEW_ROWS_MAX {
            let rows = newest().filter(dsl::id.eq_any(few)).load(connection)?;
            return Ok(Part { rows, complete_from: None }.retain(takes));
        }
    }
    let rows = newest().limit(WINDOW_ROWS_MAX as i64).load(connection)?;
    Ok(Part::of_limited(rows, WINDOW_ROWS_MAX, |row: &EventRow| row.id).retain(takes))
}

fn change_rows(
    connection: &mut AnyConnection,
    filter: &Filter,
    (from, before): (i64, i64),
    limit: usize,
) -> Result<Part<AuditRow>> {
    use audit::dsl;
    let newest = || {
        dsl::audit
            .filter(dsl::id.lt(before).and(dsl::id.ge(from)))
            .order(dsl::id.desc())
            .select(AuditRow::as_select())
            .into_boxed()
    };
    let takes = |row: &AuditRow| filter.takes_change(row);
    if let Some(path) = filter.path.as_ref().filter(|path| !path.is_root()) {
        let (first, end) = below(path);
        let most = FEW_ROWS_MAX as i64 + 1;
        let mut few: Vec<i64> =
            dsl::audit.filter(dsl::path.eq(path.as_str())).limit(most).select(dsl::id).load(connection)?;
        let named = dsl::audit.filter(dsl::path.ge(&first).and(dsl::path.lt(&end))).limit(most).select(dsl::id);
        few.extend(named.load::<i64>(connection)?);
        let at = dsl::audit.filter(dsl::other_path.eq(path.as_str())).limit(most).select(dsl::id);
        few.extend(at.load::<i64>(connection)?);
        let to =
            dsl::audit.filter(dsl::other_path.ge(&first).and(dsl::other_path.lt(&end))).limit(most).select(dsl::id);
        few.extend(to.load::<i64>(connection)?);
        if few.len() <= FEW_ROWS_MAX {
            let rows = newest().filter(dsl::id.eq_any(few)).load(connection)?;
            return Ok(Part { rows, complete_from: None }.retain(takes));
        }
    }
    let alone = filter.path.is_none() && filter.kind.is_none();
    let most = if alone { limit } else { WINDOW_ROWS_MAX };
    let mut query = newest().limit(most as i64);
    if let Some(by) = &filter.by {
        query = query.filter(dsl::by_token.eq(by));
    }
    Ok(Part::of_limited(query.load(connection)?, most, |row: &AuditRow| row.id).retain(takes))
}

/// What ids mean to people.
struct Names {
    servers: HashMap<i64, String>,
    paths: HashMap<i64, String>,
}

impl Names {
    /// Of all servers, also of removed ones; and the paths of objects whose events have none.
    fn load(connection: &mut AnyConnection, rows: &[EventRow]) -> QueryResult<Self> {
        let wanted: HashSet<i64> = rows.iter().flat_map(|row| [row.server, row.cause_server]).flatten().collect();
        let wanted: Vec<i64> = wanted.into_iter().collect();
        let removed = removed_servers::table.filter(removed_servers::id.eq_any(&wanted));
        let mut names: HashMap<i64, String> = removed
            .select((removed_servers::id, removed_servers::name))
            .load::<(i64, String)>(connection)?
            .into_iter()
            .collect();
        let there = servers::table.filter(servers::id.eq_any(&wanted)).select((servers::id, servers::name));
        names.extend(there.load::<(i64, String)>(connection)?);
        let bare: Vec<i64> = rows.iter().filter(|row| row.path.is_none()).filter_map(|row| row.object).collect();
        Ok(Self { servers: names, paths: events::paths(connection, &bare)? })
    }

    fn event(&self, row: EventRow) -> Event {
        let name = |id: Option<i64>| self.servers.get(&id?).cloned();
        Event {
            id: EventId(row.id),
            time: utc(row.time),
            kind: row.kind,
            object: row.object.map(ObjectId),
            server: row.server.map(ServerId),
            detail: row.detail,
            server_name: name(row.server),
            path: row.path.or_else(|| self.paths.get(&row.object?).cloned()),
            other_path: None,
            by: row.by_token,
            version: None,
            cause: row.cause,
            cause_server: row.cause_server.map(ServerId),
            cause_server_name: name(row.cause_server),
            copies: row.copies.map(|copies| copies as u64),
            until: row.until.map(utc),
        }
    }
}

/// A change of the namespace as an event.
fn change(row: AuditRow) -> Event {
    let (path, by) = (&row.path, row.by_token.as_deref());
    let who = by.map_or_else(|| "a token whose name is not known".to_string(), str::to_string);
    let what = match (EventKind::of_word(&row.kind), row.other_path.as_deref()) {
        (Some(EventKind::Moved), Some(to)) => format!("{path} was moved to {to}"),
        (Some(EventKind::Copied), Some(to)) => format!("{path} was copied to {to}"),
        (Some(EventKind::FileWritten), _) => format!("{path} was written"),
        (Some(EventKind::FileReplaced), _) => format!("{path} was given new content"),
        (Some(EventKind::FileRemoved), _) => format!("{path} was removed"),
        (Some(EventKind::DirectoryMade), _) => format!("{path} was made"),
        (Some(EventKind::DirectoryRemoved), _) => format!("{path} was removed with all that was in it"),
        (Some(EventKind::Touched), _) => format!("{path} was touched"),
        _ => format!("{path} was changed"),
    };
    Event {
        id: EventId(row.id),
        time: utc(row.time),
        detail: format!("{what}, by {who} (change {})", row.version),
        kind: row.kind,
        path: Some(row.path),
        other_path: row.other_path,
        by: row.by_token,
        version: Some(row.version),
        object: None,
        server: None,
        server_name: None,
        cause: None,
        cause_server: None,
        cause_server_name: None,
        copies: None,
        until: None,
    }
}

/// Whether there are changes from before a time.
pub fn has_older_changes(connection: &mut AnyConnection, before: NaiveDateTime) -> QueryResult<bool> {
    let oldest: Option<i64> = audit::table.order(audit::id).select(audit::id).first(connection).optional()?;
    Ok(oldest.is_some_and(|id| id < floor_at(utc(before))))
}

/// Removes the oldest changes from before a time, at most `rows` of them. Answers how many.
pub fn trim_changes(connection: &mut AnyConnection, before: NaiveDateTime, rows: i64) -> QueryResult<usize> {
    let old = audit::table.filter(audit::id.lt(floor_at(utc(before)))).order(audit::id);
    let last: Option<i64> = old.limit(rows).select(audit::id).load(connection)?.pop();
    let Some(last) = last else { return Ok(0) };
    diesel::delete(audit::table.filter(audit::id.le(last))).execute(connection)
}

/// The name of the token that made a change, if it is known.
pub fn maker_of(connection: &mut AnyConnection, version: i64) -> QueryResult<Option<String>> {
    let maker: Option<Option<String>> =
        audit::table.filter(audit::version.eq(version)).select(audit::by_token).first(connection).optional()?;
    Ok(maker.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_covers_itself_and_what_is_below() {
        let path = |text: &str| DfsPath::parse(text).unwrap();
        for (at, other, want) in [
            ("/a", "/a", true),
            ("/a", "/a/b/c", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            ("/", "/x", true),
            ("/a", "/a0", false),
        ] {
            assert_eq!(covers(&path(at), other), want, "{at} {other}");
            let (first, end) = below(&path(at));
            let in_range = other == at || (first.as_str() <= other && other < end.as_str());
            assert!(at == "/" || in_range == want, "{at} {other}: the range of the index says the same");
        }
    }
}
