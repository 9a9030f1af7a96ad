//! Random bytes from the kernel.

use nix::errno::Errno;
use nix::libc;

use crate::error::SystemError;

/// Fills `bytes` with random numbers from the kernel; waits until it has enough of them, early in the boot.
///
/// # Errors
/// When the kernel has no getrandom(2).
pub fn fill_random(bytes: &mut [u8]) -> Result<(), SystemError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the kernel writes at most `rest.len()` bytes to `rest`, which outlives the call.
        let length = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(length) {
            Ok(length) => filled += length,
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return Err(SystemError::new("getrandom", "random bytes", Errno::last())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_fill_the_whole_slice() {
        let mut bytes = [0; 300];
        fill_random(&mut bytes).expect("because the kernel has getrandom");
        assert!(bytes.chunks(50).all(|part| part.iter().any(|byte| *byte != 0)));
    }
}
