//! One machine: its own document, or that and what its class adds to it.
//!
//! [`MachineDocument`] is `machines/<name>.kdl` as it stands in the repository; [`MachineConfig`] is whole, and what machines are handed.

use crate::address::Cidr;
use crate::class::Canary;
use crate::read::{self, Block, Node, Place, Problems};
use crate::settings::{Settings, network};
use init_boot::artefact::{ExtensionDigest, ExtensionName, ImageDigest};
use machined_ids::{ClassName, Fingerprint, MachineName};
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
    /// What is merged over the root when the machine starts, by name.
    pub extensions: Vec<ExtensionConfig>,
    /// It tries new images before all others.
    pub canary: Option<Canary>,
}

/// `machines/<name>.kdl` as it stands in the repository: what a class adds is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDocument {
    /// Its name, and the name of its file.
    pub name: MachineName,
    /// Fingerprint of its identity key. Never a class's to say.
    pub identity: Fingerprint,
    /// Its part in the cluster. Never a class's to say.
    pub role: Role,
    /// The class that it belongs to, and where that is said.
    pub class: Option<(ClassName, Place)>,
    pub(crate) own: Settings,
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

/// A host extension, and where it is found: `extension "cni" digest="sha256:..." url="https://..."`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionConfig {
    /// Its name; its manifest has the same.
    pub name: ExtensionName,
    /// SHA-256 of its manifest: whatever the URL serves, only this extension is taken.
    pub digest: ExtensionDigest,
    /// Where its file is fetched, by HTTP or HTTPS.
    pub url: String,
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
    /// Reads a whole document: one of a machine without a class, or one that [`MachineConfig::render`] wrote. `path` is for messages.
    ///
    /// # Errors
    /// Every mistake in the document; that it names a class.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        let document = MachineDocument::parse(path, text)?;
        match &document.class {
            None => Ok(document.with(None)),
            Some((class, place)) => {
                let message = format!("class {class} is not known here: this document is read alone");
                Err(Problems(vec![read::Problem {
                    path: path.to_owned(),
                    line: place.line,
                    column: place.column,
                    message,
                }]))
            }
        }
    }
}

impl MachineDocument {
    /// Reads a machine's document. `path` is for messages.
    ///
    /// # Errors
    /// Every mistake in the document.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problems> {
        read::document(path, text, |file| MachineDocument::read(path, &file.one("machine")?))
    }

    pub(crate) fn read(path: &str, node: &Node<'_>) -> Option<Self> {
        let name: Option<MachineName> = node.argument(0);
        if let (Some(name), Some(stem)) = (&name, file_stem(path))
            && name.as_str() != stem
        {
            node.problem(format!("the machine is called {name}; its file must be machines/{name}.kdl"));
        }
        node.children(|block| {
            let (identity, role) = (block.value("identity"), block.value("role"));
            let class = block.optional("class").map(|node| Some((node.only_argument()?, node.place())));
            let own = Settings::read(block);
            let class = match class {
                Some(class) => Some(class?),
                None => None,
            };
            Some(MachineDocument { name: name?, identity: identity?, role: role?, class, own: own? })
        })
    }

    /// The machine with what its class says where its own document says nothing.
    pub(crate) fn with(self, class: Option<&Settings>) -> MachineConfig {
        let MachineDocument { name, identity, role, class: _, own } = self;
        let Settings { network, time_servers, registries, image, extensions, canary } = match class {
            Some(class) => own.over(class),
            None => own,
        };
        MachineConfig {
            name,
            identity,
            role,
            network,
            time_servers: time_servers.unwrap_or_default(),
            registries,
            image,
            extensions: extensions.into_values().flatten().collect(),
            canary: canary.flatten(),
        }
    }
}

/// The file's name without folder and `.kdl`; `None` for text that has no file.
fn file_stem(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".kdl")
}

impl MachineNetwork {
    /// Reads the block of a `network` node; a seed has one too.
    pub fn read(block: &Block<'_>) -> Option<Self> {
        network(block)
    }
}
