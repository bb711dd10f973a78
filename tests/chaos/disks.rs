//! Disks of their own for storage servers: an ext4 in a file for each, mounted where only its server sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::cluster::is_free;

/// Megabytes of a disk; the file has holes.
const DISK_MB: u64 = 512;
/// How long a disk may take to be let go of by a server that has ended.
const RELEASE: Duration = Duration::from_secs(10);

pub struct Disk {
    image: String,
    mount_point: PathBuf,
}

impl Disk {
    /// Makes an empty one. With `leftovers` the mount point has directories that look like a storage server's, as a start
    /// without the disk leaves them.
    pub fn make(mount_point: PathBuf, leftovers: bool) -> Self {
        let image = format!("{}.img", mount_point.display());
        fs::File::create(&image).unwrap().set_len(DISK_MB << 20).unwrap();
        assert!(succeeds(Command::new("mkfs.ext4").args(["-q", "-F", &image])), "an ext4 cannot be made");
        fs::create_dir(&mount_point).unwrap();
        for name in ["objects", "incoming", "journal", "quarantine"].iter().filter(|_| leftovers) {
            fs::create_dir(mount_point.join(name)).unwrap();
        }
        Self { image, mount_point }
    }

    fn lock(&self) -> String {
        format!("{}.lock", self.image)
    }

    /// Nobody mounts it while it is checked.
    fn mount_command(&self) -> String {
        let (lock, place) = (self.lock(), self.mount_point.display());
        format!("flock '{lock}' mount -o loop,errors=remount-ro '{}' '{place}'", self.image)
    }

    /// The beginning of a command line that runs where the disk is mounted.
    pub fn wrapper(&self) -> Vec<String> {
        let script = format!("{} && exec \"$@\"", self.mount_command());
        ["unshare", "--mount", "sh", "-c", &script, "sh"].map(String::from).to_vec()
    }

    /// Where others see what a server has on it.
    pub fn seen_by(&self, pid: u32) -> PathBuf {
        let below: &Path = self.mount_point.strip_prefix("/").unwrap();
        Path::new("/proc").join(pid.to_string()).join("root").join(below)
    }

    /// Whatever is below the mount point: nothing may ever come there.
    pub fn files_below(&self) -> usize {
        walkdir::WalkDir::new(&self.mount_point).into_iter().flatten().filter(|e| e.file_type().is_file()).count()
    }

    /// Takes it away from a server that runs.
    pub fn unmount(&self, pid: u32) -> bool {
        inside(pid, &format!("umount -l '{}'", self.mount_point.display()))
    }

    /// Gives it back, if it was taken away.
    pub fn mount(&self, pid: u32) -> bool {
        inside(pid, &format!("mountpoint -q '{}' || {}", self.mount_point.display(), self.mount_command()))
    }

    /// Makes the kernel find an error in it, so that it becomes read-only.
    pub fn fail(&self, pid: u32) -> bool {
        let place = self.mount_point.display();
        inside(
            pid,
            &format!("echo chaos > /sys/fs/ext4/$(basename $(findmnt -n -o SOURCE '{place}'))/trigger_fs_error"),
        )
    }

    /// Whether it takes writes, as far as the kernel says.
    pub fn is_read_only(&self, pid: u32) -> bool {
        inside(pid, &format!("findmnt -n -o OPTIONS '{}' | grep -Eq 'emergency_ro|^ro'", self.mount_point.display()))
    }

    /// Repairs it as soon as nobody has it. Whether that came in time.
    pub fn repair(&self) -> bool {
        let (lock, image, end) = (self.lock(), &self.image, Instant::now() + RELEASE);
        // 1: it was repaired.
        let script = format!("test -z \"$(losetup -j '{image}')\" && {{ e2fsck -f -p '{image}'; test $? -le 1; }}");
        while Instant::now() < end {
            if is_free(image) && succeeds(Command::new("flock").args([&lock, "sh", "-c", &script])) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

fn inside(pid: u32, script: &str) -> bool {
    succeeds(Command::new("nsenter").args(["--mount", "--target", &pid.to_string(), "sh", "-c", script]))
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
