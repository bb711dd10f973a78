//! `why`: one file explained, by [`crate::decisions::why`].

use actix_web::{HttpResponse, web};

use super::auth::Bearer;
use super::files::stat_path;
use super::report::given_up_in;
use super::state::{App, Data};
use crate::actors::replication_manager::rules;
use crate::db::outbox;
use crate::db::queue;
use crate::db::rows::ReplicaRow;
use crate::db::timeline::{self, Filter};
use crate::db::why::{Explained, explained};
use crate::decisions::repair::{CopyFacts, Object, decide, paused};
use crate::decisions::why::{Facts, Named, Queued, explain};
use crate::types::api::*;
use crate::types::{Error, Mode, Result, ServerId};

/// Events that are shown.
const EVENTS_ROWS: usize = 50;

/// One file explained: where its copies are, whether it is in danger, what happened to it.
#[utoipa::path(
    get, path = "/api/v1/why", tag = "operation", params(PathQuery), responses((status = 200, body = Why))
)]
pub async fn why(bearer: Bearer, query: web::Query<PathQuery>, app: Data) -> Result<HttpResponse> {
    bearer.at(&query.path)?;
    let (entry, state) = stat_path(&app, &query.path).await?;
    let Some(object) = entry.object else {
        return Err(Error::invalid(format!("{} is a directory; ask about a file", query.path)));
    };
    let rules = rules(&app.context);
    let (mut events, known, waiting) = app
        .context
        .db
        .read(move |connection| {
            let filter = Filter { object: Some(object.0), ..Filter::default() };
            let (events, _) = timeline::page(connection, &filter, None, EVENTS_ROWS)?;
            Ok((events, explained(connection, object.0, &rules)?, outbox::waiting(connection, object.0)?))
        })
        .await?;
    if bearer.is_prefixed() {
        events = events.into_iter().map(Event::without_paths).collect();
    }
    let stopped = (state.mode != Mode::Normal)
        .then(|| crate::db::cluster::refusal(state.mode_reason.as_deref()))
        .or_else(|| app.context.db.soundness().trouble().map(|trouble| trouble.sentence.clone()));
    let mut findings = match known {
        Some(known) => findings(&app, &known, entry.copies.unwrap_or(0), stopped),
        None => vec!["the file was removed or overwritten a moment ago".into()],
    };
    let leaves = |(name, why): (String, crate::types::CauseWord)| {
        format!("a copy on {name} is to be deleted: {}", why.meaning())
    };
    findings.extend(waiting.into_iter().map(leaves));
    Ok(HttpResponse::Ok().json(Why { entry, findings, events }))
}

fn findings(app: &App, known: &Explained, readable: u32, stopped: Option<String>) -> Vec<String> {
    let settings = &app.context.settings;
    let object = Object { copies: known.copies_wanted, size: known.size, allow_same_host: settings.allow_same_host };
    let copy = |row: &ReplicaRow| {
        let server = known.servers.iter().find(|server| server.place.server.0 == row.server)?;
        Some(CopyFacts { server, copying: row.state == ReplicaRow::COPYING })
    };
    let copies: Vec<CopyFacts<'_>> = known.copies.iter().filter_map(copy).collect();
    let names: Vec<Named> = known
        .views
        .iter()
        .map(|view| Named {
            server: ServerId(view.row.id),
            name: view.row.name.clone(),
            reason: view.checked.as_ref().and_then(|checked| checked.reason.clone()),
            given_up_in: given_up_in(view, known.now, settings.repair_delay),
        })
        .collect();
    let healths = known.views.iter().map(|view| (view.health_of_copies(), view.admin_state));
    explain(&Facts {
        step: decide(&object, &copies, &known.servers, &mut rand::rng()),
        object,
        readable,
        copies,
        servers: &known.servers,
        names: &names,
        queued: known.queued.as_ref().map(|row| Queued {
            attempts: row.attempts,
            last_error: row.last_error.clone(),
            next_try_in: Some(row.next_attempt).filter(|at| *at < queue::waits()).map(|at| at - known.now),
        }),
        paused: stopped.or_else(|| paused(healths, settings.mass_down_share)),
    })
}
