//! How many pods the new and the old ReplicaSets should have next. Pure arithmetic, upstream's rules.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;

/// How a Deployment replaces its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// All old pods go before the first new one comes.
    Recreate,
    /// Step by step, within these bounds.
    Rolling {
        /// Pods above the number asked for.
        surge: i32,
        /// Pods that may be missing.
        unavailable: i32,
    },
}

pub(crate) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(crate) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// The strategy with its bounds resolved for the number of replicas: surge up, unavailable down, not both zero.
pub(crate) fn strategy(deployment: &Deployment) -> Strategy {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let bounds = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let default = IntOrString::String("25%".to_owned());
    let of = |bound: Option<&IntOrString>| bound.cloned().unwrap_or_else(|| default.clone());
    let total = replicas(deployment);
    let surge = resolve(&of(bounds.and_then(|bounds| bounds.max_surge.as_ref())), total, true);
    let unavailable = resolve(&of(bounds.and_then(|bounds| bounds.max_unavailable.as_ref())), total, false);
    if surge == 0 && unavailable == 0 {
        return Strategy::Rolling { surge, unavailable: 1 };
    }
    Strategy::Rolling { surge, unavailable: unavailable.min(total) }
}

fn resolve(bound: &IntOrString, total: i32, up: bool) -> i32 {
    match bound {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or_default();
            let hundredths = percent * i64::from(total);
            let number = if up { (hundredths + 99) / 100 } else { hundredths / 100 };
            i32::try_from(number).unwrap_or(i32::MAX)
        }
    }
}

/// The size of the new ReplicaSet now.
pub(crate) fn new_size(deployment: &Deployment, current: i32, old: &[Arc<ReplicaSet>]) -> i32 {
    let total = replicas(deployment);
    let Strategy::Rolling { surge, .. } = strategy(deployment) else { return total };
    if current >= total {
        return total;
    }
    let pods = current + old.iter().map(|set| wanted(set)).sum::<i32>();
    let room = (total + surge - pods).max(0);
    current + room.min(total - current)
}

/// The sizes of the old ReplicaSets now, in their order, given the new one.
pub(crate) fn old_sizes(deployment: &Deployment, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| wanted(set)).collect();
    let Strategy::Rolling { unavailable, .. } = strategy(deployment) else { return vec![0; old.len()] };
    let must_be_there = replicas(deployment) - unavailable;
    let new_missing = wanted(new) - available(new);
    let mut may_go = wanted(new) + sizes.iter().sum::<i32>() - must_be_there - new_missing;
    // First those that do not work anyway: taking them away costs nobody anything.
    for (size, set) in sizes.iter_mut().zip(old) {
        let broken = (*size - available(set)).clamp(0, may_go.max(0));
        *size -= broken;
        may_go -= broken;
    }
    let all_available = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut spare = (all_available - must_be_there).min(may_go).max(0);
    for size in &mut sizes {
        let going = (*size).min(spare);
        *size -= going;
        spare -= going;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        let bound = |text: &str| text.parse::<i32>().map_or_else(|_| json!(text), |number| json!(number));
        let rolling = json!({"maxSurge": bound(surge), "maxUnavailable": bound(unavailable)});
        let object = json!({"metadata": {"name": "d"}, "spec": {
            "replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "selector": {}, "template": {},
        }});
        serde_json::from_value(object).expect("because the test wrote a deployment")
    }

    fn set(wanted: i32, available: i32) -> Arc<ReplicaSet> {
        let object = json!({"metadata": {"name": "s"}, "spec": {"replicas": wanted, "selector": {}},
            "status": {"replicas": wanted, "availableReplicas": available}});
        Arc::new(serde_json::from_value(object).expect("because the test wrote a set"))
    }

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        assert_eq!(strategy(&deployment(10, "25%", "25%")), Strategy::Rolling { surge: 3, unavailable: 2 });
        assert_eq!(strategy(&deployment(1, "0", "25%")), Strategy::Rolling { surge: 0, unavailable: 1 });
    }

    #[test]
    fn the_new_set_grows_into_the_surge_only() {
        let deployment = deployment(4, "1", "1");
        assert_eq!(new_size(&deployment, 0, &[set(4, 4)]), 1);
        assert_eq!(new_size(&deployment, 1, &[set(4, 4)]), 1);
        assert_eq!(new_size(&deployment, 1, &[set(2, 2)]), 3);
        assert_eq!(new_size(&deployment, 6, &[]), 4);
    }

    #[test]
    fn old_sets_shrink_while_enough_pods_are_available() {
        let deployment = deployment(4, "1", "1");
        assert_eq!(old_sizes(&deployment, &set(1, 0), &[set(4, 4)]), [3]);
        assert_eq!(old_sizes(&deployment, &set(1, 0), &[set(3, 3)]), [3]);
        assert_eq!(old_sizes(&deployment, &set(4, 4), &[set(1, 1)]), [0]);
    }

    #[test]
    fn broken_old_pods_go_first() {
        let deployment = deployment(4, "1", "1");
        assert_eq!(old_sizes(&deployment, &set(2, 2), &[set(2, 2), set(1, 0)]), [1, 0]);
    }

    /// Plays a rollout with pods that become available one round later, and checks the bounds in each.
    #[test]
    fn a_rollout_ends_and_keeps_its_bounds_on_the_way() {
        for (total, surge, unavailable) in [(1, 1, 0), (1, 0, 1), (4, 1, 1), (10, 3, 2), (5, 5, 0), (3, 0, 1)] {
            let deployment = deployment(total, &surge.to_string(), &unavailable.to_string());
            let (mut new, mut old) = (set(0, 0), set(total, total));
            let mut rounds = 0;
            while (wanted(&new), wanted(&old)) != (total, 0) {
                let size = new_size(&deployment, wanted(&new), std::slice::from_ref(&old));
                let grown = set(size, available(&new).min(size));
                let left = old_sizes(&deployment, &grown, std::slice::from_ref(&old))[0];
                old = set(left, left);
                assert!(wanted(&grown) + wanted(&old) <= total + surge, "at most {surge} more than {total}");
                assert!(available(&grown) + available(&old) >= total - unavailable, "at most {unavailable} missing");
                new = set(size, size);
                rounds += 1;
                assert!(rounds < 100, "the rollout of {total} with {surge}/{unavailable} ends");
            }
        }
    }
}
