//! What to do about machined: a pure state machine, told what happened and what time it is.
//!
//! ```text
//!            start()             exit, and it is not the last of too many
//! Waiting ------------> Running ------------------------------------------> Waiting(back-off)
//!                          |  exit, the last of too many quick ones
//!                          +----------------------------------------------> given up
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use init_boot::{ExitStatus, ToMachined};

/// Ends in a row, each soon after its start and without a word of health, after which this root is taken to be broken.
pub(crate) const QUICK_FAILURES_MAX: u32 = 8;
/// An end later than this after the start is not a quick one.
const QUICK: Duration = Duration::from_secs(60);
/// The pause after the first failure; it doubles with each further one.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Ends that are kept for the next machined; a storm of orphans pushes out the oldest, which a new machined also
/// learns from its cgroups.
pub(crate) const REMEMBERED_MAX: usize = 1024;

/// What PID 1 knows about machined.
#[derive(Debug)]
pub(crate) struct Supervision {
    phase: Phase,
    quick_failures: u32,
    outbox: VecDeque<ToMachined>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Waiting { until: Duration },
    Running { pid: u32, since: Duration, healthy: bool },
    GivenUp,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start machined now.
    Start,
    /// Nothing before this time since the kernel started.
    WaitUntil(Duration),
    /// Nothing before something happens.
    Wait,
    /// This root does not work.
    GiveUp,
}

/// What an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// machined's own.
    Machined,
    /// An orphan's.
    Other,
}

impl Supervision {
    /// machined may start at once.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Waiting { until: Duration::ZERO }, quick_failures: 0, outbox: VecDeque::new() }
    }

    /// What to do at `now`.
    pub(crate) fn next(&self, now: Duration) -> Next {
        match self.phase {
            Phase::Waiting { until } if until <= now => Next::Start,
            Phase::Waiting { until } => Next::WaitUntil(until),
            Phase::Running { .. } => Next::Wait,
            Phase::GivenUp => Next::GiveUp,
        }
    }

    /// machined was started.
    pub(crate) fn started(&mut self, pid: u32, now: Duration) {
        self.phase = Phase::Running { pid, since: now, healthy: false };
    }

    /// machined could not be started.
    pub(crate) fn start_failed(&mut self, now: Duration) {
        self.failed(true, now);
    }

    /// machined says that it serves.
    pub(crate) fn said_healthy(&mut self) {
        if let Phase::Running { healthy, .. } = &mut self.phase {
            *healthy = true;
            self.quick_failures = 0;
        }
    }

    /// A process was reaped.
    pub(crate) fn reaped(&mut self, pid: u32, status: ExitStatus, now: Duration) -> Ended {
        match self.phase {
            Phase::Running { pid: machined, since, healthy } if machined == pid => {
                self.failed(!healthy && now.saturating_sub(since) < QUICK, now);
                Ended::Machined
            }
            Phase::Running { .. } | Phase::Waiting { .. } | Phase::GivenUp => {
                if self.outbox.len() == REMEMBERED_MAX {
                    self.outbox.pop_front();
                }
                self.outbox.push_back(ToMachined::Exited { pid, status });
                Ended::Other
            }
        }
    }

    /// The oldest message that machined has not got.
    pub(crate) fn to_send(&self) -> Option<ToMachined> {
        match self.phase {
            Phase::Running { .. } => self.outbox.front().copied(),
            Phase::Waiting { .. } | Phase::GivenUp => None,
        }
    }

    /// The oldest message was sent.
    pub(crate) fn sent(&mut self) {
        self.outbox.pop_front();
    }

    /// Quick failures in a row.
    pub(crate) fn quick_failures(&self) -> u32 {
        self.quick_failures
    }

    fn failed(&mut self, quick: bool, now: Duration) {
        self.quick_failures = if quick { self.quick_failures + 1 } else { 0 };
        self.phase = match self.quick_failures {
            0 => Phase::Waiting { until: now + BACK_OFF_FIRST },
            QUICK_FAILURES_MAX.. => Phase::GivenUp,
            failures => {
                let pause = BACK_OFF_FIRST * 2_u32.saturating_pow(failures - 1);
                Phase::Waiting { until: now + pause.min(BACK_OFF_MAX) }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitStatus = ExitStatus::Signal(9);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn machined_starts_at_once_and_again_after_a_pause() {
        let mut supervision = Supervision::new();
        assert_eq!(supervision.next(at(5)), Next::Start);
        supervision.started(40, at(5));
        assert_eq!(supervision.next(at(6)), Next::Wait);
        assert_eq!(supervision.reaped(40, KILLED, at(6)), Ended::Machined);
        assert_eq!(supervision.next(at(6)), Next::WaitUntil(at(6) + BACK_OFF_FIRST));
        assert_eq!(supervision.next(at(7)), Next::Start);
    }

    #[test]
    fn pauses_double_and_the_last_failure_gives_up() {
        let mut supervision = Supervision::new();
        let mut pauses = Vec::new();
        for pid in 1..QUICK_FAILURES_MAX {
            supervision.started(pid, at(0));
            supervision.reaped(pid, KILLED, at(0));
            let Next::WaitUntil(pause) = supervision.next(at(0)) else { panic!("it gave up after {pid} failures") };
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400]);
        supervision.start_failed(at(0));
        assert_eq!(supervision.next(at(100)), Next::GiveUp);
    }

    #[test]
    fn a_word_of_health_forgives_earlier_failures() {
        let mut supervision = Supervision::new();
        for pid in 1..100 {
            supervision.started(pid, at(0));
            if pid % 4 == 0 {
                supervision.said_healthy();
            }
            supervision.reaped(pid, KILLED, at(0));
            assert_ne!(supervision.next(at(100)), Next::GiveUp);
        }
    }

    #[test]
    fn late_failures_are_not_quick_ones() {
        let mut supervision = Supervision::new();
        for pid in 1..100 {
            supervision.started(pid, at(0));
            supervision.reaped(pid, KILLED, QUICK);
        }
        assert_eq!(supervision.quick_failures(), 0);
    }

    #[test]
    fn ends_are_remembered_for_the_next_machined_in_order() {
        let mut supervision = Supervision::new();
        supervision.started(40, at(0));
        supervision.reaped(40, KILLED, at(1));
        supervision.reaped(50, ExitStatus::Code(1), at(1));
        supervision.reaped(51, KILLED, at(1));
        assert_eq!(supervision.to_send(), None, "nobody is there to hear it");
        supervision.started(60, at(2));
        let mut told = Vec::new();
        while let Some(message) = supervision.to_send() {
            told.push(message.to_string());
            supervision.sent();
        }
        assert_eq!(told, ["exited 50 code 1", "exited 51 signal 9"]);
    }

    #[test]
    fn a_storm_of_orphans_keeps_the_newest() {
        let mut supervision = Supervision::new();
        for pid in 0..REMEMBERED_MAX as u32 + 10 {
            supervision.reaped(pid, KILLED, at(0));
        }
        supervision.started(9999, at(1));
        assert_eq!(supervision.to_send(), Some(ToMachined::Exited { pid: 10, status: KILLED }));
    }
}
