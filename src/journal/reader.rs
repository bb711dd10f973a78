//! Reading segments and snapshots, with every check: the format, the checksum, the chain, the cluster.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::JournalLine;
use super::format::{
    DIGEST_START, Defect, FORMAT, Follower, Header, Kind, LINE_BYTES_MAX, SnapshotLine, TRAILER_START, Trailer,
    VERSION_MAX,
};
use crate::types::bounds;
use crate::types::hash::Hasher;
use crate::types::{Error, Result, Sha256, Version};

/// Longest trailer, in bytes: as far back from its end [`ends`] looks.
const TRAILER_BYTES_MAX: u64 = 1 << 10;

/// A segment that was read to its end and is right in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first line.
    pub header: Header,
    /// The tip after each of its versions.
    pub tips: Vec<Sha256>,
}

impl Segment {
    /// Whether it has the very lines of another segment: the same tips are the same past.
    pub fn has_lines_of(&self, other: &Header) -> bool {
        (self.header.history, self.header.epoch) == (other.history, other.epoch)
            && self.tip_at(other.first - 1) == Some(other.tip_before)
            && self.tip_at(other.last) == Some(other.tip_after)
    }

    /// The tip after a version that it has, or after the one right before it.
    pub fn tip_at(&self, version: Version) -> Option<Sha256> {
        if version + 1 == self.header.first {
            return Some(self.header.tip_before);
        }
        self.tips.get(usize::try_from(version.checked_sub(self.header.first)?).ok()?).copied()
    }
}

/// A snapshot that was read to its end and is right in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its first line.
    pub header: Header,
    /// The newest version when its last row was read.
    pub v1: Version,
    /// The tip at that version.
    pub tip1: Sha256,
    /// Rows.
    pub rows: u64,
}

/// What the first and the last line of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The first line.
    pub header: Header,
    /// The version and tip at which reading a snapshot ended; for a segment its last.
    pub end: (Version, Sha256),
}

/// Reads only both ends of a file: a file that was cut off is noticed, other damage is not.
pub fn ends(file: &mut (impl Read + Seek), cluster: Option<Uuid>) -> Result<Ends, Defect> {
    let header = Reader::open(BufReader::with_capacity(4 << 10, &mut *file), cluster)?.header;
    let length = file.seek(SeekFrom::End(0)).map_err(reading)?;
    file.seek(SeekFrom::Start(length.saturating_sub(TRAILER_BYTES_MAX))).map_err(reading)?;
    let mut tail = Vec::new();
    file.take(TRAILER_BYTES_MAX).read_to_end(&mut tail).map_err(reading)?;
    let Some(line) = tail.strip_suffix(b"\n") else { return Err(Defect::Truncated) };
    let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    if !line.starts_with(TRAILER_START) {
        return Err(Defect::Truncated);
    }
    let trailer: Trailer = serde_json::from_slice(line)
        .map_err(|error| Defect::Malformed(format!("its trailer is not what it must be: {error}")))?;
    let end = match (header.kind, trailer.v1.zip(trailer.tip1)) {
        (Kind::Segment, None) => (header.last, header.tip_after),
        (Kind::Snapshot, Some(end)) if end.0 >= header.first => end,
        _ => return Err(Defect::Malformed("its trailer does not go with its header".into())),
    };
    within_reach(end.0)?;
    Ok(Ends { header, end })
}

/// A file that was read to its end and is right in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Changes.
    Segment(Segment),
    /// Rows.
    Snapshot(Snapshot),
}

/// Reads a file, one line in memory at a time. What is wrong may come out only at its end: whoever takes the lines
/// must be able to forget them.
pub struct Reader<R> {
    input: R,
    hasher: Hasher,
    line: Vec<u8>,
    /// Lines read, the header included.
    number: u64,
    header: Header,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line; files of another cluster than `cluster`, when it is given, are refused.
    pub fn open(input: R, cluster: Option<Uuid>) -> Result<Self, Defect> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let mut lines = Lines { input, line: Vec::new(), number: 0 };
        lines.read()?;
        let Format { format } = lines.parse()?;
        if format > FORMAT {
            return Err(Defect::FormatTooNew(format));
        }
        let header: Header = lines.parse()?;
        let mut hasher = Hasher::default();
        hasher.update(&lines.line);
        if let Some(cluster) = cluster.filter(|cluster| *cluster != header.cluster) {
            log::debug!("a file of cluster {} came to cluster {cluster}", header.cluster);
            return Err(Defect::OtherCluster(header.cluster));
        }
        let sane = match header.kind {
            Kind::Segment => header.first >= 1 && header.last >= header.first,
            Kind::Snapshot => header.first >= 0 && header.first == header.last && header.tip_before == header.tip_after,
        };
        if !sane {
            return Err(Defect::Malformed("its header contradicts itself".into()));
        }
        within_reach(header.last)?;
        if let Err(error) = bounds::check_epoch(header.epoch) {
            return Err(Defect::Malformed(error.message().into()));
        }
        Ok(Self { input: lines.input, hasher, line: lines.line, number: lines.number, header })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads to the end and checks everything.
    pub fn verify(self) -> Result<Contents, Defect> {
        match self.header.kind {
            Kind::Segment => self.segment(|_| Ok(())).map(Contents::Segment),
            Kind::Snapshot => self.snapshot(|_| Ok(())).map(Contents::Snapshot),
        }
    }

