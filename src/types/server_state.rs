//! How storage servers are: what checks see of them, and what a person decided. And how the cluster is.
//!
//! They are stored and travel on the wire, so a word never changes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A server's health, from checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It answers.
    Live,
    /// It missed a check; it gets no new files.
    Suspect,
    /// It has missed checks for long.
    Down,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Live, Self::Suspect, Self::Down];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }

    /// The one with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.word() == word)
    }
}

/// A server's administrative state, from a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// It takes files.
    InService,
    /// It takes none, and its files are to be copied away.
    Draining,
    /// Nothing needs it any more.
    Drained,
}

impl AdminState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::InService, Self::Draining, Self::Drained];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::InService => "in_service",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }

    /// The one with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// What the cluster takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Reads and changes.
    Normal,
    /// Only reads: the database may know less than was acknowledged.
    ReadOnly,
    /// Nothing: the metadata is brought back, or waits for that.
    Restoring,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Normal, Self::ReadOnly, Self::Restoring];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ReadOnly => "read_only",
            Self::Restoring => "restoring",
        }
    }

    /// The one with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::fmt::Display for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
