//! A key that only the kernel can read, for as long as something is told to fetch it.

use std::ffi::CString;

use nix::libc::{self, c_long};

use crate::error::SystemError;

/// Payloads of this type never come back to user space (keyrings(7)).
const LOGON: &std::ffi::CStr = c"logon";
/// KEY_SPEC_THREAD_KEYRING: nobody but this thread finds the key.
const THREAD_KEYRING: c_long = -1;
/// KEYCTL_REVOKE.
const REVOKE: c_long = 3;

/// A key in this thread's keyring; revoked when the value goes.
#[derive(Debug)]
pub(crate) struct LogonKey(c_long);

impl LogonKey {
    /// Hands a key to the kernel. The description has to have a prefix with a colon.
    pub(crate) fn add(description: &str, payload: &[u8]) -> Result<Self, SystemError> {
        let failed = |source| SystemError::new("add_key", description, source);
        let name = CString::new(description).map_err(|error| failed(std::io::Error::other(error)))?;
        // SAFETY: both strings end with a NUL and outlive the call, and the kernel reads as many bytes of the payload as its
        // length says.
        let id = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                LOGON.as_ptr(),
                name.as_ptr(),
                payload.as_ptr(),
                payload.len(),
                THREAD_KEYRING,
            )
        };
        if id < 0 { Err(failed(std::io::Error::last_os_error())) } else { Ok(LogonKey(id)) }
    }
}

impl Drop for LogonKey {
    fn drop(&mut self) {
        // SAFETY: the call takes two numbers and no memory of ours.
        let _gone_already = unsafe { libc::syscall(libc::SYS_keyctl, REVOKE, self.0) };
    }
}
