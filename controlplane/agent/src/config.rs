//! What the agent is told at its start. Values only; the daemon fills them from machined or from its arguments.

use crate::containerd::ContainerdConfig;
use crate::images::ImagesConfig;
use crate::server::Doorkeeper;
use crate::volumes::HostRoot;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Port of the node's own HTTPS endpoint; kubelet's.
pub const AGENT_PORT: u16 = 10250;

/// Everything that the agent is told.
#[derive(Clone)]
pub struct AgentConfig {
    /// Name of the Node object, which is the machine's name.
    pub node_name: String,
    /// Addresses of this machine, the one that others reach it by first.
    pub addresses: Vec<IpAddr>,
    /// More labels for the Node object.
    pub labels: BTreeMap<String, String>,
    /// containerd.
    pub containerd: ContainerdConfig,
    /// Where images come from.
    pub images: ImagesConfig,
    /// Folders.
    pub folders: Folders,
    /// The pause program, or a folder that holds it under the name `pause`.
    pub pause: PathBuf,
    /// What pods resolve names with.
    pub dns: PodDns,
    /// Where host paths of pods are looked for.
    pub host: HostRoot,
    /// cgroup above all pods, default "/pods".
    pub cgroup: String,
    /// Where the agent's HTTPS endpoint listens, and who may come in; none leaves it out.
    pub endpoint: Option<(SocketAddr, Arc<dyn Doorkeeper>)>,
}

/// The agent's folders.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Volumes and files of pods, default /var/lib/cairn/pods.
    pub pods: PathBuf,
    /// Logs of containers, default /var/log/pods.
    pub logs: PathBuf,
    /// What need not outlive a reboot, default /run/cairn/agent.
    pub run: PathBuf,
}

impl Default for Folders {
    fn default() -> Self {
        Self {
            pods: PathBuf::from("/var/lib/cairn/pods"),
            logs: PathBuf::from("/var/log/pods"),
            run: PathBuf::from("/run/cairn/agent"),
        }
    }
}

/// What pods resolve names with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDns {
    /// Cluster address of the name service; none gives pods the machine's own resolver.
    pub server: Option<IpAddr>,
    /// The cluster's domain, default none: "cluster.local".
    pub domain: Option<String>,
}

impl AgentConfig {
    /// A node of that name and address with every default.
    #[must_use]
    pub fn new(node_name: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            addresses,
            labels: BTreeMap::new(),
            containerd: ContainerdConfig::default(),
            images: ImagesConfig::default(),
            folders: Folders::default(),
            pause: PathBuf::from("/usr/libexec/cairn/pause"),
            dns: PodDns::default(),
            host: HostRoot::Own,
            cgroup: "/pods".to_owned(),
            endpoint: None,
        }
    }

    /// The pause program itself.
    #[must_use]
    pub fn pause_program(&self) -> PathBuf {
        if self.pause.is_dir() { self.pause.join("pause") } else { self.pause.clone() }
    }
}
