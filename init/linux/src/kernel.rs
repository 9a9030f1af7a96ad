//! The kernel as PID 1 sees it. `Linux` asks the real one, `FakeKernel` records and answers from a script.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use init_boot::{ExitStatus, VerityTable};

use crate::error::SystemError;

type Result<T> = std::result::Result<T, SystemError>;

/// What PID 1 asks of the kernel. Paths are absolute.
pub trait Kernel: Sync {
    /// Makes a directory; one that is there already is fine.
    ///
    /// # Errors
    /// When mkdir fails for another reason.
    fn make_directory(&self, path: &Path, mode: u32) -> Result<()>;
    /// Reads a whole file of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When it cannot be read or is longer.
    fn read_file(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>>;
    /// Writes a file in one write, making it when it is not there.
    ///
    /// # Errors
    /// When open or write fails.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()>;
    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, directory: &Path) -> Result<Vec<String>>;
    /// Whether something is there.
    fn exists(&self, path: &Path) -> bool;
    /// Mounts.
    ///
    /// # Errors
    /// When mount(2) fails.
    fn mount(&self, mount: &Mount) -> Result<()>;
    /// Unmounts, never lazily: what is still used fails.
    ///
    /// # Errors
    /// When umount(2) fails.
    fn unmount(&self, target: &Path) -> Result<()>;
    /// Makes a mounted file system read-only.
    ///
    /// # Errors
    /// When mount(2) fails.
    fn make_read_only(&self, target: &Path) -> Result<()>;
    /// What is at a path, itself and not what it leads to.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn kind(&self, path: &Path) -> Result<FileKind>;
    /// Makes a symbolic link.
    ///
    /// # Errors
    /// When symlink fails.
    fn link(&self, to: &Path, path: &Path) -> Result<()>;
    /// Shows a file or a directory, with all that is mounted below, at a second place; both must be there.
    ///
    /// # Errors
    /// When mount(2) fails.
    fn bind(&self, from: &Path, to: &Path) -> Result<()>;
    /// Decides for a mount, and all below it, where mounts that are made there are seen.
    ///
    /// # Errors
    /// When mount(2) fails.
    fn propagate(&self, target: &Path, propagation: Propagation) -> Result<()>;
    /// Makes a mounted file system the root of this mount namespace, in which nothing of the old one is left.
    ///
    /// # Errors
    /// When pivot_root(2) or what comes with it fails.
    fn enter_root(&self, new_root: &Path) -> Result<()>;
    /// Takes from the caller, and from all that it will start, what nothing behind the walls may do.
    ///
    /// # Errors
    /// When prctl(2) fails.
    fn confine(&self) -> Result<()>;
    /// Loads one kernel module; one that is loaded already is fine.
    ///
    /// # Errors
    /// When finit_module(2) fails.
    fn load_module(&self, path: &Path) -> Result<()>;
    /// The size of a block device, in bytes.
    ///
    /// # Errors
    /// When it cannot be opened or asked.
    fn device_bytes(&self, device: &Path) -> Result<u64>;
    /// Reads exactly `length` bytes at `offset`.
    ///
    /// # Errors
    /// When it cannot be opened or is shorter.
    fn read_at(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>>;
    /// Writes all of `bytes` at `offset` of a device that is there; comes back once the device says that they are kept.
    ///
    /// # Errors
    /// When it cannot be opened, written or synchronised.
    fn write_at(&self, device: &Path, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Maps a dm-verity device and gives its node under /dev.
    ///
    /// # Errors
    /// When one of device-mapper's ioctls fails.
    fn map_verity(&self, name: &str, table: &VerityTable) -> Result<PathBuf>;
    /// Maps `sectors` sectors of a device from sector `first` on, read-only, and gives the node under /dev.
    ///
    /// # Errors
    /// When one of device-mapper's ioctls fails.
    fn map_linear(&self, name: &str, device: &Path, first: u64, sectors: u64) -> Result<PathBuf>;
    /// Shows a file as a block device, read-only, and gives the node under /dev. The file may be removed; its bytes stay.
    ///
    /// # Errors
    /// When the file cannot be opened or no loop device is free.
    fn attach_file(&self, file: &Path) -> Result<PathBuf>;
    /// Waits until the kernel announces a device or the time is over; says whether it announced one. The first call
    /// begins to listen.
    ///
    /// # Errors
    /// When the announcements cannot be heard.
    fn wait_for_device(&self, timeout: Duration) -> Result<bool>;
    /// Makes `new_root` the root, taking /dev, /proc, /run and /sys along, and frees the memory of the initramfs.
    ///
    /// # Errors
    /// When a mount cannot be moved.
    fn switch_root(&self, new_root: &Path) -> Result<()>;
    /// Becomes another program; comes back only with the reason why not.
    fn execute(&self, program: &Path, arguments: &[&str]) -> SystemError;
    /// Time since the kernel started.
    fn uptime(&self) -> Duration;
    /// Lets time pass, for people to read something.
    fn pause(&self, time: Duration);
    /// Writes an EFI variable: attributes and value, as efivarfs takes them.
    ///
    /// # Errors
    /// When there are none, or the firmware refuses.
    fn write_efi_variable(&self, name: &str, bytes: &[u8]) -> Result<()>;
    /// From now on signals come through `wait`, Ctrl-Alt-Del among them. To be called before any thread starts: a
    /// thread that does not block them would swallow them.
    ///
    /// # Errors
    /// When they cannot be blocked.
    fn take_signals(&self) -> Result<()>;
    /// Raises the limit of open files that all processes inherit.
    ///
    /// # Errors
    /// When setrlimit fails.
    fn limit_open_files(&self, soft: u64, hard: u64) -> Result<()>;
    /// Starts a process with a packet socket as descriptor 3.
    ///
    /// # Errors
    /// When the socket, fork or exec fails.
    fn start(&self, launch: &Launch) -> Result<Started>;
    /// Waits for a child's end, a message, or the time to be over; `send_ready` also waits for room to send.
    ///
    /// # Errors
    /// When poll or a read fails in a way that should not be.
    fn wait(&self, channel: Option<&Channel>, send_ready: bool, timeout: Option<Duration>) -> Result<Wake>;
    /// Sends one packet; `false` when there is no room now.
    ///
    /// # Errors
    /// When the other side is gone.
    fn send(&self, channel: &Channel, packet: &[u8]) -> Result<bool>;
    /// Collects one ended child; `None` when no child has ended, an error with ECHILD when there are none at all.
    ///
    /// # Errors
    /// When waitpid fails.
    fn reap(&self) -> Result<Option<Reaped>>;
    /// Signals every process but the caller.
    ///
    /// # Errors
    /// When kill(-1) fails for another reason than that nobody is left.
    fn signal_everything(&self, kill: bool) -> Result<()>;
    /// Arms the machine's watchdog, or changes its time when it is armed; gives the time that the device made of it.
    ///
    /// # Errors
    /// When there is none, or somebody else has it.
    fn arm_watchdog(&self, timeout: Duration) -> Result<Duration>;
    /// Tells the watchdog that all is well; nothing happens where none is armed.
    ///
    /// # Errors
    /// When the device does not take it.
    fn pet_watchdog(&self) -> Result<()>;
    /// Stops the watchdog; nothing happens where none is armed.
    ///
    /// # Errors
    /// When the device does not take it.
    fn disarm_watchdog(&self) -> Result<()>;
    /// Writes all that is only in memory to the disks.
    fn sync(&self);
    /// Ends the machine; comes back only with the reason why not.
    fn end(&self, power: Power) -> SystemError;
    /// Writes a line to the kernel's log.
    fn log(&self, line: &str);
    /// Writes a text to the console, past every log level.
    fn shout(&self, text: &str);
}

/// One mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device, or a name that /proc/mounts shows.
    pub source: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// The file system type.
    pub kind: &'static str,
    /// Its flags.
    pub flags: Vec<MountFlag>,
    /// Its options, empty for none.
    pub options: String,
}

/// A mount flag that PID 1 uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountFlag {
    /// Nothing can be written.
    ReadOnly,
    /// Device nodes do not work.
    NoDevices,
    /// Programs cannot be started.
    NoExecute,
    /// Set-user-id bits do nothing.
    NoSetUserId,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    /// A file, a device, a socket.
    Other,
}

/// Where mounts that are made below a mount are seen (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// In every copy of it, and those of the copies here.
    Shared,
    /// Those of where it was copied from are seen here, and none of ours there.
    Slave,
}

/// What to start and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without its name.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The cgroup directory that it begins in.
    pub cgroup: PathBuf,
}

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub pid: u32,
    /// Our end of the socket.
    pub channel: Channel,
}

/// Our end of a packet socket.
#[derive(Debug)]
pub struct Channel(pub(crate) OwnedFd);

/// Why a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A child ended: reap.
    Child,
    /// A packet came.
    Message(Vec<u8>),
    /// The other side closed its end.
    Closed,
    /// There is room to send again.
    Writable,
    /// Somebody pressed Ctrl-Alt-Del, or sent SIGINT.
    Restart,
    /// The power button, or SIGTERM.
    PowerOff,
    /// The time is over.
    Timeout,
}

/// A child that was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its id.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It starts again.
    Reboot,
    /// It switches off.
    Off,
}
