//! The look for all files: at the start, and when one was found missing.

use std::time::{Duration, Instant, SystemTime};

use super::state::{OPEN_MAX, Open, PASS_TIME_MAX, Pass, UNKNOWN_AGE_MIN};
use crate::storage::state::Shared;
use crate::storage::store::sweep;
use crate::storage::writer::{INDEX_DEADLINE, IndexChange};
use crate::types::storage_api::ReplicaKey;
use crate::types::{Error, Result};

/// What looking through one part of `objects/` costs.
const PART_COST_BYTES: i64 = 64 << 10;
/// Rows without a file that are taken out together.
const GONE_STEP_COPIES: usize = 256;
/// What is said of them.
const GONE: &str = "its file is missing";
/// From the end of a look for all files to the beginning of the next one, at least; and as many times as long as it took.
const LOOK_REST_MIN: Duration = Duration::from_secs(10);
/// See [`LOOK_REST_MIN`].
const LOOK_REST: u32 = 10;

impl Pass<'_> {
    /// Goes on with the look for all files that is under way, or begins one that is wanted. Answers whether it can go on
    /// at once.
    pub(super) async fn look(&mut self) -> Result<bool> {
        let look = &mut self.state.look;
        if look.part.is_none() && self.began >= look.next && self.shared.suspects.take_look() {
            (look.part, look.began) = (Some(0), self.began);
        }
        while let Some(part) = self.state.look.part {
            // What was found is told before more is looked for.
            if self.state.checks.len() + self.state.open.len() >= OPEN_MAX {
                return Ok(false);
            }
            if self.began.elapsed() >= PASS_TIME_MAX {
                return Ok(true);
            }
            let before = self.state.look.before.or_else(|| SystemTime::now().checked_sub(UNKNOWN_AGE_MIN));
            self.sweep(part, before).await;
            let look = &mut self.state.look;
            look.part = (part + 1 < sweep::PARTS).then_some(part + 1);
            if look.part.is_none() {
                look.before = None;
                look.next = Instant::now() + LOOK_REST_MIN.max(look.began.elapsed() * LOOK_REST);
            }
        }
        Ok(false)
    }

    pub(super) fn log_gone(&self) {
        if let Some(key) = self.first_gone {
            log::error!(
                "{} copies, such as {key}, have lost their files: they count as copies no longer, and are replaced \
                 from other servers. Should the files come back, they count again after the next start",
                self.gone
            );
        }
    }

    /// Compares a part of `objects/` with the rows that belong there, both ways.
    pub(super) async fn sweep(&mut self, part: u16, before: Option<SystemTime>) {
        self.state.credit -= PART_COST_BYTES;
        let Some(before) = before else { return };
        let identity = self.shared.identity.clone();
        let in_flight = move |key| identity.is_in_flight(key);
        let compared = async {
            let swept = sweep::sweep(&self.shared.layout, &self.shared.index, part, before, in_flight).await?;
            self.unknown += swept.unknown;
            count_back(self.shared, &swept.back).await?;
            self.count_out(&swept.gone).await
        };
        if let Err(error) = compared.await {
            log::error!("comparing a part of objects/ with the index failed: {}", error.chain());
        }
    }

    /// A file is gone, and where one is gone others may be.
    pub(super) async fn found_gone(&mut self, key: ReplicaKey) -> Result<()> {
        self.shared.suspects.want_look();
        self.count_out(&[key]).await
    }

    /// Copies whose files are gone count no longer, and the name server is told. Copies of which that turns out not to
    /// be so are left alone.
    async fn count_out(&mut self, keys: &[ReplicaKey]) -> Result<()> {
        for key in gone_for_certain(self.shared, keys).await? {
            self.gone += 1;
            self.first_gone = self.first_gone.or(Some(key));
            self.count_bad();
            self.state.open.insert(key, Open { reason: GONE.into(), aside: true, gone: true, ask_at: self.began });
        }
        Ok(())
    }
}

/// Takes the rows out whose files are gone indeed. Answers which.
async fn gone_for_certain(shared: &Shared, keys: &[ReplicaKey]) -> Result<Vec<ReplicaKey>> {
    change_each(shared, keys, IndexChange::Gone).await
}

/// Puts the rows back whose files are there again.
async fn count_back(shared: &Shared, keys: &[ReplicaKey]) -> Result<()> {
    let back = change_each(shared, keys, IndexChange::Back).await?;
    if let Some(key) = back.first() {
        log::warn!("{} copies, such as {key}, whose files were missing have them again", back.len());
    }
    Ok(())
}

/// Makes a change for each of some copies. Answers for which of them it changed something.
async fn change_each(
    shared: &Shared,
    keys: &[ReplicaKey],
    change: fn(ReplicaKey) -> IndexChange,
) -> Result<Vec<ReplicaKey>> {
    let mut changed = Vec::new();
    for keys in keys.chunks(GONE_STEP_COPIES) {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push((*key, shared.writer.hand_in(change(*key), INDEX_DEADLINE).await?));
        }
        for (key, answer) in answers {
            let answer = answer.await;
            let rows =
                answer.map_err(|error| Error::unavailable("the index's writer was restarted").with_source(error))??;
            changed.extend((rows > 0).then_some(key));
        }
    }
    Ok(changed)
}

/// Looks for all files, before the cluster is told of any: what is gone is not in the inventory then. A part that cannot
/// be read is left to the scrubber.
pub async fn look_first(shared: &Shared, started: SystemTime) {
    let mut gone = 0;
    for part in 0..sweep::PARTS {
        let identity = shared.identity.clone();
        let in_flight = move |key| identity.is_in_flight(key);
        let compared = async {
            let swept = sweep::sweep(&shared.layout, &shared.index, part, started, in_flight).await?;
            count_back(shared, &swept.back).await?;
            gone_for_certain(shared, &swept.gone).await
        };
        match compared.await {
            Ok(keys) => gone += keys.len(),
            Err(error) => log::error!("comparing a part of objects/ with the index failed: {}", error.chain()),
        }
    }
    log::warn!("{gone} copies have lost their files: they count as copies no longer, unless the files come back");
}
