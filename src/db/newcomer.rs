//! A server that is new: its first event, and what is told of one that begins with an empty directory where another one is known.
//!
//! A storage server makes its identity when it starts on a directory that has none. When its disk is not mounted, that
//! is the mount point: a new identity at the url, or with the name, of one that the cluster knows. Nothing is lost by
//! that, and the copies of the old one are missing for as long as its directory is away; so whoever looks is told.

use std::collections::HashMap;

use diesel::prelude::*;

use super::change::Changes;
use super::error::Step;
use super::rows::{EventRow, ServerRow};
use super::schema::servers;
use super::{counts, dialect, events};
use crate::types::{EventKind, ServerId};

/// Servers that are named; more of one name are a mistake of its own.
const NAMED_MAX: i64 = 3;

/// Tells of a server that is new to the cluster, and when another one has its url or its name.
pub fn tell(changes: &mut Changes<'_>, new: &ServerRow) -> Step<()> {
    let known: Vec<ServerRow> = servers::table
        .filter(servers::id.ne(new.id).and(servers::url.eq(&new.url).or(servers::name.eq(&new.name))))
        .order((servers::url.ne(&new.url), servers::id))
        .limit(NAMED_MAX)
        .select(ServerRow::as_select())
        .load(changes.connection)?;
    let mut happened = Vec::with_capacity(known.len() + 1);
    let joined = format!("{} ({}) has joined the cluster, at {}", new.name, ServerId(new.id), new.url);
    happened.push(EventRow { server: Some(new.id), ..events::row(changes.now, EventKind::ServerJoined, joined) });
    let listed = if known.is_empty() { HashMap::new() } else { counts::listed(changes.connection)? };
    for old in known {
        let copies = listed.get(&old.id).copied().unwrap_or(0) as i64;
        let detail = words(new, &old, copies);
        log::warn!("{detail}");
        let row = events::row(changes.now, EventKind::ServerNewIdentity, detail);
        happened.push(EventRow { server: Some(new.id), ..row });
    }
    dialect::insert_events(changes.connection, &happened)?;
    Ok(())
}

fn words(new: &ServerRow, old: &ServerRow, copies: i64) -> String {
    let (name, new_id, old_id) = (&new.name, ServerId(new.id), ServerId(old.id));
    let place = match old.url == new.url {
        true => format!("at the url of {} ({old_id}), {}: its data directory was empty", old.name, old.url),
        false => format!(
            "at {}, under the name of {} ({old_id}), which is known at {}: if it is another machine, give one of them \
             another name; else its data directory was empty",
            new.url, old.name, old.url
        ),
    };
    format!(
        "{name} announced itself with a new identity ({new_id}) {place}. Was its disk not mounted? The {copies} copies on \
         the old one, {old_id}, are not on the new one: they are replaced from other servers, or are there again when the \
         old directory is. If that is gone for good: `holdfast drain {old_id}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AdminState;

    #[test]
    fn the_old_and_the_new_identity_are_named() {
        let row = |id: i64, url: &str| ServerRow {
            id,
            identity: String::new(),
            name: "storage-3".into(),
            host: "h".into(),
            url: url.into(),
            public_url: url.into(),
            zone: String::new(),
            admin_state: AdminState::InService,
            registered: chrono::Utc::now().naive_utc(),
        };
        let same_url = words(&row(10, "http://a"), &row(11, "http://a"), 7);
        for part in
            ["at the url of storage-3", "000000000000000b", "000000000000000a", "7 copies", "directory was empty"]
        {
            assert!(same_url.contains(part), "{part} in {same_url}");
        }
        assert!(words(&row(10, "http://b"), &row(11, "http://a"), 7).contains("under the name of storage-3"));
    }
}
