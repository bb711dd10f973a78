//! What a restore makes of a history that has parted: the journal's copies went one way, and a database that had been
//! set back, or copies that had been away, went another.
//!
//! The chain that reaches furthest is replayed. Where the database itself made changes after the last common one, those
//! are laid over it row by row, and win. Files that only the losing side has, because the other one changed or removed
//! the same entry, its directory or all of it, are neither lost nor put where the other side has something else: they
//! are kept aside in a directory of their own below the root, and listed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::connection::AnyConnection;
use super::restore::progress::Progress;
use super::restore::{OWN, own_key, renamed, say};
use super::rows::{EntryRow, ObjectRow};
use super::{cluster, journal as stored, restores};
use crate::journal::{Chain, Collection, ENTRIES, JournalLine, Merged, OBJECTS, Staging};
use crate::types::api::RestoreStatus;
use crate::types::{EntryId, Error, ObjectId, Result, Version, id};

/// Lines of the database's own journal that are read at once.
const PAGE_LINES: i64 = 5_000;
/// Staged rows that are read at once.
const PAGE_ROWS: i64 = 1_000;
/// The staged table of objects whose files are kept aside.
const KEPT: &str = "kept aside";
/// The staged table of entries that a branch has removed.
const REMOVED: &str = "removed entries";
/// Entries that share an object and are looked at to see whether one of them is in the tree.
const SHARING_MAX: i64 = 1_000;

/// What the journal's copies and the database give together.
pub struct Staged {
    /// The rows; those whose content comes from the database itself and wins are named in its table [`OWN`].
    pub staging: Staging,
    /// The report so far.
    pub status: RestoreStatus,
    /// The newest version that the rows have.
    pub head: Version,
    /// See [`super::restore::Plan::told`].
    pub told: Version,
}

/// Replays the chain, lays what the database did after the last common change over it, and keeps aside what only other
/// branches of the same history have. `epoch` is that of this restore.
pub fn stage(
    connection: &mut AnyConnection,
    collection: &Collection,
    merged: &Merged,
    epoch: i64,
    mut status: RestoreStatus,
    dir: &Path,
    progress: &Arc<Progress>,
) -> Result<Staged> {
    let mut staging = Staging::create(Some(dir))?;
    let watched = progress.clone();
    staging.watch(move |rows| watched.advance(rows));
    let state = cluster::state(connection)?;
    let Some(chain) = merged.chain.as_ref() else {
        status.source = "labels".into();
        restores::stage_own(connection, &mut staging)?;
        let head = state.version.max(0);
        return Ok(Staged { staging, status, head, told: head });
    };
    progress.enter("rows", collection.rows_of(chain));
    collection.replay(chain, &mut staging)?;
    progress.leave();
    let (mut head, mut told) = (chain.head.version, chain.head.version);
    let mut aside = Aside { epoch, directory: None };
    let mut beyond = Branch::new(None, dir)?;
    if state.history != chain.head.history || state.version == 0 {
        status.source = "journal".into();
        if state.version > 0 && !restores::is_new(connection)? {
            let sentence = format!(
                "the database was of another history (version {}); what it alone had is left out",
                state.version
            );
            say(&mut status.conflicts, &mut status.conflicts_total, sentence);
        }
    } else {
        status.source = "forward".into();
        lay_over(connection, collection, chain, state.version, &mut staging, &mut beyond, &mut status)?;
        head = head.max(state.version);
        // Where they did not part, one of them has all that the other one has.
        if beyond.after.is_none_or(|after| chain.head.version == after) {
            told = head;
        }
    }
    for conflict in &merged.conflicts {
        let sentence = format!(
            "the copies of the journal have another branch of history, versions {} to {}",
            conflict.first, conflict.head.version
        );
        say(&mut status.conflicts, &mut status.conflicts_total, sentence);
        // One of another history was judged by the restore that ended that history.
        if conflict.head.history == chain.head.history {
            let mut branch = Branch::new(conflict.after, dir)?;
            collection.each_line(conflict.pieces.iter().copied(), |line| branch.note(&line))?;
            aside.keep_files_of(&mut branch, &mut staging, &mut status)?;
            told = told.min(conflict.head.version);
        }
    }
    aside.keep_files_of(&mut beyond, &mut staging, &mut status)?;
    Ok(Staged { staging, status, head, told })
}

