//! The life of one service, as a value. Pure: time comes as an argument, effects are returned.
//!
//! ```text
//!            start allowed              healthy
//! Waiting ----------------> Starting ----------> Running
//!    ^                         |  \ not wanted     | not wanted, restart asked
//!    | time is up              |   \               v
//! Backoff <--------------------+    `---------> Stopping --ended--> Waiting | Finished
//!          ended                                   `-- grace over: Kill
//! ```

use super::{Ended, ServiceState, ServiceStatus, StopSignal};
use machined_reconcile::Backoff;
use std::time::Duration;
use tokio::time::Instant;

/// From the polite signal to the other one; containerd and our own services end within two seconds.
pub const STOP_GRACE: Duration = Duration::from_secs(15);
/// A run of this length makes earlier failures forgotten.
const STABLE: Duration = Duration::from_secs(60);

/// Where a service is, with what that state knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not started yet.
    Waiting,
    /// Runs, not healthy yet.
    Starting {
        /// Main process.
        pid: u32,
        /// When it was started or adopted.
        since: Instant,
    },
    /// Runs, and was healthy once.
    Running {
        /// Main process.
        pid: u32,
        /// When it was started or adopted.
        since: Instant,
    },
    /// Was asked to end.
    Stopping {
        /// Main process.
        pid: u32,
        /// When the stronger signal is due; `None` once it was sent.
        kill_at: Option<Instant>,
    },
    /// Ended; starts again later.
    Backoff {
        /// When.
        until: Instant,
    },
    /// Not wanted, not there.
    Finished,
}

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Start the command and report the process with [`ServiceMachine::started`].
    Launch,
    /// Signal the process.
    Signal(u32, StopSignal),
}

/// What is asked of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// It should run.
    pub wanted: bool,
    /// What it needs is there.
    pub ready: bool,
}

/// One service's life.
#[derive(Debug, Clone)]
pub struct ServiceMachine {
    phase: Phase,
    healthy: bool,
    failures: u32,
    starts: u32,
    message: String,
}

impl Default for ServiceMachine {
    fn default() -> Self {
        ServiceMachine { phase: Phase::Waiting, healthy: false, failures: 0, starts: 0, message: String::new() }
    }
}

