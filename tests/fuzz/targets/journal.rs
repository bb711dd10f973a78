//! Files of the journal: whatever is accepted chains, by a computation of its own; and trees that are replayed from
//! hostile rows can be walked to their end.

use std::collections::HashSet;
use std::io::Cursor;

use arbitrary::{Result, Unstructured};
use holdfast::journal::format::{Origin, SnapshotWriter, VERSION_MAX, segment};
use holdfast::journal::{
    Contents, ENTRIES, Header, JournalLine, OBJECTS, Reader, Segment, Snapshot, SnapshotLine, Staging, reader,
};
use holdfast::types::{Sha256, Version};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

pub const ORIGIN: Origin = Origin { cluster: Uuid::from_u128(1), history: Uuid::from_u128(2), epoch: 3 };

/// A file as it is, and made right by the amount that the first byte says: anybody can compute the checksum, the tips
/// and the number of lines, so they must not be what keeps the rest from being looked at.
pub fn files(data: &[u8]) {
    let Some((repairs, file)) = data.split_first() else { return };
    check(file);
    if let Some(repaired) = repaired(file, *repairs) {
        check(&repaired);
    }
}

fn check(file: &[u8]) {
    let ends = reader::ends(&mut Cursor::new(file), None);
    let Ok(reader) = Reader::open(file, None) else {
        assert!(ends.is_err(), "both readers refuse a header");
        return;
    };
    let header = reader.header().clone();
    assert!(header.first <= header.last && header.last <= VERSION_MAX);
    let Ok(contents) = reader.verify() else { return };
    assert!(Reader::open(file, Some(Uuid::from_u128(header.cluster.as_u128() ^ 1))).is_err(), "of another cluster");
    let ends = ends.unwrap();
    assert_eq!(ends.header, header);
    match contents {
        Contents::Segment(segment) => {
            assert_eq!(ends.end, (header.last, header.tip_after));
            chains(file, &segment);
        }
        Contents::Snapshot(snapshot) => {
            assert_eq!(ends.end, (snapshot.v1, snapshot.tip1));
            assert!(snapshot.v1 >= header.last && snapshot.v1 <= VERSION_MAX);
            assert_eq!(snapshot.rows, file.iter().filter(|byte| **byte == b'\n').count() as u64 - 2);
            is_written_again(file, &snapshot);
        }
    }
    // What was cut off or follows is noticed.
    assert!(Reader::open(&file[..file.len() - 1], None).and_then(Reader::verify).is_err());
    assert!(Reader::open(&[file, b"\n"].concat()[..], None).and_then(Reader::verify).is_err());
}

/// What of a header and of a line counts. Other fields may be there, and hold anything.
#[derive(Deserialize)]
struct Start {
    first: i64,
    tip_before: String,
}

#[derive(Deserialize)]
struct Row {
    version: i64,
    seq: i32,
    table: String,
    key: String,
    content: Option<String>,
}

