//! Nodes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PLAIN;
use super::rules::{all, one_of};
use crate::field_error::FieldError;
use crate::kind::Strategy;
use crate::object::{self, Object, list, set_default, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};
use crate::validate::names;

/// Nodes.
pub static NODE: Strategy = Strategy {
    default: |node| {
        let capacity = object::at(node, &["status", "capacity"]).cloned();
        if let Some(capacity) = capacity {
            set_default(node, &["status"], "allocatable", capacity);
        }
    },
    status_on_create: true,
    validate: |node| taints(node),
    validate_update: |new, old| {
        let (new, old) = (text(new, &["spec", "providerID"]), text(old, &["spec", "providerID"]));
        if old.is_empty() || new == old {
            return Vec::new();
        }
        vec![FieldError::forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        )]
    },
    selectable: |node| vec![("spec.unschedulable", (node["spec"]["unschedulable"] == true).to_string())],
    printer: Printer { columns: COLUMNS, row },
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "The status of the node"),
    column("Roles", "The roles of the node"),
    AGE,
    column("Version", "Kubelet Version reported by the node."),
    column("Internal-IP", "Address within the cluster.").wide(),
    column("External-IP", "Address outside the cluster.").wide(),
    column("OS-Image", "Operating system reported by the node.").wide(),
    column("Kernel-Version", "Kernel version reported by the node.").wide(),
    column("Container-Runtime", "Container runtime reported by the node.").wide(),
];

fn taints(node: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (index, taint) in list(node, &["spec", "taints"]).iter().enumerate() {
        let at = format!("spec.taints[{index}]");
        let key = text(taint, &["key"]);
        errors.extend(all(&format!("{at}.key"), &json!(key), names::qualified_name(key)));
        let value = text(taint, &["value"]);
        errors.extend(all(&format!("{at}.value"), &json!(value), names::label_value(value)));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if text(taint, &["effect"]).is_empty() {
            errors.push(FieldError::required(format!("{at}.effect"), ""));
        }
        errors.extend(one_of(taint, &["effect"], &format!("{at}.effect"), &effects));
        let unique = (key, text(taint, &["effect"]));
        if seen.contains(&unique) {
            errors.push(FieldError::duplicate(at, taint));
        }
        seen.push(unique);
    }
    errors
}

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let or = |text: &str, other: &str| json!(if text.is_empty() { other } else { text });
    let address = |kind: &str| {
        let addresses = list(node, &["status", "addresses"]);
        addresses.iter().find(|one| text(one, &["type"]) == kind).map_or("", |one| text(one, &["address"])).to_string()
    };
    let info = |key: &str| text(node, &["status", "nodeInfo", key]).to_string();
    vec![
        json!(node.name()),
        json!(status(node)),
        or(&roles(node), "<none>"),
        age(node, now),
        json!(info("kubeletVersion")),
        or(&address("InternalIP"), "<none>"),
        or(&address("ExternalIP"), "<none>"),
        or(&info("osImage"), "<unknown>"),
        or(&info("kernelVersion"), "<unknown>"),
        or(&info("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn status(node: &Value) -> String {
    let ready = list(node, &["status", "conditions"]).iter().find(|one| text(one, &["type"]) == "Ready");
    let mut words = vec![match ready.map(|one| text(one, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node["spec"]["unschedulable"] == true {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let labels = object::map(node, &["metadata", "labels"]);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.join(",")
}
