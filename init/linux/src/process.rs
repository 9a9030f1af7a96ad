//! Processes: reaping, waiting for signals and messages, signalling one by handle or all at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use init_boot::{ExitStatus, MESSAGE_BYTES_MAX};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send as send_call};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::clock::poll_timeout;
use crate::error::SystemError;
use crate::kernel::{Channel, Reaped, Wake};

/// Blocks the signals that PID 1 reads from a descriptor instead.
pub(crate) fn block_signals() -> Result<SignalFd, SystemError> {
    let failed = |source: Errno| SystemError::new("signalfd", "PID 1", source);
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPWR] {
        signals.add(signal);
    }
    signals.thread_block().map_err(failed)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

pub(crate) fn wait(
    signals: &SignalFd,
    channel: Option<&Channel>,
    send_ready: bool,
    timeout: Option<Duration>,
) -> Result<Wake, SystemError> {
    let failed = |source: Errno| SystemError::new("poll", "signals and messages", source);
    let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    if let Some(channel) = channel {
        let wanted = if send_ready { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        polled.push(PollFd::new(channel.0.as_fd(), wanted));
    }
    match poll(&mut polled, poll_timeout(timeout)) {
        Ok(0) => return Ok(Wake::Timeout),
        Ok(_) => {}
        // A stop and continue; the caller works out its deadline and waits again.
        Err(Errno::EINTR) => return Ok(Wake::Child),
        Err(source) => return Err(failed(source)),
    }
    let ready = |index: usize| polled.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    if !ready(0).is_empty() {
        return read_signal(signals);
    }
    match channel {
        Some(channel) if ready(1).intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) => {
            receive(channel)
        }
        Some(_) | None => Ok(Wake::Writable),
    }
}

fn read_signal(signals: &SignalFd) -> Result<Wake, SystemError> {
    let signal = signals.read_signal().map_err(|source| SystemError::new("read", "signals", source))?;
    let number = signal.map(|signal| signal.ssi_signo as libc::c_int);
    Ok(match number {
        Some(libc::SIGINT) => Wake::Restart,
        Some(libc::SIGTERM | libc::SIGPWR) => Wake::PowerOff,
        Some(_) | None => Wake::Child,
    })
}

fn receive(channel: &Channel) -> Result<Wake, SystemError> {
    // One byte more than a message may have, so that a longer one is seen to be too long.
    let mut packet = [0; MESSAGE_BYTES_MAX + 1];
    match recv(channel.0.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(Errno::ECONNRESET | Errno::EPIPE) => Ok(Wake::Closed),
        Ok(length) => Ok(Wake::Message(packet[..length].to_vec())),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Wake::Child),
        // Whatever else it is, nothing more can be read here; machined's own end follows or it goes on without us.
        Err(_) => Ok(Wake::Closed),
    }
}

pub(crate) fn send(channel: &Channel, packet: &[u8]) -> Result<bool, SystemError> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send_call(channel.0.as_raw_fd(), packet, flags) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => Ok(false),
        Err(source) => Err(SystemError::new("send", "machined's socket", source)),
    }
}

pub(crate) fn reap() -> Result<Option<Reaped>, SystemError> {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(status) => {
                if let Some(reaped) = ended(status) {
                    return Ok(Some(reaped));
                }
            }
            Err(Errno::EINTR) => {}
            Err(source) => return Err(SystemError::new("waitpid", "any child", source)),
        }
    }
}

fn ended(status: WaitStatus) -> Option<Reaped> {
    let (pid, status) = match status {
        WaitStatus::Exited(pid, code) => (pid, ExitStatus::Code(code)),
        WaitStatus::Signaled(pid, signal, _) => (pid, ExitStatus::Signal(signal as i32)),
        // Stops and continues of traced children are no ends.
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(..)
        | WaitStatus::Continued(..)
        | WaitStatus::StillAlive => return None,
    };
    Some(Reaped { pid: pid.as_raw().unsigned_abs(), status })
}

/// Sends SIGKILL or else SIGTERM to every process but PID 1 and the caller; that nobody is left is fine.
pub(crate) fn signal_everything(with_kill: bool) -> Result<(), SystemError> {
    let signal = if with_kill { Signal::SIGKILL } else { Signal::SIGTERM };
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(source) => Err(SystemError::new("kill", "every process", source)),
    }
}

/// A process that cannot be mistaken for another one, even when its id is used again (pidfd_open(2)).
#[derive(Debug)]
pub struct ProcessHandle {
    pid: u32,
    handle: OwnedFd,
}

impl ProcessHandle {
    /// Opens a handle to a running or not yet reaped process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn open(pid: u32) -> Result<Self, SystemError> {
        let failed = |source: io::Error| SystemError::new("pidfd_open", pid, source);
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let number = i32::try_from(answer).ok().filter(|number| *number >= 0);
        let number = number.ok_or_else(|| failed(io::Error::last_os_error()))?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        let handle = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { pid, handle })
    }

    /// The process id that it was opened with.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended, or may not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<(), SystemError> {
        let (handle, number) = (self.handle.as_raw_fd(), signal as libc::c_int);
        // SAFETY: pidfd_send_signal takes integers and a null pointer that says "as kill(2) would".
        let answer = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, handle, number, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match answer {
            0 => Ok(()),
            _ => Err(SystemError::new("pidfd_send_signal", self.pid, io::Error::last_os_error())),
        }
    }

    /// Collects the exit status of a child; `None` while it runs. The handle is readable once there is one.
    ///
    /// # Errors
    /// When the process is no child of the caller, or was collected already.
    pub fn try_reap(&self) -> Result<Option<ExitStatus>, SystemError> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.handle.as_fd()), flags) {
            Ok(status) => Ok(ended(status).map(|reaped| reaped.status)),
            Err(source) => Err(SystemError::new("waitid", self.pid, source)),
        }
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsRawFd for ProcessHandle {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.handle.as_raw_fd()
    }
}
