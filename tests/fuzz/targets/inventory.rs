//! Inventories: what a page of one lacks counts as lost.

use holdfast::client::storage::inventory_page;
use holdfast::types::limits::INVENTORY_PAGE_ROWS_MAX;
use holdfast::types::storage_api::{InventoryLine, ReplicaKey};
use holdfast::types::{Generation, ObjectId, Sha256};

fn written(lines: &[InventoryLine]) -> Vec<u8> {
    let mut body = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut body, line).unwrap();
        body.push(b'\n');
    }
    body
}

/// A page as a storage server sends it.
pub fn inventories(data: &[u8]) {
    let Ok(lines) = inventory_page(data, None) else { return };
    assert_eq!(lines.len(), data.iter().filter(|byte| **byte == b'\n').count(), "no line is passed over");
    assert!(lines.len() <= INVENTORY_PAGE_ROWS_MAX);
    assert!(lines.is_sorted_by(|a, b| a.replica < b.replica));
    let body = written(&lines);
    assert_eq!(inventory_page(&body, None).unwrap(), lines);
    if let [first, rest @ ..] = lines.as_slice() {
        assert!(inventory_page(&body, Some(first.replica)).is_err());
        assert_eq!(inventory_page(&written(rest), Some(first.replica)).unwrap(), rest);
        assert!(inventory_page(&body[..body.len() - 1], None).is_err(), "a torn page");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let line = |object, generation, label: &str, version| InventoryLine {
        replica: ReplicaKey { object: ObjectId(object), generation: Generation(generation) },
        size: 5,
        sha256: Sha256::of(b"x"),
        label: label.into(),
        epoch: 1,
        version,
        ticket_expires: chrono::DateTime::UNIX_EPOCH,
        verified: chrono::DateTime::UNIX_EPOCH,
        gone: false,
    };
    let lines = [line(1, 2, "/a", Some(3)), line(1, 3, "/ü\n\"", None), line(i64::MAX, i64::MAX, "", Some(i64::MAX))];
    vec![Vec::new(), written(&lines[..1]), written(&lines)]
}
