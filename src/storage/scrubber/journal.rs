//! The copy of the metadata's journal is read as well: all of its files each day or each period.
//!
//! A damaged file goes into quarantine and the position falls back to what is still linked, so that the name server
//! sends anew what is missing; it is told in any case, again and again until it has heard.

use std::time::{Duration, Instant};

use super::state::{PASS_TIME_MAX, Pass};
use crate::storage::store::journal::Checked;
use crate::types::api::{CorruptJournalFile, CorruptRequest};
use crate::types::limits::PENDING_BATCH_ITEMS_MAX;
use crate::types::{Error, Result};

/// All files are read once within it, or within the period when that is shorter: they are few, and a restore needs them.
const ROUND_MAX: Duration = Duration::from_secs(24 * 3_600);

impl Pass<'_> {
    /// Reads the next files, if it is time, as many as there is credit for.
    pub(super) async fn check_journal(&mut self) -> Result<()> {
        for damaged in self.shared.journal.take_damaged() {
            self.note_damage(damaged);
        }
        while self.state.credit > 0 && self.began.elapsed() < PASS_TIME_MAX && Instant::now() >= self.state.journal.next
        {
            let cluster = self.shared.identity.standing().cluster;
            let (shared, after) = (self.shared.clone(), self.state.journal.after.clone());
            let check = tokio::task::spawn_blocking(move || shared.journal.check_after(&after, cluster));
            let checked =
                check.await.map_err(|error| Error::internal("reading the journal panicked").with_source(error))?;
            match checked? {
                Some(checked) => self.note_journal(checked),
                None => {
                    let rest = ROUND_MAX.min(self.shared.options.scrub.period);
                    self.state.journal.again(Instant::now() + rest);
                }
            }
        }
        self.tell_journal().await
    }

    fn note_journal(&mut self, checked: Checked) {
        self.state.credit = self.state.credit.saturating_sub(i64::try_from(checked.bytes).unwrap_or(i64::MAX));
        self.state.journal.after.clone_from(&checked.name);
        self.note_damage(checked);
    }

    fn note_damage(&mut self, checked: Checked) {
        let Some(reason) = checked.damage else { return };
        log::error!("the file {} of the metadata's journal is damaged on this server: {reason}", checked.name);
        self.journal_damaged += 1;
        self.count_bad();
        self.state.journal.untold.push(CorruptJournalFile { name: checked.name, reason });
    }

    async fn tell_journal(&mut self) -> Result<()> {
        let Some(server) = self.shared.identity.standing().server else { return Ok(()) };
        let count = self.state.journal.untold.len().min(PENDING_BATCH_ITEMS_MAX);
        if count == 0 {
            return Ok(());
        }
        let journal = self.state.journal.untold[..count].to_vec();
        let alarm = self.shared.suspects.alarm();
        let request = CorruptRequest { server, replicas: Vec::new(), alarm, journal };
        self.shared.name_server.clone().with_retries(0).corrupt(&request).await?;
        self.state.journal.untold.drain(..count);
        Ok(())
    }
}
