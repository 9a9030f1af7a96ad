//! Services as processes in cgroups (v2).
//!
//! ```text
//! launch -> child of machined ----- SIGCHLD -----------------> ended
//! adopt  -> child of PID 1 (machined had died) -- PID 1's socket -> ended
//! ```
//!
//! A service writes its output into a named pipe that it holds open for reading too, so that the death of machined never
//! breaks the pipe. Processes are signalled through pidfds after a look at the cgroup: an id that was used again is not hit.

use crate::walls;
use init_boot::{ExitStatus, ToMachined};
use init_linux::{ChildSetup, ProcessHandle, Session};
use machined_controllers::services::{Ended, Health, Place, Reach, ServiceError, ServiceHost, ServiceSpec, StopSignal};
use machined_reconcile::Trigger;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

/// Parent of the services' cgroups.
pub const SERVICES_CGROUP: &str = "/sys/fs/cgroup/cairn/services";
/// Where main processes and log pipes are remembered for the next machined.
const RUN: &str = "/run/cairn/services";
/// A service that does not accept a connection within this is not healthy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What a service may write while machined is away before it waits: the largest pipe that the kernel gives without asking.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Processes that machined knows.
#[derive(Default)]
struct Processes {
    children: BTreeMap<u32, Child>,
    adopted: BTreeSet<u32>,
    ended: Vec<(u32, Ended)>,
}

/// Services of this machine.
#[derive(Clone, Default)]
pub struct LinuxServices {
    processes: Arc<Mutex<Processes>>,
    trigger: Trigger,
}

fn group(name: &str) -> PathBuf {
    Path::new(SERVICES_CGROUP).join(name)
}

fn remembered(name: &str) -> PathBuf {
    Path::new(RUN).join(format!("{name}.pid"))
}

fn pipe_path(name: &str) -> PathBuf {
    Path::new(RUN).join(format!("{name}.log"))
}

