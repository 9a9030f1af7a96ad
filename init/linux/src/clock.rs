//! Clocks: time since the kernel started, and setting the time of day.

use std::time::Duration;

use nix::poll::PollTimeout;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::error::SystemError;

/// Time since the kernel started, suspension included.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Sets the time of day to `since_epoch` after 1970.
///
/// # Errors
/// When the caller may not.
pub fn set_time_of_day(since_epoch: Duration) -> Result<(), SystemError> {
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(since_epoch))
        .map_err(|source| SystemError::new("clock_settime", "the time of day", source))
}

/// A timeout for poll(2), rounded up so that it never wakes early and spins; `None` waits for ever.
pub(crate) fn poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    match timeout {
        None => PollTimeout::NONE,
        Some(timeout) => PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX),
    }
}

/// Lets the clock run a little slow or fast until it has made up for `offset`, without ever jumping (adjtimex(2)).
///
/// # Errors
/// When the caller may not, or the offset is beyond half an hour.
pub fn slew_time_of_day(offset: Duration, backwards: bool) -> Result<(), SystemError> {
    let failed = |source: std::io::Error| SystemError::new("adjtimex", "the time of day", source);
    let micros = i64::try_from(offset.as_micros()).map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
    // SAFETY: a timex is plain numbers, for which all zeros is a value.
    let mut timex: nix::libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = nix::libc::ADJ_OFFSET_SINGLESHOT;
    timex.offset = if backwards { -micros } else { micros };
    // SAFETY: the kernel reads and writes the one struct that the reference points to.
    match unsafe { nix::libc::adjtimex(&mut timex) } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}
