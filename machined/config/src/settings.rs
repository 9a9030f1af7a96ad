//! What a machine or its class says beside who a machine is, and how the two become one.

use crate::address::Cidr;
use crate::class::{Canary, canary};
use crate::machine::{Addressing, ImageConfig, LinkConfig, MachineNetwork, RegistryConfig};
use crate::read::{self, Block, Node};

/// Settings that a machine's document and a class may hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) network: MachineNetwork,
    /// `None`: nothing is said; an empty list is said.
    pub(crate) time_servers: Option<Vec<String>>,
    pub(crate) registries: Vec<RegistryConfig>,
    pub(crate) image: Option<ImageConfig>,
    /// `None`: nothing is said; `Some(None)`: `canary #false`.
    pub(crate) canary: Option<Option<Canary>>,
}

impl Settings {
    pub(crate) fn read(block: &Block<'_>) -> Option<Self> {
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
        let canary = block.optional("canary").map(|node| canary(&node));
        Some(Settings {
            network: network?,
            time_servers,
            registries: registries.into_iter().collect::<Option<_>>()?,
            image: match image {
                Some(image) => Some(image?),
                None => None,
            },
            canary,
        })
    }

    /// A machine's own settings over those of its class. Links and registries go by name and are replaced whole; time servers, name
    /// servers, image and canary are replaced as soon as the machine says something of its own.
    pub(crate) fn over(self, class: &Settings) -> Settings {
        let names = |own: &[LinkConfig], name: &str| own.iter().any(|link| link.name == name);
        let links = class.network.links.iter().filter(|link| !names(&self.network.links, &link.name));
        let links = links.chain(&self.network.links).cloned().collect();
        let named = |own: &[RegistryConfig], name: &str| own.iter().any(|registry| registry.name == name);
        let registries = class.registries.iter().filter(|registry| !named(&self.registries, &registry.name));
        let registries = registries.chain(&self.registries).cloned().collect();
        let nameservers = match self.network.nameservers.is_empty() {
            true => class.network.nameservers.clone(),
            false => self.network.nameservers,
        };
        Settings {
            network: MachineNetwork { links, nameservers },
            time_servers: self.time_servers.or_else(|| class.time_servers.clone()),
            registries,
            image: self.image.or_else(|| class.image.clone()),
            canary: self.canary.or(class.canary),
        }
    }
}

pub(crate) fn network(block: &Block<'_>) -> Option<MachineNetwork> {
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