    /// Reads a segment and hands its lines out.
    pub fn segment(mut self, mut visit: impl FnMut(JournalLine) -> Result<()>) -> Result<Segment, Defect> {
        self.expect(Kind::Segment)?;
        let mut chain = Follower::new(self.header.first, self.header.tip_before);
        let mut tips = Vec::new();
        let trailer = self.lines(|line: JournalLine| {
            if chain.take(&line)? {
                tips.push(chain.tip);
            } else if let Some(last) = tips.last_mut() {
                *last = chain.tip;
            }
            visit(line).map_err(Defect::Failed)
        })?;
        if (chain.version, chain.tip) != (self.header.last, self.header.tip_after) {
            let why = format!("its lines end at version {} with another tip than its header says", chain.version);
            return Err(Defect::Chain(why));
        }
        if trailer.v1.is_some() || trailer.tip1.is_some() {
            return Err(Defect::Malformed("a segment has the trailer of a snapshot".into()));
        }
        Ok(Segment { header: self.header, tips })
    }

    /// Reads a snapshot and hands its rows out.
    pub fn snapshot(mut self, mut visit: impl FnMut(SnapshotLine) -> Result<()>) -> Result<Snapshot, Defect> {
        self.expect(Kind::Snapshot)?;
        let trailer = self.lines(|line: SnapshotLine| visit(line).map_err(Defect::Failed))?;
        let (Some(v1), Some(tip1)) = (trailer.v1, trailer.tip1) else {
            return Err(Defect::Malformed("a snapshot's trailer does not say when its reading ended".into()));
        };
        if v1 < self.header.first || (v1 == self.header.first && tip1 != self.header.tip_after) {
            return Err(Defect::Chain(format!("its reading ended at version {v1}, before or beside its beginning")));
        }
        within_reach(v1)?;
        Ok(Snapshot { header: self.header, v1, tip1, rows: trailer.lines })
    }

    fn expect(&self, kind: Kind) -> Result<(), Defect> {
        let wrong = || Defect::Malformed(format!("it is a {:?} where a {kind:?} was wanted", self.header.kind));
        if self.header.kind == kind { Ok(()) } else { Err(wrong()) }
    }

    /// Hands out the lines between header and trailer, and checks the trailer.
    fn lines<T: DeserializeOwned>(
        &mut self,
        mut visit: impl FnMut(T) -> Result<(), Defect>,
    ) -> Result<Trailer, Defect> {
        let (input, line) = (&mut self.input, std::mem::take(&mut self.line));
        let mut lines = Lines { input, line, number: self.number };
        loop {
            lines.read()?;
            if lines.line.starts_with(TRAILER_START) {
                break;
            }
            visit(lines.parse()?)?;
            self.hasher.update(&lines.line);
        }
        if lines.line.len() as u64 > TRAILER_BYTES_MAX {
            return Err(Defect::Malformed("its trailer is too long".into()));
        }
        let trailer: Trailer = lines.parse()?;
        if !is_sealed(&lines.line, std::mem::take(&mut self.hasher)) {
            return Err(Defect::Checksum);
        }
        // The header and the trailer do not count.
        if trailer.lines.checked_add(2) != Some(lines.number) {
            return Err(Defect::Malformed("its trailer has another number of lines".into()));
        }
        if lines.input.fill_buf().map_err(reading)?.is_empty() {
            Ok(trailer)
        } else {
            Err(Defect::Malformed("something follows its trailer".into()))
        }
    }
}

/// The bare lines of a file.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line, with its end.
    fn read(&mut self) -> Result<(), Defect> {
        self.line.clear();
        self.number += 1;
        let length =
            self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line).map_err(reading)? as u64;
        if self.line.last() == Some(&b'\n') {
            Ok(())
        } else if length == LINE_BYTES_MAX {
            Err(Defect::LineTooLong(self.number))
        } else {
            Err(Defect::Truncated)
        }
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Defect> {
        serde_json::from_slice(&self.line)
            .map_err(|error| Defect::Malformed(format!("its line {} is not what it must be: {error}", self.number)))
    }
}

