//! What a program remembers of servers that hung.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
/// Servers that are remembered.
const HUNG_MAX: usize = 1_000;

/// Servers that have hung while this program ran. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Hung(Arc<Mutex<HashSet<String>>>);

impl Hung {
    /// Whether the server at this base URL has hung. It may be well again; others are better asked first.
    pub fn has(&self, base: &str) -> bool {
        self.0.lock().contains(base)
    }

    pub(super) fn note(&self, base: &str) {
        let mut known = self.0.lock();
        if known.len() < HUNG_MAX {
            known.insert(base.into());
        }
    }
}
