//! Validation of pod specs, in pods and in templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::rules::{all, not_negative, one_of, quantity, required_one_of};
use crate::field_error::FieldError;
use crate::object::{self, list, number, text};
use crate::validate::{self, names};

const SIGNED_RESOURCES: [&str; 2] = ["limits", "requests"];

/// Checks the spec of a pod; `field` is its path.
pub(super) fn spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = volumes(spec, field, &mut errors);
    let mut seen = BTreeSet::new();
    if list(spec, &["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{field}.containers"), ""));
    }
    for key in ["initContainers", "containers"] {
        for (index, one) in list(spec, &[key]).iter().enumerate() {
            let at = format!("{field}.{key}[{index}]");
            let name = text(one, &["name"]);
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &one["name"]));
            }
            container(one, &at, &volumes, &mut errors);
            if key == "initContainers" && text(one, &["restartPolicy"]) != "Always" {
                for probe in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    if object::at(one, &[probe]).is_some() {
                        let why = "may not be set for init containers without restartPolicy=Always";
                        errors.push(FieldError::forbidden(format!("{at}.{probe}"), why));
                    }
                }
            }
        }
    }
    let at = |key: &str| format!("{field}.{key}");
    errors.extend(required_one_of(spec, &["restartPolicy"], &at("restartPolicy"), &["Always", "OnFailure", "Never"]));
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.extend(required_one_of(spec, &["dnsPolicy"], &at("dnsPolicy"), &policies));
    errors.extend(validate::labels(spec, &["nodeSelector"], &at("nodeSelector")));
    errors.extend(not_negative(spec, &["terminationGracePeriodSeconds"], &at("terminationGracePeriodSeconds")));
    if let Some(seconds) = number(spec, &["activeDeadlineSeconds"]).filter(|seconds| *seconds < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(at("activeDeadlineSeconds"), &json!(seconds), why));
    }
    for key in ["hostname", "subdomain"] {
        let value = text(spec, &[key]);
        if !value.is_empty() {
            errors.extend(all(&at(key), &json!(value), names::label(value)));
        }
    }
    let account = text(spec, &["serviceAccountName"]);
    if !account.is_empty() {
        errors.extend(all(&at("serviceAccountName"), &json!(account), names::subdomain(account)));
    }
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        tolerations(toleration, &format!("{field}.tolerations[{index}]"), &mut errors);
    }
    errors
}

/// Returns the names of the volumes.
fn volumes<'a>(spec: &'a Value, field: &str, errors: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut names_seen = BTreeSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let at = format!("{field}.volumes[{index}]");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            errors.extend(all(&format!("{at}.name"), &json!(name), names::label(name)));
        }
        if !name.is_empty() && !names_seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &json!(name)));
        }
        let sources: Vec<&String> = volume.as_object().into_iter().flatten().map(|(key, _)| key).collect();
        let sources: Vec<&&String> = sources.iter().filter(|key| key.as_str() != "name").collect();
        match sources.as_slice() {
            [] => errors.push(FieldError::required(at.as_str(), "must specify a volume type")),
            [_] => {}
            [_, more @ ..] => {
                for source in more {
                    errors.push(FieldError::forbidden(
                        format!("{at}.{source}"),
                        "may not specify more than 1 volume type",
                    ));
                }
            }
        }
        let required: [&[&str]; 3] = [&["secret", "secretName"], &["configMap", "name"], &["hostPath", "path"]];
        for path in required {
            if object::at(volume, &path[..1]).is_some() && text(volume, path).is_empty() {
                errors.push(FieldError::required(format!("{at}.{}", path.join(".")), ""));
            }
        }
    }
    names_seen
}

fn container(one: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let name = text(one, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else {
        errors.extend(all(&format!("{at}.name"), &json!(name), names::label(name)));
    }
    let image = text(one, &["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{at}.image"),
            &json!(image),
            "must not have leading or trailing whitespace",
        ));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.extend(one_of(one, &["imagePullPolicy"], &format!("{at}.imagePullPolicy"), &policies));
    let messages = ["File", "FallbackToLogsOnError"];
    errors.extend(one_of(one, &["terminationMessagePolicy"], &format!("{at}.terminationMessagePolicy"), &messages));
    ports(one, at, errors);
    environment(one, at, errors);
    mounts(one, at, volumes, errors);
    resources(one, at, errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = object::at(one, &[probe]) {
            probe_rules(found, &format!("{at}.{probe}"), probe, errors);
        }
    }
}

