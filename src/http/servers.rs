//! Storage servers: registration, pending replicas, the list, what a person decides.

use std::collections::HashMap;

use actix_web::{HttpResponse, web};

use super::auth::{Bearer, StorageServer};
use super::registration;
use super::state::{App, Data};
use crate::actors::admission::admit;
use crate::client::url::announced_url;
use crate::db::change::Changes;
use crate::db::leaving::{self, DrainWait, Removal};
use crate::db::rows::RemovedServerRow;
use crate::db::{cluster, corrupt, counts, pending, removed, report, restores, server};
use crate::types::api::*;
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;
use crate::types::{Error, ErrorCode, Mode, Result, ServerId};
use crate::web::body::Json;

/// From a registration to the check that is brought forward for it.
const CHECK_SOON: std::time::Duration = std::time::Duration::from_millis(50);

/// A storage server announces itself.
#[utoipa::path(
    post, path = "/api/v1/register", tag = "storage servers", request_body = RegisterRequest,
    responses((status = 200, body = RegisterResponse))
)]
pub async fn register(sender: StorageServer, body: Json<RegisterRequest>, app: Data) -> Result<HttpResponse> {
    let StorageServer(identity) = sender;
    let body = body.into_inner();
    if identity != body.identity {
        return Err(Error::new(ErrorCode::Forbidden, "the request is signed by another identity than it announces"));
    }
    for url in [&body.url, &body.public_url] {
        announced_url(url)
            .map_err(|error| error.context(format!("the storage server {} (--url, --public-url)", body.name)))?;
    }
    registration::check(&body)?;
    let (app_here, request) = (app.clone(), body.clone());
    let answer = take(body, app).await;
    match &answer {
        Ok(_) => app_here.restores.announced.took(&request),
        Err(Refusal::OfServer(error)) => app_here.restores.announced.refuse(&request, error.message()),
        Err(Refusal::OfAll(_)) => {}
    }
    answer.map_err(|(Refusal::OfServer(error) | Refusal::OfAll(error))| error)
}

/// Why a storage server is not taken now.
enum Refusal {
    /// Nobody is, or it is this name server that cannot.
    OfAll(Error),
    /// For something that is the matter with it.
    OfServer(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::OfAll(error)
    }
}

async fn take(body: RegisterRequest, app: Data) -> Result<HttpResponse, Refusal> {
    // Also one that cannot be taken now may be needed for a restore.
    app.restores.announced.note(&body);
    app.context.db.soundness().require_for_servers()?;
    let (state, has_files) =
        app.context.db.read(|connection| Ok((cluster::state(connection)?, restores::has_files(connection)?))).await?;
    if state.mode == Mode::Restoring {
        return Err(Error::unavailable(cluster::refusal(state.mode_reason.as_deref())).into());
    }
    if body.cluster.is_some_and(|theirs| theirs != state.cluster) {
        if !has_files {
            return Err(Error::unavailable(
                "the name server has an empty cluster, and this storage server has the data of another one: if that \
                 cluster's database was lost, `holdfast restore` brings its files back",
            )
            .into());
        }
        app.restores.announced.forget(body.identity);
        return Err(Refusal::OfServer(Error::new(
            ErrorCode::Forbidden,
            format!(
                "this storage server has the data of another cluster than this name server's ({}). Keep its directory: the \
                 files of that cluster may have no other copy, and `holdfast restore` on an empty database brings them \
                 back. To join this cluster, start it with another directory",
                state.cluster
            ),
        )));
    }
    if body.epoch > state.epoch {
        let reason = format!(
            "the storage server {} has seen epoch {}, the database is in epoch {}: the database was set back to before \
             a restore; bring it forward with `holdfast restore`",
            body.name, body.epoch, state.epoch
        );
        let stored = reason.clone();
        app.context.db.write(move |connection| cluster::protect(connection, &state, &stored)).await?;
        return Err(Error::unavailable(reason).into());
    }
    refuse_removed(&app, &state, &body).await?;
    let known = admit(&app.context, &body).await.map_err(of_server)?;
    if state.mode == Mode::ReadOnly {
        // Reads go on, and a server that is what it was changes nothing that is journaled.
        let reason = cluster::refusal(state.mode_reason.as_deref());
        let write = move |connection: &mut _| server::register_again(connection, &body, known.as_ref(), &reason);
        let server = app.context.db.write(write).await?;
        app.check_servers_soon();
        let answer = RegisterResponse { server, cluster: state.cluster, epoch: state.epoch, time: state.now };
        return Ok(HttpResponse::Ok().json(answer));
    }
    let (server, _) = app.context.change(move |changes| server::register(changes, &body, known.as_ref())).await?;
    // Once it has read this answer, it passes the check.
    let soon = app.clone();
    actix_web::rt::spawn(async move {
        tokio::time::sleep(CHECK_SOON).await;
        soon.check_servers_soon();
    });
    Ok(HttpResponse::Ok().json(RegisterResponse {
        server,
        cluster: state.cluster,
        epoch: state.epoch,
        time: state.now,
    }))
}

