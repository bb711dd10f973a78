//! A member's log: a file of bounded size, and some older ones.
//!
//! Everything that the member writes to standard output and error goes there, panics included, with and without `up`
//! watching. The member itself begins a new file when the present one is full: it opens the new one first, renames, and
//! then puts it in the place of its standard output and error. Whatever fails on the way, the log goes on in the file
//! that it is in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Older files that are kept, as `NAME.log.1` (the newest) and so on.
pub(super) const OLD_LOGS_MAX: u32 = 3;
/// After a file that could not be begun anew, it is tried again when as much more was written.
const TRY_AGAIN_BYTES: u64 = 64 << 10;

/// Opens a log to write at its end; only its owner may read it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The file of the `age`th older log.
pub(super) fn older(path: &Path, age: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

/// Writes to a log and begins it anew when it is full.
pub(super) struct MemberLog {
    path: PathBuf,
    bytes_max: u64,
    /// What is written goes here; standard output and error go to the same file.
    file: File,
    /// The size at which the file counts as full.
    full_at: u64,
    /// Puts a new file in the place of standard output and error.
    redirect: fn(&File) -> io::Result<()>,
}

impl MemberLog {
    /// Takes standard output and error over.
    pub(super) fn start(path: &Path, bytes_max: u64) -> io::Result<Self> {
        Self::over(path, bytes_max, |file| {
            rustix::stdio::dup2_stdout(file)?;
            Ok(rustix::stdio::dup2_stderr(file)?)
        })
    }

    fn over(path: &Path, bytes_max: u64, redirect: fn(&File) -> io::Result<()>) -> io::Result<Self> {
        let file = open(path)?;
        redirect(&file)?;
        Ok(Self { path: path.into(), bytes_max, file, full_at: bytes_max, redirect })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut new_path = self.path.as_os_str().to_owned();
        new_path.push(".new");
        let new_path = PathBuf::from(new_path);
        // One that a crash left behind is empty or nearly so.
        let _ = fs::remove_file(&new_path);
        let new = open(&new_path)?;
        for age in (1..OLD_LOGS_MAX).rev() {
            move_over(&older(&self.path, age), &older(&self.path, age + 1))?;
        }
        move_over(&self.path, &older(&self.path, 1))?;
        fs::rename(&new_path, &self.path)?;
        self.file = new;
        (self.redirect)(&self.file)
    }
}

/// A crash may have left a gap in the row of older logs.
fn move_over(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Write for MemberLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.file.metadata()?.len();
        if size > 0 && size + bytes.len() as u64 > self.full_at {
            self.full_at = match self.rotate() {
                Ok(()) => self.bytes_max,
                Err(_) => size + TRY_AGAIN_BYTES,
            };
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn line(number: usize) -> String {
        format!("line {number:04} ...........................................................................\n")
    }

    #[test]
    fn a_log_is_bounded_and_its_end_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.log");
        let mut log = MemberLog::over(&path, 1_000, |_| Ok(())).unwrap();
        for number in 0..200 {
            log.write_all(line(number).as_bytes()).unwrap();
        }
        let mut files: Vec<PathBuf> = (1..=OLD_LOGS_MAX).rev().map(|age| older(&path, age)).collect();
        files.push(path.clone());
        let mut text = String::new();
        for file in &files {
            let metadata = fs::metadata(file).unwrap();
            assert!(metadata.len() <= 1_000 && metadata.len() > 0, "{}", file.display());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            text.push_str(&fs::read_to_string(file).unwrap());
        }
        let all: String = (0..200).map(line).collect();
        assert!(all.ends_with(&text), "the newest lines are there, in order");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files.len());
        // A process that is started again goes on in the same file.
        let before = fs::metadata(&path).unwrap().len();
        let mut log = MemberLog::over(&path, 10_000, |_| Ok(())).unwrap();
        log.write_all(b"again\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), before + 6);
        // A line larger than the bound is written whole, to a file of its own.
        let mut log = MemberLog::over(&path, 100, |_| Ok(())).unwrap();
        log.write_all(&[b'x'; 300]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [b'x'; 300]);
    }

    #[test]
    fn what_fails_leaves_the_log_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.log");
        // A directory stands where the oldest log would go.
        fs::create_dir_all(older(&path, OLD_LOGS_MAX).join("x")).unwrap();
        fs::write(older(&path, OLD_LOGS_MAX - 1), "older\n").unwrap();
        let mut log = MemberLog::over(&path, 100, |_| Ok(())).unwrap();
        for number in 0..10 {
            log.write_all(line(number).as_bytes()).unwrap();
        }
        let all: String = (0..10).map(line).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), all);
        assert_eq!(fs::read_to_string(older(&path, OLD_LOGS_MAX - 1)).unwrap(), "older\n");
    }
}
