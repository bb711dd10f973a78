//! Whether the cluster has taken this process in since it was started: from then on it gets new files.
//!
//! The server cannot see what the name server thinks of it. It sees the questions that a name server that acts asks in
//! this order: a check (after which the server counts as live), and then for the inventory.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Checks after which the outcome of the first one has certainly been written down: rounds do not overlap.
const CHECKS_ENOUGH: u32 = 2;

/// What was asked since the registration.
#[derive(Debug, Default)]
pub struct Readiness {
    checks: AtomicU32,
    inventory: AtomicBool,
}

impl Readiness {
    /// A name server that acts has asked how the server is.
    pub fn note_check(&self) {
        self.checks.store(self.checks.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    /// A name server has asked for the last page of the inventory.
    pub fn note_inventory(&self) {
        self.inventory.store(true, Ordering::Relaxed);
    }

    /// Whether that is all that it takes. A server whose inventory nobody compares, because the cluster takes no
    /// changes now, is as ready as it will be after some checks.
    pub fn is_taken_in(&self) -> bool {
        let checks = self.checks.load(Ordering::Relaxed);
        checks >= CHECKS_ENOUGH || checks > 0 && self.inventory.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_check_and_the_inventory_or_two_checks() {
        let ready = Readiness::default();
        ready.note_inventory();
        assert!(!ready.is_taken_in(), "fsck may ask for an inventory too");
        ready.note_check();
        assert!(ready.is_taken_in());
        let ready = Readiness::default();
        ready.note_check();
        assert!(!ready.is_taken_in());
        ready.note_check();
        assert!(ready.is_taken_in());
    }
}
