//! What the scheduler knows: nodes, and what the pods on them take. Kept up to date pod by pod, so that a decision costs no scan.

use crate::requests::{Requests, add, amounts, requests, subtract, usual_requests};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Nodes and the pods that were placed on them.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Place>,
    /// What is counted for each pod, by uid.
    counted: HashMap<String, Counted>,
}

/// A node with what is taken of it. A pod may be known before its node is.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Requests,
    pub(crate) taken: Requests,
    /// As `taken`, with usual amounts for pods that ask for nothing.
    pub(crate) usually_taken: Requests,
    pub(crate) pods: i64,
    pub(crate) ports: Vec<HostPort>,
    /// Pods by what manages them: the uid of their controller.
    pub(crate) managed: HashMap<String, u32>,
}

#[derive(Debug)]
struct Counted {
    node: String,
    requests: Requests,
    usual: Requests,
    ports: Vec<HostPort>,
    manager: Option<String>,
}

/// A port that a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether two pods cannot have both on one node.
    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// The ports that a pod takes on its node.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// The uid of what manages a pod.
pub(crate) fn manager(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl Snapshot {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns a node, or its new version.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let place = self.nodes.entry(node.metadata.name.clone().unwrap_or_default()).or_default();
        place.allocatable = amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
        place.node = Some(node);
    }

    /// Forgets a node. What its pods take is still counted, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(place) = self.nodes.get_mut(name) {
            place.node = None;
        }
        self.forget_if_empty(name);
    }

    /// Learns a pod, or its new version. Without a node, or when it has ended, it takes nothing.
    pub fn set_pod(&mut self, pod: &Pod) {
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
            Some(node) if !has_ended(pod) => self.assume(pod, node),
            Some(_) | None => self.remove_pod(pod),
        }
    }

    /// Counts a pod on a node before the cluster says so: it was just bound there.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        self.remove_pod(pod);
        let counted = Counted {
            node: node.to_owned(),
            requests: requests(pod),
            usual: usual_requests(pod),
            ports: host_ports(pod),
            manager: manager(pod).map(str::to_owned),
        };
        let place = self.nodes.entry(node.to_owned()).or_default();
        add(&mut place.taken, &counted.requests);
        add(&mut place.usually_taken, &counted.usual);
        place.pods += 1;
        place.ports.extend(counted.ports.iter().cloned());
        if let Some(manager) = &counted.manager {
            *place.managed.entry(manager.clone()).or_default() += 1;
        }
        self.counted.insert(uid(pod), counted);
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, pod: &Pod) {
        let Some(counted) = self.counted.remove(&uid(pod)) else { return };
        let place = self.nodes.get_mut(&counted.node).expect("because a place with pods is kept");
        subtract(&mut place.taken, &counted.requests);
        subtract(&mut place.usually_taken, &counted.usual);
        place.pods -= 1;
        for port in &counted.ports {
            if let Some(index) = place.ports.iter().position(|taken| taken == port) {
                place.ports.swap_remove(index);
            }
        }
        if let Some(manager) = counted.manager
            && let Some(count) = place.managed.get_mut(&manager)
        {
            *count -= 1;
            if *count == 0 {
                place.managed.remove(&manager);
            }
        }
        self.forget_if_empty(&counted.node);
    }

    /// Whether a pod is counted on a node.
    #[must_use]
    pub fn has_pod(&self, pod: &Pod) -> bool {
        self.counted.contains_key(&uid(pod))
    }

    fn forget_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|place| place.node.is_none() && place.pods == 0) {
            self.nodes.remove(name);
        }
    }

    /// Nodes that are there, by name.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, &Node, &Place)> {
        self.nodes.iter().filter_map(|(name, place)| Some((name.as_str(), &**place.node.as_ref()?, place)))
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{named, node};
    use serde_json::json;

    #[test]
    fn a_pod_that_moves_or_ends_gives_back_what_it_took() {
        let mut snapshot = Snapshot::new();
        let spec = json!({"nodeName": "a", "containers": [{
            "name": "c", "ports": [{"containerPort": 80, "hostPort": 80}], "resources": {"requests": {"cpu": "1"}},
        }]});
        let mut pod = named("x", spec);
        snapshot.set_pod(&pod);
        snapshot.set_node(node("a", json!({}), json!({})));
        let taken = |snapshot: &Snapshot| {
            let place = &snapshot.nodes["a"];
            (place.pods, place.taken["cpu"], place.ports.len())
        };
        assert_eq!(taken(&snapshot), (1, 1000, 1));
        snapshot.set_pod(&pod);
        assert_eq!(taken(&snapshot), (1, 1000, 1));
        pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("because it is a status");
        snapshot.set_pod(&pod);
        assert_eq!(taken(&snapshot), (0, 0, 0));
    }

    #[test]
    fn a_port_on_every_address_conflicts_with_one_on_any() {
        let port = |ip: &str| HostPort { ip: ip.to_owned(), protocol: "TCP".to_owned(), port: 80 };
        assert!(port("").conflicts(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
    }
}
