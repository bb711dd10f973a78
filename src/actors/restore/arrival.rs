//! Who takes part in a restore: the servers that have announced themselves, after those on their way had time to come.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::future::join_all;
use uuid::Uuid;

use super::members::{Member, Parts};
use super::run::Run;
use crate::actors::announced::cluster_to_restore;
use crate::db::branches::Staged;
use crate::db::rows::ServerRow;
use crate::db::server::ServerView;
use crate::db::{cluster, restores, server};
use crate::journal::SERVERS;
use crate::types::api::RegisterRequest;
use crate::types::storage_api::StorageStatus;
use crate::types::{AdminState, Error, ErrorCode, Result, ServerId};

/// How long a server may take to say who it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long storage servers that are known to belong to the cluster may take to announce themselves.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const ARRIVAL_POLL: Duration = Duration::from_millis(500);

impl Run {
    /// The servers that take part, after those that are on their way had time to come. Who is missing then is for the later
    /// steps to judge, which know more.
    pub(super) async fn arrived(&self) -> Result<Parts> {
        let deadline = Instant::now() + ARRIVAL_TIMEOUT;
        loop {
            let parts = self.parts().await;
            let complete = match &parts {
                Ok(parts) => self.refuse_absent(&parts.absent).and_then(|()| self.refuse_missing(&parts.members)),
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    Err(Error::unavailable(error.message().to_string()))
                }
                Err(_) => Ok(()),
            };
            let Err(missing) = complete else { return parts };
            if Instant::now() >= deadline {
                return parts;
            }
            self.shared.step(format!("waiting up to {ARRIVAL_TIMEOUT:?} for storage servers: {}", missing.message()));
            tokio::time::sleep(ARRIVAL_POLL).await;
        }
    }

    /// The servers that answer and belong to the cluster, and the names of those that do not.
    async fn parts(&self) -> Result<Parts> {
        let known = self.context.db.read(|connection| {
            let ours = (cluster::state(connection)?.cluster, !restores::has_files(connection)?);
            Ok((server::server_views(connection)?, ours))
        });
        let (known, (ours, ours_is_empty)) = match known.await {
            Ok(known) => known,
            // A damaged database does not tell; the servers themselves do.
            Err(_) if self.context.db.soundness().trouble().is_some() => (Vec::new(), (Uuid::nil(), false)),
            Err(error) => return Err(error),
        };
        let mut rows: HashMap<i64, (ServerRow, Option<Uuid>)> = HashMap::new();
        for ServerView { row, .. } in known {
            rows.insert(row.id, (row, Some(ours)));
        }
        for request in self.shared.announced.all() {
            let id = ServerId::of_identity(request.identity).0;
            let admin_state = rows.get(&id).map_or(AdminState::InService, |(row, _)| row.admin_state);
            let cluster = request.cluster;
            rows.insert(id, (row_of(request, admin_state), cluster));
        }
        let asked = rows.into_values().map(|(row, cluster)| async move {
            let status = self.ask(&row).await;
            (row, cluster, status)
        });
        let (mut members, mut absent): (Vec<Member>, Vec<(String, Option<Uuid>)>) = (Vec::new(), Vec::new());
        for (row, cluster, status) in join_all(asked).await {
            match status {
                Ok(status) if status.identity.to_string() == row.identity => {
                    members.push(Member { name: row.name.clone(), row, status });
                }
                _ if row.admin_state == AdminState::Drained => {}
                _ => absent.push((row.name, cluster)),
            }
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        if members.is_empty() {
            return Err(Error::unavailable(
                "no storage server has announced itself yet; start them, they come within seconds",
            ));
        }
        let clusters: Vec<(&str, Option<Uuid>)> =
            members.iter().map(|member| (member.name.as_str(), member.status.cluster)).collect();
        let cluster = cluster_to_restore(&clusters, ours, ours_is_empty)?;
        // What an empty cluster knows belongs to it alone.
        absent.retain(|(_, theirs)| cluster == ours || *theirs != Some(ours));
        let (members, newcomers): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.status.cluster == Some(cluster));
        Ok(Parts {
            members,
            cluster,
            newcomers: newcomers.into_iter().map(|member| member.name).collect(),
            absent: absent.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// Who it is, after it has proven that it belongs here: nothing else is sent to a URL that somebody announced.
    pub(super) async fn ask(&self, row: &ServerRow) -> Result<StorageStatus> {
        let answerer = self.context.who_answers(&row.url).await?;
        if answerer.identity.to_string() != row.identity {
            return Err(Error::unavailable(format!("another server answers at {}", row.url)));
        }
        self.context.storage.status(&row.peer(), STATUS_TIMEOUT).await
    }

    pub(super) fn refuse_absent(&self, absent: &[String]) -> Result<()> {
        let unnamed: Vec<&str> =
            absent.iter().filter(|name| !self.request.without.contains(name)).map(String::as_str).collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "{} storage servers do not answer: {}. Start them; or, if they will not come back, run the restore with \
                 --without NAME for each of them: what they alone have is left out",
                unnamed.len(),
                unnamed.join(", ")
            ),
        ))
    }

    /// Fewer servers than those that are here have heard of stop the restore, unless as many are named. It is the newest
    /// word that counts.
    pub(super) fn refuse_missing(&self, members: &[Member]) -> Result<()> {
        let newest = members.iter().map(|member| member.status.heard_version).max();
        let told = members.iter().filter(|member| Some(member.status.heard_version) == newest);
        let belong = told.map(|member| member.status.heard_servers).max().unwrap_or(0);
        // A machine that was set up anew may have the name of the one that was lost: it is the lost one that is named.
        let named: HashSet<&String> = self.request.without.iter().collect();
        let here = members
            .iter()
            .filter(|member| member.status.cluster.is_some() && member.row.admin_state != AdminState::Drained);
        let here: Vec<&str> = here.map(|member| member.name.as_str()).collect();
        if here.len() + named.len() >= belong as usize {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PreconditionFailed,
            format!(
                "{belong} storage servers belonged to the cluster, and only {} have announced themselves ({}). Start the \
                 others, they come within seconds; or, if they will not come back, run the restore with --without NAME for \
                 each of them",
                here.len(),
                here.join(", ")
            ),
        ))
    }
}