/// The tips of a segment that was accepted, computed from its text.
fn chains(file: &[u8], found: &Segment) {
    let text = String::from_utf8_lossy(file);
    let mut lines = text.lines();
    let start: Start = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut tip = hex::decode(start.tip_before).unwrap();
    let (mut version, mut seq, mut tips) = (start.first - 1, -1, Vec::new());
    for line in lines.take_while(|line| !line.starts_with("{\"lines\":")) {
        let row: Row = serde_json::from_str(line).unwrap();
        let place = (row.version, row.seq);
        assert!(place == (version + 1, 0) || place == (version, seq + 1), "versions and their rows are dense");
        let mut text = [tip, place.0.to_be_bytes().to_vec(), place.1.to_be_bytes().to_vec()].concat();
        for part in [Some(&row.table), Some(&row.key), row.content.as_ref()] {
            text.extend(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            text.extend(part.map_or("", |part| part).as_bytes());
        }
        tip = Sha256::of(&text).0.to_vec();
        if place.1 == 0 {
            tips.push(tip.clone());
        } else {
            *tips.last_mut().unwrap() = tip.clone();
        }
        (version, seq) = place;
    }
    assert_eq!(found.tips.iter().map(|tip| tip.0.to_vec()).collect::<Vec<_>>(), tips);
    assert_eq!((found.header.last, found.header.tip_after.0.to_vec()), (version, tip));
    assert_eq!(found.tip_at(found.header.first - 1), Some(found.header.tip_before));
    assert_eq!(found.tip_at(version), Some(found.header.tip_after));
    assert_eq!((found.tip_at(found.header.first - 2), found.tip_at(version + 1)), (None, None));
    let mut read = Vec::new();
    let again = Reader::open(file, None).unwrap().segment(|line| {
        read.push(line);
        Ok(())
    });
    assert_eq!(&again.unwrap(), found);
    let header = &found.header;
    let origin = Origin { cluster: header.cluster, history: header.history, epoch: header.epoch };
    let (written, bytes) = segment(&origin, header.tip_before, &read).unwrap();
    assert_eq!(written, Header { format: written.format, ..header.clone() });
    assert!(Reader::open(&bytes[..], None).and_then(Reader::verify).is_ok());
}

fn is_written_again(file: &[u8], found: &Snapshot) {
    let header = &found.header;
    let origin = Origin { cluster: header.cluster, history: header.history, epoch: header.epoch };
    let mut bytes = Vec::new();
    let mut writer = SnapshotWriter::start(&origin, header.last, header.tip_after, &mut bytes).unwrap();
    let read = Reader::open(file, None)
        .unwrap()
        .snapshot(|SnapshotLine { table, key, content }| writer.row(&table, &key, &content, &mut bytes));
    assert_eq!(&read.unwrap(), found);
    writer.finish(found.v1, found.tip1, &mut bytes).unwrap();
    let again = Reader::open(&bytes[..], None).unwrap().verify().unwrap();
    let Contents::Snapshot(again) = again else { panic!("another kind") };
    assert_eq!((again.rows, again.v1, again.tip1), (found.rows, found.v1, found.tip1));
}

/// The file with, by bits: 1 the header's versions, 2 its last tip, 4 the number of lines as they ought to be; always
/// with the right checksum.
fn repaired(file: &[u8], repairs: u8) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(file).ok()?;
    let mut lines: Vec<&str> = text.lines().collect();
    let trailer = lines.pop().filter(|line| line.starts_with("{\"lines\":")).unwrap_or("{\"lines\":0}");
    let (header, rows) = lines.split_first()?;
    let mut header: Value = serde_json::from_str(header).ok()?;
    let mut trailer: Value = serde_json::from_str(trailer).ok()?;
    let parsed: Vec<JournalLine> = rows.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let (Value::Object(header), Some(first), Some(last)) = (&mut header, parsed.first(), parsed.last()) {
        if repairs & 1 != 0 {
            header.insert("first".into(), first.version.into());
            header.insert("last".into(), last.version.into());
        }
        if repairs & 2 != 0 {
            let before: Sha256 = header.get("tip_before")?.as_str()?.parse().ok()?;
            let tip = parsed.iter().fold(before, |tip, line| line.next_tip(tip));
            header.insert("tip_after".into(), tip.to_string().into());
        }
    }
    let trailer = trailer.as_object_mut()?;
    trailer.remove("sha256");
    let count = if repairs & 4 != 0 { rows.len().into() } else { trailer.get("lines")?.clone() };
    trailer.remove("lines");
    let mut body = format!("{header}\n");
    rows.iter().for_each(|line| body.extend([line, "\n"]));
    // The trailer begins with its count.
    body.push_str(&format!("{{\"lines\":{count}"));
    trailer.iter().for_each(|(name, value)| body.push_str(&format!(",{name:?}:{value}")));
    let digest = Sha256::of(body.as_bytes());
    Some(format!("{body},\"sha256\":\"{digest}\"}}\n").into_bytes())
}

fn line(version: Version, seq: i32, content: Option<&str>) -> JournalLine {
    let content = content.map(String::from);
    JournalLine { version, seq, table: ENTRIES.into(), key: "7".into(), content, created: Default::default() }
}

