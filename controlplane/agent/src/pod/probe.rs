//! What probes make of a container: counters against thresholds. Pure; [`super::probes`] runs them.

use k8s_openapi::api::core::v1::{Container, Probe};
use std::time::Duration;

/// What is known of a running container's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// The startup probe succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe succeeds, or there is none and it has started.
    pub(crate) ready: bool,
    /// Why a liveness or startup probe gave up.
    pub(crate) unhealthy: Option<String>,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    /// Runs until it succeeds for the first time; the others wait for it.
    Startup,
    /// Decides whether services send traffic.
    Readiness,
    /// Decides whether the container is restarted.
    Liveness,
}

impl ProbeKind {
    /// As events spell it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    #[must_use]
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Health of a container that has just been started: what has no probe is given.
#[must_use]
pub(crate) fn initial(container: &Container) -> Health {
    let started = container.startup_probe.is_none();
    Health { started, ready: started && container.readiness_probe.is_none(), unhealthy: None }
}

/// How a probe is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Wait before the first try.
    pub(crate) delay: Duration,
    /// Time between tries.
    pub(crate) period: Duration,
    /// Longest a try may take.
    pub(crate) limit: Duration,
    /// Successes in a row that count as one.
    pub(crate) successes: u32,
    /// Failures in a row that count as one.
    pub(crate) failures: u32,
}

impl Schedule {
    /// Reads a probe; the API's defaults where it is silent.
    #[must_use]
    pub(crate) fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        let seconds = |value, default| Duration::from_secs(u64::from(number(value, default)));
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            limit: seconds(probe.timeout_seconds, 1),
            successes: number(probe.success_threshold, 1),
            failures: number(probe.failure_threshold, 3),
        }
    }
}

/// Counts tries of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    successes: u32,
    failures: u32,
}

impl Counter {
    /// Counts a try; tells the probe's verdict when a threshold is reached.
    pub(crate) fn count(&mut self, success: bool, schedule: &Schedule) -> Option<bool> {
        if success {
            (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
            (self.successes >= schedule.successes).then_some(true)
        } else {
            (self.successes, self.failures) = (0, self.failures.saturating_add(1));
            (self.failures >= schedule.failures).then_some(false)
        }
    }
}

impl Health {
    /// Takes a verdict in; `container` says which other probes there are.
    pub(crate) fn judge(&mut self, kind: ProbeKind, success: bool, detail: &str, container: &Container) {
        match (kind, success) {
            (ProbeKind::Startup, true) => {
                self.started = true;
                self.ready |= container.readiness_probe.is_none();
            }
            (ProbeKind::Readiness, _) => self.ready = success,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                self.ready = false;
                self.unhealthy = Some(format!("{} probe failed: {detail}", kind.name()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(probes: &str) -> Container {
        serde_json::from_str(&format!(r#"{{"name":"a"{probes}}}"#))
            .expect("because the test's container is well formed")
    }

    #[test]
    fn a_verdict_needs_as_many_tries_in_a_row_as_the_threshold_says() {
        let probe = r#","livenessProbe":{"failureThreshold":2,"successThreshold":1,"periodSeconds":5}"#;
        let container = container(probe);
        let schedule = Schedule::of(container.liveness_probe.as_ref().expect("because it has one"));
        assert_eq!((schedule.period.as_secs(), schedule.limit.as_secs()), (5, 1));
        let mut counter = Counter::default();
        let verdicts: Vec<_> = [false, true, false, false].map(|success| counter.count(success, &schedule)).into();
        assert_eq!(verdicts, [None, Some(true), None, Some(false)]);
    }

    #[test]
    fn a_container_without_probes_is_ready_at_once() {
        assert_eq!(initial(&container("")), Health { started: true, ready: true, unhealthy: None });
    }

    #[test]
    fn a_startup_probe_holds_readiness_back() {
        let container = container(r#","startupProbe":{}"#);
        let mut health = initial(&container);
        assert!(!health.ready && !health.started);
        health.judge(ProbeKind::Startup, true, "", &container);
        assert!(health.ready && health.started);
    }

    #[test]
    fn a_failed_liveness_probe_condemns_the_container() {
        let container = container(r#","livenessProbe":{}"#);
        let mut health = initial(&container);
        health.judge(ProbeKind::Liveness, false, "HTTP 500", &container);
        assert_eq!(health.unhealthy.as_deref(), Some("Liveness probe failed: HTTP 500"));
    }
}
