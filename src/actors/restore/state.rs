//! What is known of the restore under way in this process, and of the storage servers that it may need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::actors::announced::Announced;
use crate::db::restore::progress::Progress;
use crate::types::api::RestoreStatus;
use parking_lot::Mutex;

/// Storage servers that have announced themselves, and the restore under way.
#[derive(Default)]
pub struct Restores {
    /// Whoever may be needed for a restore.
    pub announced: Announced,
    pub(super) status: Arc<Mutex<RestoreStatus>>,
    /// The last one was started by the first token.
    pub(super) by_first_token: AtomicBool,
    /// How far the one that runs is; ends it.
    pub(super) progress: Arc<Progress>,
}

impl Restores {
    /// How the restore of this process goes on, or went.
    pub fn status(&self) -> RestoreStatus {
        let status = self.status.lock().clone();
        let progress = self.progress.view().filter(|_| status.state == "running");
        RestoreStatus { progress, ..status }
    }

    /// Whether the last restore of this process was started by the first token: then that may follow it to its end, also
    /// when the journal says that it is revoked.
    pub fn was_started_by_first_token(&self) -> bool {
        self.by_first_token.load(Ordering::SeqCst)
    }

    pub(super) fn step(&self, step: impl Into<String>) {
        let step = step.into();
        let mut status = self.status.lock();
        if status.step != step {
            log::info!("restore: {step}");
            self.progress.leave();
            status.step = step;
        }
    }
}
