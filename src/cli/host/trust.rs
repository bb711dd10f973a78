//! Whose word counts: configuration that is found where a command happens to run.
//!
//! A control directory (`.holdfast`, or `holdfast-data` with a `client.toml`) says where the cluster is, and with
//! which token. One that somebody else may have put there, or can change, would send the caller's commands and
//! tokens to a server of that person's choice. So it counts only when the directory and the file belong to the
//! caller and nobody else may write them. The rule is git's (`safe.directory`): the owner is the effective user; to
//! root, run by sudo, also the one who called it.

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::stat::{Look, LookKind};
use super::tree::HostDir;
use crate::types::error::IoContext;
use crate::types::{Error, Result};

/// Bytes of a configuration.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;
/// Write permission of the group and of all others.
const OTHERS_WRITE: u32 = 0o022;

/// A control file that was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// It counts; this is what is in it.
    Trusted(String),
    /// It does not count, and this is why.
    Distrusted(String),
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
struct Caller {
    user: u32,
    /// Who has become root by sudo.
    sudo: Option<u32>,
}

impl Caller {
    fn now() -> Self {
        let user = rustix::process::geteuid().as_raw();
        let sudo = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
        Self { user, sudo: sudo.filter(|_| user == 0) }
    }

    /// Why something of this owner and with these permissions does not count.
    fn distrusts(self, owner: u32, mode: u32) -> Option<String> {
        if owner != self.user && Some(owner) != self.sudo {
            return Some(format!("it belongs to user {owner}, not to you"));
        }
        (mode & OTHERS_WRITE != 0).then(|| format!("others may write it (mode {:o})", mode & 0o777))
    }
}

/// Reads a file of a control directory of `dir`, if both are there. No link is followed.
pub(crate) fn read_control(dir: &HostDir, control: &str, file: &str) -> Result<Option<Found>> {
    let caller = Caller::now();
    let shown = dir.shown().join(control);
    let distrusted = |path: &Path, why: &str| Ok(Some(Found::Distrusted(format!("{}: {why}", path.display()))));
    match dir.look(control.as_ref())? {
        Some(look) if look.is_directory() => {
            if let Some(why) = caller.distrusts(look.owner, look.mode) {
                // One without the file says nothing, whoever made it.
                return if is_without(dir, control, file) { Ok(None) } else { distrusted(&shown, &why) };
            }
        }
        Some(Look { kind: LookKind::Other("a symbolic link"), .. }) => {
            return distrusted(&shown, "it is a symbolic link");
        }
        _ => return Ok(None),
    }
    let opened = dir.dir(Path::new(control))?;
    let look = opened.look_at_itself()?;
    if let Some(why) = caller.distrusts(look.owner, look.mode) {
        return distrusted(&shown, &why);
    }
    let (path, name) = (shown.join(file), file);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(&opened, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return distrusted(&path, "it is a symbolic link"),
        Err(error) => return Err(Error::io(format!("opening {}", path.display()), error.into())),
    };
    let look = Look::of_file(&fd).map_err(std::io::Error::from);
    let look = look.io_context(|| format!("looking at {}", path.display()))?;
    if !look.is_file() {
        return distrusted(&path, &format!("it is {}", look.what()));
    }
    if let Some(why) = caller.distrusts(look.owner, look.mode) {
        return distrusted(&path, &why);
    }
    let mut text = String::new();
    let read = std::fs::File::from(fd).take(CONFIGURATION_BYTES_MAX).read_to_string(&mut text);
    read.io_context(|| format!("reading {}", path.display()))?;
    Ok(Some(Found::Trusted(text)))
}

/// Whether a foreign directory certainly lacks a file.
fn is_without(dir: &HostDir, control: &str, file: &str) -> bool {
    dir.dir(Path::new(control)).and_then(|control| control.look(file.as_ref())).is_ok_and(|look| look.is_none())
}

/// What to do about a control directory that does not count.
pub(crate) fn remedy(why: &str) -> String {
    format!(
        "{why}. It is not used. If it is yours, make it so (`chown -R`, `chmod -R go-w`; on a file system without \
         owners mount it for your user, with umask=077); if not, say where the cluster is by --config or --name-server"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_owner_is_the_caller_and_nobody_else_writes() {
        let me = Caller { user: 1000, sudo: None };
        let root = Caller { user: 0, sudo: None };
        let sudo = Caller { user: 0, sudo: Some(1000) };
        for (caller, owner, mode, trusted) in [
            (me, 1000, 0o700, true),
            (me, 1000, 0o755, true),
            (me, 1000, 0o775, false),
            (me, 1000, 0o777, false),
            (me, 0, 0o755, false),
            (me, 1001, 0o700, false),
            (root, 0, 0o755, true),
            (root, 1000, 0o755, false),
            (sudo, 1000, 0o755, true),
            (sudo, 0, 0o700, true),
            (sudo, 1001, 0o700, false),
            (sudo, 1000, 0o757, false),
        ] {
            assert_eq!(caller.distrusts(owner, mode).is_none(), trusted, "{caller:?} {owner} {mode:o}");
        }
    }

    #[test]
    fn links_and_what_others_may_write_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let (root, dir) = (directory.path(), HostDir::open(directory.path()).unwrap());
        let read = || read_control(&dir, ".holdfast", "config.toml").unwrap();
        let mode = |path: &str, mode| {
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(read().is_none());
        std::fs::create_dir(root.join(".holdfast")).unwrap();
        assert!(read().is_none());
        std::fs::write(root.join(".holdfast/config.toml"), "x").unwrap();
        mode(".holdfast", 0o700);
        mode(".holdfast/config.toml", 0o600);
        assert!(matches!(read(), Some(Found::Trusted(text)) if text == "x"));
        mode(".holdfast/config.toml", 0o666);
        assert!(matches!(read(), Some(Found::Distrusted(why)) if why.contains("config.toml")));
        mode(".holdfast/config.toml", 0o600);
        mode(".holdfast", 0o770);
        assert!(matches!(read(), Some(Found::Distrusted(why)) if why.contains("others may write")));
        mode(".holdfast", 0o700);
        std::fs::rename(root.join(".holdfast/config.toml"), root.join("elsewhere")).unwrap();
        symlink(root.join("elsewhere"), root.join(".holdfast/config.toml")).unwrap();
        assert!(matches!(read(), Some(Found::Distrusted(why)) if why.contains("link")));
        std::fs::rename(root.join(".holdfast"), root.join("moved")).unwrap();
        symlink("moved", root.join(".holdfast")).unwrap();
        assert!(matches!(read(), Some(Found::Distrusted(why)) if why.contains("link")));
    }
}
