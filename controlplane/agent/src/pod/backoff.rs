//! How long a container waits before it is started again. Pure; the figures are kubelet's.

use crate::runtime::Exit;
use jiff::Timestamp;
use std::time::Duration;

/// Wait after the second short run in a row.
const BASE: Duration = Duration::from_secs(10);
/// Longest wait.
const LIMIT: Duration = Duration::from_secs(300);
/// A run of this length makes earlier ones forgotten.
const LONG_RUN: Duration = Duration::from_secs(600);

/// When and how a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// Not before this.
    pub(crate) at: Timestamp,
    /// How long it waits in all.
    pub(crate) delay: Duration,
    /// Short runs in a row, for the next one's label.
    pub(crate) short_runs: u32,
}

/// The restart after `exit`, when `short_runs` short ones came before that run. The first is at once.
#[must_use]
pub(crate) fn restart(exit: &Exit, short_runs: u32) -> Restart {
    let ran = exit.started.map_or(0, |started| exit.finished.duration_since(started).as_secs());
    if ran >= LONG_RUN.as_secs().cast_signed() {
        return Restart { at: exit.finished, delay: Duration::ZERO, short_runs: 0 };
    }
    let delay = match short_runs.checked_sub(1) {
        Some(doublings) => wait(doublings),
        None => Duration::ZERO,
    };
    Restart { at: after(exit.finished, delay), delay, short_runs: short_runs.saturating_add(1) }
}

/// The wait after so many failures in a row to start a container at all, such as to pull its image.
#[must_use]
pub(crate) fn wait(failures: u32) -> Duration {
    BASE.saturating_mul(2_u32.saturating_pow(failures)).min(LIMIT)
}

/// A point in time; the end of time when there is none so late.
#[must_use]
pub(crate) fn after(time: Timestamp, delay: Duration) -> Timestamp {
    time.checked_add(delay).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(ran: i64) -> Exit {
        let finished = Timestamp::from_second(1_000_000).expect("because it is in range");
        let started = Timestamp::from_second(1_000_000 - ran).ok();
        Exit { code: 1, started, finished, reason: "Error".into(), message: None }
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let delays: Vec<u64> = (0..8).map(|short_runs| restart(&exit(1), short_runs).delay.as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_makes_earlier_ones_forgotten() {
        let after_long = restart(&exit(600), 7);
        assert_eq!((after_long.delay, after_long.short_runs), (Duration::ZERO, 0));
    }
}