/// Finds the last change that the database and the chain share, and applies the database's own later ones. What the
/// chain has beyond that is noted in `beyond`.
fn lay_over(
    connection: &mut AnyConnection,
    collection: &Collection,
    chain: &Chain,
    version: Version,
    staging: &mut Staging,
    beyond: &mut Branch,
    status: &mut RestoreStatus,
) -> Result<()> {
    let mut same = |version: Version| -> Result<Option<bool>> {
        let ours = stored::tip_at(connection, version)?;
        let theirs = collection.tip_at(chain, version);
        Ok(ours.zip(theirs).map(|(ours, theirs)| ours == theirs.0))
    };
    // Versions of which one side has no tip any more are old ones, from before they parted.
    let common = last_common(version.min(chain.head.version), |version| Ok(same(version)? != Some(false)))?;
    if common == version {
        return Ok(());
    }
    beyond.after = Some(common);
    let mut after = common;
    loop {
        let lines = stored::lines_after(connection, after, PAGE_LINES)?;
        let Some(last) = lines.last() else { break };
        after = last.version;
        for line in &lines {
            staging.apply(OWN, &own_key(&line.table, &line.key), Some(""))?;
            staging.apply_line(line)?;
        }
    }
    let mut both = 0;
    collection.each_line(chain.pieces_after(common), |line| {
        if staging.get(OWN, &own_key(&line.table, &line.key))?.is_some() {
            both += 1;
            let sentence = format!(
                "{} {} was changed on both branches after version {common}; the database's content was taken",
                line.table, line.key
            );
            say(&mut status.conflicts, &mut status.conflicts_total, sentence);
        }
        beyond.note(&line)
    })?;
    if chain.head.version > common {
        let sentence = format!(
            "after version {common} the database made {} changes of its own, and the journal's copies have {} others: \
             both are brought together, {both} rows were changed by both",
            version - common,
            chain.head.version - common
        );
        say(&mut status.conflicts, &mut status.conflicts_total, sentence);
    }
    Ok(())
}

/// The last version up to `highest` that both sides share. Up to where they parted they share every version, and none after
/// it, so that it is found by halves.
fn last_common(highest: Version, mut is_shared: impl FnMut(Version) -> Result<bool>) -> Result<Version> {
    let (mut low, mut high) = (0, highest.max(0));
    while low < high {
        let middle = low + (high - low + 1) / 2;
        if is_shared(middle)? { low = middle } else { high = middle - 1 }
    }
    Ok(low)
}

/// What a losing side did after the branches parted: the last content of each row that it changed.
struct Branch {
    /// The last version that both sides share; what was committed later is the branch's own. `None` when nobody can tell:
    /// then nothing can be told apart either.
    after: Option<Version>,
    /// Entries and objects, and which entries it has removed.
    rows: Staging,
}

fn parse<T: DeserializeOwned>(content: &str) -> Result<T> {
    serde_json::from_str(content)
        .map_err(|error| Error::internal("a row in the journal is not what it must be").with_source(error))
}

fn encode(row: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(row).map_err(|error| Error::internal("cannot encode a row").with_source(error))
}

impl Branch {
    fn new(after: Option<Version>, dir: &Path) -> Result<Self> {
        Ok(Self { after, rows: Staging::create(Some(dir))? })
    }

    fn note(&mut self, line: &JournalLine) -> Result<()> {
        match line.table.as_str() {
            ENTRIES => {
                let removed = line.content.is_none().then_some("");
                self.rows.apply(REMOVED, &line.key, removed)?;
                self.rows.apply_line(line)
            }
            OBJECTS => self.rows.apply_line(line),
            _ => Ok(()),
        }
    }

    fn object(&mut self, id: i64) -> Result<Option<ObjectRow>> {
        self.rows.get(OBJECTS, &id.to_string())?.map(|content| parse(&content)).transpose()
    }

