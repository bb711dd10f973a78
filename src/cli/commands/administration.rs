//! `drain`, `undrain`, `remove`, `setrep`, `token`.

use crate::cli::args::{ServerArgs, SetrepArgs, TokenCommand};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::output::{human_count, human_time_or};
use crate::types::api::{AdminState, Role, ServerInfo, SetrepRequest, TokenRequest};
use crate::types::{DfsPath, Error, Result};

/// `holdfast drain`, `undrain` and `remove`; `action` is the endpoint's last name.
pub(crate) async fn server(context: &Context, args: &ServerArgs, action: &str) -> Result<Exit> {
    let names = context.cluster()?.names;
    let servers = names.servers().await?.servers;
    let server = named(&servers, &args.server)?;
    let answer = names.server_action(server.server, action).await?;
    let mut output = context.output();
    if context.json() {
        output.json(&answer)?;
        output.flush()?;
    } else if !context.args.quiet {
        super::hint(&match (action, answer.admin_state) {
            ("remove", _) => format!("{} is removed", answer.name),
            (_, AdminState::InService) => format!("{} is in service", answer.name),
            (_, AdminState::Draining) => {
                format!("{} gets no new files from now on; `holdfast undrain` takes that back", answer.name)
            }
            (_, AdminState::Drained) => format!("{} is drained", answer.name),
        });
    }
    Ok(Exit::Done)
}

/// Finds a server by its name or id.
fn named<'a>(servers: &'a [ServerInfo], typed: &str) -> Result<&'a ServerInfo> {
    let mut found = servers.iter().filter(|server| server.name == typed || server.server.to_string() == typed);
    match (found.next(), found.next()) {
        (Some(server), None) => Ok(server),
        (Some(_), Some(_)) => Err(Error::invalid(format!("several servers are called {typed:?}; give the id"))),
        _ => Err(Error::not_found(format!("no storage server is called {typed:?}; `holdfast servers` shows all"))),
    }
}

/// `holdfast setrep`.
pub(crate) async fn setrep(context: &Context, args: &SetrepArgs) -> Result<Exit> {
    let names = context.cluster()?.names;
    let path = context.resolve(&args.path)?;
    let answer = names.setrep(&SetrepRequest { path: path.clone(), copies: args.copies }).await?;
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
            "holdfast: only {servers} storage servers are in service: there will be {} copies when there are as many",
            args.copies
        ));
    }
    if !context.json() {
        super::hint(&match answer.files {
            0 => format!("{} copies of {path} are wanted; no file has to change", args.copies),
            files => format!(
                "{} copies of {path} are wanted; {} files follow in the background (`holdfast report` shows how far)",
                args.copies,
                human_count(files)
            ),
        });
    }
    Ok(Exit::Done)
}

/// `holdfast token`.
pub(crate) async fn token(context: &Context, command: &TokenCommand) -> Result<Exit> {
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
                    vec![token.name, role.into(), prefix, human_time_or(token.expires.as_ref(), "never")]
                });
                let rows = rows.collect();
                output.table(&["NAME", "ROLE", "PREFIX", "EXPIRES"], rows)?;
            }
        }
        TokenCommand::Revoke { name } => {
            names.token_revoke(name).await?;
        }
    }
    output.flush()?;
    Ok(Exit::Done)
}
