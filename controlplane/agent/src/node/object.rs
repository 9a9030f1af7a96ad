//! The Node object: what the machine is and whether it is well. Pure.

use super::machine::Machine;
use crate::config::{AGENT_PORT, AgentConfig};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

/// Pods that a node takes; kubelet's default, and well within a /24 of addresses.
const PODS: i64 = 110;
/// Memory in bytes that pods do not get: the machine's own programs need it.
const RESERVED_MEMORY: i64 = 128 << 20;
/// The Kubernetes version whose node behaviour this agent follows.
const VERSION: &str = "v1.36.0-cairn";

/// Whether the agent can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wellbeing {
    /// What keeps it from it, if anything does.
    pub(crate) trouble: Option<String>,
}

/// The object to create when the node registers.
#[must_use]
pub(crate) fn fresh(
    config: &AgentConfig,
    machine: &Machine,
    runtime: &str,
    wellbeing: &Wellbeing,
    now: Timestamp,
) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": config.node_name, "labels": labels(config) },
        "spec": {},
        "status": status(config, machine, runtime, wellbeing, None, now),
    })
}

/// Labels that the agent owns.
#[must_use]
pub(crate) fn labels(config: &AgentConfig) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
    });
    for (key, value) in &config.labels {
        labels[key] = value.clone().into();
    }
    labels
}

/// The status, keeping transition times of `old` where nothing changed.
#[must_use]
pub(crate) fn status(
    config: &AgentConfig,
    machine: &Machine,
    runtime: &str,
    wellbeing: &Wellbeing,
    old: Option<&Node>,
    now: Timestamp,
) -> Value {
    let mut addresses: Vec<Value> =
        config.addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() })).collect();
    addresses.push(json!({ "type": "Hostname", "address": config.node_name }));
    json!({
        "addresses": addresses,
        "capacity": resources(machine, 0),
        "allocatable": resources(machine, RESERVED_MEMORY),
        "conditions": conditions(wellbeing, old, now),
        "daemonEndpoints": { "kubeletEndpoint": { "Port": config.endpoint.as_ref().map_or(AGENT_PORT, |(listen, _)| listen.port()) } },
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": format!("containerd://{runtime}"),
            "kubeletVersion": VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    })
}

fn resources(machine: &Machine, reserved: i64) -> Value {
    json!({
        "cpu": machine.cpus.to_string(),
        "memory": format!("{}Ki", (machine.memory_bytes - reserved).max(0) / 1024),
        "ephemeral-storage": format!("{}Ki", machine.storage_bytes / 1024),
        "pods": PODS.to_string(),
    })
}

fn conditions(wellbeing: &Wellbeing, old: Option<&Node>, now: Timestamp) -> Vec<Value> {
    let ready = match &wellbeing.trouble {
        None => ("Ready", "True", "AgentReady", "the agent runs pods".to_owned()),
        Some(trouble) => ("Ready", "False", "AgentNotReady", trouble.clone()),
    };
    let fine = |kind, reason, text: &str| (kind, "False", reason, text.to_owned());
    let all = [
        fine("MemoryPressure", "AgentHasSufficientMemory", "the machine has memory"),
        fine("DiskPressure", "AgentHasNoDiskPressure", "the machine has disk space"),
        fine("PIDPressure", "AgentHasSufficientPID", "the machine has process ids"),
        ready,
    ];
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let known = old.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_ref());
    let since = |kind: &str, status: &str| {
        let same = known?.iter().find(|condition| condition.type_ == kind && condition.status == status)?;
        same.last_transition_time.as_ref().map(|time| time.0.to_string())
    };
    let condition = |(kind, status, reason, message): (&str, &str, &str, String)| {
        let since = since(kind, status).unwrap_or_else(|| now.clone());
        json!({ "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since })
    };
    all.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory_bytes: 1 << 30,
            storage_bytes: 1 << 30,
            kernel: "6.12".into(),
            os_image: "Cairn".into(),
            machine_id: String::new(),
            boot_id: String::new(),
            least_oom_score: 0,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("because it is in range")
    }

    #[test]
    fn a_fresh_node_has_what_schedulers_and_people_look_at() {
        let config = AgentConfig::new("n1", vec!["10.0.2.15".parse().expect("because it is an address")]);
        let node = fresh(&config, &machine(), "1.7.24", &Wellbeing { trouble: None }, at(5));
        let node: Node = serde_json::from_value(node).expect("because it is a Node");
        let status = node.status.expect("because it has a status");
        assert_eq!(status.capacity.expect("because it is set")["cpu"].0, "2");
        assert_eq!(
            status.allocatable.expect("because it is set")["memory"].0,
            format!("{}Ki", (1 << 20) - (128 << 10))
        );
        assert_eq!(node.metadata.labels.expect("because it is set")["kubernetes.io/hostname"], "n1");
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let config = AgentConfig::new("n1", Vec::new());
        let well = Wellbeing { trouble: None };
        let old = fresh(&config, &machine(), "1", &well, at(5));
        let old: Node = serde_json::from_value(old).expect("because it is a Node");
        let ready_since = |wellbeing: &Wellbeing| {
            let status = status(&config, &machine(), "1", wellbeing, Some(&old), at(9));
            status["conditions"][3]["lastTransitionTime"].clone()
        };
        assert_eq!(ready_since(&well), json!("1970-01-01T00:00:05Z"));
        assert_eq!(ready_since(&Wellbeing { trouble: Some("no runtime".into()) }), json!("1970-01-01T00:00:09Z"));
    }
}
