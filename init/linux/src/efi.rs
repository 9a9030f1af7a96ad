//! EFI variables through efivarfs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::SystemError;

/// Where efivarfs is mounted.
pub const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";

/// FS_IMMUTABLE_FL of linux/fs.h: efivarfs sets it on most variables, so that `rm -r` cannot brick a machine.
const IMMUTABLE: libc::c_int = 0x10;

mod call {
    use nix::libc::c_int;
    nix::ioctl_read_bad!(get_flags, nix::request_code_read!(b'f', 1, size_of::<usize>()), c_int);
    nix::ioctl_write_ptr_bad!(set_flags, nix::request_code_write!(b'f', 2, size_of::<usize>()), c_int);
}

use nix::libc;

/// Writes `<name>-<vendor GUID>`: four bytes of attributes, then the value, in one write as efivarfs wants it.
pub(crate) fn write_variable(name: &str, bytes: &[u8]) -> Result<(), SystemError> {
    let path = PathBuf::from(EFI_VARIABLES).join(name);
    allow_writing(&path)?;
    let written = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    written.and_then(|mut file| file.write_all(bytes)).map_err(|source| SystemError::path("write", &path, source))
}

/// Takes the immutable flag off a variable that exists.
fn allow_writing(path: &Path) -> Result<(), SystemError> {
    let failed = |source: io::Error| SystemError::path("ioctl(FS_IOC_SETFLAGS)", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SystemError::path("open", path, error)),
    };
    let mut flags: libc::c_int = 0;
    // SAFETY: FS_IOC_GETFLAGS writes one int, to a place that outlives the call.
    unsafe { call::get_flags(file.as_raw_fd(), &raw mut flags) }.map_err(|source| failed(source.into()))?;
    if flags & IMMUTABLE == 0 {
        return Ok(());
    }
    let flags = flags & !IMMUTABLE;
    // SAFETY: FS_IOC_SETFLAGS reads one int, from a place that outlives the call.
    unsafe { call::set_flags(file.as_raw_fd(), &raw const flags) }.map_err(|source| failed(source.into()))?;
    Ok(())
}
