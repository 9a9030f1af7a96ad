//! What a controller has written and its cache has not shown yet. Until it has, counting would lead to the same writes again.
//!
//! A write that is never seen (a restarted server, a lost watch) is forgotten after [`LIMIT`]; then the cache is believed again.

use controlplane_client::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a write is waited for; upstream's figure.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Expected creations and deletions by owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    owners: Mutex<BTreeMap<ObjectKey, Expected>>,
}

#[derive(Debug)]
struct Expected {
    creations: usize,
    /// Uids.
    deletions: BTreeSet<String>,
    since: Instant,
}

impl Expectations {
    fn owners(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Expected>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects writes that are about to be made.
    pub(crate) fn expect(&self, owner: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let mut owners = self.owners();
        let expected = owners.entry(owner.clone()).or_insert_with(|| Expected {
            creations: 0,
            deletions: BTreeSet::new(),
            since: Instant::now(),
        });
        expected.since = Instant::now();
        expected.creations += creations;
        expected.deletions.extend(deletions);
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, owner: &ObjectKey) {
        if let Some(expected) = self.owners().get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(1);
        }
    }

    /// A deletion was seen, or failed.
    pub(crate) fn deleted(&self, owner: &ObjectKey, uid: &str) {
        if let Some(expected) = self.owners().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether the cache has shown everything that was written, or too much time has passed. Forgets it then.
    pub(crate) fn are_met(&self, owner: &ObjectKey) -> bool {
        let mut owners = self.owners();
        let met = owners.get(owner).is_none_or(|expected| {
            (expected.creations == 0 && expected.deletions.is_empty()) || expected.since.elapsed() >= LIMIT
        });
        if met {
            owners.remove(owner);
        }
        met
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.owners().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_are_expected_until_seen_or_too_old() {
        let (expectations, owner) = (Expectations::default(), ObjectKey::in_namespace("a", "x"));
        assert!(expectations.are_met(&owner));
        expectations.expect(&owner, 1, ["u".to_owned()]);
        expectations.created(&owner);
        assert!(!expectations.are_met(&owner));
        expectations.deleted(&owner, "u");
        assert!(expectations.are_met(&owner));
        expectations.expect(&owner, 1, []);
        tokio::time::advance(LIMIT).await;
        assert!(expectations.are_met(&owner));
    }
}