fn members(name: &str) -> BTreeSet<u32> {
    let list = fs::read_to_string(group(name).join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// The cgroup of a process ("/cairn/services/gitsync"), by which its service is known.
#[must_use]
pub fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Memory that a service's cgroup uses, in bytes; 0 when it is not known.
#[must_use]
pub fn memory_of(name: &str) -> u64 {
    let text = fs::read_to_string(group(name).join("memory.current")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn make_pipe(name: &str) -> std::io::Result<PathBuf> {
    fs::create_dir_all(RUN)?;
    let path = pipe_path(name);
    match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(path),
        Err(errno) => Err(errno.into()),
    }
}

/// The reading end of a service's output. It never ends, whoever comes and goes at the other end.
///
/// # Errors
/// When the pipe cannot be made or opened.
pub fn log_pipe(name: &str) -> std::io::Result<pipe::Receiver> {
    let path = make_pipe(name)?;
    let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
    if let Err(error) = nix::fcntl::fcntl(&receiver, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
        tracing::debug!(service = name, %error, "the log pipe keeps its default size");
    }
    Ok(receiver)
}

/// Starts a service; gives its process, and that of the walls' holder when that one was started with it.
fn start(name: &str, spec: &ServiceSpec) -> std::io::Result<(Child, Option<Child>)> {
    let group = group(name);
    fs::create_dir_all(&group)?;
    if spec.reach == Reach::Group {
        // What an earlier run left behind would be in the way of this one.
        kill_group(name)?;
    }
    let output = File::options().read(true).write(true).open(make_pipe(name)?)?;
    let [program, arguments @ ..] = spec.command.as_slice() else { return Err(ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.env("PATH", "/usr/bin:/usr/sbin").env("HOME", "/run").env("LANG", "C.UTF-8").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let setup = ChildSetup::new().session(Session::Own).cgroup(&group);
    setup.apply(&mut command).map_err(std::io::Error::other)?;
    let (child, holder) = match spec.place {
        Place::Machine => (command.spawn()?, None),
        Place::BehindWalls => {
            let walls::Holder { handle, child: holder } = walls::holder()?;
            let started = init_linux::walls::spawn_behind_walls(&mut command, &handle);
            (started.map_err(std::io::Error::other)?, holder)
        }
    };
    fs::write(remembered(name), child.id().to_string())?;
    Ok((child, holder))
}

fn kill_group(name: &str) -> std::io::Result<()> {
    match fs::write(group(name).join("cgroup.kill"), "1") {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn send(name: &str, pid: u32, signal: Signal) -> std::io::Result<()> {
    let handle = match ProcessHandle::open(pid) {
        Ok(handle) => handle,
        Err(error) if error.errno() == Some(nix::errno::Errno::ESRCH) => return Ok(()),
        Err(error) => return Err(std::io::Error::other(error)),
    };
    // With the handle open the id cannot change hands any more, so this look decides.
    if !members(name).contains(&pid) {
        return Ok(());
    }
    match handle.signal(signal) {
        Err(error) if error.errno() != Some(nix::errno::Errno::ESRCH) => Err(std::io::Error::other(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl LinuxServices {
    /// Knows no process yet; fires `trigger` when one ends.
    #[must_use]
    pub fn new(trigger: Trigger) -> Self {
        LinuxServices { processes: Arc::default(), trigger }
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what PID 1 reaped. Most of it is no service of ours.
    pub fn reaped(&self, message: ToMachined) {
        let ToMachined::Exited { pid, status } = message;
        let how = match status {
            ExitStatus::Code(code) => Ended::Code(code),
            ExitStatus::Signal(signal) => Ended::Signal(signal),
        };
        let mut processes = self.lock();
        if processes.adopted.remove(&pid) {
            processes.ended.push((pid, how));
            self.trigger.fire();
        }
    }

    fn collect(&self) {
        let mut processes = self.lock();
        let mut ended = Vec::new();
        for (pid, child) in &mut processes.children {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let signalled = status.signal().map_or(Ended::Unknown, Ended::Signal);
                    ended.push((*pid, status.code().map_or(signalled, Ended::Code)));
                }
                Err(error) => {
                    tracing::warn!(pid, %error, "cannot ask after a service's process");
                    ended.push((*pid, Ended::Unknown));
                }
            }
        }
        for (pid, how) in ended {
            processes.children.remove(&pid);
            processes.ended.push((pid, how));
            self.trigger.fire();
        }
    }
}

/// Collects children as they end. Never returns but with an error.
///
/// # Errors
/// When signals cannot be heard.
pub async fn watch_children(services: LinuxServices) -> Result<Infallible, std::io::Error> {
    let mut ends = signal(SignalKind::child())?;
    loop {
        services.collect();
        ends.recv().await.ok_or(ErrorKind::BrokenPipe)?;
    }
}

impl ServiceHost for LinuxServices {
    async fn launch(&self, name: &str, spec: &ServiceSpec) -> Result<u32, ServiceError> {
        let failed = |source| ServiceError { doing: format!("start {name} ({})", spec.command.join(" ")), source };
        // The lock is held over the start, so that a child that ends at once is known before it is collected.
        let mut processes = self.lock();
        let (child, holder) = start(name, spec).map_err(failed)?;
        let pid = child.id();
        processes.children.extend(holder.into_iter().chain([child]).map(|child| (child.id(), child)));
        Ok(pid)
    }

    async fn adopt(&self, name: &str) -> Option<u32> {
        let pid = fs::read_to_string(remembered(name)).ok()?.trim().parse().ok()?;
        // Known before the look, so that an end between the two is not lost.
        self.lock().adopted.insert(pid);
        if members(name).contains(&pid) {
            return Some(pid);
        }
        self.lock().adopted.remove(&pid);
        None
    }

    fn ended(&self) -> Vec<(u32, Ended)> {
        std::mem::take(&mut self.lock().ended)
    }

    fn signal(&self, name: &str, pid: u32, signal: StopSignal, reach: Reach) -> Result<(), ServiceError> {
        let failed = |source| ServiceError { doing: format!("signal {name}"), source };
        let sent = match (signal, reach) {
            (StopSignal::Terminate, Reach::Main | Reach::Group) => send(name, pid, Signal::SIGTERM),
            (StopSignal::Kill, Reach::Main) => send(name, pid, Signal::SIGKILL),
            (StopSignal::Kill, Reach::Group) => kill_group(name),
        };
        sent.map_err(failed)
    }

    async fn healthy(&self, health: &Health) -> bool {
        match health {
            Health::Process => true,
            Health::Socket(path) => {
                matches!(tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await, Ok(Ok(_)))
            }
        }
    }
}
