//! A kernel for tests: files in memory, a clock that only waiting moves, scripted events, and a record of what was
//! asked.
//!
//! Waiting without a deadline when the script is over fails, so that a test ends instead of hanging.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use init_boot::VerityTable;
use nix::errno::Errno;

use crate::error::SystemError;
use crate::kernel::{Channel, FileKind, Kernel, Launch, Mount, Power, Propagation, Reaped, Started, Wake};

type Result<T> = std::result::Result<T, SystemError>;

/// Something that was asked and that changes the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A mount: type and place.
    Mount(&'static str, PathBuf),
    /// An unmount.
    Unmount(PathBuf),
    /// A remount as read-only.
    MakeReadOnly(PathBuf),
    /// A file or directory that is shown at a second place.
    Bind(PathBuf, PathBuf),
    /// A symbolic link: where it leads, where it is.
    Link(PathBuf, PathBuf),
    /// Where mounts below this one are seen.
    Propagate(PathBuf, Propagation),
    /// The new root of a mount namespace.
    EnterRoot(PathBuf),
    /// What nothing behind the walls may do is given up.
    Confine,
    /// A module.
    LoadModule(PathBuf),
    /// A written file and its text.
    Write(PathBuf, String),
    /// A written part of a device: where, and how many bytes.
    WriteAt(PathBuf, u64, usize),
    /// A verity device's parameters.
    MapVerity(String),
    /// A part of a device: its first sector and how many.
    MapLinear(PathBuf, u64, u64),
    /// A file that became a device.
    AttachFile(PathBuf),
    /// The new root.
    SwitchRoot(PathBuf),
    /// The program that took over, and its arguments.
    Execute(PathBuf, Vec<String>),
    /// A started program.
    Start(PathBuf),
    /// A sent packet.
    Send(String),
    /// SIGTERM to everybody.
    TerminateAll,
    /// SIGKILL to everybody.
    KillAll,
    /// The watchdog's time, in seconds.
    ArmWatchdog(u64),
    /// A word to the watchdog.
    PetWatchdog,
    /// The watchdog's end.
    DisarmWatchdog,
    /// A sync.
    Sync,
    /// The machine's end.
    End(Power),
}

/// A scripted event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A wait ends with this.
    Wake(Wake),
    /// A child ends; the wait ends with `Wake::Child`.
    Ends(Reaped),
    /// Nothing happens until the wait's deadline.
    TimePasses,
}

/// The scripted kernel. Its fields in `state` may be set freely before it is used.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
}

/// What the fake kernel knows.
#[derive(Debug, Default)]
pub struct State {
    /// Files and their bytes; devices too.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories beside those that hold files.
    pub directories: BTreeSet<PathBuf>,
    /// Symbolic links that exist, and where they lead.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// What the waits give, in order.
    pub script: VecDeque<Event>,
    /// Files that appear with each announcement of a device.
    pub announced: VecDeque<Vec<(PathBuf, Vec<u8>)>>,
    /// Calls that fail, by the name that their error has, and their subject.
    pub failing: BTreeSet<(&'static str, String)>,
    /// There is a watchdog.
    pub watchdog: bool,
    /// Processes ignore SIGTERM.
    pub stubborn: bool,
    /// How many more packets there is room for; `None` is no bound.
    pub room: Option<usize>,
    /// What was asked.
    pub calls: Vec<Call>,
    /// The log's lines.
    pub log: Vec<String>,
    /// The console's text.
    pub console: String,
    uptime: Duration,
    reaped: VecDeque<Reaped>,
    alone: bool,
    armed: bool,
    next_pid: u32,
}

impl FakeKernel {
    /// An empty machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its state, to prepare and to look at.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a call, which fails when it was told to.
    fn record(&self, name: &'static str, subject: &str, call: Call) -> Result<()> {
        let mut state = self.state();
        state.calls.push(call);
        match state.failing.contains(&(name, subject.to_owned())) {
            true => Err(SystemError::new(name, subject, Errno::EIO)),
            false => Ok(()),
        }
    }

