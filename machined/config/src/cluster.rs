//! `cluster.kdl`: what all machines of a cluster share.

use crate::address::Cidr;
use crate::read::{self, Block, Problems};
use machined_ids::{ClusterId, MachineName};

/// The newest cluster level that this release can run.
pub const CLUSTER_LEVEL: u32 = 1;

/// What all machines of a cluster share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The random id that `cairnctl init` made.
    pub id: ClusterId,
    /// A name for people; a DNS label.
    pub name: MachineName,
    /// Which wire, log and disk formats may be used.
    pub level: u32,
    /// The one machine that may bootstrap the cluster.
    pub bootstrap: MachineName,
    /// Addresses or DNS names at which clients find the APIs; at least one.
    pub endpoints: Vec<String>,
    /// Networks inside the cluster.
    pub network: ClusterNetwork,
}

/// Networks inside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Addresses of pods; each machine gets a part. Default 10.244.0.0/16.
    pub pods: Cidr,
    /// Virtual addresses of services. Default 10.96.0.0/12.
    pub services: Cidr,
    /// DNS domain of the cluster. Default `cluster.local`.
    pub domain: String,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        let network = |text: &str| text.parse().expect("because the default networks are well-formed");
        ClusterNetwork {
            pods: network("10.244.0.0/16"),
            services: network("10.96.0.0/12"),
            domain: "cluster.local".to_owned(),
        }
    }
}

impl ClusterConfig {
    /// Reads `cluster.kdl`. `path` is for messages.
    ///
    /// # Errors
    /// Every mistake in the document.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        read::document(path, text, |file| file.one("cluster")?.children(cluster))
    }
}

fn cluster(block: &Block<'_>) -> Option<ClusterConfig> {
    // Everything is read before anything is required, so that all mistakes are found.
    let id = block.value("id");
    let name = block.value("name");
    let level = block.optional_value("level").unwrap_or(CLUSTER_LEVEL);
    if !(1..=CLUSTER_LEVEL).contains(&level) {
        block.problem(format!("`level` is {level}; this release runs 1 to {CLUSTER_LEVEL}"));
    }
    let bootstrap = block.value("bootstrap");
    let endpoints: Vec<String> = block.many("endpoint").iter().filter_map(read::Node::only_argument).collect();
    if endpoints.is_empty() {
        block.problem("`endpoint` is missing here: an address or name at which clients find the APIs");
    }
    let network =
        block.optional("network").map_or_else(|| Some(ClusterNetwork::default()), |node| node.children(network));
    Some(ClusterConfig { id: id?, name: name?, level, bootstrap: bootstrap?, endpoints, network: network? })
}

fn network(block: &Block<'_>) -> Option<ClusterNetwork> {
    let default = ClusterNetwork::default();
    let pods: Cidr = block.optional_value("pods").unwrap_or(default.pods);
    let services: Cidr = block.optional_value("services").unwrap_or(default.services);
    let domain = block.optional_value("domain").unwrap_or(default.domain);
    for (name, cidr) in [("pods", pods), ("services", services)] {
        if !cidr.is_network() {
            block.problem(format!("`{name}` has host bits; the network is {}/{}", cidr.network(), cidr.prefix()));
        }
    }
    if pods.overlaps(&services) {
        block.problem(format!("`pods` {pods} and `services` {services} overlap"));
    }
    // Each machine gets a /24 of the pods' network.
    if pods.address().is_ipv4() && pods.prefix() > 24 {
        block.problem(format!("`pods` {pods} is too small: each machine needs a /24"));
    }
    Some(ClusterNetwork { pods, services, domain })
}
