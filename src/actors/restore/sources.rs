//! What the tables are made of: the journal's copies, merged and replayed, what a former database tells, and the
//! inventories.

use std::collections::HashSet;
use std::path::Path;

use uuid::Uuid;

use super::arrival::{heard_by, refuse_unknown};
use super::members::Member;
use super::room::require_room;
use super::run::Run;
use crate::db::branches::{self, Staged};
use crate::db::former::{self, Former};
use crate::db::restore::{INVENTORY, Known, say};
use crate::journal::Collection;
use crate::journal::collection::Added;
use crate::types::api::RestoreStatus;
use crate::types::error::IoContext;
use crate::types::storage_api::{JournalFile, JournalPosition};
use crate::types::{Error, ErrorCode, Result, ServerId, Version};

/// Files of one server's copy of the journal that are read: it merges them, so there are far fewer.
const FILES_MAX: usize = 1_000_000;
/// How often the files of one server are listed.
const LISTINGS_MAX: usize = 10;

impl Run {
    /// Fetches the journal's files of all members; defective ones are told and left out.
    pub(super) async fn collect(
        &self,
        members: &[Member],
        cluster: Uuid,
        dir: &Path,
        status: &mut RestoreStatus,
    ) -> Result<Collection> {
        let mut collection = Collection::new(Some(cluster));
        let mut bytes = 0;
        for member in members {
            bytes += self.listed(member).await?.iter().map(|file| file.bytes).sum::<u64>();
        }
        require_room(dir, bytes)?;
        self.shared.progress.enter("bytes", bytes);
        for member in members {
            let (mut fetched, mut tries) = (HashSet::new(), 0);
            // Files that were merged or given up since they were listed are listed anew, with what took their place.
            while !self.collect_of(member, dir, &mut collection, &mut fetched, status).await? {
                tries += 1;
                if tries == LISTINGS_MAX {
                    let message = format!("the files of the journal on {} change again and again", member.name);
                    return Err(Error::unavailable(message));
                }
            }
        }
        Ok(collection)
    }

    /// The files of a member's copy of the journal.
    async fn listed(&self, member: &Member) -> Result<Vec<JournalFile>> {
        let (peer, mut files, mut after) = (member.row.peer(), Vec::new(), None);
        loop {
            let page = self.context.storage.journal_files(&peer, after.as_deref()).await?;
            files.extend(page.files);
            if files.len() > FILES_MAX {
                let message = format!("the copy of the journal on {} has more than {FILES_MAX} files", member.name);
                return Err(Error::new(ErrorCode::TooLarge, message));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(files),
            }
        }
    }

    /// Fetches the files of one member that were not yet. Answers whether all that are listed were still there.
    async fn collect_of(
        &self,
        member: &Member,
        dir: &Path,
        collection: &mut Collection,
        fetched: &mut HashSet<String>,
        status: &mut RestoreStatus,
    ) -> Result<bool> {
        let mut all_there = true;
        for file in self.listed(member).await? {
            if fetched.contains(&file.name) {
                continue;
            }
            let path = dir.join(format!("{}-{}", ServerId(member.row.id), file.name.replace('/', "-")));
            match self.fetch(member, &file.name, &path).await {
                Err(error) if error.code() == ErrorCode::NotFound => {
                    all_there = false;
                    continue;
                }
                outcome => outcome?,
            }
            fetched.insert(file.name.clone());
            let mut taken = std::mem::take(collection);
            let added = tokio::task::spawn_blocking(move || {
                let added = taken.add(&path);
                if !matches!(added, Ok(Added::Kept)) {
                    // It is not needed any more; the directory goes anyway.
                    let _ = std::fs::remove_file(&path);
                }
                (taken, added)
            });
            let (back, added) =
                added.await.map_err(|error| Error::internal("reading the journal panicked").with_source(error))?;
            *collection = back;
            if let Err(defect) = added {
                let sentence = format!("the journal's file {} on {} is left out: {defect}", file.name, member.name);
                say(&mut status.conflicts, &mut status.conflicts_total, sentence);
            }
        }
        Ok(all_there)
    }

