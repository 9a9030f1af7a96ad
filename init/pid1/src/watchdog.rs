//! The machine's watchdog: armed once its driver is there, petted by PID 1's own loop and by nothing else.
//!
//! ```text
//! no device --looked for at each turn of the loop, for a minute--> armed --every third of its time--> petted
//! armed --the machine ends--> armed for longer: a shutdown that hangs ends in a restart too
//! armed --it is switched off--> stopped; --it restarts--> armed until the firmware takes over
//! ```
//!
//! A thread that pets would go on after the loop hangs, so there is none. machined is no condition: when it hangs or fails, PID 1 and the
//! deadline of a tried image are there, and pods run on. A machine without a watchdog runs as well, and says so.

use std::time::Duration;

use init_linux::{Kernel, Power};

use crate::log;

/// After how long without a turn of PID 1's loop the machine restarts: many times what a turn takes on the slowest machine, and short
/// enough that an image that hangs is tried three times and given up within minutes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// The same while the machine ends: processes get fifteen seconds, and gigabytes may have to be written.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(300);
/// How often it is petted, as a part of its time: two may come late.
const PETS: u32 = 3;
/// How long its driver is waited for; modules are loaded in the first seconds.
const LOOKED_FOR: Duration = Duration::from_secs(60);
/// How often it is looked for until then, when nothing else happens.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// What PID 1 knows about the watchdog.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Watchdog {
    /// Not there yet; looked for until this time since the kernel's start.
    Sought {
        /// When it is given up.
        until: Duration,
    },
    /// It restarts the machine unless it is petted.
    Armed {
        /// How often.
        period: Duration,
        /// When next, since the kernel's start.
        next: Duration,
    },
    /// There is none.
    None,
}

impl Watchdog {
    /// Begins to look for it.
    pub(crate) fn new(now: Duration) -> Self {
        Self::Sought { until: now + LOOKED_FOR }
    }

    /// One turn of the loop: arms it, or pets it when it is time. Gives how long the loop may wait at most.
    pub(crate) fn turn(&mut self, kernel: &dyn Kernel) -> Option<Duration> {
        let now = kernel.uptime();
        match self {
            Self::Sought { until } => match kernel.arm_watchdog(TIMEOUT) {
                Ok(timeout) => {
                    log::line(
                        kernel,
                        &format!("the watchdog restarts this machine when it hangs for {} s", timeout.as_secs()),
                    );
                    let period = timeout / PETS;
                    *self = Self::Armed { period, next: now + period };
                    Some(period)
                }
                Err(error) if now >= *until => {
                    log::line(kernel, &format!("there is no watchdog: {}", error.story()));
                    *self = Self::None;
                    None
                }
                Err(_) => Some(LOOK_PERIOD),
            },
            Self::Armed { period, next } => {
                if now >= *next {
                    pet(kernel);
                    *next = now + *period;
                }
                Some(next.saturating_sub(now))
            }
            Self::None => None,
        }
    }
}

/// Keeps it armed through the end of the machine, with the time that takes. Nothing happens where none was found.
pub(crate) fn stretch(kernel: &dyn Kernel) {
    if let Ok(limit) = kernel.arm_watchdog(END_TIMEOUT) {
        log::line(kernel, &format!("the watchdog gives the end of the machine {} s", limit.as_secs()));
        pet(kernel);
    }
}

/// The last word to it, when all is written: a machine that is off stays off, one that restarts is restarted even if that hangs.
pub(crate) fn last(kernel: &dyn Kernel, power: Power) {
    let said = match power {
        Power::Off => kernel.disarm_watchdog(),
        Power::Reboot => kernel.pet_watchdog(),
    };
    if let Err(error) = said {
        log::line(kernel, &error.story());
    }
}

fn pet(kernel: &dyn Kernel) {
    if let Err(error) = kernel.pet_watchdog() {
        log::line(kernel, &error.story());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_linux::{Call, FakeKernel};

    fn pets(kernel: &FakeKernel) -> usize {
        kernel.state().calls.iter().filter(|call| **call == Call::PetWatchdog).count()
    }

    #[test]
    fn a_watchdog_that_comes_late_is_armed_and_then_petted_in_time() {
        let kernel = FakeKernel::new();
        let mut watchdog = Watchdog::new(kernel.uptime());
        assert_eq!(watchdog.turn(&kernel), Some(LOOK_PERIOD));
        kernel.pause(LOOK_PERIOD);
        kernel.state().watchdog = true;
        assert_eq!(watchdog.turn(&kernel), Some(TIMEOUT / PETS));
        assert!(kernel.state().calls.contains(&Call::ArmWatchdog(60)));
        // Whatever wakes the loop in between, it is petted when it is time, and not before.
        kernel.pause(Duration::from_secs(5));
        assert_eq!((watchdog.turn(&kernel), pets(&kernel)), (Some(Duration::from_secs(15)), 0));
        kernel.pause(Duration::from_secs(15));
        assert_eq!((watchdog.turn(&kernel), pets(&kernel)), (Some(TIMEOUT / PETS), 1));
    }

    #[test]
    fn a_machine_without_one_says_so_once_and_goes_on() {
        let kernel = FakeKernel::new();
        let mut watchdog = Watchdog::new(kernel.uptime());
        while let Some(wait) = watchdog.turn(&kernel) {
            kernel.pause(wait);
        }
        assert_eq!(kernel.uptime(), LOOKED_FOR);
        kernel.state().watchdog = true;
        assert_eq!((watchdog.turn(&kernel), watchdog), (None, Watchdog::None));
        assert_eq!(kernel.state().log.len(), 1, "{:?}", kernel.state().log);
    }
}
