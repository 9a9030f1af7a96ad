//! Pods.

use serde_json::{Value, json};

use super::{PLAIN, pod_rules, pod_spec, pod_status};
use crate::field_error::FieldError;
use crate::kind::{Generation, Strategy};
use crate::object::{self, list, number, text};
use crate::quantity::Quantity;

/// Pods.
pub static POD: Strategy = Strategy {
    default: pod_spec::default_pod,
    prepare_create,
    validate: |pod| pod_rules::spec(&pod["spec"], "spec"),
    validate_update,
    generation: Generation::Spec,
    grace,
    selectable,
    printer: pod_status::PRINTER,
    ..PLAIN
};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative),`spec.tolerations` (only additions to existing tolerations)";

fn prepare_create(pod: &mut Value) {
    let class = quality(pod);
    object::set(pod, &[], "status", json!({"phase": "Pending", "qosClass": class}));
    if !list(pod, &["spec", "schedulingGates"]).is_empty() {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        });
        object::set(pod, &["status"], "conditions", json!([condition]));
    }
}

/// Returns the quality-of-service class: `Guaranteed` when each container has equal requests and limits for CPU and memory,
/// `BestEffort` when none has any.
fn quality(pod: &Value) -> &'static str {
    let containers = list(pod, &["spec", "initContainers"]).iter().chain(list(pod, &["spec", "containers"]));
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let read = |kind: &str| -> Option<Quantity> {
                let amount: Quantity = text(container, &["resources", kind, resource]).parse().ok()?;
                (!amount.is_zero()).then_some(amount)
            };
            let (request, limit) = (read("requests"), read("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (mut allowed, before) = (new["spec"].clone(), &old["spec"]);
    let mut errors = Vec::new();
    for key in ["containers", "initContainers"] {
        let (now, then) = (list(&new["spec"], &[key]), list(before, &[key]));
        if now.len() != then.len() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), "pod updates may not add or remove containers"));
            return errors;
        }
        for (index, container) in then.iter().enumerate() {
            allowed[key][index]["image"] = container["image"].clone();
        }
    }
    let tolerations = list(&new["spec"], &["tolerations"]);
    let kept = list(before, &["tolerations"]).iter().all(|one| tolerations.contains(one));
    if !kept {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    let gates = list(before, &["schedulingGates"]);
    if list(&new["spec"], &["schedulingGates"]).iter().any(|gate| !gates.contains(gate)) {
        errors.push(FieldError::forbidden(
            "spec.schedulingGates",
            "only deletion is allowed, but found new scheduling gates",
        ));
    }
    let shortened = match (number(before, &["activeDeadlineSeconds"]), number(&new["spec"], &["activeDeadlineSeconds"]))
    {
        (Some(then), Some(now)) => now <= then,
        (Some(_), None) => false,
        (None, _) => true,
    };
    if !shortened {
        let why = "must be less than or equal to previous value";
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", &new["spec"]["activeDeadlineSeconds"], why));
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy(before, &mut allowed, key);
    }
    if number(before, &["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        copy(before, &mut allowed, "terminationGracePeriodSeconds");
    }
    if allowed != *before {
        errors.push(FieldError::forbidden("spec", MAY_CHANGE));
    }
    errors
}

fn copy(from: &Value, to: &mut Value, key: &str) {
    match from.get(key) {
        Some(value) => object::set(to, &[], key, value.clone()),
        None => drop(object::remove(to, &[], key)),
    }
}

fn grace(pod: &Value, asked: Option<i64>) -> Option<i64> {
    let unstarted = text(pod, &["spec", "nodeName"]).is_empty();
    let finished = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    let wanted = asked.or_else(|| number(pod, &["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
    match wanted {
        _ if unstarted || finished => Some(0),
        // Negative means "at once", but the node has to know of it.
        seconds if seconds < 0 => Some(1),
        seconds => Some(seconds),
    }
}

fn selectable(pod: &Value) -> Vec<(&'static str, String)> {
    let of = |path: &[&str]| text(pod, path).to_string();
    let host_network = pod["spec"]["hostNetwork"] == true;
    vec![
        ("spec.nodeName", of(&["spec", "nodeName"])),
        ("spec.restartPolicy", of(&["spec", "restartPolicy"])),
        ("spec.schedulerName", of(&["spec", "schedulerName"])),
        ("spec.serviceAccountName", of(&["spec", "serviceAccountName"])),
        ("spec.hostNetwork", host_network.to_string()),
        ("status.phase", of(&["status", "phase"])),
        ("status.podIP", of(&["status", "podIP"])),
        ("status.podIPs", of(&["status", "podIP"])),
        ("status.nominatedNodeName", of(&["status", "nominatedNodeName"])),
    ]
}
