//! Storage servers as they are seen now: what is known of each, with what the checks saw last.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::rows::*;
use super::schema::{server_health, servers};
use crate::decisions::health::copies_last;
use crate::types::api::{AdminState, Health};
use crate::types::storage_api::TroubleCode;

/// A server with its health.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// The server.
    pub row: ServerRow,
    /// What the checks saw last, if there was a check.
    pub checked: Option<ServerHealthRow>,
    /// Its health; `down` when it was never checked.
    pub health: Health,
    /// Its administrative state.
    pub admin_state: AdminState,
}

impl ServerView {
    /// Its inventory has not been compared with the metadata since it started or was down: it serves what the
    /// metadata lists, but gets nothing new, and its copies do not count when something is to be deleted.
    pub fn is_syncing(&self) -> bool {
        self.checked.as_ref().is_none_or(|checked| checked.synced_boot != checked.boot_id || checked.boot_id.is_empty())
    }

    /// It found so many corrupt copies at once that it no longer trusts its disk or its memory: it gets nothing new,
    /// and its copies do not count when something is to be deleted.
    pub fn is_alarmed(&self) -> bool {
        self.checked.as_ref().is_some_and(|checked| checked.scrub_alarm)
    }

    /// Why it cannot keep what it would be given, if it answers and says so.
    pub fn trouble(&self) -> Option<TroubleCode> {
        self.checked.as_ref()?.trouble.as_deref().map(TroubleCode::of_word)
    }

    /// It answers, and what it has is not to be counted on for long.
    pub fn is_failing(&self) -> bool {
        self.trouble().is_some_and(|code| !copies_last(code))
    }

    /// Whether it can be given anything to keep.
    pub fn can_keep(&self) -> bool {
        self.health == Health::Live && self.trouble().is_none()
    }

    /// Its health, as far as it is a matter of what is lost with it: a failing disk is as good as none.
    pub fn health_of_copies(&self) -> Health {
        if self.is_failing() { Health::Down } else { self.health }
    }

    /// Since when it has its trouble.
    pub fn troubled(&self) -> Option<chrono::NaiveDateTime> {
        self.checked.as_ref()?.troubled
    }

    /// Since when it has its health.
    pub fn since(&self) -> Option<chrono::NaiveDateTime> {
        self.checked.as_ref().map(|checked| checked.since)
    }
}

/// All servers, by name.
pub fn server_views(connection: &mut AnyConnection) -> QueryResult<Vec<ServerView>> {
    let rows: Vec<(ServerRow, Option<ServerHealthRow>)> = servers::table
        .left_join(server_health::table.on(server_health::server.eq(servers::id)))
        .order((servers::name, servers::id))
        .select((ServerRow::as_select(), Option::<ServerHealthRow>::as_select()))
        .load(connection)?;
    let view = |(row, checked): (ServerRow, Option<ServerHealthRow>)| ServerView {
        health: checked.as_ref().map_or(Health::Down, |checked| checked.health),
        admin_state: row.admin_state,
        row,
        checked,
    };
    Ok(rows.into_iter().map(view).collect())
}
