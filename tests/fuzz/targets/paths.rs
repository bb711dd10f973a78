//! Paths and ids, in all the forms in which they travel.

use actix_web::web::Query;
use holdfast::client::url::encode_component;
use holdfast::http::redirect::path_in_url;
use holdfast::security::token::Grant;
use holdfast::types::api::{PathQuery, Role};
use holdfast::types::limits::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX};
use holdfast::types::storage_api::ReplicaKey;
use holdfast::types::{DfsPath, EntryId, Generation, ObjectId, ServerId, Sha256};

use super::{each_text, joined, texts};

/// A path, and another path or what a person typed.
pub fn paths(data: &[u8]) {
    let Some([a, b]) = texts(data) else { return };
    // However odd, it is refused or understood.
    let _ = path_in_url(a);
    let Ok(path) = DfsPath::parse(a) else { return };
    assert_eq!(path.as_str(), a, "a path is its text");
    assert!(a.len() <= PATH_BYTES_MAX);
    let walked = path.components().try_fold(DfsPath::root(), |path, name| {
        assert!((1..=COMPONENT_BYTES_MAX).contains(&name.len()) && !name.contains(['/', '\0']));
        assert!(name != "." && name != "..");
        path.join(name)
    });
    assert_eq!(walked.unwrap(), path);
    match path.split() {
        None => assert!(path.is_root() && path.name().is_empty()),
        Some((parent, name)) => {
            assert_eq!((parent.join(name).unwrap(), path.name()), (path.clone(), name));
            assert!(path.is_within(&parent) && !parent.is_within(&path) && parent < path);
        }
    }
    travels(&path);
    relates(&path, b);
}

/// As JSON, in a URL's path and in a query it stays what it is.
fn travels(path: &DfsPath) {
    let json = serde_json::to_string(path).unwrap();
    assert_eq!(&serde_json::from_str::<DfsPath>(&json).unwrap(), path);
    let names: Vec<String> = path.components().map(encode_component).collect();
    let url = format!("/{}", names.join("/"));
    assert!(url.is_ascii() && !url.contains(['?', '#', ' ', '\n']));
    assert_eq!(&path_in_url(&url).unwrap(), path);
    let query = format!("path={}", encode_component(path.as_str()));
    assert_eq!(&Query::<PathQuery>::from_query(&query).unwrap().path, path);
}

fn relates(path: &DfsPath, typed: &str) {
    if let Ok(resolved) = path.resolve(typed) {
        assert_eq!(resolved, DfsPath::parse(resolved.as_str()).unwrap());
        assert_eq!(resolved, DfsPath::root().resolve(resolved.as_str()).unwrap());
        assert!(!typed.starts_with('/') || DfsPath::root().resolve(typed).unwrap() == resolved);
    }
    let grant =
        Grant { name: "lab".into(), role: Role::Writer, prefix: Some(path.clone()), only_restore: None, expires: None };
    if let Ok(below) = path.join(typed) {
        assert!(below.is_within(path) && below != *path, "nothing leads out of a directory by a join");
        assert!(grant.check(Role::Reader, &below).is_ok() && below > *path);
    }
    let Ok(other) = DfsPath::parse(typed) else { return };
    let names: Vec<&str> = other.components().collect();
    let above: Vec<&str> = path.components().take(names.len()).collect();
    assert_eq!(path.is_within(&other), names == above, "{path} {other}");
    assert_eq!(grant.check(Role::Writer, &other).is_ok(), other.is_within(path));
    if let Some(rest) = path.relative_to(&other) {
        assert_eq!(&other.join_relative(rest).unwrap(), path);
    }
    assert_eq!(path.cmp(&other), path.components().cmp(other.components()));
    assert_eq!((path.cmp(&other).is_eq(), other.cmp(path)), (*path == other, path.cmp(&other).reverse()));
}

pub fn path_seeds() -> Vec<Vec<u8>> {
    let long = format!("/{}", "x".repeat(COMPONENT_BYTES_MAX));
    let deep = "/deeper".repeat(PATH_BYTES_MAX / 7);
    let pairs = [
        ("/", "/"),
        ("/", "a"),
        ("/a/b", "/a"),
        ("/a", "/a/b"),
        ("/a-b", "/a"),
        ("/ü/🦀", "../x//./y/"),
        ("/a b/%2e%2e", "c%2Fd"),
        ("/...", ".."),
        ("/a\nb", "\0"),
        (&long, &deep),
        (&deep, "x"),
    ];
    pairs.iter().map(|(a, b)| joined(&[a, b])).collect()
}

/// Two ids as text.
pub fn ids(data: &[u8]) {
    let Some([a, b]) = texts(data) else { return };
    macro_rules! number {
        ($($id:ident),*) => {$(
            if let Ok(id) = a.parse::<$id>() {
                assert_eq!(id.to_string(), a.to_ascii_lowercase(), "an id is 16 hexadecimal digits");
                assert_eq!(id.to_string().parse::<$id>().unwrap(), id);
                assert!(id.0 >= 0, "the database has no other ids");
                assert_eq!(serde_json::from_str::<$id>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
                if let Ok(other) = b.parse::<$id>() {
                    assert_eq!(id.cmp(&other), id.to_string().cmp(&other.to_string()), "as numbers and as text");
                }
            }
        )*};
    }
    number!(ObjectId, EntryId, Generation, ServerId);
    if let Ok(key) = a.parse::<ReplicaKey>() {
        assert_eq!(key.to_string(), a.to_ascii_lowercase());
        assert_eq!(key.to_string().parse::<ReplicaKey>().unwrap(), key);
        // As the name of an object's file.
        assert!(!a.contains('/') && a.len() == 33);
    }
    if let Ok(digest) = a.parse::<Sha256>() {
        assert_eq!(digest.to_string(), a.to_ascii_lowercase());
        assert_eq!(Sha256::from_slice(&digest.0).unwrap(), digest);
    }
}

pub fn id_seeds() -> Vec<Vec<u8>> {
    let digest = Sha256::of(b"").to_string();
    let mut seeds = each_text(&["0123456789abcdef", "0000000000000001.7fffffffffffffff", "ffffffffffffffff", &digest]);
    for seed in &mut seeds {
        seed.extend(joined(&["", "0000000000000007"]));
    }
    seeds
}
