//! Loop devices: a part of a file as a block device, read-only.
//!
//! The request is laid out by hand, as linux/loop.h has it: `struct loop_config` is the file's descriptor, a block size, `struct
//! loop_info64` and eight reserved numbers. Called by machined for host extensions, and by stage one for a medium from the network.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc::{self, c_ulong};

use crate::error::SystemError;

const CONTROL: &str = "/dev/loop-control";
/// LOOP_CTL_GET_FREE: gives the number of a device that nobody uses, made when there is none.
const GET_FREE: c_ulong = 0x4C82;
/// LOOP_CONFIGURE, of Linux 5.8 and later: file and settings in one step, so that nobody sees the one without the other.
const CONFIGURE: c_ulong = 0x4C0A;
const CONFIG_BYTES: usize = 304;
/// Where `struct loop_info64` begins.
const INFO: usize = 8;
/// LO_FLAGS_READ_ONLY, and LO_FLAGS_AUTOCLEAR: the device goes when the last who holds it open goes.
const FLAGS: u32 = 1 | 4;
/// How often another number is asked for when somebody else was faster with the free one.
const TRIES: usize = 8;

/// A loop device. It lasts for as long as this value, or whoever opened it since, holds it open.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _held: File,
}

impl LoopDevice {
    /// The node under /dev.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Makes `bytes` bytes of a file from `offset` on a read-only block device; both are whole sectors of 512 bytes. No bytes are all of them.
///
/// # Errors
/// When one of the ioctls fails: the module is not loaded, or the file lies on a file system that has no blocks.
pub fn attach_read_only(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<LoopDevice, SystemError> {
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.map_err(|source| SystemError::new("open", CONTROL, source))?;
    let config = config(file.as_raw_fd(), offset, bytes);
    for _ in 0..TRIES {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and writes nothing to memory of ours.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(SystemError::new("ioctl(LOOP_CTL_GET_FREE)", CONTROL, std::io::Error::last_os_error()));
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let held = File::open(&path).map_err(|source| SystemError::path("open", &path, source))?;
        // SAFETY: the kernel reads CONFIG_BYTES bytes, which is this array's length, and the array outlives the call.
        let answer = unsafe { libc::ioctl(held.as_raw_fd(), CONFIGURE, config.as_ptr()) };
        if answer == 0 {
            return Ok(LoopDevice { path, _held: held });
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(Errno::EBUSY as i32) {
            return Err(SystemError::path("ioctl(LOOP_CONFIGURE)", &path, error));
        }
    }
    Err(SystemError::new("ioctl(LOOP_CONFIGURE)", CONTROL, Errno::EBUSY))
}

fn config(descriptor: i32, offset: u64, bytes: u64) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
    put(0, &descriptor.to_ne_bytes());
    // lo_offset, lo_sizelimit and lo_flags of loop_info64; three numbers of eight bytes before, three of four between.
    put(INFO + 24, &offset.to_ne_bytes());
    put(INFO + 32, &bytes.to_ne_bytes());
    put(INFO + 52, &FLAGS.to_ne_bytes());
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_header_file_says() {
        let config = config(7, 4096, 8192);
        assert_eq!(config[..4], 7_i32.to_ne_bytes());
        assert_eq!(config[32..40], 4096_u64.to_ne_bytes());
        assert_eq!(config[40..48], 8192_u64.to_ne_bytes());
        assert_eq!(config[60..64], 5_u32.to_ne_bytes());
        assert_eq!(config.iter().filter(|byte| **byte != 0).count(), 4, "all else is zero");
    }
}
