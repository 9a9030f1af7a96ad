//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off: `base`, twice that, and so on up to `limit`. Pure: the caller keeps the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// Longest delay.
    pub limit: Duration,
}

impl Backoff {
    /// For keys of a queue: 5 ms to 1000 s, the figures of client-go's item limiter.
    pub const ITEM: Backoff = Backoff { base: Duration::from_millis(5), limit: Duration::from_secs(1000) };

    /// For tasks and services that ended: 500 ms to 30 s; a crashing process stays visible and does not fill the log.
    pub const TASK: Backoff = Backoff { base: Duration::from_millis(500), limit: Duration::from_secs(30) };

    /// Delay after `failures` failures in a row (1 or more; 0 gives no delay).
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.base.saturating_mul(factor).min(self.limit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let backoff = Backoff { base: Duration::from_secs(1), limit: Duration::from_secs(5) };
        let delays: Vec<u64> = (0..6).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 5, 5]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_secs(5));
    }
}
