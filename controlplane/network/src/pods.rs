//! The pod network of one node: a bridge, and for each pod a namespace, a link pair and an address.
//!
//! The agent calls [`PodNetwork::attach`] before it starts a pod's sandbox and [`PodNetwork::detach`] after the last
//! process is gone. Both may be repeated at any time: they state what should be. A pod's address is a /32 with the
//! bridge as its gateway, so every packet between pods passes the host's IP layer, where services are translated
//! back; two pods talking over the bridge directly would never see the answer from the address they called.

use crate::addresses::{AddressError, Addresses};
use crate::cidr::Cidr;
use crate::config::{BRIDGE, NetworkConfig};
use crate::links::{LinkError, Links};
use crate::namespace::{self, NamespaceError};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// The link's name inside of each pod.
const POD_LINK: &str = "eth0";
/// Longest uid that is accepted as a file name.
const MAX_UID_LENGTH: usize = 128;

/// Where a pod is on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The bridge's address, which is the node's own in the pod range.
    pub gateway: Ipv4Addr,
}

/// A pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The uid cannot name a file.
    #[error("{uid:?} cannot be a pod uid: letters, digits and dashes only, at most {MAX_UID_LENGTH}")]
    Uid {
        /// What was given.
        uid: String,
    },
    /// No address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A link is not as it should be.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A kernel setting cannot be written.
    #[error("cannot write {value} to {path}")]
    Setting {
        /// The file under /proc/sys.
        path: &'static str,
        /// What should be there.
        value: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The pod network of this node; the only writer of its bridge, links, namespaces and allocations.
#[derive(Debug)]
pub struct PodNetwork {
    config: NetworkConfig,
    range: Cidr,
    addresses: Mutex<Addresses>,
}

impl PodNetwork {
    /// Sets up the bridge with the node's pod range and reads the allocations.
    ///
    /// # Errors
    /// When the kernel refuses (usually: not root, or module `bridge` missing) or the state folder is unusable.
    pub async fn open(config: NetworkConfig, range: Cidr) -> Result<Self, PodNetworkError> {
        let addresses = Mutex::new(Addresses::open(config.state.join("addresses"), range)?);
        let network = Self { config, range, addresses };
        network.ensure_bridge().await?;
        Ok(network)
    }

    /// The node's pod range.
    #[must_use]
    pub fn range(&self) -> Cidr {
        self.range
    }

    /// Where the pod's namespace is pinned once it is attached.
    #[must_use]
    pub fn namespace(&self, pod_uid: &str) -> PathBuf {
        self.config.namespaces.join(pod_uid)
    }

    /// Makes the pod's namespace, link and address as they should be, whatever is there already.
    ///
    /// # Errors
    /// When any part of it fails; calling again continues where it stopped.
    pub async fn attach(&self, pod_uid: &str) -> Result<PodAddress, PodNetworkError> {
        check_uid(pod_uid)?;
        // Held over the whole set-up: one pod at a time, milliseconds each, and two calls for one pod cannot race.
        let mut addresses = self.addresses.lock().await;
        let path = self.namespace(pod_uid);
        namespace::create(&path)?;
        let address = addresses.take(pod_uid)?;
        let pod = PodAddress { address, gateway: self.range.gateway() };
        let outer = host_link(pod_uid);
        let bridge = self.ensure_bridge().await?;
        self.set_up_inside(&path, &outer, pod).await?;
        Links::here(|links| async move { links.join_bridge(&outer, bridge).await }).await?;
        Ok(pod)
    }

    /// Removes the pod's link and namespace and gives its address back; nothing there is no error.
    ///
    /// # Errors
    /// When a part cannot be removed; the address stays taken until everything else is gone.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), PodNetworkError> {
        check_uid(pod_uid)?;
        let mut addresses = self.addresses.lock().await;
        let outer = host_link(pod_uid);
        Links::here(|links| async move { links.remove(&outer).await }).await?;
        namespace::remove(&self.namespace(pod_uid))?;
        addresses.release(pod_uid)?;
        Ok(())
    }

    /// Pods that have an address, attached or not; the agent detaches those that it does not know.
    pub async fn pods(&self) -> Vec<String> {
        self.addresses.lock().await.pods().map(str::to_owned).collect()
    }

    async fn set_up_inside(&self, path: &Path, outer: &str, pod: PodAddress) -> Result<(), PodNetworkError> {
        let own = Path::new("/proc/thread-self/ns/net");
        let outside =
            File::open(own).map_err(|source| NamespaceError { doing: "enter", path: own.to_owned(), source })?;
        let mtu = self.config.mtu;
        let work = |links: Links| async move {
            links.up("lo").await?;
            if links.find(POD_LINK).await?.is_none() {
                links.make_pair(POD_LINK, outer, mtu, &outside).await?;
            }
            links.ensure_address(POD_LINK, pod.address, 32).await?;
            links.up(POD_LINK).await?;
            links.ensure_link_route(POD_LINK, (pod.gateway, 32)).await?;
            links.ensure_default_route(POD_LINK, pod.gateway).await
        };
        Ok(Links::inside(path, work).await?)
    }

    async fn ensure_bridge(&self) -> Result<u32, PodNetworkError> {
        let (range, services, mtu) = (self.range, self.config.services, self.config.mtu);
        let gateway = range.gateway();
        let [a, b, c, d] = gateway.octets();
        // Locally administered and fixed: a bridge would otherwise take the lowest address of its ports and change
        // it with them, and pods would go on sending to the old one.
        let hardware = [0x0a, 0x58, a, b, c, d];
        let index = Links::here(|links| async move {
            let index = links.ensure_bridge(BRIDGE, mtu, hardware).await?;
            links.ensure_address(BRIDGE, gateway, range.prefix()).await?;
            // Lets this host's own programs reach cluster IPs with the bridge's address even without default route.
            links.ensure_link_route(BRIDGE, (services.network(), services.prefix())).await?;
            Ok(index)
        })
        .await?;
        for (path, value) in SETTINGS {
            std::fs::write(path, value).map_err(|source| PodNetworkError::Setting { path, value, source })?;
        }
        Ok(index)
    }
}

/// Kernel settings that pods need: forwarding; and no redirects, which would tell pods to talk over the bridge
/// directly. The kernel sends redirects when either file says so.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/net/ipv4/conf/all/send_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/cairn0/send_redirects", "0"),
];

/// Name of the pod's link on the host: "pod" and twelve hexadecimal digits, the 15 bytes that the kernel allows.
fn host_link(pod_uid: &str) -> String {
    // FNV-1a: names only have to differ; 48 bits make a clash among the few hundred pods of a node unthinkable.
    let hash = pod_uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("pod{:012x}", hash & 0xffff_ffff_ffff)
}

/// A uid becomes a file name, so it must not be able to leave its folder.
fn check_uid(uid: &str) -> Result<(), PodNetworkError> {
    let plain = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && !uid.is_empty() && uid.len() <= MAX_UID_LENGTH {
        return Ok(());
    }
    Err(PodNetworkError::Uid { uid: uid.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_differ() {
        let one = host_link("6f1b0f6e-7f5c-4b0a-9d0e-000000000001");
        let two = host_link("6f1b0f6e-7f5c-4b0a-9d0e-000000000002");
        assert_eq!(one.len(), 15);
        assert_ne!(one, two);
    }

    #[test]
    fn a_uid_that_could_leave_its_folder_is_refused() {
        for uid in ["", "..", "../etc", "a/b", "a.b"] {
            assert!(check_uid(uid).is_err(), "{uid}");
        }
    }
}
