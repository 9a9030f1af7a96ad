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
