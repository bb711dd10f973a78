//! Names that are ours, and never travel: control directories, temporary files, data directories of servers.
//!
//! A control directory holds a token; one that came from a cluster could send its reader's token to whoever wrote
//! it. A data directory holds the cluster's secret. So neither is ever sent or written, at any depth. Names are
//! compared as file systems that fold them would do it: `.HOLDFAST` on a memory stick is a control directory too.

use std::path::{Component, Path};

use icu_normalizer::DecomposingNormalizerBorrowed;

use super::tree::HostDir;
use crate::types::{Error, Result};

/// The directory of a workspace's own files.
pub(crate) const CONTROL: &str = ".holdfast";
/// What the names of temporary files begin with.
const TEMPORARY: &str = ".holdfast-";
/// Ends the name of a file that is being fetched: nothing but a part of what the cluster has.
const PART: &str = ".part";
/// Ends the name of a file that is being replaced or removed: it may be the only copy of a version.
const OLD: &str = ".old";
/// Letters and digits that tell temporary files apart.
const TAG_CHARACTERS: usize = 6;
/// Hexadecimal digits that say what a file must be to be the one that was expected.
const FINGERPRINT_CHARACTERS: usize = 16;

/// Files that make a directory the data of a server or of a whole cluster, if all of a row are in it.
const DATA_FILES: [[&str; 2]; 2] = [["cluster.toml", "secret"], ["server.json", "index.sqlite"]];

/// Why a name never travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Control,
    /// A file that is being fetched.
    Part,
    /// A file that is being replaced or removed.
    Old,
}

impl Own {
    /// As it is said.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Control => "the name is that of a workspace's own directory, which never travels",
            Self::Part => "the name is that of a temporary file of holdfast, which never travels",
            Self::Old => {
                "a run that was killed has set this file aside; it may be a version that is nowhere else. Give it \
                 another name, or remove it"
            }
        }
    }
}

/// Said of the data directory of a server.
pub(crate) const DATA_REASON: &str = "it is the data directory of a cluster, whose secret never travels";

/// Said of a configuration that would be found and believed where it stands.
pub(crate) const FOUND_REASON: &str = "clients would take it for the way to their cluster";

/// Whether a single name is ours.
pub(crate) fn own_name(name: &str) -> Option<Own> {
    if folded(name) == folded(CONTROL) {
        return Some(Own::Control);
    }
    let rest = name.strip_prefix(TEMPORARY)?;
    let is_tag = |text: &str| text.len() == TAG_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if rest.strip_suffix(PART).is_some_and(is_tag) {
        return Some(Own::Part);
    }
    let (tag, fingerprint) = rest.strip_suffix(OLD)?.split_once('-')?;
    let is_print = fingerprint.len() == FINGERPRINT_CHARACTERS && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
    (is_tag(tag) && is_print).then_some(Own::Old)
}

/// The part of a path up to its first component that is ours.
pub(crate) fn own_part(path: &str) -> Option<(&str, Own)> {
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        if let Some(own) = own_name(name) {
            return Some((&path[..end], own));
        }
        end += 1;
    }
    None
}

/// The name of a file that is being fetched.
pub(super) fn part_name(tag: &str) -> String {
    format!("{TEMPORARY}{tag}{PART}")
}

/// The name of a file that is being replaced or removed.
pub(super) fn old_name(tag: &str, fingerprint: &str) -> String {
    format!("{TEMPORARY}{tag}-{fingerprint}{OLD}")
}

/// What the name of such a file says that it must be.
pub(super) fn fingerprint_of(name: &str) -> Option<&str> {
    name.strip_suffix(OLD)?.rsplit('-').next()
}

/// A name as the most folding of file systems would compare it: without case, forms of composition, invisible
/// characters and dots or spaces at its end.
pub(crate) fn folded(name: &str) -> String {
    let is_invisible = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(name.trim_end_matches(['.', ' ']));
    decomposed.chars().filter(|c| !is_invisible(c)).flat_map(char::to_uppercase).collect()
}

/// Whether a directory with these names in it is the data of a server.
pub(crate) fn is_data_directory(has: impl Fn(&str) -> bool) -> bool {
    DATA_FILES.iter().any(|files| files.iter().all(|file| has(file)))
}

