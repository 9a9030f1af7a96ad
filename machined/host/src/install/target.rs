//! The disk that is installed on: opened for nobody else, written, read back past the kernel's memory.

use super::{InstallMedium, MediumReadError, esp};
use machined_controllers::install::{Content, Disk, DiskFacts, ExecuteError, Parts, PlanError, execute, plan};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The medium.
    #[error(transparent)]
    Medium(#[from] MediumReadError),
    /// The boot files do not fit.
    #[error("the boot files do not fit on the EFI system partition; make the medium anew with a larger one")]
    Esp(#[source] io::Error),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] io::Error),
    /// The disk is in use, or gone.
    #[error("the disk {device} cannot be opened; is something on it in use?")]
    Open {
        /// Its device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

struct BlockDevice(File);

impl Disk for BlockDevice {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn keep(&mut self) -> io::Result<()> {
        self.0.sync_all()?;
        posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(Into::into)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }
}

/// Installs on this disk, whatever it holds: that it may be written was decided before. Takes as long as the disk does, so it belongs on
/// a thread of its own.
///
/// # Errors
/// [`InstallError`]; when the disk was written to, it does not boot and may be installed on again.
pub fn install(
    medium: &InstallMedium,
    disk: &DiskFacts,
    mut progress: impl FnMut(&'static str),
) -> Result<(), InstallError> {
    progress("checking the medium");
    let carried = medium.check()?;
    let files = medium.boot_files(&carried)?;
    let volume = esp::build(carried.sizes.esp, &files).map_err(InstallError::Esp)?;
    let mut identity = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut identity)).map_err(InstallError::Random)?;
    let root = carried.manifest.root;
    let parts = Parts {
        sizes: carried.sizes,
        esp: &volume,
        root_hash: carried.manifest.root_hash,
        root: Content::Root { bytes: root.bytes, sha256: root.sha256 },
        seed: medium.seed.as_deref(),
        identity,
    };
    let plan = plan(disk.bytes, &parts)?;
    let device = Path::new("/dev").join(&disk.name);
    // O_EXCL: the kernel refuses while something of the disk is mounted or mapped.
    let flags = nix::libc::O_EXCL;
    let opened = File::options().read(true).write(true).custom_flags(flags).open(&device);
    let mut target = BlockDevice(opened.map_err(|source| InstallError::Open { device, source })?);
    execute(&plan, &mut target, &mut medium.source()?, progress)?;
    Ok(())
}
