//! What a restore makes of a history that has parted: the journal's copies went one way, and a database that had been
//! set back, or copies that had been away, went another.
//!
//! The chain that reaches furthest is replayed. Where the database itself made changes after the last common one, those
//! are laid over it row by row, and win. Files that only the losing side has, because the other one changed or removed
//! the same entry, its directory or all of it, are neither lost nor put where the other side has something else: they
//! are kept aside in a directory of their own below the root, and listed.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::connection::AnyConnection;
use super::restore::{renamed, say};
use super::rows::{EntryRow, ObjectRow};
use super::{cluster, journal as stored, restores};
use crate::journal::{Chain, Collection, ENTRIES, JournalLine, Merged, OBJECTS, Staging};
use crate::types::api::RestoreStatus;
use crate::types::{EntryId, Error, ObjectId, Result, Version, id};

/// Lines of the database's own journal that are read at once.
const PAGE_LINES: i64 = 5_000;
/// Entries that share an object and are looked at to see whether one of them is in the tree.
const SHARING_MAX: i64 = 1_000;

/// What the journal's copies and the database give together.
pub struct Staged {
    /// The rows.
    pub staging: Staging,
    /// The report so far.
    pub status: RestoreStatus,
    /// The newest version that the rows have.
    pub head: Version,
    /// See [`super::restore::Plan::told`].
    pub told: Version,
    /// Rows whose content comes from the database itself and wins, by table and key.
    pub own: HashSet<(String, String)>,
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
) -> Result<Staged> {
    let mut staging = Staging::create(Some(dir))?;
    let state = cluster::state(connection)?;
    let mut own = HashSet::new();
    let Some(chain) = merged.chain.as_ref() else {
        status.source = "labels".into();
        restores::stage_own(connection, &mut staging)?;
        let head = state.version.max(0);
        return Ok(Staged { staging, status, head, told: head, own });
    };
    collection.replay(chain, &mut staging)?;
    let (mut head, mut told) = (chain.head.version, chain.head.version);
    let mut aside = Aside { epoch, directory: None, kept: HashSet::new() };
    let mut beyond = Branch::default();
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
        own = lay_over(connection, collection, chain, state.version, &mut staging, &mut beyond, &mut status)?;
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
            let mut branch = Branch { after: conflict.after, ..Branch::default() };
            collection.each_line(conflict.pieces.iter().copied(), |line| branch.note(&line))?;
            aside.keep_files_of(&branch, &mut staging, &mut status)?;
            told = told.min(conflict.head.version);
        }
    }
    aside.keep_files_of(&beyond, &mut staging, &mut status)?;
    Ok(Staged { staging, status, head, told, own })
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
) -> Result<HashSet<(String, String)>> {
    let mut same = |version: Version| -> Result<Option<bool>> {
        let ours = stored::tip_at(connection, version)?;
        let theirs = collection.tip_at(chain, version);
        Ok(ours.zip(theirs).map(|(ours, theirs)| ours == theirs.0))
    };
    let mut common = version.min(chain.head.version);
    // Versions of which one side has no tip any more are old ones, from before they parted.
    while common > 0 && same(common)? == Some(false) {
        common -= 1;
    }
    if common == version {
        return Ok(HashSet::new());
    }
    beyond.after = Some(common);
    let (mut own, mut after) = (HashSet::new(), common);
    loop {
        let lines = stored::lines_after(connection, after, PAGE_LINES)?;
        let Some(last) = lines.last() else { break };
        after = last.version;
        for line in &lines {
            own.insert((line.table.clone(), line.key.clone()));
            staging.apply_line(line)?;
        }
    }
    let mut both = 0;
    collection.each_line(chain.pieces_after(common), |line| {
        if own.contains(&(line.table.clone(), line.key.clone())) {
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
    Ok(own)
}

/// What a losing side did after the branches parted: the last content of each row that it changed.
#[derive(Default)]
struct Branch {
    /// The last version that both sides share; what was committed later is the branch's own. `None` when nobody can tell:
    /// then nothing can be told apart either.
    after: Option<Version>,
    entries: HashMap<i64, Option<EntryRow>>,
    objects: HashMap<i64, ObjectRow>,
}

fn parse<T: DeserializeOwned>(content: &str) -> Result<T> {
    serde_json::from_str(content)
        .map_err(|error| Error::internal("a row in the journal is not what it must be").with_source(error))
}

fn encode(row: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(row).map_err(|error| Error::internal("cannot encode a row").with_source(error))
}

impl Branch {
    fn note(&mut self, line: &JournalLine) -> Result<()> {
        let key = || {
            line.key.parse::<i64>().map_err(|error| Error::internal("a key in the journal is no id").with_source(error))
        };
        match line.table.as_str() {
            ENTRIES => {
                self.entries.insert(key()?, line.content.as_deref().map(parse).transpose()?);
            }
            OBJECTS => match line.content.as_deref() {
                Some(content) => drop(self.objects.insert(key()?, parse(content)?)),
                None => drop(self.objects.remove(&key()?)),
            },
            _ => {}
        }
        Ok(())
    }

    /// Whether the losing side itself had removed the file with a directory above it.
    fn was_removed(&self, file: &EntryRow, staging: &mut Staging) -> Result<bool> {
        let (mut above, mut seen) = (file.parent, HashSet::new());
        while let Some(id) = above {
            if id == id::ROOT.0 || !seen.insert(id) {
                return Ok(false);
            }
            above = match self.entries.get(&id) {
                Some(Some(directory)) => directory.parent,
                Some(None) => return Ok(true),
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
    /// Objects that are in it.
    kept: HashSet<i64>,
}

impl Aside {
    /// Puts the files whose contents were written on a losing side, and that the tree does not have, into a directory
    /// of their own.
    fn keep_files_of(&mut self, branch: &Branch, staging: &mut Staging, status: &mut RestoreStatus) -> Result<()> {
        let mut files: Vec<&EntryRow> = branch.entries.values().flatten().filter(|row| !row.is_directory()).collect();
        files.sort_by_key(|row| row.id);
        for row in files {
            let Some(object) = row.object.and_then(|id| branch.objects.get(&id)) else { continue };
            let is_its_own = branch.after.is_some_and(|after| object.version > after);
            if !is_its_own
                || object.state != ObjectRow::LIVE
                || self.kept.contains(&object.id)
                || branch.was_removed(row, staging)?
                || in_the_tree(object.id, staging)?
            {
                continue;
            }
            let (parent, home) = self.directory(row, staging)?;
            let name = renamed(&row.name, &format!("{}, version {}", ObjectId(object.id), row.version));
            let sentence = format!("{}: written on another branch of history; it is {home}/{name} now", object.label);
            say(&mut status.conflicts, &mut status.conflicts_total, sentence);
            let aside = EntryRow { id: EntryId::generate().0, parent: Some(parent), name, ..row.clone() };
            staging.apply(OBJECTS, &object.id.to_string(), Some(&encode(object)?))?;
            staging.apply(ENTRIES, &aside.id.to_string(), Some(&encode(&aside)?))?;
            self.kept.insert(object.id);
        }
        Ok(())
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
