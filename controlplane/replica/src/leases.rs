//! Leases: anybody grants, renews and revokes them through the log; the leader ends those that nobody renewed. One task, `store leases`.
//!
//! Every member starts a lease's time when it sees it granted or renewed, which is never before it happened. So whoever becomes the
//! leader knows when each ends, and none ends early: a lease may live on for an election, never for less than its seconds.

use crate::replica::Replica;
use crate::types::{Command, Reply};
use controlplane_store::{Lease, LeaseId, LeaseProblem, StoreError, machine};
use machined_reconcile::Stop;
use openraft::{AsyncRuntime, Instant};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often leases are looked at: a lease lives up to this much longer than it has to.
const PERIOD: Duration = Duration::from_secs(1);

/// When each lease ends unless it is renewed, on this member's clock.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeMap<LeaseId, Deadline>);

#[derive(Debug, Clone, Copy)]
struct Deadline {
    stamp: u64,
    at: Duration,
}

/// A lease whose time is over, unless it has a newer stamp than is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    lease: LeaseId,
    stamp: u64,
}

impl Deadlines {
    /// Takes in what leases there are. A new, renewed or replaced one begins its time now.
    pub(crate) fn look(&mut self, leases: &[Lease], now: Duration) {
        let before = std::mem::take(&mut self.0);
        for lease in leases {
            let Lease { id, seconds, stamp, ending } = *lease;
            let known = before.get(&id).filter(|known| known.stamp == stamp);
            let at = match known {
                // Somebody revoked it and did not come to the end.
                _ if ending => now,
                Some(known) => known.at,
                None => now + Duration::from_secs(u64::from(seconds)),
            };
            self.0.insert(id, Deadline { stamp, at });
        }
    }

    /// Leases whose time is over.
    pub(crate) fn due(&self, now: Duration) -> Vec<Due> {
        let due = self.0.iter().filter(|(_, deadline)| deadline.at <= now);
        due.map(|(lease, deadline)| Due { lease: *lease, stamp: deadline.stamp }).collect()
    }

    /// How long a lease lives on without a renewal.
    pub(crate) fn left(&self, id: LeaseId, now: Duration) -> Option<Duration> {
        self.0.get(&id).map(|deadline| deadline.at.saturating_sub(now))
    }
}

/// A lease as its holder asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The lease.
    pub lease: Lease,
    /// How long it lives on, as this member sees it; `None` when it has not looked yet.
    pub left: Option<Duration>,
    /// The keys that end with it: the first [`LEASE_KEYS_SHOWN`].
    pub keys: Vec<bytes::Bytes>,
}

/// Keys of a lease that are listed.
pub const LEASE_KEYS_SHOWN: usize = 10_000;

impl<R: AsyncRuntime> Replica<R> {
    /// Makes a lease that ends when it was not renewed for `seconds`, up to a second later.
    ///
    /// # Errors
    /// [`StoreError::Lease`] when the number is taken or there are too many, [`StoreError::Unavailable`].
    pub async fn grant(&self, lease: LeaseId, seconds: u32) -> Result<(), StoreError> {
        if seconds == 0 {
            return Err(StoreError::Invalid { reason: "a lease lives for at least a second" });
        }
        self.about_lease(Command::Grant { lease, seconds }).await.map(drop)
    }

