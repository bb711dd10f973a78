//! A cluster's members together: starting them, waiting until they are ready, ending them.

use std::time::Duration;

use super::cluster::{ClusterConfig, ClusterDir};
use super::member::{Member, Role};
use super::process::{self, Running};
use super::recorded::Recorded;
use crate::client::{Credentials, HttpClient, NameServerClient, StorageClient};
use crate::storage::readiness::{UNREGISTERED, WAITING};
use crate::types::{Error, ErrorCode, Result};

/// How long a storage server that is started alone waits for a name server that does not answer.
const NAME_SERVER_PATIENCE: Duration = Duration::from_secs(3);
/// What is said where a storage server was started alone.
const NO_NAME_SERVER: &str = "The name server does not answer; the storage server registers as soon as it does.";
/// How long a cluster may take until all its members serve.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a member may take to say how it is.
pub(super) const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often that is looked at.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The size at which a member's log is begun anew, unless it is said otherwise.
pub(super) const LOG_BYTES_MAX: u64 = 16 << 20;
/// How long members get to end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts members.
pub(super) fn start_all(
    dir: &ClusterDir,
    members: &[&Member],
    with_parent: bool,
    log_bytes_max: u64,
    started: &mut Vec<Running>,
) -> Result<()> {
    for member in members {
        started.push(process::start(dir, member, with_parent, log_bytes_max)?);
    }
    Ok(())
}

/// What a cluster is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Ready {
    /// Everything.
    ToServe,
    /// It has no metadata, or none that it can rely on.
    WaitsForRestore,
    /// Its database has lost something, or a person wants it so.
    TakesNoChanges,
}

/// Waits until the name server answers, and the cluster has taken each storage server in since its start: what the
/// database remembers from before does not count. A name server that makes no changes, or has no metadata, takes no storage
/// servers; then it is enough that they answer.
///
/// Answers also which members are not ready, in sentences: where the name server answers, they do not stop the others, and
/// whoever puts them right needs those. One that has ended ends the wait.
///
/// All that is asked is what servers tell anybody. Tokens come and go, and a cluster starts whatever tokens there are.
pub(super) async fn wait_until_ready(
    dir: &ClusterDir,
    config: &ClusterConfig,
    members: &[Member],
    started: &mut Vec<Running>,
) -> Result<(Ready, Vec<String>)> {
    let (client, members_client) = clients(config)?;
    let mut storage: Vec<&Member> = members.iter().filter(|member| member.role == Role::StorageServer).collect();
    let begun = tokio::time::Instant::now();
    let deadline = begun + READY_TIMEOUT;
    let is_alone = !storage.is_empty() && storage.len() == members.len();
    let mut left_out = Vec::new();
    loop {
        left_out.extend(leave_out_refused(dir, &mut storage, started)?);
        for running in started.iter_mut() {
            if let Some(how) = running.ended() {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("{} {how}: {}", running.name, running.last_words(dir)),
                ));
            }
        }
        let mode = client.status().await.ok().map(|status| status.mode);
        let (ready, too_early): (_, &[&str]) = match mode.as_deref() {
            Some("restoring" | "damaged") => (Ready::WaitsForRestore, &[]),
            Some("normal") => (Ready::ToServe, &[UNREGISTERED, WAITING]),
            None => (Ready::ToServe, &[]),
            Some(_) => (Ready::TakesNoChanges, &[]),
        };
        let waiting = match &mode {
            Some(_) => not_ready(&members_client, &storage, too_early).await,
            // One storage server alone (`--only`) registers as soon as there is a name server.
            None if is_alone && begun.elapsed() > NAME_SERVER_PATIENCE => {
                let waiting = not_ready(&members_client, &storage, &[]).await;
                if waiting.is_empty() {
                    return Ok((Ready::ToServe, vec![NO_NAME_SERVER.into()]));
                }
                waiting
            }
            None => vec!["name-server"],
        };
        if waiting.is_empty() {
            return Ok((ready, left_out));
        }
        let words = |name: &&str| {
            let running = started.iter().find(|running| running.name == **name);
            running.map_or_else(|| "it was running before".into(), |running| running.last_words(dir))
        };
        let is_late = tokio::time::Instant::now() > deadline;
        let refused = |name: &&str| started.iter().any(|one| one.name == **name && one.refusal(dir).is_some());
        if mode.is_some() && (is_late || waiting.iter().all(refused)) {
            let sentence = |name| format!("{name} is not ready, and goes on trying: {}", words(name));
            return Ok((ready, left_out.into_iter().chain(waiting.iter().map(sentence)).collect()));
        }
        if is_late {
            return Err(Error::unavailable(format!(
                "{} did not get ready within {READY_TIMEOUT:?}: {}",
                waiting.join(", "),
                words(&waiting[0])
            )));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A storage server that the cluster refuses (it was removed, for instance) holds the others up no longer, as long as
/// there are others.
fn leave_out_refused(dir: &ClusterDir, storage: &mut Vec<&Member>, started: &mut Vec<Running>) -> Result<Vec<String>> {
    let is_storage = |running: &Running| storage.iter().any(|member| member.name == running.name);
    let refused: Vec<(String, String)> = started
        .iter_mut()
        .filter(|running| is_storage(running))
        .filter_map(|running| running.was_refused().then(|| (running.name.clone(), running.last_words(dir))))
        .collect();
    if refused.len() >= storage.len() {
        return Ok(Vec::new());
    }
    let mut left_out = Vec::new();
    for (name, words) in refused {
        dir.forget_process(&name)?;
        storage.retain(|member| member.name != name);
        started.retain(|running| running.name != name);
        left_out.push(format!("{name} is left out, because the cluster refuses it: {words}"));
    }
    Ok(left_out)
}

/// The members that do not answer, or with one of these words.
pub(super) async fn not_ready<'m>(client: &StorageClient, storage: &[&'m Member], too_early: &[&str]) -> Vec<&'m str> {
    let mut waiting = Vec::new();
    for member in storage {
        match client.readiness(&member.url(), STATUS_TIMEOUT).await {
            Ok(word) if !too_early.contains(&word.as_str()) => {}
            _ => waiting.push(member.name.as_str()),
        }
    }
    waiting
}

/// Clients of the name server and of storage servers, as nobody.
pub(super) fn clients(config: &ClusterConfig) -> Result<(NameServerClient, StorageClient)> {
    let http = HttpClient::new(None)?;
    let urls = vec![config.name_server_url()];
    let name_server = NameServerClient::new(http.clone(), urls, Credentials::None)?.with_retries(0);
    Ok((name_server, StorageClient::new(http, Credentials::None)))
}

/// Asks all members to end, waits, and kills those that do not. Answers how many there were.
pub(super) async fn stop(dir: &ClusterDir, started: &mut Vec<Running>) -> Result<usize> {
    let running = dir.all_running()?;
    stop_those(dir, started, running).await
}

pub(super) async fn stop_those(dir: &ClusterDir, started: &mut Vec<Running>, running: Vec<Recorded>) -> Result<usize> {
    for member in &running {
        member.terminate();
    }
    let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
    loop {
        // Children that have ended must be waited for, or they look alive.
        for child in started.iter_mut() {
            child.ended();
        }
        if running.iter().all(|member| !member.is_alive()) {
            break;
        }
        if tokio::time::Instant::now() > deadline {
            running.iter().filter(|member| member.is_alive()).for_each(Recorded::kill);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for member in &running {
        dir.forget_process(&member.name)?;
    }
    started.clear();
    Ok(running.len())
}