/// Whether a trailer has the digest of all bytes before the digest, of which `hasher` has taken those of the other
/// lines.
fn is_sealed(trailer: &[u8], mut hasher: Hasher) -> bool {
    let Some(place) = trailer.windows(DIGEST_START.len()).rposition(|window| window == DIGEST_START) else {
        return false;
    };
    hasher.update(&trailer[..place]);
    let digest = format!("\"{}\"}}\n", hasher.finish());
    trailer[place + DIGEST_START.len()..] == *digest.as_bytes()
}

/// Whoever reads a file on counts on from its versions.
fn within_reach(version: Version) -> Result<(), Defect> {
    let wrong = || Defect::Malformed(format!("it names version {version}; none is higher than {VERSION_MAX}"));
    if version <= VERSION_MAX { Ok(()) } else { Err(wrong()) }
}

fn reading(error: std::io::Error) -> Defect {
    Defect::Failed(Error::io("reading a file of the journal", error))
}

#[cfg(test)]
mod tests {
    use super::super::format::{Origin, SnapshotWriter, segment};
    use super::*;
    use crate::types::ErrorCode;

    const ORIGIN: Origin = Origin { cluster: Uuid::from_u128(1), history: Uuid::from_u128(2), epoch: 3 };

    fn line(version: Version, seq: i32) -> JournalLine {
        let content = (version % 3 != 0).then(|| format!("{{\"name\":\"a \\\"{version}\"}}"));
        JournalLine { version, seq, table: "entries".into(), key: "7".into(), content, created: Default::default() }
    }

    fn lines() -> Vec<JournalLine> {
        vec![line(4, 0), line(5, 0), line(5, 1), line(6, 0)]
    }

    fn verify(bytes: &[u8]) -> Result<Contents, Defect> {
        Reader::open(bytes, Some(ORIGIN.cluster))?.verify()
    }

    fn snapshot() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = SnapshotWriter::start(&ORIGIN, 8, Sha256([8; 32]), &mut bytes).unwrap();
        writer.row("entries", "1", "{}", &mut bytes).unwrap();
        writer.row("tokens", "x", "{\"a\":1}", &mut bytes).unwrap();
        writer.finish(9, Sha256([9; 32]), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let (header, bytes) = segment(&ORIGIN, Sha256([5; 32]), &lines()).unwrap();
        assert_eq!((header.first, header.last, header.epoch), (4, 6, 3));
        let mut read = Vec::new();
        let found = Reader::open(bytes.as_slice(), None).unwrap().segment(|line| {
            read.push(line);
            Ok(())
        });
        let found = found.unwrap();
        assert_eq!((&found.header, read), (&header, lines()));
        assert_eq!((found.tip_at(3), found.tip_at(6)), (Some(header.tip_before), Some(header.tip_after)));
        assert_eq!((found.tip_at(2), found.tip_at(7), found.tips.len()), (None, None, 3));
        let mut rows = Vec::new();
        let bytes = snapshot();
        let found = Reader::open(bytes.as_slice(), None).unwrap().snapshot(|row| {
            rows.push((row.table, row.key, row.content));
            Ok(())
        });
        let found = found.unwrap();
        assert_eq!((found.header.last, found.v1, found.tip1, found.rows), (8, 9, Sha256([9; 32]), 2));
        let ends = ends(&mut std::io::Cursor::new(snapshot()), None).unwrap();
        assert_eq!((ends.header, ends.end), (found.header, (9, Sha256([9; 32]))));
        assert_eq!(rows[1], ("tokens".into(), "x".into(), "{\"a\":1}".into()));
    }

