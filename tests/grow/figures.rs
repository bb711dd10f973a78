//! What was measured, as it is kept in a file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Files of the cluster that others are compared with.
pub const BASE_FILES: usize = 10_000;

/// All runs, each of one database and one number of files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub runs: Vec<Run>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Run {
    /// `sqlite` or `postgres`.
    pub database: String,
    pub files: usize,
    pub directories: usize,
    /// What else the machine did: its load a minute before the costs were measured, and after.
    pub load: (f64, f64),
    pub fill_seconds: f64,
    /// From the name server's launch until it serves.
    pub start_seconds: f64,
    /// Until the inventories of all storage servers were compared after the start.
    pub compare_seconds: f64,
    /// Until the storage servers had a whole copy of the metadata and its journal.
    pub snapshot_seconds: f64,
    /// Of requests and actors' passes.
    pub costs: BTreeMap<String, Cost>,
    /// The same of a cluster with [`BASE_FILES`] that was asked in turns with this one; none for that size itself.
    #[serde(default)]
    pub base_costs: BTreeMap<String, Cost>,
    /// Of the name server at its highest, until the costs were measured.
    pub memory_mib: u64,
    pub fsck_seconds: Option<f64>,
    pub empty_return: Option<EmptyReturn>,
    pub restore: Option<Restored>,
}

/// Milliseconds that something took.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Cost {
    pub median_ms: f64,
    pub p95_ms: f64,
    pub times: usize,
}

/// A server came back with an empty index.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct EmptyReturn {
    /// Copies that the metadata listed on it.
    pub copies: u64,
    /// Until the first lost copy was told.
    pub seen_seconds: f64,
    /// Until all were.
    pub compared_seconds: f64,
    pub memory_mib: u64,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Restored {
    pub seconds: f64,
    /// Of that, writing the tables.
    pub writing_seconds: f64,
    pub memory_mib: u64,
}

impl Run {
    /// How many times as much something costs as with [`BASE_FILES`].
    pub fn ratio(&self, name: &str) -> Option<f64> {
        let (here, there) = (self.costs.get(name)?, self.base_costs.get(name)?);
        (there.median_ms > 0.0).then(|| here.median_ms / there.median_ms)
    }
}

impl Cost {
    /// Of what took so many seconds each time.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds.get(((seconds.len() - 1) as f64 * share).round() as usize).copied();
        let ms = |share| if seconds.is_empty() { 0.0 } else { round(at(share).unwrap_or_default() * 1e3) };
        Self { median_ms: ms(0.5), p95_ms: ms(0.95), times: seconds.len() }
    }
}

/// Three decimals are enough for a file.
pub fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

impl Figures {
    /// Those of a file; none when it is not there.
    pub fn load(path: &Path) -> Self {
        std::fs::read_to_string(path).map_or_else(|_| Self::default(), |text| serde_json::from_str(&text).unwrap())
    }

    /// Puts a run in the place of an earlier one of the same kind.
    pub fn put(&mut self, run: Run) {
        self.runs.retain(|other| (&other.database, other.files) != (&run.database, run.files));
        self.runs.push(run);
        self.runs.sort_by_key(|run| (run.database.clone(), run.files));
    }

    pub fn save(&self, path: &Path) {
        std::fs::write(path, serde_json::to_string_pretty(self).unwrap() + "\n").unwrap();
    }

    pub fn of(&self, database: &str) -> Vec<&Run> {
        self.runs.iter().filter(|run| run.database == database).collect()
    }
}
