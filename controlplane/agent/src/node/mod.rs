//! What all parts of the agent share, and the node as a whole: its object, its lease.

pub mod lease;
pub mod machine;
pub mod object;
pub mod registration;

use crate::config::AgentConfig;
use crate::containerd::Containerd;
use crate::events::Events;
use crate::images::Images;
use crate::pod::probes::ProbeBoard;
use controlplane_client::{Client, Informer};
use controlplane_network::PodNetwork;
use k8s_openapi::api::core::v1::Service;
use machine::Machine;
use machined_reconcile::Supervisor;
use std::sync::Arc;

/// Handles that every pod worker needs. Nothing in it is state of a pod.
pub struct Node {
    /// What the agent was told.
    pub config: AgentConfig,
    /// The machine.
    pub machine: Machine,
    /// The API.
    pub client: Client,
    /// The runtime.
    pub containerd: Containerd,
    /// Images.
    pub images: Images,
    /// The pod network.
    pub network: Arc<PodNetwork>,
    /// Services, for environment variables.
    pub services: Informer<Service>,
    /// Health of containers.
    pub probes: ProbeBoard,
    /// Events about pods.
    pub events: Events,
    /// Owner of all tasks.
    pub supervisor: Supervisor,
}

impl Node {
    /// The node's addresses as text.
    #[must_use]
    pub fn host_ips(&self) -> Vec<String> {
        self.config.addresses.iter().map(ToString::to_string).collect()
    }
}
