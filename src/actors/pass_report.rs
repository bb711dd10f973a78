//! What one pass of an actor came to: numbers with names, and how it stands.

use std::fmt;

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassReport {
    /// Numbers with names; those of zero are not shown to people.
    pub counts: Vec<(&'static str, usize)>,
    /// How it stands, where numbers do not say it: what it waits for, or why it does not go on.
    pub note: Option<&'static str>,
    /// There is more to do: the next pass comes at once.
    pub more: bool,
}

impl PassReport {
    /// What was done, and that there is no more to do now.
    pub fn of(counts: Vec<(&'static str, usize)>) -> Self {
        Self { counts, ..Self::default() }
    }

    /// Nothing was done, and why.
    pub fn noting(note: &'static str) -> Self {
        Self { note: Some(note), ..Self::default() }
    }

    /// Another name server holds the lease and does the work.
    pub fn standby() -> Self {
        Self::noting("standing by: another name server acts")
    }
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}"));
        let shown: Vec<String> = self.note.map(String::from).into_iter().chain(counts).collect();
        f.write_str(if shown.is_empty() { "nothing to do" } else { "" })?;
        f.write_str(&shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_words() {
        let counts = vec![("deleted", 3), ("failed", 0), ("rows", 2)];
        assert_eq!(PassReport::of(counts.clone()).to_string(), "3 deleted, 2 rows");
        let paused = PassReport { note: Some("paused: too many servers are down"), ..PassReport::of(counts) };
        assert_eq!(paused.to_string(), "paused: too many servers are down, 3 deleted, 2 rows");
        assert_eq!(PassReport::default().to_string(), "nothing to do");
        assert_eq!(PassReport::standby().to_string(), "standing by: another name server acts");
    }
}
