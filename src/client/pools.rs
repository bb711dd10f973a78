//! Connections that are kept for the next request.
//!
//! A connection is driven by a task on the runtime that opened it. Each actor of a server has a thread and a runtime of
//! its own, and may hang or be replaced: then its connections stand still or end, and a request of another actor that had
//! taken one of them from a common pool would do so too. So servers have pools for each of their threads. A program with
//! one runtime has one of each.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::proxy;
use crate::security::tls::Trust;
use crate::types::limits::{CONNECT_TIMEOUT, STALL_TIMEOUT};
use crate::types::{Error, Result};

/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The two kinds of pools. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pools {
    /// An answer that begins late or stands still is a failure.
    pub(super) hasty: reqwest::Client,
    /// Without the stall timeout: reqwest counts it from the start of a request to the head of its answer,
    /// which would end every upload that takes longer, however well it goes.
    pub(super) patient: reqwest::Client,
}

impl Pools {
    pub(super) fn new(trust: &Arc<Trust>) -> Result<Self> {
        Ok(Self {
            hasty: build(trust, |builder| builder.read_timeout(STALL_TIMEOUT))?,
            patient: build(trust, |builder| builder.tcp_keepalive(STALL_TIMEOUT))?,
        })
    }
}

fn build(
    trust: &Arc<Trust>,
    adapt: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(trust.client_config());
    let builder = adapt(proxy::apply(builder));
    builder.build().map_err(|e| Error::internal("cannot set up the HTTP client").with_source(e))
}

thread_local! {
    /// The pools of this thread, by the number of the client that they belong to.
    static OF_THREAD: RefCell<Vec<(u64, Pools)>> = const { RefCell::new(Vec::new()) };
}

/// The number of a client whose pools are a thread's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfThread(u64);

impl OfThread {
    /// A number that no other client has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The pools of this thread, made when they are first asked for.
    pub(super) fn pools(self, trust: &Arc<Trust>) -> Result<Pools> {
        OF_THREAD.with_borrow_mut(|pools| match pools.iter().find(|(number, _)| *number == self.0) {
            Some((_, found)) => Ok(found.clone()),
            None => {
                let made = Pools::new(trust)?;
                pools.push((self.0, made.clone()));
                Ok(made)
            }
        })
    }
}