/// The files that must be beside this one for the directory to be the data of a server.
pub(crate) fn data_companions(name: &str) -> Option<&'static [&'static str]> {
    if name == "client.toml" {
        return Some(&DATA_FILES[0]);
    }
    DATA_FILES.iter().find(|files| files.contains(&name)).map(|files| files.as_slice())
}

/// Whether a path is one that clients take their configuration from when they stand above it.
pub(crate) fn is_found_configuration(path: &str) -> bool {
    let mut names = path.rsplit('/').map(folded);
    names.next() == Some(folded("client.toml")) && names.next() == Some(folded("holdfast-data"))
}

/// Refuses a host path that a person typed when it leads into what is ours.
pub(crate) fn refuse_own(path: &Path) -> Result<()> {
    let own = path.components().find_map(|component| match component {
        Component::Normal(name) => name.to_str().and_then(own_name),
        _ => None,
    });
    match own {
        Some(own) => Err(Error::invalid(format!("{}: {}", path.display(), own.reason()))),
        None => Ok(()),
    }
}

/// Refuses a directory that is the data of a server.
pub(crate) fn refuse_data(dir: &HostDir) -> Result<()> {
    if is_data_directory(|name| dir.look(name.as_ref()).is_ok_and(|look| look.is_some())) {
        return Err(Error::invalid(format!("{}: {DATA_REASON}", dir.shown().display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_ours_and_names_that_only_look_so() {
        for (name, want) in [
            (".holdfast", Some(Own::Control)),
            (".Holdfast", Some(Own::Control)),
            (".holdfast.", Some(Own::Control)),
            (".holdfa\u{17f}t", Some(Own::Control)),
            (".hold\u{200d}fast", Some(Own::Control)),
            (".holdfast-aZ09xy.part", Some(Own::Part)),
            (".holdfast-aZ09xy-0123456789abcdef.old", Some(Own::Old)),
            ("holdfast", None),
            (".holdfasts", None),
            (".holdfast-notes.part", None),
            (".holdfast-aZ09xy.txt", None),
            (".holdfast-aZ09xy-0123456789abcdeg.old", None),
            ("x.holdfast-aZ09xy.part", None),
        ] {
            assert_eq!(own_name(name), want, "{name}");
        }
        assert_eq!(own_name(&part_name("abcdef")), Some(Own::Part));
        let old = old_name("abcdef", "0123456789abcdef");
        assert_eq!((own_name(&old), fingerprint_of(&old)), (Some(Own::Old), Some("0123456789abcdef")));
    }

    #[test]
    fn names_fold_by_case_and_composition() {
        for (one, two) in [("Foo", "fOO"), ("\u{fc}mlaut", "u\u{308}MLAUT"), ("stra\u{df}e", "STRASSE"), ("a.", "A")] {
            assert_eq!(folded(one), folded(two), "{one} {two}");
        }
        assert_ne!(folded("a"), folded("b"));
        assert_ne!(folded("u"), folded("\u{fc}"));
    }

    #[test]
    fn the_part_of_a_path_that_is_ours_is_found_at_every_depth() {
        assert_eq!(own_part("a/.holdfast/config.toml"), Some(("a/.holdfast", Own::Control)));
        assert_eq!(own_part(".HOLDFAST"), Some((".HOLDFAST", Own::Control)));
        assert_eq!(own_part("a/b.holdfast/c"), None);
        assert!(
            is_found_configuration("x/holdfast-data/client.toml")
                && is_found_configuration("Holdfast-Data/Client.toml")
        );
        assert!(!is_found_configuration("holdfast-data/x/client.toml") && !is_found_configuration("client.toml"));
    }

    #[test]
    fn data_directories_are_known_by_what_is_in_them() {
        let with = |names: &'static [&str]| is_data_directory(|name| names.contains(&name));
        assert!(with(&["cluster.toml", "secret", "logs"]) && with(&["server.json", "index.sqlite"]));
        assert!(!with(&["secret", "server.json"]) && !with(&["cluster.toml"]) && !with(&[]));
        assert_eq!(data_companions("index.sqlite"), Some(&["server.json", "index.sqlite"][..]));
        assert_eq!((data_companions("client.toml").is_some(), data_companions("notes.txt")), (true, None));
    }
}