/// Refuses a server that a person removed, and tells people of it. While the cluster takes no changes nothing is judged: a
/// database that was set back may need that server.
async fn refuse_removed(app: &App, state: &cluster::ClusterState, body: &RegisterRequest) -> Result<(), Refusal> {
    if state.mode != Mode::Normal {
        return Ok(());
    }
    let id = ServerId::of_identity(body.identity);
    let Some(row) = app.context.db.read(move |connection| Ok(removed::find(connection, id)?)).await? else {
        return Ok(());
    };
    let url = body.url.clone();
    let refused = app.context.db.write(move |connection| removed::note_return(connection, &row, &url)).await?;
    // It ends, and nobody waits for it.
    app.restores.announced.forget(body.identity);
    Err(Refusal::OfServer(refused))
}

/// What admission says is about the server, unless the database did not answer.
fn of_server(error: Error) -> Refusal {
    match error.code() {
        ErrorCode::Forbidden => Refusal::OfServer(error),
        ErrorCode::Unavailable if error.message().contains("--url") => Refusal::OfServer(error),
        _ => Refusal::OfAll(error),
    }
}

/// A storage server asks about its pending replicas.
#[utoipa::path(
    post, path = "/api/v1/pending", tag = "storage servers", request_body = PendingRequest,
    responses((status = 200, body = PendingResponse))
)]
pub async fn pending_fates(sender: StorageServer, body: Json<PendingRequest>, app: Data) -> Result<HttpResponse> {
    let StorageServer(identity) = sender;
    let PendingRequest { server, replicas } = body.into_inner();
    if ServerId::of_identity(identity) != server {
        return Err(Error::new(ErrorCode::Forbidden, "a storage server may only ask about its own replicas"));
    }
    if replicas.len() > PENDING_BATCH_ITEMS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("at most {PENDING_BATCH_ITEMS_MAX} replicas are asked about at once"),
        ));
    }
    // What a damaged database does not know may be wanted all the same.
    app.context.db.soundness().require_for_servers()?;
    let asked = replicas.clone();
    let known = app.context.db.read(move |connection| pending::known(connection, server, &asked)).await?;
    let undecided: Vec<PendingReplica> =
        replicas.iter().zip(&known).filter(|(_, fate)| fate.is_none()).map(|(replica, _)| replica.clone()).collect();
    let mut decided = Vec::new();
    if !undecided.is_empty() {
        let keep_row_for = app.context.settings.release_times().write_ticket;
        decided = app
            .context
            .db
            .write(move |connection| pending::decide(connection, server, &undecided, keep_row_for))
            .await?;
    }
    let mut decided = decided.into_iter();
    let fates = known.into_iter().map(|fate| fate.or_else(|| decided.next()).unwrap_or(PendingFate::Wait)).collect();
    Ok(HttpResponse::Ok().json(PendingResponse { fates }))
}

/// A storage server tells of copies of its own whose bytes are wrong or gone, and asks what to do with them.
#[utoipa::path(
    post, path = "/api/v1/corrupt", tag = "storage servers", request_body = CorruptRequest,
    responses((status = 200, body = CorruptResponse))
)]
pub async fn corrupt_fates(sender: StorageServer, body: Json<CorruptRequest>, app: Data) -> Result<HttpResponse> {
    let StorageServer(identity) = sender;
    let CorruptRequest { server, replicas, alarm, journal } = body.into_inner();
    if ServerId::of_identity(identity) != server {
        return Err(Error::new(ErrorCode::Forbidden, "a storage server may only report its own replicas"));
    }
    if replicas.len().max(journal.len()) > PENDING_BATCH_ITEMS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("at most {PENDING_BATCH_ITEMS_MAX} replicas are reported at once"),
        ));
    }
    let judge = move |connection: &mut _| {
        corrupt::note_journal(connection, server, &journal)?;
        corrupt::judge(connection, server, &replicas, alarm)
    };
    Ok(HttpResponse::Ok().json(CorruptResponse { fates: app.context.db.write(judge).await? }))
}

