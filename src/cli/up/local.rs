//! A cluster that one process starts, plays with and stops: what `up` does, for `demo`.

use std::path::{Path, PathBuf};

use super::access;
use super::cluster::ClusterDir;
use super::life::{LOG_BYTES_MAX, POLL_INTERVAL, Ready, start_all, stop, wait_until_ready};
use super::member::{self, Member, Timings};
use super::process::{self, Running};
use crate::types::{Error, Result};

/// The members; they end with this process, also when it is killed.
pub(in crate::cli) struct LocalCluster {
    dir: ClusterDir,
    members: Vec<Member>,
    started: Vec<Running>,
}

/// A member as it is shown.
pub(in crate::cli) struct Shown {
    pub(in crate::cli) name: String,
    pub(in crate::cli) url: String,
    pub(in crate::cli) pid: i32,
}

impl LocalCluster {
    /// Plans a cluster in a directory that is new; with [`LocalCluster::start`] it runs.
    pub(in crate::cli) fn new(path: &Path, port: u16, storage_servers: u16, replicas: u32) -> Result<Self> {
        let dir = ClusterDir::open(path)?;
        let config = dir.configure(Some(port), Some(storage_servers), Some(replicas), None)?;
        let members = member::all(&dir, &config, Timings::Quick)?;
        members.iter().try_for_each(Member::check_port)?;
        access::prepare(&dir, None, &config)?;
        Ok(Self { dir, members, started: Vec::new() })
    }

    /// Starts all members and waits until they serve.
    pub(in crate::cli) async fn start(&mut self) -> Result<()> {
        let Some(config) = self.dir.config()? else { return Ok(()) };
        start_all(&self.dir, &self.members.iter().collect::<Vec<_>>(), true, LOG_BYTES_MAX, &mut self.started)?;
        whole(wait_until_ready(&self.dir, &config, &self.members, &mut self.started).await?)?;
        // From now on the name server makes no new cluster when it finds none.
        self.dir.note_initialized(&config)?;
        if let Some(config) = self.dir.config()? {
            self.members = member::all(&self.dir, &config, Timings::Quick)?;
        }
        Ok(())
    }

    /// How clients find it.
    pub(in crate::cli) fn client_config(&self) -> PathBuf {
        self.dir.client_config_path()
    }

    /// The members and their processes.
    pub(in crate::cli) fn shown(&self) -> Result<Vec<Shown>> {
        let shown = |member: &Member| {
            let pid = self.dir.running(&member.name)?.map_or(0, |running| running.pid);
            Ok(Shown { name: member.name.clone(), url: member.url(), pid })
        };
        self.members.iter().map(shown).collect()
    }

    fn member(&self, name: &str) -> Result<&Member> {
        let found = self.members.iter().find(|member| member.name == name);
        found.ok_or_else(|| Error::internal(format!("the cluster has no member {name}")))
    }

    /// A member's data directory.
    pub(in crate::cli) fn data_dir(&self, name: &str) -> Result<PathBuf> {
        Ok(self.member(name)?.data_dir.clone())
    }

    /// Ends one member: at once, as a power cut would (`hard`), or in order. Answers its process id.
    pub(in crate::cli) async fn end(&mut self, name: &str, hard: bool) -> Result<i32> {
        let running = self.dir.running(name)?.ok_or_else(|| Error::internal(format!("{name} does not run")))?;
        if hard {
            running.kill();
        } else {
            running.terminate();
        }
        while running.is_alive() {
            // A child that has ended must be waited for, or it looks alive.
            self.started.iter_mut().filter(|child| child.name == name).for_each(|child| drop(child.ended()));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.started.retain(|child| child.name != name);
        self.dir.forget_process(name)?;
        Ok(running.pid)
    }

    /// Starts one member that was ended, and waits until it serves. Answers its process id.
    pub(in crate::cli) async fn start_again(&mut self, name: &str) -> Result<(i32, Ready)> {
        let member = self.member(name)?.clone();
        let config = self.dir.config()?.ok_or_else(|| Error::internal("the cluster has no configuration"))?;
        let running = process::start(&self.dir, &member, true, LOG_BYTES_MAX)?;
        self.started.push(running);
        let ready = whole(wait_until_ready(&self.dir, &config, &[member], &mut self.started).await?)?;
        Ok((self.dir.running(name)?.map_or(0, |running| running.pid), ready))
    }

    /// Stops everything.
    pub(in crate::cli) async fn stop(&mut self) -> Result<()> {
        stop(&self.dir, &mut self.started).await.map(drop)
    }
}

/// Here every member must have got ready.
fn whole((ready, lacking): (Ready, Vec<String>)) -> Result<Ready> {
    if lacking.is_empty() { Ok(ready) } else { Err(Error::unavailable(lacking.join("; "))) }
}
