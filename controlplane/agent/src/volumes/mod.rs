//! A pod's volumes: what should lie where ([`plan`], pure) and putting it there ([`write`]).

mod host_path;
mod plan;
mod write;

pub use host_path::HostRoot;
pub(crate) use plan::{Planned, VolumeError, plan};
pub(crate) use write::{WriteError, remove_all, write};
