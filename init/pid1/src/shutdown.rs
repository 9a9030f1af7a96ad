//! The end of the machine: everybody is asked to stop, then made to, file systems are unmounted, the kernel is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use init_linux::{Kernel, Power, Wake};

use crate::{log, watchdog};

/// How long processes may take after SIGTERM. machined has stopped its services before it asked, so this is for what
/// is left.
const TERM_WAIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end processes after SIGKILL; longer means one hangs in a device.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// Passes over the mount table: a mount can hide another one below it.
const UNMOUNT_PASSES: usize = 4;
/// A mount table of some thousand pods' mounts, in bytes.
const MOUNT_TABLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// File systems that hold nothing worth unmounting.
const IN_MEMORY: [&str; 14] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "mqueue",
    "cgroup2",
    "bpf",
    "securityfs",
    "tracefs",
    "pstore",
    "efivarfs",
    "rootfs",
    "nsfs",
];

/// Stops everything and ends the machine; comes back only when the kernel refuses.
pub(crate) fn end(kernel: &dyn Kernel, power: Power) {
    let what = match power {
        Power::Reboot => "the machine starts again",
        Power::Off => "the machine switches off",
    };
    log::line(kernel, what);
    kernel.shout(&format!("\r\nCairn: {what}\r\n"));
    watchdog::stretch(kernel);
    stop_processes(kernel);
    kernel.sync();
    unmount_everything(kernel);
    kernel.sync();
    log::line(kernel, "all is written");
    watchdog::last(kernel, power);
    let error = kernel.end(power);
    log::line(kernel, &error.story());
}

fn stop_processes(kernel: &dyn Kernel) {
    for (with_kill, wait) in [(false, TERM_WAIT), (true, KILL_WAIT)] {
        if let Err(error) = kernel.signal_everything(with_kill) {
            log::line(kernel, &error.story());
        }
        if reap_until_alone(kernel, wait) {
            return;
        }
    }
    log::line(kernel, "some processes do not end, the machine ends without them");
}

/// Reaps until there are no children or the time is over; says whether there are none. Orphans become children, so
/// all are counted.
fn reap_until_alone(kernel: &dyn Kernel, wait: Duration) -> bool {
    let deadline = kernel.uptime() + wait;
    loop {
        loop {
            match kernel.reap() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return true,
            }
        }
        let rest = deadline.saturating_sub(kernel.uptime());
        if rest.is_zero() {
            return false;
        }
        match kernel.wait(None, false, Some(rest)) {
            Ok(Wake::Timeout) | Err(_) => return false,
            Ok(Wake::Child | Wake::Message(_) | Wake::Closed | Wake::Writable | Wake::Restart | Wake::PowerOff) => {}
        }
    }
}

fn unmount_everything(kernel: &dyn Kernel) {
    let mut left = Vec::new();
    for _ in 0..UNMOUNT_PASSES {
        left = disk_mounts(kernel);
        let mut progress = false;
        for target in left.iter().rev() {
            progress |= kernel.unmount(target).is_ok();
        }
        if !progress {
            break;
        }
    }
    for target in left {
        if let Err(error) = kernel.make_read_only(&target) {
            log::line(kernel, &error.story());
        }
    }
}

/// Where file systems on disks are mounted, the root apart, in the order of their mounting.
fn disk_mounts(kernel: &dyn Kernel) -> Vec<PathBuf> {
    let table = match kernel.read_file(Path::new("/proc/self/mountinfo"), MOUNT_TABLE_BYTES_MAX) {
        Ok(table) => table,
        Err(error) => {
            log::line(kernel, &error.story());
            return Vec::new();
        }
    };
    String::from_utf8_lossy(&table).lines().filter_map(disk_mount).collect()
}

/// Reads a line of mountinfo (proc_pid_mountinfo(5)): the target is the fifth field, the type the first one behind "
/// - ".
fn disk_mount(line: &str) -> Option<PathBuf> {
    let (before, behind) = line.split_once(" - ")?;
    let target = unescape(before.split(' ').nth(4)?);
    let kind = behind.split(' ').next()?;
    (target != "/" && !IN_MEMORY.contains(&kind)).then(|| PathBuf::from(target))
}

/// Undoes the kernel's octal escapes for space, tab, line feed and backslash.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_on_disks_are_unmounted() {
        let line =
            |target: &str, kind: &str| format!("36 35 98:0 / {target} rw,noatime master:1 - {kind} /dev/vda5 rw");
        assert_eq!(disk_mount(&line("/state", "ext4")), Some(PathBuf::from("/state")));
        assert_eq!(disk_mount(&line("/var/lib/a\\040b", "overlay")), Some(PathBuf::from("/var/lib/a b")));
        assert_eq!(disk_mount(&line("/", "squashfs")), None);
        assert_eq!(disk_mount(&line("/run", "tmpfs")), None);
        assert_eq!(disk_mount(""), None);
    }
}
