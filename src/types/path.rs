//! Paths in the distributed namespace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX};
use super::{Error, ErrorCode, Result};

/// An absolute path: UTF-8, components of 1 to 255 bytes without `/`, NUL, `.` and `..`; 4,096 bytes in
/// all; case-sensitive. The root is `/`; no other path ends with a slash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DfsPath(String);

impl DfsPath {
    /// `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Checks a path as it came from outside.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::new(ErrorCode::InvalidPath, format!("{text:?} is not a valid path: {why}")));
        if text.len() > PATH_BYTES_MAX {
            let why = format!("a path of {} bytes is longer than {PATH_BYTES_MAX}", text.len());
            return Err(Error::new(ErrorCode::InvalidPath, why));
        }
        let Some(below) = text.strip_prefix('/') else {
            return wrong("it does not start with a slash");
        };
        if below.is_empty() {
            return Ok(Self::root());
        }
        for name in below.split('/') {
            if let Some(why) = name_fault(name) {
                return wrong(why);
            }
        }
        Ok(Self(text.into()))
    }

    /// The text, starting with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The names from the root down; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0[1..].split('/').filter(|name| !name.is_empty())
    }

    /// The directory above and the last name; `None` for the root.
    pub fn split(&self) -> Option<(DfsPath, &str)> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.rfind('/')?;
        let parent = if cut == 0 { Self::root() } else { Self(self.0[..cut].into()) };
        Some((parent, &self.0[cut + 1..]))
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The path of `name` (or of names joined by slashes) inside this directory, which it never is itself.
    pub fn join(&self, name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::new(ErrorCode::InvalidPath, format!("there is nothing without a name in {self}")));
        }
        let text = if self.is_root() { format!("/{name}") } else { format!("{}/{name}", self.0) };
        Self::parse(&text)
    }

    /// The path of `relative` (names joined by slashes; empty for this directory itself) below this one.
    pub fn join_relative(&self, relative: &str) -> Result<Self> {
        if relative.is_empty() { Ok(self.clone()) } else { self.join(relative) }
    }

    /// Whether this is `directory` or lies below it.
    pub fn is_within(&self, directory: &DfsPath) -> bool {
        self.relative_to(directory).is_some()
    }

    /// The part below `directory` without a leading slash; empty when both are the same.
    pub fn relative_to(&self, directory: &DfsPath) -> Option<&str> {
        if directory.is_root() {
            return Some(&self.0[1..]);
        }
        match self.0.strip_prefix(&directory.0)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }

    /// Resolves what a person typed, against `self` as the working directory: relative names, `.`, `..`,
    /// doubled and trailing slashes are understood as in a shell.
    pub fn resolve(&self, typed: &str) -> Result<Self> {
        let mut names: Vec<&str> = if typed.starts_with('/') { Vec::new() } else { self.components().collect() };
        for name in typed.split('/') {
            match name {
                "" | "." => {}
                ".." => {
                    names.pop();
                }
                name => names.push(name),
            }
        }
        Self::parse(&format!("/{}", names.join("/")))
    }
}

/// Why a single name is not allowed, if it is not.
pub fn name_fault(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it has an empty component"),
        "." | ".." => Some("it has a component . or .."),
        _ if name.len() > COMPONENT_BYTES_MAX => Some("it has a component of more than 255 bytes"),
        _ if name.contains('\0') => Some("it has a NUL byte"),
        _ if name.contains('/') => Some("it has a slash inside a component"),
        _ => None,
    }
}

impl fmt::Display for DfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Siblings by their names' bytes, a directory before what is below it: the order of a walk.
impl Ord for DfsPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        walk_order(&self.0, &other.0)
    }
}

impl PartialOrd for DfsPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares two slash-separated paths name by name: the order in which a walk that visits siblings by
/// their bytes, and a directory before its contents, meets them.
pub fn walk_order(a: &str, b: &str) -> std::cmp::Ordering {
    a.split('/').cmp(b.split('/'))
}

impl FromStr for DfsPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for DfsPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DfsPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_allowed_and_what_is_not() {
        let long = format!("/{}", "x".repeat(256));
        let deep = "/xxxxxxx".repeat(513);
        for wrong in ["", "a", "//", "/a//b", "/a/", "/.", "/a/../b", "/a\0b", &long, &deep] {
            assert_eq!(DfsPath::parse(wrong).unwrap_err().code(), ErrorCode::InvalidPath, "{wrong:?}");
        }
        for right in ["/", "/a", "/-rf", "/ ", "/a\nb", "/.hidden/...", "/ü/🦀", &format!("/{}", "x".repeat(255))] {
            assert_eq!(DfsPath::parse(right).unwrap().as_str(), right);
        }
    }

    #[test]
    fn parents_and_names() {
        let path = DfsPath::parse("/a/b").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_str(), name), ("/a", "b"));
        assert_eq!(parent.split().unwrap(), (DfsPath::root(), "a"));
        assert!(DfsPath::root().split().is_none());
        assert_eq!(DfsPath::root().components().count(), 0);
    }

    #[test]
    fn nothing_without_a_name_is_in_a_directory() {
        // For the root this was the root.
        for directory in ["/", "/a"] {
            assert!(DfsPath::parse(directory).unwrap().join("").is_err(), "{directory}");
            assert_eq!(DfsPath::parse(directory).unwrap().join_relative("").unwrap().as_str(), directory);
        }
    }

    #[test]
    fn within_is_by_components() {
        let a = DfsPath::parse("/a").unwrap();
        assert!(DfsPath::parse("/a/b").unwrap().is_within(&a));
        assert!(a.is_within(&a) && a.is_within(&DfsPath::root()));
        assert!(!DfsPath::parse("/ab").unwrap().is_within(&a));
    }

    #[test]
    fn typed_paths_resolve_as_in_a_shell() {
        let cwd = DfsPath::parse("/a/b").unwrap();
        for (typed, want) in [("", "/a/b"), ("..", "/a"), ("../../..", "/"), ("c//d/.", "/a/b/c/d"), ("/x/../y/", "/y")]
        {
            assert_eq!(cwd.resolve(typed).unwrap().as_str(), want, "{typed}");
        }
    }

    #[test]
    fn a_walk_meets_a_directory_before_its_contents_and_those_before_its_next_sibling() {
        // '-' and '.' sort before '/', so comparing whole strings would put "a-b" between "a" and "a/b".
        let mut paths = ["/a-b", "/a/b", "/a", "/a.b", "/a/b/c"];
        paths.sort_by(|a, b| walk_order(a, b));
        assert_eq!(paths, ["/a", "/a/b", "/a/b/c", "/a-b", "/a.b"]);
    }

    proptest! {
        #[test]
        fn a_resolved_path_is_valid_and_resolves_to_itself(typed in "[a-c./\u{e9}]{0,24}") {
            if let Ok(path) = DfsPath::root().resolve(&typed) {
                prop_assert_eq!(&DfsPath::parse(path.as_str()).unwrap(), &path);
                prop_assert_eq!(&DfsPath::root().resolve(path.as_str()).unwrap(), &path);
            }
        }

        #[test]
        fn split_and_join_are_inverse(text in "(/[a-z .\u{e9}]{1,8}){1,6}") {
            if let Ok(path) = DfsPath::parse(&text) {
                let (parent, name) = path.split().unwrap();
                prop_assert_eq!(parent.join(name).unwrap(), path);
            }
        }
    }
}
