//! Scaling in the middle of a rollout: each ReplicaSet gets its share, so that the risk of the new template stays what it was.
//!
//! Each ReplicaSet carries the sizes that its Deployment had when it was last sized; another number there is a scaling event.

use super::rollout::{Strategy, replicas, strategy, wanted};
use controlplane_client::Object;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The annotation with the replicas that the Deployment wanted.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// The annotation with the replicas that it could have had at most.
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// The most pods that the Deployment may have, surge included.
fn most(deployment: &Deployment) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => replicas(deployment),
        Strategy::Rolling { surge, .. } => replicas(deployment) + surge,
    }
}

/// What each sized ReplicaSet remembers.
pub(crate) fn sizes(deployment: &Deployment) -> BTreeMap<String, String> {
    BTreeMap::from([
        (DESIRED.to_owned(), replicas(deployment).to_string()),
        (MAX.to_owned(), most(deployment).to_string()),
    ])
}

fn remembered(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.annotation(name)?.parse().ok()
}

/// Whether the Deployment was scaled since its ReplicaSets were sized.
pub(crate) fn was_scaled(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let active = sets.iter().filter(|set| wanted(set) > 0);
    active.filter_map(|set| remembered(set, DESIRED)).any(|desired| desired != replicas(deployment))
}

/// The sizes after a scaling event. All sets are named, so that all remember.
pub(crate) fn scaled(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let all: Vec<&Arc<ReplicaSet>> = new.into_iter().chain(old).collect();
    let active: Vec<&Arc<ReplicaSet>> = all.iter().copied().filter(|set| wanted(set) > 0).collect();
    match active[..] {
        [] => new.or(old.last()).map(|set| (Arc::clone(set), replicas(deployment))).into_iter().collect(),
        [only] => vec![(Arc::clone(only), replicas(deployment))],
        [..] if strategy(deployment) == Strategy::Recreate => Vec::new(),
        [..] => shares(deployment, active),
    }
}

fn shares(deployment: &Deployment, mut sets: Vec<&Arc<ReplicaSet>>) -> Vec<(Arc<ReplicaSet>, i32)> {
    let allowed = if replicas(deployment) > 0 { most(deployment) } else { 0 };
    let missing = allowed - sets.iter().map(|set| wanted(set)).sum::<i32>();
    // The largest first; of equal ones the newest when pods come, the oldest when pods go.
    let created = |set: &Arc<ReplicaSet>| set.meta().creation_timestamp.as_ref().map(|time| time.0);
    sets.sort_by_key(|set| (created(set), set.name().to_owned()));
    if missing > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|set| Reverse(wanted(set)));
    let mut given = 0;
    let mut sized: Vec<(Arc<ReplicaSet>, i32)> = Vec::new();
    for set in sets {
        let left = missing - given;
        let share = share(deployment, set);
        let share = if missing >= 0 { share.clamp(0, left.max(0)) } else { share.clamp(left.min(0), 0) };
        given += share;
        sized.push((Arc::clone(set), wanted(set) + share));
    }
    // What rounding left goes to the largest.
    if let Some((_, size)) = sized.first_mut() {
        *size = (*size + missing - given).max(0);
    }
    sized
}

/// How many more pods the set should have for its share to stay the same.
fn share(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    if replicas(deployment) == 0 {
        return -wanted(set);
    }
    let known = deployment.status.as_ref().and_then(|status| status.replicas);
    let before = remembered(set, MAX).filter(|max| *max > 0).or(known).unwrap_or_default();
    if before <= 0 {
        return 0;
    }
    let now = f64::from(wanted(set)) * f64::from(most(deployment)) / f64::from(before);
    now.round() as i32 - wanted(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32) -> Deployment {
        let rolling = json!({"maxSurge": 3, "maxUnavailable": 2});
        let object = json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}});
        serde_json::from_value(object).expect("because the test wrote a deployment")
    }

    fn set(name: &str, replicas: i32, desired: i32, max: i32) -> Arc<ReplicaSet> {
        let object = json!({"metadata": {"name": name, "annotations": {DESIRED: desired.to_string(), MAX: max.to_string()}},
            "spec": {"replicas": replicas, "selector": {}}});
        Arc::new(serde_json::from_value(object).expect("because the test wrote a set"))
    }

    fn sizes_of(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<(String, i32)> {
        let (new, old) = sets.split_first().expect("because the test wrote one");
        let mut sizes: Vec<_> =
            scaled(deployment, Some(new), old).into_iter().map(|(set, size)| (set.name().to_owned(), size)).collect();
        sizes.sort();
        sizes
    }

    /// The example of the Kubernetes documentation: 10 replicas, surge 3, a rollout stuck at 8 old and 5 new, scaled to 15.
    #[test]
    fn each_set_keeps_its_share_of_the_pods() {
        let sets = [set("new", 5, 10, 13), set("old", 8, 10, 13)];
        assert!(was_scaled(&deployment(15), &sets));
        assert!(!was_scaled(&deployment(10), &sets));
        assert_eq!(sizes_of(&deployment(15), &sets), [("new".to_owned(), 7), ("old".to_owned(), 11)]);
    }

    #[test]
    fn scaling_down_takes_from_all_and_to_zero_takes_everything() {
        let sets = [set("new", 5, 10, 13), set("old", 8, 10, 13)];
        let sizes = sizes_of(&deployment(4), &sets);
        assert_eq!(sizes.iter().map(|(_, size)| size).sum::<i32>(), 7);
        assert!(sizes.iter().all(|(_, size)| *size > 0));
        assert_eq!(sizes_of(&deployment(0), &sets), [("new".to_owned(), 0), ("old".to_owned(), 0)]);
    }

    #[test]
    fn the_only_set_with_pods_gets_all() {
        let sets = [set("new", 0, 10, 13), set("old", 8, 10, 13)];
        assert_eq!(sizes_of(&deployment(15), &sets), [("old".to_owned(), 15)]);
    }
}
