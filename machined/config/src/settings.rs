//! What a machine or its class says beside who a machine is, and how the two become one.

use crate::address::Cidr;
use crate::class::{Canary, canary};
use crate::machine::{Addressing, ExtensionConfig, ImageConfig, LinkConfig, MachineNetwork, RegistryConfig};
use crate::read::{self, Block, Node};
use init_boot::artefact::{EXTENSIONS_MAX, ExtensionName};
use std::collections::BTreeMap;

/// Settings that a machine's document and a class may hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) network: MachineNetwork,
    /// `None`: nothing is said; an empty list is said.
    pub(crate) time_servers: Option<Vec<String>>,
    pub(crate) registries: Vec<RegistryConfig>,
    pub(crate) image: Option<ImageConfig>,
    /// `None`: `extension "name" #false`.
    pub(crate) extensions: BTreeMap<ExtensionName, Option<ExtensionConfig>>,
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
        let nodes = block.many("extension");
        if nodes.len() > EXTENSIONS_MAX {
            block.problem(too_many_extensions(nodes.len()));
        }
        let extensions: Vec<_> = nodes.iter().map(extension).collect();
        let names = nodes.iter().zip(&extensions).filter_map(|(node, read)| Some((node, &read.as_ref()?.0)));
        read::report_repeats(names, "extension");
        let canary = block.optional("canary").map(|node| canary(&node));
        Some(Settings {
            network: network?,
            time_servers,
            registries: registries.into_iter().collect::<Option<_>>()?,
            image: match image {
                Some(image) => Some(image?),
                None => None,
            },
            extensions: extensions.into_iter().collect::<Option<_>>()?,
            canary,
        })
    }

    /// A machine's own settings over those of its class. Links, registries and extensions go by name and are replaced whole; time servers, name
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
        let mut extensions = class.extensions.clone();
        extensions.extend(self.extensions);
        Settings {
            network: MachineNetwork { links, nameservers },
            time_servers: self.time_servers.or_else(|| class.time_servers.clone()),
            registries,
            image: self.image.or_else(|| class.image.clone()),
            extensions,
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

/// Longest URL of an image or an extension; servers and proxies take no longer ones either.
const URL_BYTES_MAX: usize = 2048;

/// Whether a machine could fetch from a URL.
fn is_fetched(url: &str) -> bool {
    (url.starts_with("http://") || url.starts_with("https://"))
        && url.len() <= URL_BYTES_MAX
        && url.bytes().all(|byte| byte.is_ascii_graphic())
}

fn image(node: &Node<'_>) -> Option<ImageConfig> {
    let digest = node.property("digest");
    let url: Option<String> = node.property("url");
    let attempt = node.property("attempt");
    node.finish();
    if digest.is_none() {
        node.problem("an image needs digest=\"sha256:...\"; `cairn-image inspect` shows it");
    }
    if !url.as_deref().is_some_and(is_fetched) {
        node.problem("an image needs url=\"...\", an http:// or https:// URL of its artefact");
        return None;
    }
    Some(ImageConfig { digest: digest?, url: url?, attempt: attempt.unwrap_or(1) })
}

pub(crate) fn too_many_extensions(count: usize) -> String {
    format!("{count} extensions are named; a machine has at most {EXTENSIONS_MAX}, pack some of them together")
}

/// Reads `extension "cni" digest="sha256:..." url="https://..."` or `extension "cni" #false`.
fn extension(node: &Node<'_>) -> Option<(ExtensionName, Option<ExtensionConfig>)> {
    let name: Option<ExtensionName> = node.argument(0);
    let (digest, url): (_, Option<String>) = (node.property("digest"), node.property("url"));
    let switches: Vec<bool> = node.arguments(1);
    node.finish();
    match (switches.as_slice(), &digest, &url) {
        ([false], None, None) => return Some((name?, None)),
        ([], _, _) => {}
        _ => {
            node.problem("an extension has digest and url, or `#false` to leave out one that the class names");
            return None;
        }
    }
    if digest.is_none() {
        node.problem("an extension needs digest=\"sha256:...\"; `cairn-image extension inspect` shows it");
    }
    if !url.as_deref().is_some_and(is_fetched) {
        node.problem("an extension needs url=\"...\", an http:// or https:// URL of its file");
        return None;
    }
    let config = ExtensionConfig { name: name?, digest: digest?, url: url? };
    Some((config.name.clone(), Some(config)))
}
