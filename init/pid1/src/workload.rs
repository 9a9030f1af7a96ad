//! The first process behind the walls: builds what containers may see of the machine, and gives way to the program that holds it.
//!
//! machined starts it, before containerd, as process 1 of a new PID namespace with a mount namespace of its own; PID 1 of the machine
//! never comes here. It must never leave a way back: the machine's own mounts are gone when it says that it is ready.
//!
//! ```text
//! everything here follows the machine's mounts, none of ours go there
//! -> a root in memory: the image without what only the machine runs, file systems of the kernel, EPHEMERAL, four folders of /run
//! -> that root alone -> confined -> "ready" -> the holder
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use init_boot::{WORKLOAD, WORKLOAD_HOLDER, WORKLOAD_READY};
use init_linux::{FileKind, Kernel, Linux, Mount, MountFlag, Propagation};

use crate::{log, mount_table};

/// Where the root is built; PID 1 makes the place.
pub(crate) const NEW_ROOT: &str = "/run/cairn/workload";
/// What no container ever sees: the programs of the machine, what makes file systems, and the volume with the machine's state.
pub(crate) const HIDDEN: [&str; 7] = [
    "/state",
    "/usr/bin/controlplane",
    "/usr/bin/gitsync",
    "/usr/bin/machined",
    "/usr/bin/pid1",
    "/usr/sbin/e2fsck",
    "/usr/sbin/mke2fs",
];
/// What is not taken from the machine: it is made anew.
const OWN: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];
/// What is shared of /run: containerd's sockets, names and resolver, pods' network namespaces, the agent's pipes.
pub(crate) const SHARED_RUN: [&str; 4] = ["/run/containerd", "/run/cairn/etc", "/run/cairn/netns", "/run/cairn/agent"];
/// eBPF programs that are pinned are the machine's: the agents of a network are restarted and find theirs again.
const BPF: &str = "/sys/fs/bpf";
/// Directories that the copied part of the root may have: a bound on what a damaged extension can make of it.
const ENTRIES_MAX: usize = 4096;

/// Runs it on the real kernel.
pub(crate) fn run(kernel: &Linux) -> ExitCode {
    if let Err(reason) = build(kernel) {
        log::line(kernel, &format!("the walls around containers cannot be built: {reason}"));
        return ExitCode::FAILURE;
    }
    // machined waits for this line before it lets anybody in.
    if writeln!(std::io::stdout(), "{WORKLOAD_READY}").is_err() {
        return ExitCode::FAILURE;
    }
    let error = kernel.execute(Path::new(WORKLOAD_HOLDER), &[WORKLOAD]);
    log::line(kernel, &error.story());
    ExitCode::FAILURE
}

/// Builds it and moves in; gives the first failure.
pub(crate) fn build(kernel: &dyn Kernel) -> Result<(), String> {
    let story = |error: init_linux::SystemError| error.story();
    // It holds all containers: the kernel must find another one to kill.
    if let Err(error) = kernel.write_file(Path::new("/proc/self/oom_score_adj"), b"-1000") {
        log::line(kernel, &error.story());
    }
    kernel.propagate(Path::new("/"), Propagation::Slave).map_err(story)?;
    mount_memory(kernel, Path::new(NEW_ROOT), &[]).map_err(story)?;
    let mut left = ENTRIES_MAX;
    copy(kernel, Path::new("/"), &mut left)?;
    for place in OWN {
        kernel.make_directory(&inside(Path::new(place)), 0o755).map_err(story)?;
    }
    mount_memory(kernel, &inside(Path::new("/run")), &[MountFlag::NoExecute]).map_err(story)?;
    for place in ["/run/lock", "/run/cairn"] {
        kernel.make_directory(&inside(Path::new(place)), 0o755).map_err(story)?;
    }
    for place in SHARED_RUN.map(Path::new) {
        kernel.make_directory(&inside(place), 0o755).map_err(story)?;
        kernel.bind(place, &inside(place)).map_err(story)?;
    }
    mount_table::mount_behind_walls(kernel, Path::new(NEW_ROOT))?;
    if [Path::new(BPF), &inside(Path::new(BPF))].iter().all(|place| kernel.exists(place)) {
        kernel.bind(Path::new(BPF), &inside(Path::new(BPF))).map_err(story)?;
    }
    kernel.make_read_only(Path::new(NEW_ROOT)).map_err(story)?;
    kernel.enter_root(Path::new(NEW_ROOT)).map_err(story)?;
    // runc wants it so, and pods that mount for others need it.
    kernel.propagate(Path::new("/"), Propagation::Shared).map_err(story)?;
    kernel.confine().map_err(story)
}

/// Shows a directory's entries in the new root; one with something hidden below is made anew, so that it is never there.
fn copy(kernel: &dyn Kernel, directory: &Path, left: &mut usize) -> Result<(), String> {
    let story = |error: init_linux::SystemError| error.story();
    for name in kernel.list(directory).map_err(story)? {
        let path = directory.join(name);
        if OWN.iter().chain(&HIDDEN).any(|other| Path::new(other) == path) {
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(|| format!("{} has too many entries", directory.display()))?;
        let place = inside(&path);
        match kernel.kind(&path).map_err(story)? {
            FileKind::Link(to) => kernel.link(&to, &place).map_err(story)?,
            FileKind::Directory => {
                kernel.make_directory(&place, 0o755).map_err(story)?;
                match HIDDEN.iter().any(|hidden| Path::new(hidden).starts_with(&path)) {
                    true => copy(kernel, &path, left)?,
                    false => kernel.bind(&path, &place).map_err(story)?,
                }
            }
            FileKind::Other => {
                kernel.write_file(&place, b"").map_err(story)?;
                kernel.bind(&path, &place).map_err(story)?;
            }
        }
    }
    Ok(())
}

/// Where a path of the machine is in the new root.
fn inside(path: &Path) -> PathBuf {
    Path::new(NEW_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn mount_memory(kernel: &dyn Kernel, target: &Path, more: &[MountFlag]) -> Result<(), init_linux::SystemError> {
    let flags = [MountFlag::NoSetUserId, MountFlag::NoDevices].iter().chain(more).copied().collect();
    let options = "mode=0755,size=25%".to_owned();
    kernel.mount(&Mount { source: "tmpfs".into(), target: target.to_owned(), kind: "tmpfs", flags, options })
}

#[cfg(test)]
mod tests;
