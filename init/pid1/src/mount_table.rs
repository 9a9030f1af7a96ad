//! The pseudo file systems of both stages, as tables.

use std::path::{Path, PathBuf};

use init_linux::MountFlag::{self, NoDevices, NoExecute, NoSetUserId};
use init_linux::efi::EFI_VARIABLES;
use init_linux::{Kernel, Mount};

use crate::{log, workload};

/// Whether a machine can do without a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Without it nothing works.
    Must,
    /// Some kernels or machines do not have it.
    May,
}

/// A row: type, place, flags, options, need.
type Row = (&'static str, &'static str, &'static [MountFlag], &'static str, Need);

/// What both stages need; stage two takes these over from stage one.
const FIRST: [Row; 4] = [
    ("devtmpfs", "/dev", &[NoSetUserId, NoExecute], "mode=0755", Need::Must),
    ("proc", "/proc", &[NoSetUserId, NoDevices, NoExecute], "", Need::Must),
    ("sysfs", "/sys", &[NoSetUserId, NoDevices, NoExecute], "", Need::Must),
    ("tmpfs", "/run", &[NoSetUserId, NoDevices, NoExecute], "mode=0755,size=25%", Need::Must),
];

/// Delegated groups keep to themselves, and protection of memory reaches below.
const CGROUP_OPTIONS: &str = "nsdelegate,memory_recursiveprot";

/// What the running machine needs. Sizes, here and above, bound what a runaway writer can take from the memory of all.
const SECOND: [Row; 9] = [
    ("devpts", "/dev/pts", &[NoSetUserId, NoExecute], "gid=5,mode=620,ptmxmode=666", Need::Must),
    ("tmpfs", "/dev/shm", &[NoSetUserId, NoDevices, NoExecute], "mode=1777,size=25%", Need::Must),
    ("mqueue", "/dev/mqueue", &[NoSetUserId, NoDevices, NoExecute], "", Need::May),
    ("tmpfs", "/tmp", &[NoSetUserId, NoDevices, NoExecute], "mode=1777,size=25%", Need::Must),
    ("cgroup2", "/sys/fs/cgroup", &[NoSetUserId, NoDevices, NoExecute], CGROUP_OPTIONS, Need::Must),
    ("bpf", "/sys/fs/bpf", &[NoSetUserId, NoDevices, NoExecute], "mode=0700", Need::May),
    ("securityfs", "/sys/kernel/security", &[NoSetUserId, NoDevices, NoExecute], "", Need::May),
    ("tracefs", "/sys/kernel/tracing", &[NoSetUserId, NoDevices, NoExecute], "mode=0700", Need::May),
    ("pstore", "/sys/fs/pstore", &[NoSetUserId, NoDevices, NoExecute], "", Need::May),
];

/// What needs a module of the root first.
const VARIABLES: [Row; 1] = [("efivarfs", EFI_VARIABLES, &[NoSetUserId, NoDevices, NoExecute], "", Need::May)];

/// What containers get of the kernel's file systems, made anew for them: /proc shows their processes only, devices have no EFI variables
/// beside them, and /tmp and /dev/shm are not the machine's. The options of cgroup2 count for the whole machine, so they are the same.
const BEHIND_WALLS: [Row; 10] = [
    ("devtmpfs", "/dev", &[NoSetUserId, NoExecute], "mode=0755", Need::Must),
    ("proc", "/proc", &[NoSetUserId, NoDevices, NoExecute], "", Need::Must),
    ("sysfs", "/sys", &[NoSetUserId, NoDevices, NoExecute], "", Need::Must),
    ("devpts", "/dev/pts", &[NoSetUserId, NoExecute], "gid=5,mode=620,ptmxmode=666", Need::Must),
    ("tmpfs", "/dev/shm", &[NoSetUserId, NoDevices, NoExecute], "mode=1777,size=25%", Need::Must),
    ("mqueue", "/dev/mqueue", &[NoSetUserId, NoDevices, NoExecute], "", Need::May),
    ("tmpfs", "/tmp", &[NoSetUserId, NoDevices, NoExecute], "mode=1777,size=25%", Need::Must),
    ("cgroup2", "/sys/fs/cgroup", &[NoSetUserId, NoDevices, NoExecute], CGROUP_OPTIONS, Need::Must),
    ("securityfs", "/sys/kernel/security", &[NoSetUserId, NoDevices, NoExecute], "", Need::May),
    ("tracefs", "/sys/kernel/tracing", &[NoSetUserId, NoDevices, NoExecute], "mode=0700", Need::May),
];

/// Places that the root cannot hold and that nobody else makes.
const DIRECTORIES: [(&str, u32); 7] = [
    ("/run/cairn", 0o755),
    ("/run/cairn/etc", 0o755),
    ("/run/cairn/netns", 0o755),
    ("/run/cairn/agent", 0o755),
    (workload::NEW_ROOT, 0o700),
    ("/run/lock", 0o755),
    ("/run/containerd", 0o711),
];

/// Mounts what stage one needs; gives the first failure.
pub(crate) fn mount_first(kernel: &dyn Kernel) -> Result<(), String> {
    mount_rows(kernel, Path::new("/"), &FIRST)
}

/// Mounts what the running machine needs and makes its first directories; gives the first failure.
pub(crate) fn mount_second(kernel: &dyn Kernel) -> Result<(), String> {
    mount_rows(kernel, Path::new("/"), &SECOND)?;
    for (path, mode) in DIRECTORIES {
        kernel.make_directory(Path::new(path), mode).map_err(|error| error.story())?;
    }
    Ok(())
}

/// Mounts the EFI variables where that was not possible earlier.
pub(crate) fn mount_variables(kernel: &dyn Kernel) {
    let mounted = kernel.list(Path::new(EFI_VARIABLES)).is_ok_and(|names| !names.is_empty());
    if mounted {
        return;
    }
    if let Err(reason) = mount_rows(kernel, Path::new("/"), &VARIABLES) {
        log::line(kernel, &reason);
    }
}

/// Mounts what containers see of the kernel, below a root that is being built; gives the first failure.
pub(crate) fn mount_behind_walls(kernel: &dyn Kernel, root: &Path) -> Result<(), String> {
    mount_rows(kernel, root, &BEHIND_WALLS)
}

fn mount_rows(kernel: &dyn Kernel, root: &Path, rows: &[Row]) -> Result<(), String> {
    for (kind, target, flags, options, need) in rows {
        let mount = Mount {
            source: PathBuf::from(kind),
            target: root.join(target.trim_start_matches('/')),
            kind,
            flags: flags.to_vec(),
            options: (*options).to_owned(),
        };
        if !kernel.exists(&mount.target) {
            match (need, kernel.make_directory(&mount.target, 0o755)) {
                (_, Ok(())) => {}
                (Need::Must, Err(error)) => return Err(error.story()),
                // The kernel makes these places itself, where it has the file system.
                (Need::May, Err(_)) => continue,
            }
        }
        match (need, kernel.mount(&mount)) {
            (_, Ok(())) => {}
            (Need::Must, Err(error)) => return Err(error.story()),
            (Need::May, Err(error)) => log::line(kernel, &error.story()),
        }
    }
    Ok(())
}
