//! What a workspace remembers of its cluster: `cluster.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::config::write_private;
use crate::types::{Error, Result, Version};

pub(super) const FILE: &str = "cluster.json";
/// What is done about one that cannot be read.
const REMEDY: &str = "remove it, and the workspace is bound anew to the cluster that its configuration names";

/// A cluster as it was at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sighting {
    pub(super) cluster: uuid::Uuid,
    /// The branch of its history; servers of earlier versions do not tell it.
    #[serde(default)]
    pub(super) history: Option<uuid::Uuid>,
    pub(super) epoch: i64,
    /// The highest version.
    pub(super) version: Version,
}

/// Raises the highest version that was seen, before anything is noted that has it.
pub(super) fn raise(control: &Path, version: Version) -> Result<()> {
    match read(control)? {
        Some(seen) if seen.version < version => write(control, &Sighting { version, ..seen }),
        _ => Ok(()),
    }
}

/// What was remembered.
pub(super) fn read(control: &Path) -> Result<Option<Sighting>> {
    let path = control.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("reading {}", path.display()), error).hint(REMEDY)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let remedy = REMEDY;
        Error::internal(format!("{} is damaged: {remedy}", path.display())).with_source(error)
    })
}

/// Remembers it.
pub(super) fn write(control: &Path, seen: &Sighting) -> Result<()> {
    let text = serde_json::to_string(seen)
        .map_err(|error| Error::internal("what was seen of the cluster cannot be written").with_source(error))?;
    write_private(&control.join(FILE), text.as_bytes())
}
