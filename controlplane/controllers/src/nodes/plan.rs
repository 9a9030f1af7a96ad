//! What a node's silence or unreadiness leads to.

use controlplane_client::Object;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

/// How long an agent may be silent: upstream's grace period, four of the agent's ten-second renewals.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(40);

/// Seconds that pods stay on a node that is not ready, when they do not say: upstream's admission default. A node that starts
/// again within it keeps its pods.
const DEFAULT_STAY: i64 = 300;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The Ready condition of a node that went silent.
    pub(super) condition: Option<NodeCondition>,
    /// All taints, if they differ.
    pub(super) taints: Option<Vec<Taint>>,
    /// Pods that nobody can call ready any more.
    pub(super) unready: Vec<Arc<Pod>>,
    /// Pods that may no longer stay.
    pub(super) evict: Vec<Arc<Pod>>,
    /// When something may change without a signal.
    pub(super) again: Option<Duration>,
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn is_ours(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

/// Whether the node carries one of our taints.
pub(super) fn is_tainted(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(is_ours)
}

/// Plans for a node that was silent for so long.
pub(super) fn plan(node: &Node, pods: &[Arc<Pod>], silence: Duration, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let silent = silence >= SILENCE_LIMIT;
    let said = ready(node).map_or("Unknown", |condition| condition.status.as_str());
    let state = if silent { "Unknown" } else { said };
    if silent {
        if said != "Unknown" {
            plan.condition = Some(unknown(now));
        }
    } else {
        plan.again = Some(SILENCE_LIMIT - silence);
    }
    let key = match state {
        "True" => None,
        "False" => Some(NOT_READY),
        _unknown => Some(UNREACHABLE),
    };
    let taints = taints(node, key, now);
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if state != "True" {
        plan.unready = pods.iter().filter(|pod| crate::pods::is_ready(pod)).cloned().collect();
    }
    plan.evict_by(&taints, pods, now);
    plan.taints = (taints != old).then_some(taints);
    plan
}

fn unknown(now: Timestamp) -> NodeCondition {
    NodeCondition {
        type_: "Ready".to_owned(),
        status: "Unknown".to_owned(),
        reason: Some("NodeStatusUnknown".to_owned()),
        message: Some("Kubelet stopped posting node status.".to_owned()),
        last_transition_time: Some(Time(now)),
        last_heartbeat_time: None,
    }
}

/// The node's taints with ours as they should be; one that stands keeps its time.
fn taints(node: &Node, key: Option<&str>, now: Timestamp) -> Vec<Taint> {
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints: Vec<Taint> =
        old.into_iter().filter(|taint| !is_ours(taint) || Some(taint.key.as_str()) == key).collect();
    let Some(key) = key else { return taints };
    for effect in ["NoSchedule", "NoExecute"] {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    taints
}

impl Plan {
    fn evict_by(&mut self, taints: &[Taint], pods: &[Arc<Pod>], now: Timestamp) {
        let no_execute: Vec<&Taint> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
        if no_execute.is_empty() {
            return;
        }
        for pod in pods.iter().filter(|pod| !pod.is_terminating() && !crate::pods::has_ended(pod)) {
            let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
            let stays = no_execute.iter().filter_map(|taint| stay(taint, tolerations, now)).min();
            match stays {
                Some(Duration::ZERO) => self.evict.push(Arc::clone(pod)),
                Some(left) => self.again = Some(self.again.map_or(left, |again| again.min(left))),
                None => {}
            }
        }
    }
}

/// How long the pod may still stay in spite of the taint; `None` is for ever.
fn stay(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let tolerating: Vec<&Toleration> = tolerations.iter().filter(|one| tolerates(one, taint)).collect();
    if tolerating.iter().any(|toleration| toleration.toleration_seconds.is_none()) {
        return None;
    }
    let said = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min();
    let seconds = said.unwrap_or(if is_ours(taint) { DEFAULT_STAY } else { 0 }).max(0);
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    let end = since.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (if key.is_empty() { exists } else { key == taint.key })
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const SHORT: Duration = Duration::from_secs(10);

    fn node(ready: &str, taints: Value) -> Node {
        let object = json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value(object).expect("because the test wrote a node")
    }

    fn pod(tolerations: Value) -> Arc<Pod> {
        let object = json!({"metadata": {"name": "p", "namespace": "a"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(object).expect("because the test wrote a pod"))
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T00:{text}Z").parse().expect("because it is a time")
    }

    fn keys(plan: &Plan) -> Vec<(&str, &str)> {
        let taints = plan.taints.iter().flatten();
        taints.map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
    }

    #[test]
    fn a_node_that_speaks_and_is_ready_is_looked_at_again_when_it_could_be_silent() {
        let plan = plan(&node("True", json!([])), &[pod(json!([]))], SHORT, at("00:00"));
        assert!(plan.taints.is_none() && plan.condition.is_none() && plan.evict.is_empty() && plan.unready.is_empty());
        assert_eq!(plan.again, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_silent_node_is_unknown_and_its_pods_are_not_ready_but_stay_for_a_while() {
        let plan = plan(&node("True", json!([])), &[pod(json!([]))], SILENCE_LIMIT, at("00:00"));
        assert_eq!(plan.condition.as_ref().map(|condition| condition.status.as_str()), Some("Unknown"));
        assert_eq!(keys(&plan), [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        assert_eq!((plan.unready.len(), plan.evict.len()), (1, 0));
        assert_eq!(plan.again, Some(Duration::from_secs(300)));
    }

    #[test]
    fn pods_go_when_their_time_on_a_tainted_node_is_over() {
        let taints = json!([{"key": NOT_READY, "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]);
        let short = json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        let forever = json!([{"operator": "Exists"}]);
        let pods = [pod(short), pod(forever), pod(json!([]))];
        let node = node("False", taints);
        assert_eq!(plan(&node, &pods, SHORT, at("00:59")).evict.len(), 0);
        assert_eq!(plan(&node, &pods, SHORT, at("01:00")).evict.len(), 1);
        assert_eq!(plan(&node, &pods, SHORT, at("05:00")).evict.len(), 2);
    }

    #[test]
    fn a_node_that_is_back_loses_our_taints_and_keeps_the_others() {
        let taints = json!([{"key": "gpu", "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]);
        assert_eq!(keys(&plan(&node("True", taints), &[], SHORT, at("00:00"))), [("gpu", "NoSchedule")]);
    }
}
