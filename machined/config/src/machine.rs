//! `machines/<name>.kdl`: one machine.

use crate::address::Cidr;
use crate::read::{self, Block, Node, Problems};
use init_boot::artefact::ImageDigest;
use machined_ids::{Fingerprint, MachineName};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// Its name, and the name of its file.
    pub name: MachineName,
    /// Fingerprint of its identity key, read from its console.
    pub identity: Fingerprint,
    /// Its part in the cluster.
    pub role: Role,
    /// Its links, addresses and name servers.
    pub network: MachineNetwork,
    /// Time servers, tried in order; none: the machine's own clock is believed.
    pub time_servers: Vec<String>,
    /// Where container images come from.
    pub registries: Vec<RegistryConfig>,
    /// The operating system image that it should run; `None` leaves it with what it has.
    pub image: Option<ImageConfig>,
}

/// An operating system image, and where it is found: `image digest="sha256:..." url="https://..."`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// SHA-256 of the artefact's manifest: whatever the URL serves, only this image is taken.
    pub digest: ImageDigest,
    /// Where its artefact is fetched, by HTTP or HTTPS.
    pub url: String,
    /// Counts wishes to try the same image: one that failed is tried again when this changes. 1 unless it is said.
    pub attempt: u32,
}

/// A machine's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs the control plane, and workloads.
    ControlPlane,
    /// Runs workloads.
    Worker,
}

/// Links, addresses and name servers of a machine. What is not said here comes from DHCP on every link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineNetwork {
    /// Links by name.
    pub links: Vec<LinkConfig>,
    /// Name servers, tried in order; none: those that DHCP names.
    pub nameservers: Vec<IpAddr>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// The kernel's name of the link: `eth0`.
    pub name: String,
    /// Where its addresses come from.
    pub addressing: Addressing,
}

/// Where a link's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// A DHCPv4 server.
    Dhcp,
    /// The document.
    Static {
        /// Addresses with their networks; at least one.
        addresses: Vec<Cidr>,
        /// Default gateway, if the link has one.
        gateway: Option<IpAddr>,
    },
}

/// How images of one registry are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The registry as image names have it: `docker.io`.
    pub name: String,
    /// Base URLs tried before the registry itself, in order.
    pub mirrors: Vec<String>,
}

/// A text is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"control-plane\" or \"worker\"")]
pub struct RoleError;

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "control-plane" => Ok(Role::ControlPlane),
            "worker" => Ok(Role::Worker),
            _ => Err(RoleError),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::ControlPlane => "control-plane",
            Role::Worker => "worker",
        })
    }
}

impl MachineConfig {
    /// Reads a machine's document. `path` is for messages.
    ///
    /// # Errors
    /// Every mistake in the document.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        read::document(path, text, |file| {
            let node = file.one("machine")?;
            let name: Option<MachineName> = node.argument(0);
            if let (Some(name), Some(stem)) = (&name, file_stem(path))
                && name.as_str() != stem
            {
                node.problem(format!("the machine is called {name}; its file must be machines/{name}.kdl"));
            }
            node.children(|block| machine(name, block))
        })
    }
}

/// The file's name without folder and `.kdl`; `None` for text that has no file.
fn file_stem(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".kdl")
}

fn machine(name: Option<MachineName>, block: &Block<'_>) -> Option<MachineConfig> {
    let identity = block.value("identity");
    let role = block.value("role");
    let network =
        block.optional("network").map_or_else(|| Some(MachineNetwork::default()), |node| node.children(network));
    let time_servers = block
        .optional("time")
        .map(|node| node.children(|time| time.many("server").iter().filter_map(Node::only_argument).collect()));
    let nodes = block.many("registry");
    let registries: Vec<_> = nodes.iter().map(registry).collect();
    let names = nodes.iter().zip(&registries).filter_map(|(node, read)| Some((node, &read.as_ref()?.name)));
    read::report_repeats(names, "registry");
    let image = block.optional("image").map(|node| image(&node));
    Some(MachineConfig {
        name: name?,
        identity: identity?,
        role: role?,
        network: network?,
        time_servers: time_servers.unwrap_or_default(),
        registries: registries.into_iter().collect::<Option<_>>()?,
        image: match image {
            Some(image) => Some(image?),
            None => None,
        },
    })
}

impl MachineNetwork {
    /// Reads the block of a `network` node; a seed has one too.
    pub fn read(block: &Block<'_>) -> Option<Self> {
        network(block)
    }
}

fn network(block: &Block<'_>) -> Option<MachineNetwork> {
    let nodes = block.many("link");
    let links: Vec<_> = nodes.iter().map(link).collect();
    let names = nodes.iter().zip(&links).filter_map(|(node, read)| Some((node, &read.as_ref()?.name)));
    read::report_repeats(names, "link");
    let nameservers = block.many("nameserver").iter().filter_map(Node::only_argument).collect();
    Some(MachineNetwork { links: links.into_iter().collect::<Option<_>>()?, nameservers })
}

/// Longest name of a link that Linux takes (IFNAMSIZ without the final zero).
const LINK_NAME_MAX: usize = 15;

fn link(node: &Node<'_>) -> Option<LinkConfig> {
    let name: Option<String> = node.argument(0);
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > LINK_NAME_MAX) {
        node.problem(format!("a link's name has 1 to {LINK_NAME_MAX} characters"));
    }
    let addressing = node.children(|block| {
        let dhcp = block.optional("dhcp").is_some_and(|node| node.switch());
        let addresses: Vec<Cidr> = block.many("address").iter().filter_map(Node::only_argument).collect();
        let gateway = block.optional_value("gateway");
        match (dhcp, addresses.is_empty()) {
            (true, true) => Some(Addressing::Dhcp),
            (false, false) => Some(Addressing::Static { addresses, gateway }),
            (true, false) => {
                block.problem("a link has either `dhcp` or `address`, not both");
                None
            }
            (false, true) => {
                block.problem("a link needs `dhcp #true` or at least one `address`");
                None
            }
        }
    });
    Some(LinkConfig { name: name?, addressing: addressing? })
}

fn registry(node: &Node<'_>) -> Option<RegistryConfig> {
    let name = node.argument(0);
    let mirrors: Vec<String> =
        node.children(|block| block.many("mirror").iter().filter_map(Node::only_argument).collect());
    for mirror in &mirrors {
        if !mirror.starts_with("http://") && !mirror.starts_with("https://") {
            node.problem(format!("mirror {mirror:?} must be an http:// or https:// URL"));
        }
    }
    Some(RegistryConfig { name: name?, mirrors })
}

/// Longest URL of an image; servers and proxies take no longer ones either.
const IMAGE_URL_BYTES_MAX: usize = 2048;

fn image(node: &Node<'_>) -> Option<ImageConfig> {
    let digest = node.property("digest");
    let url: Option<String> = node.property("url");
    let attempt = node.property("attempt");
    node.finish();
    if digest.is_none() {
        node.problem("an image needs digest=\"sha256:...\"; `cairn-image inspect` shows it");
    }
    let fetched = |url: &str| {
        (url.starts_with("http://") || url.starts_with("https://"))
            && url.len() <= IMAGE_URL_BYTES_MAX
            && url.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !url.as_deref().is_some_and(fetched) {
        node.problem("an image needs url=\"...\", an http:// or https:// URL of its artefact");
        return None;
    }
    Some(ImageConfig { digest: digest?, url: url?, attempt: attempt.unwrap_or(1) })
}