fn row_of(request: RegisterRequest, admin_state: AdminState) -> ServerRow {
    ServerRow {
        id: ServerId::of_identity(request.identity).0,
        identity: request.identity.to_string(),
        name: request.name,
        host: request.host,
        url: request.url,
        public_url: request.public_url,
        zone: request.zone,
        admin_state,
        registered: Utc::now().naive_utc(),
    }
}

/// The one that has heard of the newest change.
pub(super) fn heard_by(members: &[Member]) -> Option<&Member> {
    members.iter().max_by_key(|member| member.status.heard_version)
}

/// Servers that the journal knows and that did not answer stop the restore, unless they are named.
pub(super) async fn refuse_unknown(mut staged: Staged, known: &HashSet<String>, without: &[String]) -> Result<Staged> {
    let task = {
        let (known, without) = (known.clone(), without.to_vec());
        tokio::task::spawn_blocking(move || -> Result<(Staged, Vec<String>)> {
            let mut absent = Vec::new();
            staged.staging.each(SERVERS, |page| {
                for row in page {
                    let row: ServerRow = serde_json::from_str(&row.content).map_err(|error| {
                        Error::internal("a server in the journal is not what it must be").with_source(error)
                    })?;
                    let named = without.contains(&row.name) || without.contains(&ServerId(row.id).to_string());
                    if !known.contains(&row.identity) && !named && row.admin_state != AdminState::Drained {
                        absent.push(format!("{} ({}, id {})", row.name, row.url, ServerId(row.id)));
                    }
                }
                Ok(())
            })?;
            Ok((staged, absent))
        })
    };
    let (staged, absent) =
        task.await.map_err(|error| Error::internal("reading the staged servers panicked").with_source(error))??;
    if absent.is_empty() {
        return Ok(staged);
    }
    Err(Error::new(
        ErrorCode::PreconditionFailed,
        format!(
            "the journal knows storage servers that have not announced themselves: {}. Start them, they come within \
             seconds; or, if they will not come back, run the restore with --without NAME for each of them",
            absent.join(", ")
        ),
    ))
}
