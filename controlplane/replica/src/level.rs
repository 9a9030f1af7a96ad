//! The cluster's level: what every member understands, so that members of neighbouring releases share a group.
//!
//! ```text
//! each member says what its release speaks (controlplane/members) -> the leader raises the level -> what needs it may be ordered
//! ```
//! The level is an ordinary entry of the store, and only grows. No member orders what the level does not cover, and none goes on beyond
//! the level that its release speaks: `docs/decisions/0017-cluster-level.md`.

use crate::disk::StateDisk;
use crate::replica::Replica;
use crate::types::Command;
use controlplane_store::{Condition, Consistency, DiskError, Op, RangeRequest, Store, StoreError, Txn, View, machine};
use machined_ids::{ClusterLevel, Revision};
use openraft::AsyncRuntime;

/// Where the level stands, as a decimal number. A group without it is at the first.
pub const LEVEL_KEY: &str = "/cairn/level";

/// From this level on every member understands leases.
pub const LEASES: ClusterLevel = ClusterLevel(2);

/// The level from which on every member understands a command.
pub(crate) fn needed(command: &Command) -> ClusterLevel {
    let leased = |op: &Op| match op {
        Op::PutLeased(..) => true,
        Op::Get(_) | Op::Put(..) | Op::Delete(_) => false,
    };
    match command {
        Command::Txn(txn) if txn.then.iter().chain(&txn.otherwise).any(leased) => LEASES,
        Command::Txn(_) | Command::Compact(_) => ClusterLevel::FIRST,
        Command::Grant { .. } | Command::Renew(_) | Command::Revoke { .. } => LEASES,
    }
}

/// Whether a command may change the level.
pub(crate) fn changes(command: &Command) -> bool {
    let level = |op: &Op| matches!(op, Op::Put(key, _) if key == LEVEL_KEY.as_bytes());
    matches!(command, Command::Txn(txn) if txn.then.iter().chain(&txn.otherwise).any(level))
}

/// The level of a state; one that cannot be read is beyond every release.
pub(crate) fn of(view: &dyn View) -> Result<ClusterLevel, DiskError> {
    let answer = machine::range(view, &RangeRequest::key(LEVEL_KEY));
    let value = match answer {
        Ok(answer) => answer.entries.first().map(|entry| entry.value.clone()),
        Err(error) => return Err(DiskError { doing: "read the cluster's level from", source: Box::new(error) }),
    };
    Ok(value.map_or(ClusterLevel::FIRST, |value| parse(&value)))
}

fn parse(value: &[u8]) -> ClusterLevel {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    ClusterLevel(number.unwrap_or(u32::MAX))
}

/// This member's release does not speak what its cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster is at level {level} and this release speaks up to {speaks}; run a newer release on this machine")]
pub struct TooOld {
    /// Where the cluster is.
    pub level: ClusterLevel,
    /// What this release speaks.
    pub speaks: ClusterLevel,
}

/// Refuses a state that is beyond what a release speaks.
pub(crate) fn check(view: &dyn View, speaks: ClusterLevel) -> Result<(), DiskError> {
    let level = of(view)?;
    if level <= speaks {
        return Ok(());
    }
    Err(DiskError { doing: "go on with", source: Box::new(TooOld { level, speaks }) })
}

impl<R: AsyncRuntime> Replica<R> {
    /// The cluster's level, as far as this member has applied it: it may be higher by now, never lower.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the disk fails.
    pub fn level(&self) -> Result<ClusterLevel, StoreError> {
        level_on(&self.disk)
    }

    /// What this member's release speaks.
    #[must_use]
    pub fn speaks(&self) -> ClusterLevel {
        self.speaks
    }

    /// Raises the level; going back changes nothing. The caller knows that every member speaks it, and says what it knew that from.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] beyond what this release speaks, [`StoreError::Unavailable`].
    pub async fn raise(&self, level: ClusterLevel, known_from: &[Condition]) -> Result<(), StoreError> {
        if level > self.speaks {
            return Err(StoreError::Invalid { reason: "this release does not speak the level" });
        }
        let answer = self.range(RangeRequest::key(LEVEL_KEY), Consistency::Linearizable).await?;
        let stood = answer.entries.first().map_or(Revision(0), |entry| entry.modified);
        if answer.entries.first().map_or(ClusterLevel::FIRST, |entry| parse(&entry.value)) >= level {
            return Ok(());
        }
        let mut conditions = known_from.to_vec();
        conditions.push(Condition::Modified(LEVEL_KEY.into(), stood));
        let then = vec![Op::Put(LEVEL_KEY.into(), level.to_string().into())];
        if self.txn(Txn { conditions, then, otherwise: Vec::new() }).await?.succeeded {
            tracing::info!(%level, "the cluster's level was raised");
        }
        Ok(())
    }

    /// Refuses what some member may not understand.
    pub(crate) fn covers(&self, command: &Command) -> Result<(), StoreError> {
        let needed = needed(command);
        if needed == ClusterLevel::FIRST {
            return Ok(());
        }
        match self.level()? {
            level if level < needed => Err(StoreError::Level { needed, level }),
            _ => Ok(()),
        }
    }
}

fn level_on(disk: &StateDisk) -> Result<ClusterLevel, StoreError> {
    Ok(of(&disk.snapshot()?)?)
}
