//! Entries as callers see them, with tickets to read their copies; and placements for new objects.

use std::collections::HashMap;

use chrono::TimeDelta;

use crate::actors::context::{Context, takes_files};
use crate::db::cluster::ClusterState;
use crate::db::listing::{Listed, ObjectView};
use crate::db::rows::{EntryRow, ReplicaRow, utc};
use crate::db::server::ServerView;
use crate::decisions::placement::{Candidate, Wanted, choose};
use crate::security::{ReadTicket, WriteTicket};
use crate::types::api::{AvailableQuery, Condition, Entry, Health, Kind, Placement, ReplicaLocation, Target};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Generation, ObjectId, Result, ServerId};

/// An entry without its copies.
pub fn entry(listed: &Listed, view: Option<&ObjectView>) -> Result<Entry> {
    let row = &listed.entry;
    Ok(Entry {
        path: listed.path.clone(),
        kind: if row.is_directory() { Kind::Directory } else { Kind::File },
        size: view.map(|view| view.object.size as u64),
        sha256: view.map(|view| view.object.digest()).transpose()?,
        object: row.object.map(ObjectId),
        version: row.version,
        created: utc(row.created),
        modified: utc(row.modified),
        copies_wanted: view.map_or(listed.copies_wanted, |view| view.object.copies_wanted) as u32,
        copies: view.map(ObjectView::healthy),
        replicas: Vec::new(),
    })
}

/// An entry with its copies and tickets to read them.
pub fn entry_with_locations(
    context: &Context,
    cluster: &ClusterState,
    listed: &Listed,
    view: Option<&ObjectView>,
) -> Result<Entry> {
    let mut entry = entry(listed, view)?;
    for (copy, server) in view.map(|view| view.copies.as_slice()).unwrap_or_default() {
        entry.replicas.push(location(context, cluster, &listed.entry, copy, server)?);
    }
    Ok(entry)
}

fn location(
    context: &Context,
    cluster: &ClusterState,
    entry: &EntryRow,
    copy: &ReplicaRow,
    server: &ServerView,
) -> Result<ReplicaLocation> {
    let readable = copy.state == ReplicaRow::PRESENT && server.health != Health::Down;
    let url = if readable { Some(read_url(context, cluster, entry, copy, server)?) } else { None };
    Ok(ReplicaLocation {
        server: ServerId(server.row.id),
        name: server.row.name.clone(),
        host: server.row.host.clone(),
        url,
        state: copy.state.clone(),
        health: server.health,
        since: Some(utc(copy.created)),
        verified: copy.verified.map(utc),
    })
}

/// Where a copy can be read, with a ticket.
fn read_url(
    context: &Context,
    cluster: &ClusterState,
    entry: &EntryRow,
    copy: &ReplicaRow,
    server: &ServerView,
) -> Result<String> {
    let ticket = ReadTicket {
        replica: ReplicaKey { object: ObjectId(copy.object), generation: Generation(copy.generation) },
        server: ServerId(server.row.id),
        name: entry.name.clone(),
        version: entry.version,
        expires: cluster.now + context.settings.read_ttl,
    };
    let text = context.signer.sign(Some(cluster.cluster), cluster.epoch, &ticket)?;
    Ok(format!("{}/file?ticket={text}", server.row.public_url))
}

/// What a write will replace, as the request says.
pub fn condition(query: &AvailableQuery) -> Condition {
    match (query.if_none_match, query.if_match) {
        (Some(true), _) => Condition::Absent,
        (_, Some(version)) => Condition::Version(version),
        _ => Condition::Any,
    }
}

/// Placements for new objects: nothing is written down, the ticket says it all.
pub async fn place(
    context: &Context,
    cluster: &ClusterState,
    query: &AvailableQuery,
    copies: u32,
    count: u32,
    by: &str,
) -> Result<Vec<Placement>> {
    let servers = context.servers().await?;
    let excluded: Vec<&str> = query.exclude.as_deref().unwrap_or_default().split(',').collect();
    let usable =
        |server: &&ServerView| takes_files(server) && !excluded.contains(&ServerId(server.row.id).to_string().as_str());
    let candidates: Vec<Candidate> = servers.iter().filter(usable).map(candidate).collect();
    let urls: HashMap<i64, &str> = servers.iter().map(|server| (server.row.id, server.row.url.as_str())).collect();
    let wanted = Wanted {
        copies,
        copies_min: context.settings.min_write_copies_of(copies),
        size: query.size.unwrap_or(0),
        allow_same_host: context.settings.allow_same_host,
    };
    let ttl: TimeDelta = context.settings.upload_ttl_of(query.size);
    let mut placements = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let chosen = choose(&candidates, &wanted, &mut rand::rng())?;
        let target = |server: ServerId| Target { server, url: urls.get(&server.0).copied().unwrap_or_default().into() };
        let ticket = WriteTicket {
            object: query.object.unwrap_or_else(ObjectId::generate),
            generation: Generation::generate(),
            path: query.path.clone(),
            size: query.size,
            targets: chosen.into_iter().map(target).collect(),
            min_write_copies: wanted.copies_min,
            condition: condition(query),
            make_parents: query.parents.unwrap_or(false),
            by: Some(by.into()),
            expires: cluster.now + ttl,
        };
        placements.push(Placement {
            object: ticket.object,
            generation: ticket.generation,
            ticket: context.signer.sign(Some(cluster.cluster), cluster.epoch, &ticket)?,
            servers: public(&ticket.targets, &servers),
            names: names(&ticket.targets, &servers),
            min_write_copies: ticket.min_write_copies,
            expires: ticket.expires,
        });
    }
    Ok(placements)
}

fn candidate(server: &ServerView) -> Candidate {
    Candidate {
        server: ServerId(server.row.id),
        host: server.row.host.clone(),
        zone: server.row.zone.clone(),
        free_bytes: server.checked.as_ref().map_or(0, |checked| checked.free_bytes as u64),
    }
}

fn names(targets: &[Target], servers: &[ServerView]) -> Vec<String> {
    let name = |id: ServerId| servers.iter().find(|server| server.row.id == id.0).map(|server| server.row.name.clone());
    targets.iter().map(|target| name(target.server).unwrap_or_default()).collect()
}

/// The targets as clients reach them; the ticket has the addresses for servers.
fn public(targets: &[Target], servers: &[ServerView]) -> Vec<Target> {
    let url =
        |id: ServerId| servers.iter().find(|server| server.row.id == id.0).map(|server| server.row.public_url.clone());
    targets
        .iter()
        .map(|target| Target { server: target.server, url: url(target.server).unwrap_or_else(|| target.url.clone()) })
        .collect()
}
