//! `drain`, `undrain`, `remove`, `setrep`, `token`.

use std::path::Path;
use std::time::Duration;

use super::servers::draining;
use crate::cli::args::{DrainArgs, RemoveArgs, ServerArgs, SetrepArgs, TokenCommand};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{Output, human_counted, human_time_and_ago};
use crate::cli::progress::StatusLine;
use crate::security::ClusterSecret;
use crate::types::api::{AdminState, Role, ServerInfo, SetrepRequest, TokenRequest};
use crate::types::{DfsPath, Error, ErrorCode, Result};

/// How often `drain --wait` looks.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// `holdfast drain`.
pub(crate) async fn drain(context: &Context, args: &DrainArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let mut info = names.server_order(&args.server.server, "drain", args.force).await?;
    if !args.wait {
        return told(context, &info, "drain");
    }
    let mut status = StatusLine::new(context.args.quiet);
    while info.admin_state == AdminState::Draining {
        let waits: String = info.drain_waits.iter().map(|wait| format!("; {wait}")).collect();
        match info.drain_left {
            Some(0) if waits.is_empty() => {
                status.show(&format!("{}: copied away; waiting until what it has is deleted", info.name));
            }
            _ => status.show(&format!("{}: {}{waits}", info.name, draining(&info))),
        }
        tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
        let all = names.servers().await?.servers;
        info = all
            .into_iter()
            .find(|server| server.server == info.server)
            .ok_or_else(|| Error::not_found(format!("{} was removed from the cluster meanwhile", info.name)))?;
    }
    drop(status);
    if info.admin_state == AdminState::InService {
        let message = format!("{} was put back into service meanwhile", info.name);
        return Err(Error::new(ErrorCode::PreconditionFailed, message));
    }
    told(context, &info, "drain")
}

/// `holdfast undrain`.
pub(crate) async fn undrain(context: &Context, args: &ServerArgs) -> Result<Exit> {
    let answer = context.cluster()?.names.server_order(&args.server, "undrain", false).await?;
    told(context, &answer, "undrain")
}

/// `holdfast remove`.
pub(crate) async fn remove(context: &Context, args: &RemoveArgs) -> Result<Exit> {
    let answer = context.cluster()?.names.server_order(&args.server.server, "remove", args.force).await?;
    told(context, &answer, "remove")
}

fn told(context: &Context, answer: &ServerInfo, action: &str) -> Result<Exit> {
    let mut output = context.output();
    if context.json() {
        output.json(answer)?;
        output.flush()?;
    } else if !context.args.quiet {
        let name = &answer.name;
        super::hint(&match (action, answer.admin_state) {
            ("remove", _) => {
                let id = answer.server;
                format!(
                    "{name} is removed; should its daemon start again, it is refused (`holdfast undrain {id}` takes it back)"
                )
            }
            ("undrain", _) if answer.last_seen.is_none() && answer.reason.is_some() => {
                format!("{name} may come back: it is in service when its daemon starts")
            }
            (_, AdminState::InService) => format!("{name} is in service"),
            (_, AdminState::Draining) => format!(
                "{name} gets no new files from now on, and its files are copied away: {}{}. `holdfast servers` shows how \
                 far that is; `holdfast undrain {name}` takes it back",
                draining(answer),
                answer.drain_waits.iter().map(|wait| format!("; {wait}")).collect::<String>()
            ),
            (_, AdminState::Drained) => format!("{name} is drained: stop its daemon, then `holdfast remove {name}`"),
        });
    }
    Ok(Exit::Done)
}

/// `holdfast setrep`.
pub(crate) async fn setrep(context: &Context, args: &SetrepArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let path = context.resolve(&args.path)?;
    let answer = names.setrep(&SetrepRequest { path: path.clone(), copies: args.copies, force: args.force }).await?;
    let mut output = context.output();
    if context.json() {
        output.json(&answer)?;
        output.flush()?;
    }
    if args.copies == 1 {
        super::hint("holdfast: with one copy a single dead disk loses the files, and nothing brings them back");
    }
    if context.args.quiet {
        return Ok(Exit::Done);
    }
    // A token for a part of the namespace may set this and not see the servers.
    let in_service = |server: &&ServerInfo| server.admin_state == AdminState::InService;
    let servers = names.servers().await.map_or(usize::MAX, |all| all.servers.iter().filter(in_service).count());
    if servers < args.copies as usize {
        super::hint(&format!(
            "holdfast: storage servers in service: {servers}; there will be {} when there are as many servers",
            human_counted(args.copies.into(), "copy")
        ));
    }
    if !context.json() {
        super::hint(&match answer.files {
            0 => format!("copies wanted of {path}: {}; no file has to change", args.copies),
            files => format!(
                "copies wanted of {path}: {}; {} {} in the background (`holdfast report` shows how far)",
                args.copies,
                human_counted(files, "file"),
                if files == 1 { "follows" } else { "follow" },
            ),
        });
    }
    Ok(Exit::Done)
}

/// `holdfast token first`. Asks no server.
pub(crate) fn first_token(cluster_secret_file: &Path) -> Result<Exit> {
    let mut output = Output::new();
    output.line(ClusterSecret::from_file(cluster_secret_file)?.superuser_token())?;
    output.flush()?;
    Ok(Exit::Done)
}

/// `holdfast token`.
pub(crate) async fn token(context: &Context, command: &TokenCommand) -> Result<Exit> {
    if let TokenCommand::First { cluster_secret_file } = command {
        return first_token(cluster_secret_file);
    }
    let names = context.cluster()?.names;
    let mut output = context.output();
    match command {
        TokenCommand::Create { name, role, prefix, ttl } => {
            let prefix = prefix.as_deref().map(|typed| DfsPath::root().resolve(typed)).transpose()?;
            let request = TokenRequest { name: name.clone(), role: *role, prefix, ttl_seconds: *ttl };
            let created = names.token_create(&request).await?;
            if context.json() {
                output.json(&created)?;
            } else {
                output.line(&created.token)?;
            }
        }
        // It was answered above.
        TokenCommand::First { .. } => {}
        TokenCommand::List => {
            let tokens = names.token_list().await?.tokens;
            if context.json() {
                output.json(&tokens)?;
            } else {
                let rows = tokens.into_iter().map(|token| {
                    let role = match token.role {
                        Role::Reader => "reader",
                        Role::Writer => "writer",
                        Role::Superuser => "superuser",
                    };
                    let prefix = token.prefix.unwrap_or_else(|| "/".into());
                    let expires = token.expires.as_ref().map_or_else(|| "never".into(), human_time_and_ago);
                    vec![token.name, role.into(), prefix, expires]
                });
                let rows = rows.collect();
                output.table(&["NAME", "ROLE", "PREFIX", "EXPIRES"], rows)?;
            }
        }
        TokenCommand::Revoke { name, force } => {
            names.token_revoke(name, *force).await?;
        }
    }
    output.flush()?;
    Ok(Exit::Done)
}
