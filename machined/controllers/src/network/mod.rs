//! The network: what the layers want, what the kernel has, and the way from one to the other.
//!
//! `link_status` shows the kernel's links, `link_config` merges the layers (image default, kernel command line, seed, machine
//! document) into one [`LinkSpec`] for each physical link, `lease` keeps DHCP leases, `link_spec` makes the kernel agree, `names`
//! writes what programs read about names.

mod lease;
mod link_config;
mod link_merge;
mod link_parameters;
mod link_plan;
mod link_spec;
mod link_status;
mod names;
mod reach;

pub use lease::{Lease, LeaseController, LeaseTerms};
pub use link_config::{Layers, LinkConfigController};
pub use link_merge::{Layer, LayerLink, NetworkLayer, merge};
pub use link_parameters::{ParameterError, command_line_layer};
pub use link_plan::{LinkChange, plan};
pub use link_spec::LinkSpecController;
pub use link_status::LinkStatusController;
pub use names::{ETC, NamesController, NamesError};
pub use reach::{Reach, ReachController};

use machined_config::Cidr;
use machined_runtime::Resource;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};

/// Why the kernel's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct LinkError {
    /// What was being done, with link and address: "add 10.0.0.5/24 to eth0".
    pub doing: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A link as the kernel shows it; the id is its name ("eth0").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The kernel's index.
    pub index: u32,
    /// Hardware address; empty for links without one.
    pub hardware: Vec<u8>,
    /// Whether a device stands behind it, rather than the kernel alone.
    pub physical: bool,
    /// Whether it is the loopback link.
    pub loopback: bool,
    /// Administratively up.
    pub up: bool,
    /// There is a signal on the wire.
    pub carrier: bool,
    /// Permanent addresses of global scope.
    pub addresses: Vec<Cidr>,
    /// Gateways of default routes over this link, of the main table.
    pub gateways: Vec<IpAddr>,
}

impl Resource for LinkStatus {
    const KIND: &'static str = "link status";
}

/// What a physical link should be; the id is its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkSpec {
    /// Ask a DHCP server.
    pub dhcp: bool,
    /// Addresses that the layers give.
    pub addresses: Vec<Cidr>,
    /// Gateway that the layers give.
    pub gateway: Option<IpAddr>,
}

impl Resource for LinkSpec {
    const KIND: &'static str = "link spec";
}

/// Host name and name servers that the layers give; the id is [`NamesSpec::ID`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamesSpec {
    /// The machine's name, once a document gives one.
    pub hostname: Option<String>,
    /// Name servers; when empty, those of the leases are used.
    pub nameservers: Vec<IpAddr>,
}

impl NamesSpec {
    /// The id of the one specification.
    pub const ID: &'static str = "names";
}

impl Resource for NamesSpec {
    const KIND: &'static str = "names spec";
}

/// The names in force; the id is [`Names::ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The kernel's host name.
    pub hostname: String,
    /// Name servers in use.
    pub nameservers: Vec<IpAddr>,
}

impl Names {
    /// The id of the one value.
    pub const ID: &'static str = "names";
}

impl Resource for Names {
    const KIND: &'static str = "names";
}

/// The kernel's links.
pub trait LinkHost: Send + Sync + 'static {
    /// All links by name.
    fn links(&self) -> impl Future<Output = Result<machined_runtime::Set<LinkStatus>, LinkError>> + Send;
    /// Makes one change. A change that is there already is not an error.
    fn change(&self, change: &LinkChange) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Sets the kernel's host name.
    fn set_hostname(&self, name: &str) -> Result<(), LinkError>;
}

/// What to ask a DHCP server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseRequest {
    /// A new lease: discover, then request what is offered.
    New,
    /// The same address again, from the server that gave it.
    Renew {
        /// The leased address.
        address: Ipv4Addr,
        /// The server that gave it.
        server: Ipv4Addr,
    },
    /// The same address again, from any server.
    Rebind {
        /// The leased address.
        address: Ipv4Addr,
    },
}

/// A DHCPv4 client for one exchange.
pub trait DhcpHost: Send + Sync + 'static {
    /// Asks on one link. Returns within a few seconds; no answer is an error.
    fn exchange(
        &self,
        link: &str,
        hardware: &[u8],
        request: LeaseRequest,
    ) -> impl Future<Output = Result<LeaseTerms, LinkError>> + Send;
}
