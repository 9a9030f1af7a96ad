//! What makes an object privileged: it can take over a machine, grant rights, or act as somebody else.
//!
//! For pods this is what the "baseline" level of the Pod Security Standards forbids
//! (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), and acting as a ServiceAccount that another rule's file
//! defines. gitsync applies everything with its own rights, so the API server's own check that nobody grants more than they have
//! does not protect anybody here.

use crate::object::{DesiredObject, ObjectKey};
use crate::pods::{Pod, key, pods};
use serde_json::Value;

/// Namespaces whose objects run the cluster itself; gitsync's own book lies in the first.
const SYSTEM_NAMESPACES: [&str; 2] = ["cairn-system", "kube-system"];

/// Capabilities that a container may add at the baseline level.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel settings of a pod's own namespaces, allowed at the baseline level.
const BASELINE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

/// Why an object is privileged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Power {
    /// The field that makes it so.
    pub(crate) field: String,
    /// What it does, as the rest of a sentence about the object.
    pub(crate) what: &'static str,
}

fn power(field: impl Into<String>, what: &'static str) -> Option<Power> {
    Some(Power { field: field.into(), what })
}

/// The first thing that makes an object privileged. `own_account` says whether the rule's own files define a ServiceAccount.
pub(crate) fn first(object: &DesiredObject, own_account: impl Fn(&ObjectKey) -> bool) -> Option<Power> {
    let ObjectKey { group, kind, namespace, name } = &object.key;
    let place = if kind == "Namespace" { name } else { namespace };
    if SYSTEM_NAMESPACES.contains(&place.as_str()) {
        return power("metadata.namespace", "lies among the objects that run the cluster");
    }
    match (group.as_str(), kind.as_str()) {
        ("rbac.authorization.k8s.io", _) => return power("kind", "grants rights"),
        ("", "Node") => return power("kind", "stands for a machine"),
        ("", "Secret") if object.manifest["type"] == "kubernetes.io/service-account-token" => {
            return power("type", "makes a token of a ServiceAccount");
        }
        ("", "Service") if object.manifest.pointer("/spec/externalIPs").is_some_and(|list| *list != Value::Null) => {
            return power("spec.externalIPs", "takes traffic for any address");
        }
        _ => {}
    }
    pods(object).find_map(|pod| {
        let account = pod.account();
        if account != "default" && !own_account(&key("ServiceAccount", namespace, account)) {
            return power(pod.place("serviceAccountName"), "acts as a ServiceAccount that no file of the rule defines");
        }
        of_pod(pod).or_else(|| pod.containers().find_map(|(container, place)| of_container(container, &place)))
    })
}

fn of_pod(pod: Pod<'_>) -> Option<Power> {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.spec[field] == true {
            return power(pod.place(field), "shares a namespace with the machine");
        }
    }
    let volumes = pod.spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, volume) in volumes.iter().enumerate() {
        if !volume["hostPath"].is_null() {
            return power(pod.place(&format!("volumes[{index}].hostPath")), "mounts a folder of the machine");
        }
    }
    let sysctls = pod.spec.pointer("/securityContext/sysctls").and_then(Value::as_array).map(Vec::as_slice);
    let unsafe_one = |sysctl: &Value| !sysctl["name"].as_str().is_some_and(|name| BASELINE_SYSCTLS.contains(&name));
    if sysctls.unwrap_or_default().iter().any(unsafe_one) {
        return power(pod.place("securityContext.sysctls"), "sets the machine's kernel");
    }
    of_context(&pod.spec["securityContext"], &pod.place("securityContext"))
}

fn of_container(container: &Value, place: &str) -> Option<Power> {
    let context = &container["securityContext"];
    let field = |name: &str| format!("{place}.securityContext.{name}");
    if context["privileged"] == true {
        return power(field("privileged"), "runs with all the machine's rights");
    }
    let added = context.pointer("/capabilities/add").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // The runtime takes names with and without their prefix, in any case.
    let usual = |name: &Value| {
        let name = name.as_str().unwrap_or_default().to_ascii_uppercase();
        BASELINE_CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
    };
    if !added.iter().all(usual) {
        return power(field("capabilities.add"), "adds rights over the machine");
    }
    if context["procMount"].as_str().is_some_and(|mount| mount != "Default") {
        return power(field("procMount"), "sees the machine's kernel settings");
    }
    let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.iter().any(|port| port["hostPort"].as_u64().is_some_and(|port| port != 0)) {
        return power(format!("{place}.ports"), "takes a port of the machine");
    }
    of_context(context, &format!("{place}.securityContext"))
}

/// What pods and containers say alike.
fn of_context(context: &Value, place: &str) -> Option<Power> {
    for profile in ["seccompProfile", "appArmorProfile"] {
        if context[profile]["type"] == "Unconfined" {
            return power(format!("{place}.{profile}"), "takes a confinement away");
        }
    }
    let labels = &context["seLinuxOptions"];
    if ["user", "role"].iter().any(|field| labels[field].as_str().is_some_and(|text| !text.is_empty())) {
        return power(format!("{place}.seLinuxOptions"), "takes a confinement away");
    }
    (context["windowsOptions"]["hostProcess"] == true).then_some(())?;
    power(format!("{place}.windowsOptions"), "runs with all the machine's rights")
}
