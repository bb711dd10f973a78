//! How far a storage server has come since its start, in one word for anybody who asks.
//!
//! A server that has started registers, is found live by the name server's checks, and then its inventory is compared
//! with the metadata. Only after that it is given new files. The name server reads inventories of live servers only, so
//! that it asks for one shows that far more than the registration has gone well.

use super::identity::Standing;
use parking_lot::Mutex;

/// It takes part in everything.
pub const OK: &str = "ok";
/// It has not registered with a name server since its start.
pub const UNREGISTERED: &str = "unregistered";
/// No name server has asked for its inventory yet.
pub const WAITING: &str = "waiting";
/// It cannot keep what it would be given.
pub const TROUBLE: &str = "trouble";
/// Its inventory is being read.
pub const SYNCING: &str = "syncing";

/// What was seen of it.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Asked>>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The cluster's epoch then: after a restore everything is compared again.
    epoch: i64,
    /// The last page was read too.
    whole: bool,
}

impl Readiness {
    /// Notes that a page of the inventory was read.
    pub fn page_read(&self, epoch: i64, is_last: bool) {
        let mut asked = self.0.lock();
        let whole = is_last || asked.is_some_and(|before| before.epoch == epoch && before.whole);
        *asked = Some(Asked { epoch, whole });
    }

    /// The word for a server of this standing.
    pub fn word(&self, standing: &Standing) -> &'static str {
        let asked = *self.0.lock();
        match asked.filter(|asked| asked.epoch == standing.epoch) {
            _ if standing.server.is_none() => UNREGISTERED,
            None => WAITING,
            Some(Asked { whole: false, .. }) => SYNCING,
            Some(Asked { whole: true, .. }) => OK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ServerId;

    #[test]
    fn one_word_follows_the_other() {
        let (readiness, mut standing) =
            (Readiness::default(), Standing { cluster: None, server: None, epoch: 1, term: 1 });
        assert_eq!(readiness.word(&standing), UNREGISTERED);
        standing.server = Some(ServerId(1));
        assert_eq!(readiness.word(&standing), WAITING);
        readiness.page_read(1, false);
        assert_eq!(readiness.word(&standing), SYNCING);
        readiness.page_read(1, true);
        assert_eq!(readiness.word(&standing), OK);
        readiness.page_read(1, false);
        assert_eq!(readiness.word(&standing), OK, "somebody looks through it again");
        standing.epoch = 2;
        assert_eq!(readiness.word(&standing), WAITING);
        readiness.page_read(2, false);
        assert_eq!(readiness.word(&standing), SYNCING);
    }
}