    /// Whether the losing side itself had removed the file with a directory above it.
    fn was_removed(&mut self, file: &EntryRow, staging: &mut Staging) -> Result<bool> {
        let (mut above, mut seen) = (file.parent, HashSet::new());
        while let Some(id) = above {
            if id == id::ROOT.0 || !seen.insert(id) {
                return Ok(false);
            }
            above = match self.rows.entry(id)? {
                Some(directory) => directory.parent,
                None if self.rows.get(REMOVED, &id.to_string())?.is_some() => return Ok(true),
                // It did not touch this directory; that the other side removed it is no reason to lose the file.
                None => match staging.entry(id)? {
                    Some(directory) if directory.parent.is_some() => directory.parent,
                    _ => return Ok(false),
                },
            };
        }
        Ok(true)
    }
}

/// Where files go that only a losing side has.
struct Aside {
    epoch: i64,
    /// Its id and path, once it was needed.
    directory: Option<(i64, String)>,
}

impl Aside {
    /// Puts the files whose contents were written on a losing side, and that the tree does not have, into a directory
    /// of their own.
    fn keep_files_of(&mut self, branch: &mut Branch, staging: &mut Staging, status: &mut RestoreStatus) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = branch.rows.page(ENTRIES, after.as_deref(), PAGE_ROWS)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for row in &page {
                let row: EntryRow = parse(&row.content)?;
                if !row.is_directory() {
                    self.keep(&row, branch, staging, status)?;
                }
            }
        }
    }

    fn keep(
        &mut self,
        row: &EntryRow,
        branch: &mut Branch,
        staging: &mut Staging,
        status: &mut RestoreStatus,
    ) -> Result<()> {
        let Some(object) = row.object.map(|id| branch.object(id)).transpose()?.flatten() else { return Ok(()) };
        let key = object.id.to_string();
        let is_its_own = branch.after.is_some_and(|after| object.version > after);
        if !is_its_own
            || object.state != ObjectRow::LIVE
            || staging.get(KEPT, &key)?.is_some()
            || branch.was_removed(row, staging)?
            || in_the_tree(object.id, staging)?
        {
            return Ok(());
        }
        let (parent, home) = self.directory(row, staging)?;
        let name = renamed(&row.name, &format!("{}, version {}", ObjectId(object.id), row.version));
        let sentence = format!("{}: written on another branch of history; it is {home}/{name} now", object.label);
        say(&mut status.conflicts, &mut status.conflicts_total, sentence);
        let aside = EntryRow { id: EntryId::generate().0, parent: Some(parent), name, ..row.clone() };
        staging.apply(OBJECTS, &key, Some(&encode(&object)?))?;
        staging.apply(ENTRIES, &aside.id.to_string(), Some(&encode(&aside)?))?;
        staging.apply(KEPT, &key, Some(""))
    }

    fn directory(&mut self, like: &EntryRow, staging: &mut Staging) -> Result<(i64, String)> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        let row = EntryRow {
            id: EntryId::generate().0,
            parent: Some(id::ROOT.0),
            name: format!("kept aside by the restore of epoch {}", self.epoch),
            kind: EntryRow::DIRECTORY.into(),
            object: None,
            replication: None,
            ..like.clone()
        };
        staging.apply(ENTRIES, &row.id.to_string(), Some(&encode(&row)?))?;
        Ok(self.directory.insert((row.id, format!("/{}", row.name))).clone())
    }
}

/// Whether any entry that the root leads to has this object.
fn in_the_tree(object: i64, staging: &mut Staging) -> Result<bool> {
    for entry in staging.entries_of(object, None, SHARING_MAX)? {
        if staging.path_of(entry.id)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_histories_parted_is_found_in_few_steps() {
        for (highest, parted) in
            [(0, 0), (1, 0), (1, 1), (10, 0), (10, 7), (10, 10), (1_000_003, 999_999), (5_000_000, 3)]
        {
            let mut asked = 0;
            let found = last_common(highest, |version| {
                asked += 1;
                assert!((1..=highest).contains(&version));
                Ok(version <= parted)
            });
            assert_eq!(found.unwrap(), parted.min(highest));
            assert!(asked <= 24, "{asked} questions");
        }
    }
}
