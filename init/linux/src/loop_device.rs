//! Loop devices: a file as a block device (loop(4), linux/loop.h).

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::SystemError;

const CONTROL: &str = "/dev/loop-control";
/// LO_FLAGS_READ_ONLY.
const READ_ONLY: u32 = 1;
/// How often somebody else may take the free device before we do.
const ATTEMPTS_MAX: usize = 8;

/// `struct loop_config`: the fields that we set, at their places; all else is zeros.
#[repr(C)]
struct Config {
    file: u32,
    block_bytes: u32,
    /// `struct loop_info64` up to its flags: device, inode, rdevice, offset, size limit, number and two of encryption.
    before_flags: [u8; 52],
    flags: u32,
    after_flags: [u8; 176],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304, "linux/loop.h has 304 bytes");

mod call {
    use super::Config;

    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, Config);
}

/// Shows a file as a block device that nobody writes to, and gives its node. It goes when the machine does.
pub(crate) fn attach(file: &Path) -> Result<PathBuf, SystemError> {
    let open = |path: &Path| File::open(path).map_err(|source| SystemError::path("open", path, source));
    let (backing, control) = (open(file)?, open(Path::new(CONTROL))?);
    let mut busy = SystemError::new("ioctl(LOOP_CONFIGURE)", file.display(), Errno::EBUSY);
    for _ in 0..ATTEMPTS_MAX {
        // SAFETY: it takes no argument and gives a number.
        let number = unsafe { call::loop_ctl_get_free(control.as_raw_fd()) }
            .map_err(|source| SystemError::new("ioctl(LOOP_CTL_GET_FREE)", CONTROL, source))?;
        let node = PathBuf::from(format!("/dev/loop{number}"));
        match configure(&open(&node)?, backing.as_raw_fd()) {
            Ok(()) => return Ok(node),
            Err(Errno::EBUSY) => busy = SystemError::path("ioctl(LOOP_CONFIGURE)", &node, Errno::EBUSY),
            Err(source) => return Err(SystemError::path("ioctl(LOOP_CONFIGURE)", &node, source)),
        }
    }
    Err(busy)
}

fn configure(device: &File, backing: RawFd) -> Result<(), Errno> {
    let config = Config {
        file: u32::try_from(backing).map_err(|_| Errno::EBADF)?,
        block_bytes: 0,
        before_flags: [0; 52],
        flags: READ_ONLY,
        after_flags: [0; 176],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one loop_config, whose size and fields `Config` has, from a place that outlives the call.
    unsafe { call::loop_configure(device.as_raw_fd(), &raw const config) }.map(|_| ())
}
