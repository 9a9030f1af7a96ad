//! Forgets history: decides how far, has the log order it, and sweeps in small steps. One task, `store maintenance`.

use crate::replica::Replica;
use controlplane_store::StoreError;
use machined_ids::Revision;
use machined_reconcile::Stop;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How long history is kept: Kubernetes' compaction interval. Watches resume and pages continue within it.
const KEEP: Duration = Duration::from_secs(5 * 60);

/// Revisions kept at most, however young: bounds the file when a cluster writes much. Five minutes of 300 writes a second.
const KEEP_REVISIONS: u64 = 100_000;

/// How often it is looked at. History is kept for up to this much longer.
const PERIOD: Duration = Duration::from_secs(60);

/// Where the store was at which time.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    marks: VecDeque<(Duration, Revision)>,
}

impl Clock {
    /// Notes where the store is, and says from where on history should be kept.
    pub(crate) fn tick(&mut self, now: Duration, revision: Revision) -> Revision {
        self.marks.push_back((now, revision));
        let mut by_age = Revision(0);
        while let Some((at, old)) = self.marks.front().copied().filter(|(at, _)| *at + KEEP <= now) {
            debug_assert!(at <= now);
            by_age = old;
            self.marks.pop_front();
        }
        by_age.max(Revision(revision.0.saturating_sub(KEEP_REVISIONS)))
    }
}

/// Runs until the process stops.
pub(crate) async fn run(replica: Arc<Replica>, mut stop: Stop) -> Result<(), StoreError> {
    let start = tokio::time::Instant::now();
    let mut clock = Clock::default();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        let oldest = clock.tick(start.elapsed(), controlplane_store::Store::revision(&*replica));
        if oldest > replica.oldest()? && replica.is_leader() {
            replica.compact(oldest).await?;
        }
        replica.sweep().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_five_minutes() {
        let mut clock = Clock::default();
        let minute = Duration::from_secs(60);
        let kept: Vec<u64> = (0..8).map(|n| clock.tick(minute * n, Revision(100 + u64::from(n))).0).collect();
        assert_eq!(kept, [0, 0, 0, 0, 0, 100, 101, 102]);
    }

    #[test]
    fn a_busy_store_keeps_a_number_of_revisions_only() {
        let mut clock = Clock::default();
        assert_eq!(clock.tick(Duration::ZERO, Revision(KEEP_REVISIONS + 7)), Revision(7));
    }
}
