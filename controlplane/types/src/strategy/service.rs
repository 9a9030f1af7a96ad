//! Services. Addresses and ports are allocated by the API server's admission; here is what needs no allocation.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PLAIN;
use super::rules::{IMMUTABLE, all, one_of, required_one_of};
use crate::field_error::FieldError;
use crate::kind::{NameRule, Strategy};
use crate::object::{self, Object, list, map_mut, number, set, set_default, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};
use crate::validate::{self, names};

/// Seconds that a client sticks to a pod, and the most that may be asked for.
const AFFINITY_SECONDS: i64 = 10_800;
const AFFINITY_SECONDS_LIMIT: i64 = 86_400;

/// Services.
pub static SERVICE: Strategy = Strategy {
    default,
    prepare_create: |service| {
        set(service, &[], "status", json!({"loadBalancer": {}}));
        prepare(service);
    },
    prepare_update,
    validate,
    validate_update,
    names: NameRule::Rfc1035,
    create_on_update: true,
    selectable: |service| {
        let of = |key: &str| text(service, &["spec", key]).to_string();
        vec![("spec.clusterIP", of("clusterIP")), ("spec.type", of("type"))]
    },
    printer: Printer { columns: COLUMNS, row },
    ..PLAIN
};

fn kind(service: &Value) -> &str {
    text(service, &["spec", "type"])
}

fn default(service: &mut Value) {
    for (key, value) in [("sessionAffinity", "None"), ("type", "ClusterIP")] {
        if text(service, &["spec", key]).is_empty() {
            set(service, &["spec"], key, value);
        }
    }
    match text(service, &["spec", "sessionAffinity"]) {
        "ClientIP" => {
            set_default(service, &["spec", "sessionAffinityConfig", "clientIP"], "timeoutSeconds", AFFINITY_SECONDS);
        }
        "None" => drop(object::remove(service, &["spec"], "sessionAffinityConfig")),
        _ => {}
    }
    let kind = kind(service).to_string();
    let ports = map_mut(service, &["spec"]).get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        set_default(port, &[], "protocol", "TCP");
        let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == "";
        if unset {
            let number = port["port"].clone();
            set(port, &[], "targetPort", number);
        }
    }
    let external = !list(service, &["spec", "externalIPs"]).is_empty();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        set_default(service, &["spec"], "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set_default(service, &["spec"], "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(service, &["spec"], "allocateLoadBalancerNodePorts", true);
    }
}

/// Brings `clusterIP` and `clusterIPs` together and fills in the families; one family, IPv4, is served so far.
fn prepare(service: &mut Value) {
    if kind(service) == "ExternalName" {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            object::remove(service, &["spec"], key);
        }
        return;
    }
    let first = list(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default().to_string();
    let ip = text(service, &["spec", "clusterIP"]).to_string();
    match (ip.as_str(), first.as_str()) {
        ("", "") => {}
        ("", first) => set(service, &["spec"], "clusterIP", first),
        (ip, "") => set(service, &["spec"], "clusterIPs", json!([ip])),
        (_, _) => {}
    }
    set_default(service, &["spec"], "ipFamilies", json!(["IPv4"]));
    set_default(service, &["spec"], "ipFamilyPolicy", "SingleStack");
}

fn prepare_update(new: &mut Value, old: &Value) {
    drop_dependents(new, old);
    // Who changes only clusterIP means clusterIPs as well.
    let spec = |object: &Value, key: &str| object::at(object, &["spec", key]).cloned();
    if spec(new, "clusterIP") != spec(old, "clusterIP") && spec(new, "clusterIPs") == spec(old, "clusterIPs") {
        object::remove(new, &["spec"], "clusterIPs");
    }
    prepare(new);
}

/// A change of type takes back what the old type had and the author did not mention.
fn drop_dependents(new: &mut Value, old: &Value) {
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let (now, then) = (kind(new).to_string(), kind(old).to_string());
    let same = |new: &Value, key: &str| object::at(new, &["spec", key]) == object::at(old, &["spec", key]);
    if has_ports(&then) && !has_ports(&now) {
        let before: BTreeSet<i64> =
            list(old, &["spec", "ports"]).iter().filter_map(|port| number(port, &["nodePort"])).collect();
        let ports = map_mut(new, &["spec"]).get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if number(port, &["nodePort"]).is_some_and(|number| before.contains(&number)) {
                object::remove(port, &[], "nodePort");
            }
        }
        if same(new, "externalTrafficPolicy") && list(new, &["spec", "externalIPs"]).is_empty() {
            object::remove(new, &["spec"], "externalTrafficPolicy");
        }
    }
    if then == "LoadBalancer" && now != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if same(new, key) {
                object::remove(new, &["spec"], key);
            }
        }
    }
    if then != "ExternalName" && now == "ExternalName" {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(new, key) {
                object::remove(new, &["spec"], key);
            }
        }
    }
}

