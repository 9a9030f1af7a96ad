//! Whether a pod may run on a node, and if not, all reasons why, in upstream's words.

use crate::requests::Requests;
use crate::snapshot::{HostPort, Place};
use controlplane_types::selector::typed::{Labels, compare};
use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};

/// What a pod needs, worked out once for all nodes.
pub(crate) struct Needs<'a> {
    pub(crate) spec: &'a PodSpec,
    pub(crate) requests: Requests,
    pub(crate) ports: Vec<HostPort>,
}

/// The taint that stands for `unschedulable`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Reasons against a node; none means that the pod may run there.
pub(crate) fn reasons(needs: &Needs<'_>, node: &Node, place: &Place) -> Vec<String> {
    let mut reasons = Vec::new();
    let tolerations = needs.spec.tolerations.as_deref().unwrap_or_default();
    let node_spec = node.spec.clone().unwrap_or_default();
    let cordoned = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if node_spec.unschedulable == Some(true) && !tolerated(&cordoned, tolerations) {
        reasons.push("node(s) were unschedulable".to_owned());
    }
    if !selected(needs.spec, node) {
        reasons.push("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let hard = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let mut taints = node_spec.taints.iter().flatten().filter(hard);
    // The cordon was named already.
    if let Some(taint) = taints.find(|taint| taint.key != UNSCHEDULABLE && !tolerated(taint, tolerations)) {
        let value = taint.value.as_deref().unwrap_or_default();
        reasons.push(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if needs.ports.iter().any(|port| place.ports.iter().any(|taken| taken.conflicts(port))) {
        reasons.push("node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    reasons.extend(lacking(needs, place));
    reasons
}

fn lacking(needs: &Needs<'_>, place: &Place) -> Vec<String> {
    let mut reasons = Vec::new();
    let amount = |list: &Requests, name: &str| list.get(name).copied().unwrap_or_default();
    if place.allocatable.get("pods").is_some_and(|limit| place.pods + 1 > *limit) {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in &needs.requests {
        let free = amount(&place.allocatable, name).saturating_sub(amount(&place.taken, name));
        if *wanted > 0 && *wanted > free {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

/// Whether one of the tolerations covers the taint.
pub(crate) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let value_fits = match toleration.operator.as_deref() {
            Some("Exists") => true,
            _equal_or_default => !key.is_empty() && value == taint.value.as_deref().unwrap_or_default(),
        };
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value_fits
    })
}

/// Whether the node is one that the pod selects: by `nodeSelector` and by required node affinity.
fn selected(spec: &PodSpec, node: &Node) -> bool {
    let empty = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let by_label = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_label && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_holds(term, node)))
}

/// Whether a term of a node selector holds; an empty one never does.
pub(crate) fn term_holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    let values = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|one| compare(&one.operator, &values(&one.values), label(&one.key)))
        && fields.iter().all(|one| compare(&one.operator, &values(&one.values), field(&one.key)))
}

impl<'a> Needs<'a> {
    /// Works out what a pod needs; `None` when it has no spec.
    pub(crate) fn of(pod: &'a Pod) -> Option<Self> {
        Some(Needs {
            spec: pod.spec.as_ref()?,
            requests: crate::requests::requests(pod),
            ports: crate::snapshot::host_ports(pod),
        })
    }
}
