//! Signals without content.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Wakes one reconciler. Signals that come while it works are merged into one; none is lost.
#[derive(Debug, Clone, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// Makes a trigger that nobody has fired yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the reconciler, now or as soon as it is done with what it does.
    pub fn fire(&self) {
        self.0.notify_one();
    }

    /// The receiving side: by signal and at least once a `period`.
    #[must_use]
    pub fn wakeups(&self, period: Duration) -> Wakeups {
        Wakeups { signal: Arc::clone(&self.0), period, next: Duration::ZERO }
    }
}

/// When a reconciler runs. There should be one for each [`Trigger`].
#[derive(Debug)]
pub struct Wakeups {
    signal: Arc<Notify>,
    period: Duration,
    next: Duration,
}

impl Wakeups {
    /// Waits for the next run. The first returns at once. Cancel-safe.
    pub async fn next(&mut self) {
        // A timeout is a wake-up like any other, so which of the two it was is not looked at.
        let _by_signal_or_period = tokio::time::timeout(self.next, self.signal.notified()).await;
        self.next = self.period;
    }

    /// Makes the next run come after `delay` at the latest, for [`crate::Outcome::Again`].
    pub fn again(&mut self, delay: Duration) {
        self.next = delay.min(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_run_is_at_once_and_later_ones_by_period() {
        let mut wakeups = Trigger::new().wakeups(Duration::from_secs(60));
        let start = tokio::time::Instant::now();
        wakeups.next().await;
        assert!(start.elapsed() < Duration::from_millis(5));
        wakeups.next().await;
        assert!(start.elapsed() >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_fired_while_nobody_waits_is_kept() {
        let trigger = Trigger::new();
        let mut wakeups = trigger.wakeups(Duration::from_secs(60));
        wakeups.next().await;
        trigger.fire();
        trigger.fire();
        let start = tokio::time::Instant::now();
        wakeups.next().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        wakeups.next().await;
        assert!(start.elapsed() >= Duration::from_secs(60), "two signals became one wake-up");
    }
}
