//! A pod's volumes: what should lie where ([`plan`], pure) and putting it there ([`write`]).

mod plan;
mod write;

pub(crate) use plan::{Planned, VolumeError, plan};
pub(crate) use write::{WriteError, remove_all, write};
