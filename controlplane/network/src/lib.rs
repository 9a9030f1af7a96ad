//! Pod network and service proxy of a node: bridge, link pairs, addresses and namespaces for pods; Services as one
//! atomic nf_tables transaction. The agent attaches pods with [`PodNetwork`], the daemon keeps [`proxy`] running.
//!
//! Needs these kernel modules where they are not built in (there is no modprobe on the machine): `bridge`, `veth`,
//! `nf_tables`, `nft_chain_nat`, `nft_masq`, `nft_nat`, `nft_numgen`, `nft_fib_ipv4`, `nft_reject_ipv4`.

mod addresses;
mod cidr;
mod config;
mod links;
pub mod namespace;
pub mod nftables;
mod pods;
pub mod proxy;
pub mod routes;

pub use addresses::AddressError;
pub use cidr::{Cidr, CidrError};
pub use config::{BRIDGE, DEFAULT_MTU, NetworkConfig};
pub use links::LinkError;
pub use namespace::NamespaceError;
pub use nftables::{ApplyError, NftSocket};
pub use pods::{PodAddress, PodNetwork, PodNetworkError};
pub use proxy::run;
