//! What the node's network is told: names, ranges and folders. Values only.

use crate::cidr::Cidr;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The bridge that pods hang on; made by us, never one of the machine's own links.
pub const BRIDGE: &str = "cairn0";
/// Bytes in an Ethernet frame's payload where no overlay takes any.
pub const DEFAULT_MTU: u32 = 1500;

/// The same on every node of a cluster, but for folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Pod range of the whole cluster, default 10.244.0.0/16.
    pub cluster_pods: Cidr,
    /// Range of cluster IPs, default 10.96.0.0/12.
    pub services: Cidr,
    /// Largest packet in bytes, default 1500.
    pub mtu: u32,
    /// Where allocations are kept over reboots, default /var/lib/cairn/network.
    pub state: PathBuf,
    /// Where pod namespaces are pinned, gone after a reboot, default /run/cairn/netns.
    pub namespaces: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let range = |a, b, prefix| {
            Cidr::new(Ipv4Addr::new(a, b, 0, 0), prefix).expect("because the default ranges have no host bits")
        };
        Self {
            cluster_pods: range(10, 244, 16),
            services: range(10, 96, 12),
            mtu: DEFAULT_MTU,
            state: PathBuf::from("/var/lib/cairn/network"),
            namespaces: PathBuf::from("/run/cairn/netns"),
        }
    }
}
