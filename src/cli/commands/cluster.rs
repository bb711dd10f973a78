//! `servers`, `actors`: the cluster's state.

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{human_bytes, human_count, human_span, human_time_or};
use crate::types::Result;
use crate::types::api::{AdminState, Health, ServerInfo};

/// `holdfast servers`.
pub(crate) async fn servers(context: &Context) -> Result<Exit> {
    let answer = context.cluster()?.names.servers().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&answer.servers)?;
    } else {
        let headings =
            ["NAME", "ID", "STATE", "SERVICE", "FREE", "CAPACITY", "COPIES", "ZONE", "URL", "PUBLIC URL", "LAST SEEN"];
        output.table(&headings, answer.servers.iter().map(server_row).collect())?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

fn server_row(server: &ServerInfo) -> Vec<String> {
    let health = match server.health {
        Health::Live => "live",
        Health::Suspect => "suspect",
        Health::Down => "down",
    };
    let mut state = health.to_string();
    if server.scrub_alarm {
        state.push_str(", CORRUPTION ALARM");
    } else if server.syncing {
        state.push_str(", syncing");
    }
    if let Some(reason) = &server.reason {
        state.push_str(&format!(" ({reason})"));
    }
    let service = match server.admin_state {
        AdminState::InService => "in service".into(),
        AdminState::Draining => draining(server),
        AdminState::Drained => "drained".into(),
    };
    vec![
        server.name.clone(),
        server.server.to_string(),
        state,
        service,
        human_bytes(server.free_bytes),
        human_bytes(server.capacity_bytes),
        human_count(server.replicas),
        server.zone.clone(),
        server.url.clone(),
        server.public_url.clone(),
        human_time_or(server.last_seen.as_ref(), "never"),
    ]
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

/// `holdfast actors`.
pub(crate) async fn actors(context: &Context) -> Result<Exit> {
    let answer = context.cluster()?.names.actors().await?;
    let mut output = context.output();
    if context.json() {
        output.json(&answer.actors)?;
    } else {
        let rows = answer.actors.into_iter().map(|actor| {
            let took = actor.last_pass_seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.3} s"));
            let trouble = actor.last_panic.map(|panic| format!("panic: {panic}")).or(actor.last_error);
            vec![
                actor.name,
                actor.state,
                human_time_or(actor.last_pass.as_ref(), "never"),
                took,
                actor.restarts.to_string(),
                actor.last_report.unwrap_or_default(),
                trouble.unwrap_or_default(),
            ]
        });
        let rows = rows.collect();
        output.table(&["ACTOR", "STATE", "LAST PASS", "TOOK", "RESTARTS", "DID", "TROUBLE"], rows)?;
    }
    output.flush()?;
    Ok(Exit::Done)
}