/// All storage servers with their health.
#[utoipa::path(
    get, path = "/api/v1/servers", tag = "operation", responses((status = 200, body = ServersResponse))
)]
pub async fn list(app: Data) -> Result<HttpResponse> {
    Ok(HttpResponse::Ok().json(ServersResponse { servers: server_infos(&app).await? }))
}

async fn server_infos(app: &App) -> Result<Vec<ServerInfo>> {
    let (views, listed, rate, mut waits) = app
        .context
        .db
        .read(|connection| {
            let rate = report::repair_rate(connection)?;
            let views = server::server_views(connection)?;
            let mut waits: HashMap<i64, DrainWait> = HashMap::new();
            for view in views.iter().filter(|view| view.admin_state == AdminState::Draining) {
                waits.insert(view.row.id, leaving::drain_wait(connection, view.row.id)?);
            }
            Ok((views, counts::listed(connection)?, rate, waits))
        })
        .await?;
    let left = |view: &server::ServerView| {
        let left = listed.get(&view.row.id).copied().unwrap_or(0);
        (view.admin_state == AdminState::Draining).then_some(left)
    };
    let mut info = |view: server::ServerView| ServerInfo {
        drain_deletions: waits.get(&view.row.id).map(|wait| wait.deletions as u64),
        drain_waits: waits.remove(&view.row.id).map_or_else(Vec::new, |wait| drain_sentences(&wait, view.health)),
        server: ServerId(view.row.id),
        replicas: listed.get(&view.row.id).copied().unwrap_or(0),
        health: view.health,
        reason: view.checked.as_ref().and_then(|checked| checked.reason.clone()),
        admin_state: view.admin_state,
        capacity_bytes: view.checked.as_ref().map_or(0, |checked| checked.capacity_bytes as u64),
        free_bytes: view.checked.as_ref().map_or(0, |checked| checked.free_bytes as u64),
        stored_bytes: view.checked.as_ref().map_or(0, |checked| checked.stored_bytes as u64),
        since: view.since().map(|time| time.and_utc()),
        scrubbed: view.checked.as_ref().and_then(|checked| checked.scrubbed).map(|time| time.and_utc()),
        clock_ahead_seconds: view.checked.as_ref().map_or(0.0, |checked| checked.clock_ahead_ms as f64 / 1e3),
        syncing: view.health != Health::Down && view.is_syncing(),
        scrub_alarm: view.is_alarmed(),
        trouble: view.trouble().filter(|_| view.health == Health::Live),
        drain_left: left(&view),
        drain_seconds_left: left(&view).filter(|_| rate > 0.0).map(|left| left as f64 / rate),
        last_seen: view.checked.as_ref().and_then(|checked| checked.last_seen).map(|time| time.and_utc()),
        name: view.row.name,
        host: view.row.host,
        url: view.row.url,
        public_url: view.row.public_url,
        zone: view.row.zone,
    };
    Ok(views.into_iter().map(&mut info).collect())
}

/// What a draining server waits for.
fn drain_sentences(wait: &DrainWait, health: Health) -> Vec<String> {
    let mut told = Vec::new();
    if let Some((why, objects)) = &wait.hindered {
        let more = if *objects as i64 >= wait.copies { String::new() } else { format!(" ({objects} of them or more)") };
        told.push(format!("for now the rest cannot be copied away: {why}{more}"));
    }
    if let Some(until) = wait.readable_until {
        let until = until.and_utc().format("%H:%M:%S UTC");
        told.push(format!("what it has given up is deleted when nobody may read it any more, at {until}"));
    } else if let Some(version) = wait.not_copied {
        told.push(format!("what it has given up is deleted when the journal's copies know of change {version}"));
    } else if wait.deletions > 0 && health != Health::Live {
        told.push("it does not answer, and still has to delete what it has given up".into());
    }
    told
}