impl ServiceMachine {
    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The main process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Running { pid, .. } | Phase::Stopping { pid, .. } => Some(pid),
            Phase::Waiting | Phase::Backoff { .. } | Phase::Finished => None,
        }
    }

    /// What to do now. Called after every change and whenever [`ServiceMachine::next`] is over.
    #[must_use]
    pub fn step(&mut self, wish: Wish, now: Instant) -> Action {
        match self.phase {
            Phase::Waiting | Phase::Finished if wish.wanted && wish.ready => Action::Launch,
            Phase::Waiting | Phase::Finished => {
                self.phase = if wish.wanted { Phase::Waiting } else { Phase::Finished };
                Action::None
            }
            Phase::Starting { pid, .. } | Phase::Running { pid, .. } if !wish.wanted => self.stop(pid, now),
            Phase::Starting { .. } | Phase::Running { .. } => Action::None,
            Phase::Stopping { pid, kill_at: Some(at) } if now >= at => {
                self.phase = Phase::Stopping { pid, kill_at: None };
                Action::Signal(pid, StopSignal::Kill)
            }
            Phase::Stopping { .. } => Action::None,
            Phase::Backoff { .. } if !wish.wanted => {
                self.phase = Phase::Finished;
                Action::None
            }
            Phase::Backoff { until } if now >= until && wish.ready => Action::Launch,
            Phase::Backoff { .. } => Action::None,
        }
    }

    /// Somebody asked for a restart: ends the process; the usual way brings it back.
    #[must_use]
    pub fn restart(&mut self, now: Instant) -> Action {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Running { pid, .. } => self.stop(pid, now),
            Phase::Backoff { .. } => {
                self.phase = Phase::Waiting;
                Action::None
            }
            Phase::Waiting | Phase::Stopping { .. } | Phase::Finished => Action::None,
        }
    }

    fn stop(&mut self, pid: u32, now: Instant) -> Action {
        self.healthy = false;
        self.phase = Phase::Stopping { pid, kill_at: Some(now + STOP_GRACE) };
        Action::Signal(pid, StopSignal::Terminate)
    }

    /// The process runs.
    pub fn started(&mut self, pid: u32, now: Instant) {
        self.starts += 1;
        self.phase = Phase::Starting { pid, since: now };
    }

    /// The command could not be started.
    pub fn not_started(&mut self, why: String, now: Instant) {
        self.message = why;
        self.back_off(now);
    }

    /// What the health check said.
    pub fn checked(&mut self, healthy: bool) {
        self.healthy = healthy;
        if let (true, Phase::Starting { pid, since }) = (healthy, &self.phase) {
            self.phase = Phase::Running { pid: *pid, since: *since };
        }
    }

    /// The main process is gone.
    pub fn ended(&mut self, how: Ended, now: Instant) {
        self.healthy = false;
        self.message = how.to_string();
        match self.phase {
            Phase::Starting { since, .. } | Phase::Running { since, .. } => {
                if now - since >= STABLE {
                    self.failures = 0;
                }
                self.back_off(now);
            }
            Phase::Stopping { .. } => {
                self.failures = 0;
                self.phase = Phase::Waiting;
            }
            Phase::Waiting | Phase::Backoff { .. } | Phase::Finished => {}
        }
    }

    fn back_off(&mut self, now: Instant) {
        self.failures += 1;
        self.phase = Phase::Backoff { until: now + Backoff::TASK.delay(self.failures) };
    }

    /// When to call [`ServiceMachine::step`] again even if nothing happens.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let at = match self.phase {
            Phase::Stopping { kill_at, .. } => kill_at?,
            Phase::Backoff { until } => until,
            Phase::Waiting | Phase::Starting { .. } | Phase::Running { .. } | Phase::Finished => return None,
        };
        Some(at.saturating_duration_since(now))
    }

    /// What people see.
    #[must_use]
    pub fn status(&self, waits_for: Option<&str>) -> ServiceStatus {
        let state = match self.phase {
            Phase::Waiting => ServiceState::Waiting,
            Phase::Starting { .. } => ServiceState::Starting,
            Phase::Running { .. } => ServiceState::Running,
            Phase::Stopping { .. } => ServiceState::Stopping,
            Phase::Backoff { .. } => ServiceState::Backoff,
            Phase::Finished => ServiceState::Finished,
        };
        let message = match (&self.phase, waits_for) {
            (Phase::Waiting, Some(what)) => format!("waits for {what}"),
            (
                Phase::Waiting
                | Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::Stopping { .. }
                | Phase::Backoff { .. }
                | Phase::Finished,
                _,
            ) => self.message.clone(),
        };
        let restarts = self.starts.saturating_sub(1);
        ServiceStatus { state, healthy: self.healthy, pid: self.pid(), restarts, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wish = Wish { wanted: true, ready: true };
    const UNWANTED: Wish = Wish { wanted: false, ready: true };

    fn running(now: Instant) -> ServiceMachine {
        let mut machine = ServiceMachine::default();
        assert_eq!(machine.step(WANTED, now), Action::Launch);
        machine.started(7, now);
        machine.checked(true);
        machine
    }

    #[test]
    fn it_waits_until_what_it_needs_is_there() {
        let mut machine = ServiceMachine::default();
        let now = Instant::now();
        assert_eq!(machine.step(Wish { wanted: true, ready: false }, now), Action::None);
        assert_eq!(machine.status(Some("containerd")).message, "waits for containerd");
        assert_eq!(machine.step(WANTED, now), Action::Launch);
    }

    #[test]
    fn a_crash_is_followed_by_growing_delays() {
        let mut now = Instant::now();
        let mut machine = running(now);
        let mut delays = Vec::new();
        for _ in 0..4 {
            machine.ended(Ended::Code(1), now);
            assert_eq!(machine.step(WANTED, now), Action::None);
            let delay = machine.next(now).expect("because it backs off");
            delays.push(delay.as_millis());
            now += delay;
            assert_eq!(machine.step(WANTED, now), Action::Launch);
            machine.started(8, now);
        }
        assert_eq!(delays, [500, 1000, 2000, 4000]);
        assert_eq!(machine.status(None).restarts, 4);
        assert_eq!(machine.status(None).message, "exited with code 1");
    }

    #[test]
    fn a_long_good_run_makes_failures_forgotten() {
        let now = Instant::now();
        let mut machine = running(now);
        machine.ended(Ended::Code(1), now);
        machine.started(8, now);
        let later = now + Duration::from_secs(61);
        machine.ended(Ended::Signal(9), later);
        assert_eq!(machine.next(later), Some(Duration::from_millis(500)));
    }

    #[test]
    fn an_unwanted_service_gets_its_time_and_then_the_other_signal() {
        let now = Instant::now();
        let mut machine = running(now);
        assert_eq!(machine.step(UNWANTED, now), Action::Signal(7, StopSignal::Terminate));
        assert_eq!(machine.step(UNWANTED, now), Action::None);
        let late = now + STOP_GRACE;
        assert_eq!(machine.step(UNWANTED, late), Action::Signal(7, StopSignal::Kill));
        assert_eq!(machine.step(UNWANTED, late), Action::None);
        machine.ended(Ended::Signal(9), late);
        assert_eq!(machine.step(UNWANTED, late), Action::None);
        assert_eq!(*machine.phase(), Phase::Finished);
    }

    #[test]
    fn a_restart_comes_back_without_delay() {
        let now = Instant::now();
        let mut machine = running(now);
        assert_eq!(machine.restart(now), Action::Signal(7, StopSignal::Terminate));
        machine.ended(Ended::Code(0), now);
        assert_eq!(machine.step(WANTED, now), Action::Launch);
    }
}