fn validate(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = kind(service);
    let headless = text(service, &["spec", "clusterIP"]) == "None";
    let ports = list(service, &["spec", "ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    errors.extend(required_one_of(service, &["spec", "type"], "spec.type", &types));
    errors.extend(required_one_of(
        service,
        &["spec", "sessionAffinity"],
        "spec.sessionAffinity",
        &["ClientIP", "None"],
    ));
    let policies = ["Cluster", "Local"];
    for key in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        errors.extend(one_of(service, &["spec", key], &format!("spec.{key}"), &policies));
    }
    errors.extend(validate::labels(service, &["spec", "selector"], "spec.selector"));
    match kind {
        "ExternalName" => {
            let name = text(service, &["spec", "externalName"]).trim_end_matches('.');
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                errors.extend(all("spec.externalName", &json!(name), names::subdomain(name)));
            }
        }
        "NodePort" | "LoadBalancer" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!("None"), why));
        }
        _ => {}
    }
    let seconds = number(service, &["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
    if let Some(seconds) = seconds.filter(|seconds| !(1..=AFFINITY_SECONDS_LIMIT).contains(seconds)) {
        let why = format!("must be greater than 0 and less than {AFFINITY_SECONDS_LIMIT}");
        errors.push(FieldError::invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", &json!(seconds), why));
    }
    port_rules(ports, kind, &mut errors);
    errors
}

fn port_rules(ports: &[Value], kind: &str, errors: &mut Vec<FieldError>) {
    let (mut seen_names, mut seen_ports, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let name = text(port, &["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !name.is_empty() {
            errors.extend(all(&format!("{at}.name"), &json!(name), names::label(name)));
            if !seen_names.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &json!(name)));
            }
        }
        let value = number(port, &["port"]).unwrap_or(0);
        errors.extend(all(&format!("{at}.port"), &json!(value), names::port_number(value)));
        let protocol = text(port, &["protocol"]);
        errors.extend(required_one_of(port, &["protocol"], &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"]));
        let target = &port["targetPort"];
        let wrong = match target.as_i64() {
            Some(target) => names::port_number(target),
            None => names::port_name(target.as_str().unwrap_or_default()),
        };
        errors.extend(all(&format!("{at}.targetPort"), target, wrong));
        if !seen_ports.insert((protocol, value)) {
            errors.push(FieldError::duplicate(at.clone(), &json!({"protocol": protocol, "port": value})));
        }
        if let Some(node_port) = number(port, &["nodePort"]).filter(|port| *port != 0) {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errors.push(FieldError::forbidden(
                    format!("{at}.nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                ));
            } else if !node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(format!("{at}.nodePort"), &json!(node_port)));
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let ip = |object: &Value| text(object, &["spec", "clusterIP"]).to_string();
    let had = kind(old) != "ExternalName" && !ip(old).is_empty();
    if had && kind(new) != "ExternalName" && ip(new) != ip(old) {
        return vec![FieldError::invalid("spec.clusterIP", &json!(ip(new)), IMMUTABLE)];
    }
    Vec::new()
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "How the Service is exposed."),
    column("Cluster-IP", "Address within the cluster."),
    column("External-IP", "Addresses outside the cluster."),
    column("Port(s)", "Ports that are exposed by this service."),
    AGE,
    column("Selector", "Labels of the pods that traffic goes to.").wide(),
];

fn row(service: &Value, now: Timestamp) -> Vec<Value> {
    let or_none = |text: String| if text.is_empty() { "<none>".to_string() } else { text };
    let selector: Vec<String> = object::map(service, &["spec", "selector"])
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        json!(service.name()),
        json!(kind(service)),
        json!(or_none(text(service, &["spec", "clusterIP"]).to_string())),
        json!(external(service)),
        json!(or_none(ports_text(service))),
        age(service, now),
        json!(or_none(selector.join(","))),
    ]
}

fn external(service: &Value) -> String {
    let join = |path: &[&str]| {
        let texts: Vec<&str> = list(service, path).iter().filter_map(Value::as_str).collect();
        texts.join(",")
    };
    let fixed = join(&["spec", "externalIPs"]);
    match kind(service) {
        "ExternalName" => text(service, &["spec", "externalName"]).to_string(),
        "LoadBalancer" => {
            let named = |one: &Value| match text(one, &["ip"]) {
                "" => text(one, &["hostname"]).to_string(),
                ip => ip.to_string(),
            };
            let ingress = list(service, &["status", "loadBalancer", "ingress"]).iter().map(named);
            let all: Vec<String> = ingress.chain((!fixed.is_empty()).then_some(fixed)).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if fixed.is_empty() => "<none>".into(),
        _ => fixed,
    }
}

fn ports_text(service: &Value) -> String {
    let one = |port: &Value| {
        let (number_of, protocol) = (number(port, &["port"]).unwrap_or(0), text(port, &["protocol"]));
        match number(port, &["nodePort"]).filter(|port| *port > 0) {
            Some(node_port) => format!("{number_of}:{node_port}/{protocol}"),
            None => format!("{number_of}/{protocol}"),
        }
    };
    list(service, &["spec", "ports"]).iter().map(one).collect::<Vec<_>>().join(",")
}