/// Takes a server out of service: it gets no new files. Refused when writes or copies would be short of servers, unless
/// `force=true`.
#[utoipa::path(
    post, path = "/api/v1/servers/{id}/drain", tag = "operation",
    params(("id" = String, Path, description = "id or name"), LeaveQuery), responses((status = 200, body = ServerInfo))
)]
pub async fn drain(
    bearer: Bearer,
    id: web::Path<String>,
    query: web::Query<LeaveQuery>,
    app: Data,
) -> Result<HttpResponse> {
    let server = named(&app, id.into_inner()).await?;
    let (by, rules, force) = (bearer.name().to_string(), app.context.settings.leaving(), query.force);
    let drain = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        leaving::drain(changes, server, rules, force)
    };
    app.context.change(drain).await?;
    app.context.fresh_servers().await?;
    info_of(&app, server).await
}

/// Puts a server back into service; lets one that was removed come back.
#[utoipa::path(
    post, path = "/api/v1/servers/{id}/undrain", tag = "operation",
    params(("id" = String, Path, description = "id or name")), responses((status = 200, body = ServerInfo))
)]
pub async fn undrain(bearer: Bearer, id: web::Path<String>, app: Data) -> Result<HttpResponse> {
    let (text, by) = (id.into_inner(), bearer.name().to_string());
    let server = match named(&app, text.clone()).await {
        Ok(server) => server,
        Err(error) if error.code() == ErrorCode::NotFound => {
            let row = app.context.db.read(move |connection| removed::resolve(connection, &text)).await?;
            return readmit(&app, row.ok_or(error)?, by).await;
        }
        Err(error) => return Err(error),
    };
    let undrain = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        leaving::undrain(changes, server)
    };
    app.context.change(undrain).await?;
    app.context.fresh_servers().await?;
    info_of(&app, server).await
}

/// It is no server of the cluster before it announces itself, so what is answered is what is known of it.
async fn readmit(app: &App, row: RemovedServerRow, by: String) -> Result<HttpResponse> {
    let info = ServerInfo {
        server: ServerId(row.id),
        name: row.name.clone(),
        host: String::new(),
        url: row.url.clone(),
        public_url: String::new(),
        zone: String::new(),
        health: Health::Down,
        reason: Some("it was removed, and is taken again when its daemon starts".into()),
        admin_state: AdminState::InService,
        capacity_bytes: 0,
        free_bytes: 0,
        stored_bytes: 0,
        replicas: 0,
        last_seen: None,
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
    };
    let readmit = move |changes: &mut Changes<'_>| {
        changes.asked_by(Some(by));
        removed::readmit(changes, &row)
    };
    app.context.change(readmit).await?;
    Ok(HttpResponse::Ok().json(info))
}

async fn named(app: &App, text: String) -> Result<ServerId> {
    app.context.db.read(move |connection| server::resolve(connection, &text)).await
}

async fn info_of(app: &App, server: ServerId) -> Result<HttpResponse> {
    let info = server_infos(app).await?.into_iter().find(|info| info.server == server);
    info.map(|info| HttpResponse::Ok().json(info))
        .ok_or_else(|| Error::not_found(format!("no storage server has the id {server}")))
}

/// Removes a server that holds no replicas and does not run; with `force=true` also another one, with its copies. Should it
/// start again, it is refused.
#[utoipa::path(
    post, path = "/api/v1/servers/{id}/remove", tag = "operation",
    params(("id" = String, Path, description = "id or name"), LeaveQuery), responses((status = 200, body = ServerInfo))
)]
pub async fn remove(
    bearer: Bearer,
    id: web::Path<String>,
    query: web::Query<LeaveQuery>,
    app: Data,
) -> Result<HttpResponse> {
    let server = named(&app, id.into_inner()).await?;
    let (rules, force) = (app.context.settings.leaving(), query.force);
    let last_look = info_of(&app, server).await?;
    loop {
        let by = bearer.name().to_string();
        let remove = move |changes: &mut Changes<'_>| {
            changes.asked_by(Some(by));
            leaving::remove(changes, server, rules, force)
        };
        let (removal, _) = app.context.change(remove).await?;
        if removal == Removal::Done {
            break;
        }
        // A caller that goes away leaves a server that drains, with fewer copies; asking again goes on.
        loop {
            let by = bearer.name().to_string();
            let give_up = move |connection: &mut _| leaving::give_up_copies(connection, server, Some(&by));
            if app.context.db.write(give_up).await? == 0 {
                break;
            }
        }
    }
    app.context.fresh_servers().await?;
    Ok(last_look)
}
