//! The real kernel: [`Kernel`] by system calls, each in the module of its subject.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use init_boot::VerityTable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signalfd::SignalFd;

use crate::error::SystemError;
use crate::kernel::{Channel, FileKind, Kernel, Launch, Mount, Power, Propagation, Reaped, Started, Wake};
use crate::walls::Confinement;
use crate::{
    block, clock, device_mapper, efi, files, kmsg, loop_device, modules, mounts, power, process, spawn, switch_root,
    watchdog,
};

type Result<T> = std::result::Result<T, SystemError>;

/// The running kernel. One is made, at the start of PID 1.
#[derive(Debug)]
pub struct Linux {
    announcements: OnceLock<OwnedFd>,
    signals: OnceLock<SignalFd>,
    log_pipe: OnceLock<OwnedFd>,
    kmsg: Mutex<Option<kmsg::Writer>>,
    watchdog: Mutex<Option<File>>,
}

impl Linux {
    /// Makes no call yet: what needs /dev opens itself when it is first used.
    pub const fn new() -> Self {
        Self {
            announcements: OnceLock::new(),
            signals: OnceLock::new(),
            log_pipe: OnceLock::new(),
            kmsg: Mutex::new(None),
            watchdog: Mutex::new(None),
        }
    }

    /// The write end of the pipe whose lines a thread carries to the kernel's log.
    fn log_pipe(&self) -> Result<OwnedFd> {
        let pipe = match self.log_pipe.get() {
            Some(pipe) => pipe,
            None => {
                let pipe = kmsg::carry_lines("machined")?;
                self.log_pipe.get_or_init(|| pipe)
            }
        };
        pipe.try_clone().map_err(|source| SystemError::new("dup", "the log pipe", source))
    }

    fn signals(&self) -> Result<&SignalFd> {
        match self.signals.get() {
            Some(signals) => Ok(signals),
            None => {
                let signals = process::block_signals()?;
                Ok(self.signals.get_or_init(|| signals))
            }
        }
    }
}

impl Default for Linux {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel for Linux {
    fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        files::make_directory(path, mode)
    }

    fn read_file(&self, path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
        files::read_file(path, bytes_max)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        files::write_file(path, bytes)
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        files::list(directory)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn mount(&self, mount: &Mount) -> Result<()> {
        mounts::mount(mount)
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        mounts::unmount(target)
    }

    fn make_read_only(&self, target: &Path) -> Result<()> {
        mounts::make_read_only(target)
    }

    fn kind(&self, path: &Path) -> Result<FileKind> {
        files::kind(path)
    }

    fn link(&self, to: &Path, path: &Path) -> Result<()> {
        std::os::unix::fs::symlink(to, path).map_err(|source| SystemError::path("symlink", path, source))
    }

    fn bind(&self, from: &Path, to: &Path) -> Result<()> {
        mounts::bind(from, to)
    }

    fn propagate(&self, target: &Path, propagation: Propagation) -> Result<()> {
        mounts::propagate(target, propagation)
    }

    fn enter_root(&self, new_root: &Path) -> Result<()> {
        mounts::enter_root(new_root)
    }

    fn confine(&self) -> Result<()> {
        Confinement::prepare().put_on().map_err(|source| SystemError::new("prctl", "the walls", source))
    }

    fn load_module(&self, path: &Path) -> Result<()> {
        modules::load_module(path)
    }

    fn device_bytes(&self, device: &Path) -> Result<u64> {
        block::block_device_bytes(device)
    }

    fn read_at(&self, device: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        files::read_at(device, offset, length)
    }

    fn write_at(&self, device: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        files::write_at(device, offset, bytes)
    }

    fn map_verity(&self, name: &str, table: &VerityTable) -> Result<PathBuf> {
        device_mapper::map_verity(name, table)
    }

    fn map_linear(&self, name: &str, device: &Path, first: u64, sectors: u64) -> Result<PathBuf> {
        device_mapper::map_linear(name, device, first, sectors)
    }

    fn attach_file(&self, file: &Path) -> Result<PathBuf> {
        let opened = File::open(file).map_err(|source| SystemError::path("open", file, source))?;
        let device = loop_device::attach_read_only(opened.as_fd(), 0, 0)?;
        let node = device.path().to_owned();
        // Held open until this process becomes another program; who mapped it by then keeps it.
        std::mem::forget(device);
        Ok(node)
    }

    fn wait_for_device(&self, timeout: Duration) -> Result<bool> {
        let listener = match self.announcements.get() {
            Some(listener) => listener,
            None => {
                let listener = block::listen_for_devices()?;
                self.announcements.get_or_init(|| listener)
            }
        };
        block::wait_for_device(listener.as_fd(), timeout)
    }

    fn switch_root(&self, new_root: &Path) -> Result<()> {
        switch_root::switch_root(new_root)
    }

    fn execute(&self, program: &Path, arguments: &[&str]) -> SystemError {
        SystemError::path("execve", program, Command::new(program).args(arguments).exec())
    }

    fn uptime(&self) -> Duration {
        clock::uptime()
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn write_efi_variable(&self, name: &str, bytes: &[u8]) -> Result<()> {
        efi::write_variable(name, bytes)
    }

    fn take_signals(&self) -> Result<()> {
        self.signals()?;
        power::soften_ctrl_alt_del()
    }

    fn limit_open_files(&self, soft: u64, hard: u64) -> Result<()> {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
            .map_err(|source| SystemError::new("setrlimit", "open files", source))
    }

    fn start(&self, launch: &Launch) -> Result<Started> {
        spawn::start(launch, self.log_pipe()?)
    }

    fn wait(&self, channel: Option<&Channel>, send_ready: bool, timeout: Option<Duration>) -> Result<Wake> {
        process::wait(self.signals()?, channel, send_ready, timeout)
    }

    fn send(&self, channel: &Channel, packet: &[u8]) -> Result<bool> {
        process::send(channel, packet)
    }

    fn reap(&self) -> Result<Option<Reaped>> {
        process::reap()
    }

    fn signal_everything(&self, kill: bool) -> Result<()> {
        process::signal_everything(kill)
    }

    fn arm_watchdog(&self, timeout: Duration) -> Result<Duration> {
        let mut device = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = match device.take() {
            Some(armed) => armed,
            None => watchdog::open()?,
        };
        match watchdog::limit(&armed, timeout) {
            Ok(limit) => {
                *device = Some(armed);
                Ok(limit)
            }
            // One whose time is not known cannot be petted in time.
            Err(error) => watchdog::disarm(armed).and(Err(error)),
        }
    }

    fn pet_watchdog(&self) -> Result<()> {
        let device = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        device.as_ref().map_or(Ok(()), watchdog::pet)
    }

    fn disarm_watchdog(&self) -> Result<()> {
        let device = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
        device.map_or(Ok(()), watchdog::disarm)
    }

    fn sync(&self) {
        nix::unistd::sync();
    }

    fn end(&self, how: Power) -> SystemError {
        power::end(how)
    }

    fn log(&self, line: &str) {
        let mut writer = self.kmsg.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            *writer = kmsg::Writer::open().ok();
        }
        if let Some(writer) = writer.as_mut() {
            writer.write_line(line);
        }
    }

    fn shout(&self, text: &str) {
        // Nothing can be done about a console that does not take it; the kernel's log has it too.
        let _: io::Result<()> = std::fs::write("/dev/console", text);
    }
}
