//! Disks that are read-only, gone or full, and bytes that are not what was written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cluster::{Disk, Plan};
use crate::night::Act::Hands;
use crate::night::{NAMED_WITHIN, Night, Trouble, nothing, plan};

const EXT4: Disk = Disk::Ext4(96);
/// What fills disks, inside of their mount points.
const FILLER: &str = "filler";

fn on_ext4() -> Plan {
    Plan { disks: vec![EXT4; 3], ..plan() }
}

fn restart_first(night: &mut Night) {
    night.cluster.storage[0].kill();
    night.cluster.storage[0].start();
}

pub fn a_disk_is_read_only() -> Trouble {
    Trouble {
        what: "The kernel makes a storage server's file system read-only",
        plan: on_ext4,
        make: |night| night.cluster.make_read_only(0),
        code: "disk_read_only",
        within: NAMED_WITHIN,
        needs_root: true,
        remedy: vec![Hands("check its file system and mount it again, then start storage-0 again", |night| {
            night.cluster.storage[0].kill();
            night.cluster.repair_disk(0);
            night.cluster.storage[0].start();
        })],
    }
}

pub fn a_disk_is_unmounted() -> Trouble {
    Trouble {
        what: "A storage server's disk is unmounted under it",
        plan: on_ext4,
        make: |night| night.cluster.unmount(0),
        code: "server_down",
        within: NAMED_WITHIN,
        needs_root: true,
        // Its start mounts the disk again.
        remedy: vec![Hands("start storage-0 again", restart_first)],
    }
}

/// Takes what is left on a storage server's disk.
fn fill(night: &Night, number: usize) {
    let file = night.cluster.storage_dir(number).join(FILLER);
    night.cluster.inside(number, &format!("dd if=/dev/zero of='{}' bs=64k 2>/dev/null; true", file.display()));
}

fn empty(night: &Night, number: usize) {
    let file = night.cluster.storage_dir(number).join(FILLER);
    night.cluster.inside(number, &format!("rm -f '{}'", file.display()));
}

pub fn a_disk_is_full() -> Trouble {
    Trouble {
        what: "Something else fills the disk of a storage server",
        plan: || Plan { disks: vec![Disk::Memory("size=64m")], ..plan() },
        make: |night| fill(night, 0),
        code: "disk_full",
        within: NAMED_WITHIN,
        needs_root: true,
        remedy: vec![Hands("make its disk larger, or remove files", |night| empty(night, 0))],
    }
}

pub fn all_disks_are_full() -> Trouble {
    Trouble {
        what: "The disks of all storage servers are full",
        plan: || Plan { disks: vec![Disk::Memory("size=64m"); 3], ..plan() },
        make: |night| (0..3).for_each(|number| fill(night, number)),
        code: "storage_full",
        within: NAMED_WITHIN,
        needs_root: true,
        remedy: vec![Hands("make disks larger, or remove files", |night| {
            (0..3).for_each(|number| empty(night, number))
        })],
    }
}

/// The file of some object on a storage server.
fn a_copy(dir: &Path) -> PathBuf {
    let mut files = walkdir::WalkDir::new(dir.join("objects")).into_iter().flatten();
    files.find(|entry| entry.file_type().is_file()).unwrap().into_path()
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[1_000] ^= 0xff;
    fs::write(file, bytes).unwrap();
}

pub fn a_copy_is_corrupt() -> Trouble {
    Trouble {
        what: "A disk answers other bytes than were written to it",
        plan,
        make: |night| {
            damage(&a_copy(&night.cluster.storage_dir(0)));
            // A reader may be sent to the other copy. It ends with a code of its own, because it finds something.
            night.cluster.run(&["scrub", "now", "storage-0"]);
        },
        code: "corrupt_copies",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("nothing, if it does not happen again", nothing)],
    }
}

pub fn the_last_copy_is_corrupt() -> Trouble {
    Trouble {
        what: "The last copy of a file is corrupt",
        plan,
        make: |night| {
            night.cluster.ok(&["setrep", "1", "/"]);
            night.cluster.ok(&["mkdir", "/once"]);
            night.write("/once/photo", vec![9; 200_000]);
            let find = |number: &usize| {
                let files = walkdir::WalkDir::new(night.cluster.storage_dir(*number).join("objects"));
                files.into_iter().flatten().find(|entry| entry.metadata().is_ok_and(|meta| meta.len() == 200_000))
            };
            let file = (0..3).filter_map(|number| find(&number)).next().expect("the copy has a file");
            damage(file.path());
            night.cluster.run(&["cat", "/once/photo"]);
        },
        code: "lost",
        within: NAMED_WITHIN,
        needs_root: false,
        remedy: vec![Hands("send the files again", |night| {
            night.write("/once/photo", vec![9; 200_000]);
        })],
    }
}
