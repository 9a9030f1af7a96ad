//! The service proxy: Services and EndpointSlices in, one nf_tables transaction out.
//!
//! [`plan`] decides (pure), [`Ruleset::table`] lays the decision out as a table, [`crate::NftSocket`] applies it.

mod plan;
mod ruleset;
mod run;

pub use plan::plan;
pub use ruleset::{Frontend, Ruleset, ServicePort, TransportProtocol};
pub use run::{ProxyError, run};
