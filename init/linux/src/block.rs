//! Block devices: their size, and the kernel's announcements of new ones.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

use crate::clock::poll_timeout;
use crate::error::SystemError;

mod call {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
}

/// The multicast group of the kernel's own announcements; group 2 would be udev's.
const KERNEL_GROUP: u32 = 1;
/// Room for the announcements of a machine with many devices, in bytes; what does not fit is told as ENOBUFS.
const RECEIVE_BYTES: usize = 1024 * 1024;
/// UEVENT_BUFFER_SIZE of the kernel: no announcement is longer, in bytes.
const ANNOUNCEMENT_BYTES_MAX: usize = 2048;

/// The size of a block device, in bytes.
pub(crate) fn block_device_bytes(device: &Path) -> Result<u64, SystemError> {
    let file = File::open(device).map_err(|source| SystemError::path("open", device, source))?;
    let mut bytes = 0_usize;
    // SAFETY: BLKGETSIZE64 writes one u64, which is what usize is on the 64-bit machines that we build for, to a
    // place that outlives the call.
    unsafe { call::blkgetsize64(file.as_raw_fd(), &raw mut bytes) }
        .map_err(|source| SystemError::path("ioctl(BLKGETSIZE64)", device, source))?;
    Ok(bytes as u64)
}

/// Begins to listen for the kernel's announcements of devices.
pub(crate) fn listen_for_devices() -> Result<OwnedFd, SystemError> {
    let failed = |source: Errno| SystemError::new("open netlink socket", "device announcements", source);
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener =
        socket(AddressFamily::Netlink, SockType::Datagram, kind, SockProtocol::NetlinkKObjectUEvent).map_err(failed)?;
    setsockopt(&listener, sockopt::RcvBuf, &RECEIVE_BYTES).map_err(failed)?;
    bind(listener.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).map_err(failed)?;
    Ok(listener)
}

/// Waits for an announcement and drops all that have come: the caller looks at /sys again anyway.
pub(crate) fn wait_for_device(listener: BorrowedFd<'_>, timeout: Duration) -> Result<bool, SystemError> {
    let failed = |source: Errno| SystemError::new("poll", "device announcements", source);
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, poll_timeout(Some(timeout))) {
        Ok(0) => return Ok(false),
        Ok(_) | Err(Errno::EINTR) => {}
        Err(source) => return Err(failed(source)),
    }
    let mut announcement = [0; ANNOUNCEMENT_BYTES_MAX];
    loop {
        match recv(listener.as_raw_fd(), &mut announcement, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(true),
            Err(source) => return Err(failed(source)),
        }
    }
}