fn ports(one: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(one, &["ports"]).iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        let name = text(port, &["name"]);
        if !name.is_empty() {
            errors.extend(all(&format!("{at}.name"), &json!(name), names::port_name(name)));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &json!(name)));
            }
        }
        match number(port, &["containerPort"]).unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            value => errors.extend(all(&format!("{at}.containerPort"), &json!(value), names::port_number(value))),
        }
        if let Some(value) = number(port, &["hostPort"]).filter(|value| *value != 0) {
            errors.extend(all(&format!("{at}.hostPort"), &json!(value), names::port_number(value)));
        }
        errors.extend(one_of(port, &["protocol"], &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"]));
    }
}

fn environment(one: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(one, &["env"]).iter().enumerate() {
        let at = format!("{at}.env[{index}]");
        let name = text(variable, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if name.contains('=') || !name.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            let why =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.push(FieldError::invalid(format!("{at}.name"), &json!(name), why));
        }
        let Some(from) = object::map(variable, &["valueFrom"]) else { continue };
        if !text(variable, &["value"]).is_empty() {
            let why = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(format!("{at}.valueFrom"), &json!(""), why));
        }
        if from.len() != 1 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.push(FieldError::invalid(format!("{at}.valueFrom"), &json!(""), why));
        }
    }
}

fn mounts(one: &Value, at: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in list(one, &["volumeMounts"]).iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        match text(mount, &["name"]) {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            name if volumes.contains(name) => {}
            name => errors.push(FieldError::not_found(format!("{at}.name"), &json!(name))),
        }
        match text(mount, &["mountPath"]) {
            "" => errors.push(FieldError::required(format!("{at}.mountPath"), "")),
            path if paths.insert(path) => {}
            path => errors.push(FieldError::invalid(format!("{at}.mountPath"), &json!(path), "must be unique")),
        }
        let sub_path = text(mount, &["subPath"]);
        if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
            let why = if sub_path.starts_with('/') { "must be a relative path" } else { "must not contain '..'" };
            errors.push(FieldError::invalid(format!("{at}.subPath"), &json!(sub_path), why));
        }
    }
}

fn resources(one: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let limits = object::map(one, &["resources", "limits"]);
    let requests = object::map(one, &["resources", "requests"]);
    for (key, map) in SIGNED_RESOURCES.iter().zip([limits, requests]) {
        for (name, value) in map.into_iter().flatten() {
            if quantity(map, name).is_some_and(|one| one.is_negative()) {
                let why = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(format!("{at}.resources.{key}[{name}]"), value, why));
            }
        }
    }
    for (name, value) in requests.into_iter().flatten() {
        let (request, limit) = (quantity(requests, name), quantity(limits, name));
        if let Some((_, limit)) = request.zip(limit).filter(|(request, limit)| request > limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(format!("{at}.resources.requests"), value, why));
        }
    }
}

fn probe_rules(probe: &Value, at: &str, kind: &str, errors: &mut Vec<FieldError>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    let found = handlers.iter().filter(|key| object::at(probe, &[key]).is_some()).count();
    match found {
        0 => errors.push(FieldError::required(at, "must specify a handler type")),
        1 => {}
        _ => errors.push(FieldError::forbidden(at, "may not specify more than 1 handler type")),
    }
    let keys = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for key in keys {
        errors.extend(not_negative(probe, &[key], &format!("{at}.{key}")));
    }
    if kind != "readinessProbe" && number(probe, &["successThreshold"]).unwrap_or(1) != 1 {
        errors.push(FieldError::invalid(format!("{at}.successThreshold"), &probe["successThreshold"], "must be 1"));
    }
    for handler in ["httpGet", "tcpSocket"] {
        let Some(port) = object::at(probe, &[handler, "port"]) else { continue };
        let wrong = match port.as_i64() {
            Some(value) => names::port_number(value),
            None => names::port_name(port.as_str().unwrap_or_default()),
        };
        errors.extend(all(&format!("{at}.{handler}.port"), port, wrong));
    }
}

fn tolerations(toleration: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (key, operator) = (text(toleration, &["key"]), text(toleration, &["operator"]));
    if !key.is_empty() {
        errors.extend(all(&format!("{at}.key"), &json!(key), names::qualified_name(key)));
    } else if operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(format!("{at}.operator"), &json!(operator), why));
    }
    match operator {
        "" | "Equal" => {
            let value = text(toleration, &["value"]);
            errors.extend(all(&format!("{at}.operator"), &json!(value), names::label_value(value)));
        }
        "Exists" if !text(toleration, &["value"]).is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(format!("{at}.operator"), &json!(text(toleration, &["value"])), why));
        }
        "Exists" | "Lt" | "Gt" => {}
        other => errors.push(FieldError::not_supported(format!("{at}.operator"), &json!(other), &["Equal", "Exists"])),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    errors.extend(one_of(toleration, &["effect"], &format!("{at}.effect"), &effects));
    let seconds = object::at(toleration, &["tolerationSeconds"]).is_some();
    if seconds && text(toleration, &["effect"]) != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{at}.effect"), &toleration["effect"], why));
    }
}
