//! The first process of every pod: holds the pod's namespaces, reaps orphans, ends on SIGTERM or SIGINT. As `pause workload` it does
//! so for all pods of a machine together, and ends after them.
//!
//! The agent starts it in each sandbox; machined starts the other one, by way of PID 1's program. It must never need a file, memory or
//! a capability, so that nothing ends it but who started it.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::process::ExitCode;

/// The argument that makes it hold the namespaces of all pods; `init_boot::WORKLOAD`.
const WORKLOAD: &str = "workload";

fn main() -> ExitCode {
    let holds_all = std::env::args().nth(1).as_deref() == Some(WORKLOAD);
    match hold(holds_all) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Holds on until it is told to end. Its end is the end of everybody in its PID namespace: who holds all pods lets them come to theirs
/// first, and listens to the machine only, whose processes have no id here.
fn hold(holds_all: bool) -> Result<(), Errno> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    awaited.thread_block()?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC)?;
    let mut ending = false;
    loop {
        let Some(signal) = signals.read_signal()? else { continue };
        let asked = i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32);
        match (asked, holds_all) {
            (true, false) => return Ok(()),
            (true, true) => ending |= signal.ssi_pid == 0,
            (false, _) => {}
        }
        if reap() == Left::Nobody && ending {
            return Ok(());
        }
    }
}

/// Whether there are children.
#[derive(PartialEq, Eq)]
enum Left {
    Somebody,
    Nobody,
}

/// Takes the exit status of every child that has ended; one signal may stand for many.
fn reap() -> Left {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Left::Somebody,
            Ok(_ended) => {}
            Err(Errno::ECHILD) => return Left::Nobody,
            Err(_) => return Left::Somebody,
        }
    }
}