pub fn file_seeds() -> Vec<Vec<u8>> {
    let lines = [line(4, 0, Some("{\"a\":\"\\\"ü\"}")), line(5, 0, None), line(5, 1, Some("")), line(6, 0, Some("x"))];
    let last = [line(Version::MAX, 0, None), line(Version::MIN, 0, None)];
    let whole = segment(&ORIGIN, Sha256([5; 32]), &lines).unwrap().1;
    let mut snapshot = Vec::new();
    let mut writer = SnapshotWriter::start(&ORIGIN, 8, Sha256([8; 32]), &mut snapshot).unwrap();
    writer.row("entries", "1", "{}", &mut snapshot).unwrap();
    writer.row("tokens", "x", "{\"a\":1}", &mut snapshot).unwrap();
    writer.finish(9, Sha256([9; 32]), &mut snapshot).unwrap();
    // By hand, since the writer does not.
    let beyond: String = last.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    let text = String::from_utf8(segment(&ORIGIN, Sha256([5; 32]), &last[..1]).unwrap().1).unwrap();
    let beyond = format!("{}\n{beyond}{{\"lines\":18446744073709551615}}\n", text.lines().next().unwrap());
    [whole, snapshot, beyond.into_bytes()]
        .iter()
        .flat_map(|file| [0, 7].map(|repairs: u8| [&[repairs][..], file].concat()))
        .collect()
}

/// Rows of entries and objects that a journal may have, applied to the temporary database and walked as `salvage` and
/// a restore do.
pub fn trees(data: &[u8]) {
    // Too few choices make no rows.
    let _ = grow(&mut Unstructured::new(data));
}

fn grow(choices: &mut Unstructured) -> Result<()> {
    let mut staging = Staging::create(None).unwrap();
    let mut refused = 0;
    let count = choices.int_in_range(1..=24)?;
    for _ in 0..count {
        // The root, a few others, and one that is not what its row says.
        let id = choices.int_in_range(0..=6)?;
        let key = if choices.ratio(1, 3)? { choices.int_in_range(0..=6)? } else { id };
        let parent = choices.arbitrary::<bool>()?.then(|| choices.int_in_range(0..=6)).transpose()?;
        let name = *choices.choose(&["", "a", "b", "..", "a/b", "\0", "ü"])?;
        let object = choices.arbitrary::<bool>()?.then(|| choices.int_in_range(90..=92)).transpose()?;
        let kind = *choices.choose(&["directory", "file"])?;
        let row = serde_json::json!({ "id": id, "parent": parent, "name": name, "object": object, "kind": kind });
        let content = if choices.ratio(1, 8)? { None } else { Some(row.to_string()) };
        refused += usize::from(staging.apply(ENTRIES, &key.to_string(), content.as_deref()).is_err());
        staging.apply(OBJECTS, &key.to_string(), content.as_deref()).unwrap();
    }
    let known = staging.count(ENTRIES).unwrap();
    assert!(known <= 7 && refused <= count);
    // Every page of children, from the root down, each directory once: as long as there are rows.
    let (mut open, mut met) = (vec![(1, None::<String>)], HashSet::new());
    let mut pages = 0;
    while let Some((directory, after)) = open.pop() {
        pages += 1;
        assert!(pages <= 2 * (known + 2), "the walk does not end");
        let children = staging.children(directory, after.as_deref(), 100).unwrap();
        let Some(last) = children.last() else { continue };
        open.push((directory, Some(last.name.clone())));
        for child in children.into_iter().filter(|child| child.id != 1) {
            assert!(met.insert(child.id), "{} is met twice", child.id);
            if child.is_directory() {
                open.push((child.id, None));
            }
        }
    }
    for id in 0..=6 {
        let path = staging.path_of(id).unwrap();
        assert!(path.is_none() || id == 1 || met.contains(&id) || !above_are_directories(&mut staging, id));
    }
    for object in 90..=92 {
        let (mut after, mut found) = (None::<String>, HashSet::new());
        loop {
            let entries = staging.entries_of(object, after.as_deref(), 2).unwrap();
            let Some(last) = entries.last() else { break };
            after = Some(last.id.to_string());
            assert!(entries.iter().all(|entry| found.insert(entry.id)), "the pages go round in circles");
        }
    }
    Ok(())
}

/// Whether only directories stand above an entry: what hangs below a file is met by nobody who walks.
fn above_are_directories(staging: &mut Staging, id: i64) -> bool {
    let Some(parent) = staging.entry(id).unwrap().and_then(|entry| entry.parent) else { return true };
    parent == 1
        || staging
            .entry(parent)
            .unwrap()
            .is_some_and(|entry| entry.is_directory() && above_are_directories(staging, parent))
}

pub fn tree_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        (1..9).map(|step: u8| (0..200).map(|place: u8| place.wrapping_mul(step.wrapping_mul(37))).collect()).collect();
    seeds.push(vec![0; 64]);
    seeds
}