    /// Starts a lease's time again.
    ///
    /// # Errors
    /// [`StoreError::Lease`] when it ended, [`StoreError::Unavailable`].
    pub async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.about_lease(Command::Renew(lease)).await.map(drop)
    }

    /// Ends a lease: deletes all its keys, in steps between which writes get their turn. From the first step on, nothing can be put with it.
    ///
    /// # Errors
    /// [`StoreError::Lease`] when it ended already, [`StoreError::Unavailable`]: the leader goes on with what was begun.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.end(lease, None).await
    }

    /// Revokes a lease, where `stamp` is given only if its own is not newer.
    async fn end(&self, lease: LeaseId, stamp: Option<u64>) -> Result<(), StoreError> {
        let mut begun = false;
        loop {
            match self.about_lease(Command::Revoke { lease, stamp }).await {
                Ok(Reply::More) => begun = true,
                Ok(_) => return Ok(()),
                // Somebody else came to the end first.
                Err(StoreError::Lease { problem: LeaseProblem::Missing, .. }) if begun => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// All leases, as they are after every write that was acknowledged before now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.catch_up().await?;
        Ok(machine::leases(&self.disk.snapshot()?)?)
    }

    /// Ends the leases whose time is over, if this member leads.
    async fn end_due_leases(&self) -> Result<(), StoreError> {
        if self.look_at_leases()?.is_empty() || !self.is_leader() {
            return Ok(());
        }
        // One that was just elected may not have applied the last renewals.
        self.catch_up().await?;
        for Due { lease, stamp } in self.look_at_leases()? {
            match self.end(lease, Some(stamp)).await {
                Ok(()) | Err(StoreError::Lease { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn about_lease(&self, command: Command) -> Result<Reply, StoreError> {
        match self.propose(command).await? {
            Reply::Refused(lease, problem) => Err(StoreError::Lease { lease, problem }),
            reply @ (Reply::Applied | Reply::More | Reply::Answer(_)) => Ok(reply),
        }
    }

    /// Brings the deadlines up to what is applied, and says which leases are due.
    fn look_at_leases(&self) -> Result<Vec<Due>, StoreError> {
        let now = self.opened.elapsed();
        let leases = machine::leases(&self.disk.snapshot()?)?;
        let mut deadlines = self.deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        deadlines.look(&leases, now);
        Ok(deadlines.due(now))
    }

    /// One lease, or nothing when it ended.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseStatus>, StoreError> {
        self.catch_up().await?;
        self.look_at_leases()?;
        let view = self.disk.snapshot()?;
        let Some(lease) = machine::lease(&view, id)? else { return Ok(None) };
        let left = self.deadlines.lock().unwrap_or_else(PoisonError::into_inner).left(id, self.opened.elapsed());
        Ok(Some(LeaseStatus { lease, left, keys: machine::keys_of(&view, id, LEASE_KEYS_SHOWN)? }))
    }
}

/// Runs until the process stops.
pub(crate) async fn run(replica: Arc<Replica>, mut stop: Stop) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        // Whoever leads next goes on.
        if let Err(error) = replica.end_due_leases().await {
            tracing::debug!(%error, "leases whose time is over wait");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(id: u64, seconds: u32, stamp: u64) -> Lease {
        Lease { id: LeaseId(id), seconds, stamp, ending: false }
    }

    fn due(deadlines: &Deadlines, now: Duration) -> Vec<u64> {
        deadlines.due(now).iter().map(|due| due.lease.0).collect()
    }

    #[test]
    fn a_lease_ends_its_seconds_after_the_last_renewal_that_was_seen() {
        let mut deadlines = Deadlines::default();
        deadlines.look(&[lease(1, 3, 0), lease(2, 5, 0)], SECOND);
        deadlines.look(&[lease(1, 3, 1), lease(2, 5, 0)], SECOND * 3);
        assert_eq!(due(&deadlines, SECOND * 5), []);
        assert_eq!(due(&deadlines, SECOND * 6), [1, 2]);
        assert_eq!(deadlines.left(LeaseId(2), SECOND * 4), Some(SECOND * 2));
        deadlines.look(&[lease(1, 3, 2)], SECOND * 6);
        assert_eq!(due(&deadlines, SECOND * 8), []);
        assert_eq!(deadlines.left(LeaseId(2), SECOND * 8), None, "it is gone");
    }

    #[test]
    fn a_lease_that_is_looked_at_often_ends_all_the_same() {
        let mut deadlines = Deadlines::default();
        for second in 0..3 {
            deadlines.look(&[lease(1, 3, 7)], SECOND * second);
        }
        assert_eq!(deadlines.due(SECOND * 3), [Due { lease: LeaseId(1), stamp: 7 }]);
    }

    #[test]
    fn what_somebody_began_to_revoke_is_due_at_once() {
        let mut deadlines = Deadlines::default();
        deadlines.look(&[Lease { ending: true, ..lease(1, 3600, 0) }], SECOND);
        assert_eq!(due(&deadlines, SECOND), [1]);
    }
}