    fn bytes(&self, call: &'static str, path: &Path) -> Result<Vec<u8>> {
        let found = self.state().files.get(path).cloned();
        found.ok_or_else(|| SystemError::new(call, path.display(), Errno::ENOENT))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Kernel for FakeKernel {
    fn make_directory(&self, path: &Path, _mode: u32) -> Result<()> {
        let mut state = self.state();
        if state.failing.contains(&("mkdir", text(path))) {
            return Err(SystemError::new("mkdir", path.display(), Errno::EROFS));
        }
        state.directories.insert(path.to_owned());
        Ok(())
    }

    fn read_file(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes("read", path)?;
        match bytes.len() <= bytes_max {
            true => Ok(bytes),
            false => Err(SystemError::new("read", path.display(), io::Error::other("it is too long"))),
        }
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let written = String::from_utf8_lossy(bytes).into_owned();
        self.record("write", &text(path), Call::Write(path.to_owned(), written))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        let state = self.state();
        let all = state.files.keys().chain(&state.directories).chain(state.links.keys());
        let below = all.filter_map(|path| path.strip_prefix(directory).ok());
        let names: BTreeSet<String> =
            below.filter_map(|rest| rest.iter().next()).map(|name| name.to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.state();
        state.files.keys().chain(&state.directories).any(|known| known.starts_with(path))
    }

    fn mount(&self, mount: &Mount) -> Result<()> {
        self.record("mount", &text(&mount.target), Call::Mount(mount.kind, mount.target.clone()))
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        self.record("umount", &text(target), Call::Unmount(target.to_owned()))
    }

    fn make_read_only(&self, target: &Path) -> Result<()> {
        self.record("remount", &text(target), Call::MakeReadOnly(target.to_owned()))
    }

    fn kind(&self, path: &Path) -> Result<FileKind> {
        let state = self.state();
        Ok(match (state.links.get(path), state.files.contains_key(path)) {
            (Some(to), _) => FileKind::Link(to.clone()),
            (None, true) => FileKind::Other,
            (None, false) => FileKind::Directory,
        })
    }

    fn link(&self, to: &Path, path: &Path) -> Result<()> {
        self.record("symlink", &text(path), Call::Link(to.to_owned(), path.to_owned()))
    }

    fn bind(&self, from: &Path, to: &Path) -> Result<()> {
        self.record("bind", &text(from), Call::Bind(from.to_owned(), to.to_owned()))
    }

    fn propagate(&self, target: &Path, propagation: Propagation) -> Result<()> {
        self.record("propagate", &text(target), Call::Propagate(target.to_owned(), propagation))
    }

    fn enter_root(&self, new_root: &Path) -> Result<()> {
        self.record("pivot_root", &text(new_root), Call::EnterRoot(new_root.to_owned()))
    }

    fn confine(&self) -> Result<()> {
        self.record("prctl", "the walls", Call::Confine)
    }

    fn load_module(&self, path: &Path) -> Result<()> {
        self.record("finit_module", &text(path), Call::LoadModule(path.to_owned()))
    }

    fn device_bytes(&self, device: &Path) -> Result<u64> {
        Ok(self.bytes("open", device)?.len() as u64)
    }

    fn read_at(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes("pread", device)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = bytes.get(start..).and_then(|rest| rest.get(..length));
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| SystemError::new("pread", device.display(), io::Error::from(io::ErrorKind::UnexpectedEof)))
    }

    fn write_at(&self, device: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.record("pwrite", &text(device), Call::WriteAt(device.to_owned(), offset, bytes.len()))?;
        let mut state = self.state();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let place = state.files.get_mut(device).and_then(|all| all.get_mut(start..)?.get_mut(..bytes.len()));
        place.ok_or_else(|| SystemError::new("pwrite", device.display(), Errno::ENOSPC))?.copy_from_slice(bytes);
        Ok(())
    }

    fn map_verity(&self, name: &str, table: &VerityTable) -> Result<PathBuf> {
        self.record("map", name, Call::MapVerity(table.parameters.clone()))?;
        Ok(PathBuf::from("/dev/dm-0"))
    }

    fn map_linear(&self, name: &str, device: &Path, first: u64, sectors: u64) -> Result<PathBuf> {
        self.record("map", name, Call::MapLinear(device.to_owned(), first, sectors))?;
        let (start, length) = (first as usize * 512, sectors as usize * 512);
        let part = self.bytes("open", device)?.get(start..start + length).unwrap_or_default().to_vec();
        let node = PathBuf::from("/dev/dm-1");
        self.state().files.insert(node.clone(), part);
        Ok(node)
    }

    fn attach_file(&self, file: &Path) -> Result<PathBuf> {
        self.record("attach", &text(file), Call::AttachFile(file.to_owned()))?;
        let bytes = self.bytes("open", file)?;
        let mut state = self.state();
        state.files.insert(PathBuf::from("/sys/class/block/loop0/loop/backing_file"), text(file).into());
        state.files.insert(PathBuf::from("/dev/loop0"), bytes);
        Ok(PathBuf::from("/dev/loop0"))
    }

    fn wait_for_device(&self, timeout: Duration) -> Result<bool> {
        let mut state = self.state();
        if timeout.is_zero() {
            return Ok(false);
        }
        match state.announced.pop_front() {
            Some(files) => {
                state.files.extend(files);
                Ok(true)
            }
            None => {
                state.uptime += timeout;
                Ok(false)
            }
        }
    }

    fn switch_root(&self, new_root: &Path) -> Result<()> {
        self.record("switch root", &text(new_root), Call::SwitchRoot(new_root.to_owned()))
    }

    fn execute(&self, program: &Path, arguments: &[&str]) -> SystemError {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.state().calls.push(Call::Execute(program.to_owned(), arguments));
        SystemError::new("execve", program.display(), Errno::ENOEXEC)
    }

    fn uptime(&self) -> Duration {
        self.state().uptime
    }

    fn pause(&self, time: Duration) {
        self.state().uptime += time;
    }

    fn write_efi_variable(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let value = bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
        self.record("efi", name, Call::Write(PathBuf::from(name), value))
    }

    fn take_signals(&self) -> Result<()> {
        Ok(())
    }

    fn limit_open_files(&self, _soft: u64, _hard: u64) -> Result<()> {
        Ok(())
    }

    fn start(&self, launch: &Launch) -> Result<Started> {
        self.record("spawn", &text(&launch.program), Call::Start(launch.program.clone()))?;
        let mut state = self.state();
        state.next_pid += 1;
        let nowhere =
            std::fs::File::open("/dev/null").map_err(|source| SystemError::new("open", "/dev/null", source))?;
        Ok(Started { pid: state.next_pid, channel: Channel(nowhere.into()) })
    }

    fn wait(&self, _channel: Option<&Channel>, send_ready: bool, timeout: Option<Duration>) -> Result<Wake> {
        let mut state = self.state();
        if send_ready {
            state.room = None;
            return Ok(Wake::Writable);
        }
        match (state.script.pop_front(), timeout) {
            (Some(Event::Wake(wake)), _) => Ok(wake),
            (Some(Event::Ends(reaped)), _) => {
                state.reaped.push_back(reaped);
                Ok(Wake::Child)
            }
            (Some(Event::TimePasses) | None, Some(timeout)) => {
                state.uptime += timeout;
                Ok(Wake::Timeout)
            }
            (Some(Event::TimePasses) | None, None) => {
                Err(SystemError::new("poll", "the end of the script", Errno::EDEADLK))
            }
        }
    }

    fn send(&self, _channel: &Channel, packet: &[u8]) -> Result<bool> {
        let mut state = self.state();
        match state.room {
            Some(0) => return Ok(false),
            Some(room) => state.room = Some(room - 1),
            None => {}
        }
        state.calls.push(Call::Send(String::from_utf8_lossy(packet).into_owned()));
        Ok(true)
    }

    fn reap(&self) -> Result<Option<Reaped>> {
        let mut state = self.state();
        match state.reaped.pop_front() {
            Some(reaped) => Ok(Some(reaped)),
            None if state.alone => Err(SystemError::new("waitpid", "any child", Errno::ECHILD)),
            None => Ok(None),
        }
    }

    fn signal_everything(&self, kill: bool) -> Result<()> {
        let mut state = self.state();
        state.alone = kill || !state.stubborn;
        state.calls.push(if kill { Call::KillAll } else { Call::TerminateAll });
        Ok(())
    }

    fn arm_watchdog(&self, timeout: Duration) -> Result<Duration> {
        if !self.state().watchdog {
            return Err(SystemError::new("open", "/dev/watchdog", Errno::ENOENT));
        }
        self.record("ioctl", "/dev/watchdog", Call::ArmWatchdog(timeout.as_secs()))?;
        self.state().armed = true;
        Ok(timeout)
    }

    fn pet_watchdog(&self) -> Result<()> {
        match self.state().armed {
            true => {}
            false => return Ok(()),
        }
        self.record("write", "/dev/watchdog", Call::PetWatchdog)
    }

    fn disarm_watchdog(&self) -> Result<()> {
        match std::mem::take(&mut self.state().armed) {
            true => self.record("stop", "/dev/watchdog", Call::DisarmWatchdog),
            false => Ok(()),
        }
    }

    fn sync(&self) {
        self.state().calls.push(Call::Sync);
    }

    fn end(&self, power: Power) -> SystemError {
        self.state().calls.push(Call::End(power));
        SystemError::new("reboot", "a fake machine", Errno::EPERM)
    }

    fn log(&self, line: &str) {
        self.state().log.push(line.to_owned());
    }

    fn shout(&self, text: &str) {
        self.state().console.push_str(text);
    }
}
