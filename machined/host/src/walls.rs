//! The process that holds the walls around containers: found, or started. Who is launched behind the walls comes through here.
//!
//! It is found by its cgroup, in which nobody else ever is, so that a restarted machined lets containerd in where containers are. It is no
//! service: it ends with the machine, and when it ends before, the kernel ends everything behind the walls with it.

use init_boot::{PID1_PROGRAM, WORKLOAD, WORKLOAD_CGROUP, WORKLOAD_READY};
use init_linux::{ChildSetup, ProcessHandle, Session, walls};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// How long the walls may take to stand: some fifty mounts, on a machine that may be slow.
const BUILD_MILLIS_MAX: u16 = 10_000;

/// Who holds the walls.
pub(crate) struct Holder {
    /// A handle to the process.
    pub(crate) handle: ProcessHandle,
    /// The process, when it was started just now: to be collected when it ends.
    pub(crate) child: Option<Child>,
}

/// Finds the holder, or starts one and waits until the walls stand.
pub(crate) fn holder() -> Result<Holder> {
    let members = fs::read_to_string(Path::new(WORKLOAD_CGROUP).join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|pid| pid.parse().ok()) {
        // Whoever is in that cgroup is the holder. One that ended meanwhile has no handle.
        if let Ok(handle) = ProcessHandle::open(pid) {
            return Ok(Holder { handle, child: None });
        }
    }
    build()
}

fn build() -> Result<Holder> {
    let mut command = Command::new(PID1_PROGRAM);
    command.arg(WORKLOAD).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let setup = ChildSetup::new().session(Session::Own).cgroup(Path::new(WORKLOAD_CGROUP));
    setup.apply(&mut command).map_err(Error::other)?;
    let mut child = walls::spawn_behind_new_walls(&mut command).map_err(Error::other)?;
    let output = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    if let Err(error) = await_ready(output) {
        // A half-built one must not be found by the next try.
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    let handle = ProcessHandle::open(child.id()).map_err(Error::other)?;
    tracing::info!(pid = child.id(), "the walls around containers stand");
    Ok(Holder { handle, child: Some(child) })
}

fn await_ready(mut output: ChildStdout) -> Result<()> {
    let failed =
        |why: &str| Error::other(format!("the walls around containers do not stand: {why}; see cairnctl dmesg"));
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        let mut polled = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::from(BUILD_MILLIS_MAX))? == 0 {
            return Err(failed("they took too long"));
        }
        let mut byte = [0];
        if output.read(&mut byte)? == 0 || said.len() > WORKLOAD_READY.len() {
            return Err(failed("their builder gave up"));
        }
        said.extend(byte);
    }
    match said.trim_ascii_end() == WORKLOAD_READY.as_bytes() {
        true => Ok(()),
        false => Err(failed("their builder said something else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(script: &str) -> Result<()> {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn()?;
        let heard = await_ready(child.stdout.take().ok_or(ErrorKind::BrokenPipe)?);
        child.wait()?;
        heard
    }

    #[test]
    fn only_the_word_lets_somebody_in() {
        assert!(says("echo ready").is_ok());
        for other in ["true", "echo", "echo no", "echo ready, nearly", "printf ready"] {
            assert!(says(other).is_err(), "{other}");
        }
    }
}
