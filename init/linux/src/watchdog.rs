//! The watchdog of the machine: a device that restarts it unless it is told in time that all is well
//! (docs.kernel.org/watchdog/watchdog-api.html).
//!
//! Opening it arms it, and only a `V` before it is closed stops it again ("magic close"): when PID 1 ends in any other way, the machine
//! restarts, and that is what it is there for.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc::c_int;

use crate::error::SystemError;

/// Every driver's first device has this name too.
const DEVICE: &str = "/dev/watchdog";

nix::ioctl_readwrite!(
    /// WDIOC_SETTIMEOUT: seconds in, and out what the device made of them.
    set_timeout,
    b'W',
    6,
    c_int
);

/// Opens it, and with that arms it.
pub(crate) fn open() -> Result<File, SystemError> {
    File::options().write(true).open(DEVICE).map_err(|source| SystemError::new("open", DEVICE, source))
}

/// Sets after how long it restarts the machine; what the device made of it, in whole seconds.
pub(crate) fn limit(device: &File, timeout: Duration) -> Result<Duration, SystemError> {
    let mut seconds = c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX);
    // SAFETY: the descriptor is open, and the kernel reads and writes the one integer that the pointer is for.
    let set = unsafe { set_timeout(device.as_raw_fd(), &mut seconds) };
    set.map_err(|source| SystemError::new("ioctl(WDIOC_SETTIMEOUT)", DEVICE, source))?;
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// Stops it: a machine that is switched off stays so.
pub(crate) fn disarm(mut device: File) -> Result<(), SystemError> {
    device.write_all(b"V").map_err(|source| SystemError::new("stop", DEVICE, source))
}

/// Tells it that all is well. Any byte but `V` does.
pub(crate) fn pet(mut device: &File) -> Result<(), SystemError> {
    device.write_all(b"\0").map_err(|source| SystemError::new("write", DEVICE, source))
}
