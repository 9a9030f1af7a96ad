//! What all parts of the agent share, and the node as a whole: its object, its lease.

pub(crate) mod lease;
pub(crate) mod machine;
pub(crate) mod object;
pub(crate) mod registration;

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
pub(crate) struct Node {
    /// What the agent was told.
    pub(crate) config: AgentConfig,
    /// The machine.
    pub(crate) machine: Machine,
    /// The API.
    pub(crate) client: Client,
    /// The runtime.
    pub(crate) containerd: Containerd,
    /// Images.
    pub(crate) images: Images,
    /// The pod network.
    pub(crate) network: Arc<PodNetwork>,
    /// Services, for environment variables.
    pub(crate) services: Informer<Service>,
    /// Health of containers.
    pub(crate) probes: ProbeBoard,
    /// Events about pods.
    pub(crate) events: Events,
    /// Owner of all tasks.
    pub(crate) supervisor: Supervisor,
}

impl Node {
    /// The node's addresses as text.
    #[must_use]
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.addresses.iter().map(ToString::to_string).collect()
    }
}