    async fn fetch(&self, member: &Member, name: &str, path: &Path) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        let writing = || format!("writing {}", path.display());
        let mut download = self.context.storage.journal_file(&member.row.peer(), name).await?;
        let mut file = tokio::fs::File::create(path).await.io_context(writing)?;
        while let Some(piece) = download.chunk().await? {
            file.write_all(&piece).await.io_context(writing)?;
            self.shared.progress.advance(piece.len() as u64)?;
        }
        file.flush().await.io_context(writing)
    }

    /// Merges and replays the journal; without one, takes what the database has.
    pub(super) async fn stage(
        &self,
        collection: Collection,
        members: &[Member],
        epoch: i64,
        mut status: RestoreStatus,
        dir: &Path,
    ) -> Result<(Staged, Known)> {
        let dir = dir.to_path_buf();
        let merged = collection.merge();
        let head = merged.chain.as_ref().map(|chain| chain.head.clone());
        status.journal_version = head.as_ref().map_or(0, |head| head.version);
        let former = self.former(head.clone()).await?;
        if let Some(former) = former.as_ref().filter(|former| former.later_changes > 0) {
            status.lost_changes += former.later_changes;
            let sentence = format!(
                "{} changes that were made after the last restore are not back: the database that was put aside ({}) had them, \
                 and no copy of the journal",
                former.later_changes, former.place
            );
            say(&mut status.losses, &mut status.losses_total, sentence);
            status.losses.extend(former.lost_rows.iter().map(|row| format!("not back, {row}")));
        }
        let reach = former.as_ref().map_or(status.journal_version, |former| former.reach);
        let known = known_of(members, merged.newest, former.as_ref());
        let expected = heard_by(members).map_or(0, |member| member.status.heard_version).max(merged.newest);
        let without_journal = merged.chain.is_none() && merged.newest == 0;
        if without_journal || (expected > reach && !self.request.accept_gap) {
            // Who has more may be on its way.
            self.refuse_missing(members)?;
        }
        if expected > reach && !without_journal && !self.request.accept_gap {
            return Err(Error::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "the copies of the journal that are here end at version {reach}, and changes up to {expected} are known to \
                     exist: start the storage servers that are missing; or, if they are lost, run the restore with \
                     --accept-gap: those changes of names are lost then (contents that were committed come back under \
                     the paths of their commits)"
                ),
            ));
        }
        self.shared.step("replaying the journal");
        let context = self.context.clone();
        let identities: HashSet<String> = members.iter().map(|member| member.row.identity.clone()).collect();
        let without = self.request.without.clone();
        let progress = self.shared.progress.clone();
        let staged = context
            .db
            .read(move |connection| branches::stage(connection, &collection, &merged, epoch, status, &dir, &progress))
            .await?;
        let staged = match former.zip(head) {
            Some((former, head)) => self.bring_back(former, head, staged).await?,
            None => staged,
        };
        let staged = refuse_unknown(staged, &identities, &without).await?;
        self.refuse_missing(members)?;
        Ok((staged, known))
    }

    /// What a database that was put aside tells beyond the end of the journal's copies.
    async fn former(&self, head: Option<JournalPosition>) -> Result<Option<Former>> {
        let Some(head) = head else { return Ok(None) };
        let url = self.context.db.url().clone();
        let task = tokio::task::spawn_blocking(move || former::find(&url, &head));
        task.await
            .map_err(|error| Error::internal("reading the database that was put aside panicked").with_source(error))
    }

    /// Lays the changes that the former database proves over those of the journal's copies.
    async fn bring_back(&self, former: Former, head: JournalPosition, mut staged: Staged) -> Result<Staged> {
        if former.reach > head.version {
            staged.status.notes.push(format!(
                "Changes {} to {} had not reached the journal's copies; they were read from the database that was put aside \
                 ({}).",
                head.version + 1,
                former.reach,
                former.place
            ));
            let url = self.context.db.url().clone();
            let task = tokio::task::spawn_blocking(move || -> Result<Staged> {
                former::bring_back(&url, &former, &head, &mut staged.staging)?;
                // Where histories have parted, it is the end of the copies that counts for what was committed behind it.
                if staged.told == staged.head {
                    staged.told = former.reach;
                }
                staged.head = staged.head.max(former.reach);
                Ok(staged)
            });
            staged =
                task.await.map_err(|error| Error::internal("bringing back changes panicked").with_source(error))??;
        }
        crate::types::failpoint::RESTORE_FORMER_READ.passed();
        Ok(staged)
    }

    /// Puts the inventories beside the rows.
    pub(super) async fn inventories(&self, mut staged: Staged, members: &[Member]) -> Result<Staged> {
        for member in members {
            self.shared.step(format!("reading the inventory of {}", member.name));
            self.shared.progress.enter("rows", member.status.objects);
            let mut after = None;
            loop {
                let lines = self.context.storage.inventory(&member.row.peer(), after).await?;
                let Some(last) = lines.last() else { break };
                after = Some(last.replica);
                let server = ServerId(member.row.id);
                let task = tokio::task::spawn_blocking(move || -> Result<Staged> {
                    for line in &lines {
                        let content = serde_json::to_string(line)
                            .map_err(|error| Error::internal("cannot encode an inventory").with_source(error))?;
                        staged.staging.apply(INVENTORY, &format!("{server}/{}", line.replica), Some(&content))?;
                    }
                    Ok(staged)
                });
                staged = task
                    .await
                    .map_err(|error| Error::internal("staging an inventory panicked").with_source(error))??;
            }
        }
        Ok(staged)
    }
}

/// The newest change that anybody here knows to have been made, and who does.
fn known_of(members: &[Member], newest: Version, former: Option<&Former>) -> Known {
    let heard = heard_by(members).map(|member| Known {
        version: member.status.heard_version,
        by: format!("the storage server {} has heard of version {}", member.name, member.status.heard_version),
        rows: Vec::new(),
    });
    let copies =
        Known { version: newest, by: format!("a copy of the journal names version {newest}"), rows: Vec::new() };
    let former = former.map(|former| Known {
        version: former.knows,
        by: format!("the database that was put aside ({}) knew of version {}", former.place, former.knows),
        rows: former.lost_rows.clone(),
    });
    let known = [former, heard].into_iter().flatten();
    known.fold(copies, |best, known| if known.version > best.version { known } else { best })
}
