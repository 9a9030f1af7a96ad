//! A pod's volumes: what should lie where ([`plan`], pure) and putting it there ([`write`]).

mod plan;
mod write;

pub use plan::{Planned, VolumeError, plan};
pub use write::{WriteError, remove_all, write};