    #[test]
    fn every_damage_is_noticed_and_named() {
        let (_, bytes) = segment(&ORIGIN, Sha256([5; 32]), &lines()).unwrap();
        for bytes in [bytes.clone(), snapshot()] {
            for length in 0..bytes.len() {
                assert!(matches!(verify(&bytes[..length]), Err(Defect::Truncated)), "{length}");
            }
            for place in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1;
                // A changed cluster id is another cluster, a changed number another format.
                assert!(verify(&damaged).is_err(), "{}", String::from_utf8_lossy(&damaged));
            }
            assert!(matches!(verify(&[&bytes[..], b"x"].concat()), Err(Defect::Malformed(_))));
            let other = Reader::open(bytes.as_slice(), Some(Uuid::nil()));
            assert!(matches!(other, Err(Defect::OtherCluster(_))));
        }
        let text = String::from_utf8(bytes).unwrap();
        let newer = text.replacen("\"format\":1", "\"format\":2", 1);
        assert!(matches!(verify(newer.as_bytes()), Err(Defect::FormatTooNew(2))));
        // A line that is left out whole, and another tip with the right checksum.
        let without = text.lines().enumerate().filter(|(number, _)| *number != 2).map(|(_, line)| format!("{line}\n"));
        assert!(matches!(verify(without.collect::<String>().as_bytes()), Err(Defect::Chain(_))));
        let (header, _) = segment(&ORIGIN, Sha256([5; 32]), &lines()).unwrap();
        let body = text.replace(&header.tip_after.to_string(), &header.tip_before.to_string());
        assert!(matches!(verify(resealed(&body).as_bytes()), Err(Defect::Chain(_))));
    }

    /// A trailer is covered by its digest, which anybody can compute.
    fn resealed(text: &str) -> String {
        let body = &text[..text.rfind(",\"sha256\"").unwrap()];
        format!("{body},\"sha256\":\"{}\"}}\n", Sha256::of(body.as_bytes()))
    }

    #[test]
    fn numbers_at_the_end_of_their_range_are_refused() {
        let last = |version| {
            let lines = [JournalLine { version, ..line(1, 0) }];
            String::from_utf8(segment(&ORIGIN, Sha256([5; 32]), &lines).unwrap().1).unwrap()
        };
        assert!(verify(last(VERSION_MAX).as_bytes()).is_ok());
        assert!(matches!(verify(last(VERSION_MAX + 1).as_bytes()), Err(Defect::Malformed(_))));
        assert!(matches!(verify(last(Version::MAX).as_bytes()), Err(Defect::Malformed(_))));
        let text = String::from_utf8(snapshot()).unwrap();
        let far = resealed(&text.replace("\"v1\":9", &format!("\"v1\":{}", Version::MAX)));
        assert!(matches!(verify(far.as_bytes()), Err(Defect::Malformed(_))));
        assert!(ends(&mut std::io::Cursor::new(far), None).is_err());
        let before = resealed(&text.replace("\"v1\":9", "\"v1\":7"));
        assert!(ends(&mut std::io::Cursor::new(before), None).is_err());
        for wrong in [u64::MAX, u64::MAX - 1, 3] {
            let text = text.replace("{\"lines\":2", &format!("{{\"lines\":{wrong}"));
            assert!(matches!(verify(resealed(&text).as_bytes()), Err(Defect::Malformed(_))), "{wrong}");
        }
    }

    #[test]
    fn an_epoch_that_nobody_can_follow_is_refused() {
        for (epoch, right) in
            [(bounds::EPOCH_MAX, true), (bounds::EPOCH_MAX + 1, false), (i64::MAX, false), (-1, false)]
        {
            let (_, bytes) = segment(&Origin { epoch, ..ORIGIN }, Sha256([5; 32]), &lines()).unwrap();
            assert_eq!(verify(&bytes).is_ok(), right, "{epoch}");
            assert_eq!(ends(&mut std::io::Cursor::new(bytes), None).is_ok(), right, "{epoch}");
        }
    }

    #[test]
    fn whoever_looks_at_the_ends_alone_sees_what_was_accepted() {
        let text = String::from_utf8(snapshot()).unwrap();
        for spaces in [0, 100, TRAILER_BYTES_MAX as usize, 4 << 10] {
            let padded = resealed(&text.replace("\"v1\":9", &format!("{}\"v1\":9", " ".repeat(spaces))));
            let whole = verify(padded.as_bytes()).is_ok();
            assert_eq!((whole, ends(&mut std::io::Cursor::new(padded), None).is_ok()), (spaces < 200, spaces < 200));
        }
    }

    #[test]
    fn a_line_without_end_is_not_read_whole() {
        let endless = std::io::BufReader::new(std::io::repeat(b' '));
        assert!(matches!(Reader::open(endless, None), Err(Defect::LineTooLong(1))));
    }

    #[test]
    fn only_whole_dense_versions_make_a_segment() {
        for wrong in [
            vec![],
            vec![line(4, 1)],
            vec![line(4, 0), line(4, 2)],
            vec![line(4, 0), line(6, 0)],
            vec![line(4, 0), line(4, 0)],
        ] {
            assert_eq!(segment(&ORIGIN, Sha256([5; 32]), &wrong).unwrap_err().code(), ErrorCode::Internal);
        }
    }
}
