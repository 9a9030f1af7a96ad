//! Starting processes with what must be right before their first instruction: session, cgroup, inherited descriptor.
//!
//! [`ChildSetup`] changes a `Command`, so machined and the agent use it with tokio's `Command::as_std_mut` too.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use init_boot::{INIT_FD, INIT_FD_VARIABLE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::error::SystemError;
use crate::kernel::{Channel, Launch, Started};

/// Whether a child stays in its parent's session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// It stays.
    #[default]
    Inherited,
    /// It leads a session of its own, without a terminal.
    Own,
}

/// What to do in a child between fork and exec.
#[derive(Debug, Default)]
pub struct ChildSetup {
    session: Session,
    cgroup: Option<PathBuf>,
    inherited: Option<(OwnedFd, RawFd)>,
}

impl ChildSetup {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the session.
    #[must_use]
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// Puts the child into a cgroup (v2) before it runs, so that nothing it starts can escape.
    #[must_use]
    pub fn cgroup(mut self, directory: &Path) -> Self {
        self.cgroup = Some(directory.to_owned());
        self
    }

    /// Hands one descriptor down under this number; all others close on exec as they should.
    #[must_use]
    pub fn inherit(mut self, descriptor: OwnedFd, number: RawFd) -> Self {
        self.inherited = Some((descriptor, number));
        self
    }

    /// Adds all of it to a command, which may be spawned once.
    ///
    /// # Errors
    /// When the cgroup is not there.
    pub fn apply(self, command: &mut Command) -> Result<(), SystemError> {
        let Self { session, cgroup, inherited } = self;
        let members = cgroup.as_deref().map(open_members).transpose()?;
        let prepare = move || -> io::Result<()> {
            // The parent may read its signals from a descriptor; a child that inherited the blocked ones would not
            // hear SIGTERM.
            SigSet::empty().thread_set_mask()?;
            if let Some(members) = &members {
                join(members)?;
            }
            if session == Session::Own {
                nix::unistd::setsid()?;
            }
            match &inherited {
                Some((descriptor, number)) => hand_down(descriptor, *number),
                None => Ok(()),
            }
        };
        // SAFETY: the closure runs between fork and exec and makes system calls only: sigprocmask, write, setsid,
        // dup2, fcntl. It neither
        // allocates nor takes locks; what it captures was opened before the fork.
        unsafe { command.pre_exec(prepare) };
        Ok(())
    }
}

fn open_members(directory: &Path) -> Result<File, SystemError> {
    let path = directory.join("cgroup.procs");
    OpenOptions::new().write(true).open(&path).map_err(|source| SystemError::path("open", &path, source))
}

/// Moves the calling process: "0" means the writer.
fn join(members: &File) -> io::Result<()> {
    Ok(nix::unistd::write(members, b"0").map(|_| ())?)
}

fn hand_down(descriptor: &OwnedFd, number: RawFd) -> io::Result<()> {
    let from = descriptor.as_raw_fd();
    // SAFETY: both calls take integers only; `number` is the caller's choice to overwrite in the child.
    let answer = unsafe {
        match from == number {
            // dup2 onto itself would leave close-on-exec set.
            true => libc::fcntl(from, libc::F_SETFD, 0),
            false => libc::dup2(from, number),
        }
    };
    Errno::result(answer).map(|_| ()).map_err(io::Error::from)
}

/// Starts a process with a packet socket as descriptor 3, its output going into `log`.
pub(crate) fn start(launch: &Launch, log: OwnedFd) -> Result<Started, SystemError> {
    let failed = |source: io::Error| SystemError::path("spawn", &launch.program, source);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|source| failed(source.into()))?;
    let output = log.as_fd().try_clone_to_owned().map_err(failed)?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .env(INIT_FD_VARIABLE, INIT_FD.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(log);
    ChildSetup::new().session(Session::Own).cgroup(&launch.cgroup).inherit(theirs, INIT_FD).apply(&mut command)?;
    let child = command.spawn().map_err(failed)?;
    Ok(Started { pid: child.id(), channel: Channel(ours) })
}
