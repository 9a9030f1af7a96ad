//! Where a pod should run: a pure function of the pod and of what is known about nodes and pods.
//!
//! `controlplane/controllers` keeps the [`Snapshot`] up to date from its informers, calls [`place`] for each pod without a node,
//! and binds it. Nothing here reads a clock or a cache; the same input gives the same node.
//!
//! - `filter`: may it run there at all, and if not, why, in words
//! - `score`: how good a place it is

mod filter;
mod place;
mod requests;
mod score;
mod snapshot;
#[cfg(test)]
mod testing;

pub use place::{Decision, place};
pub use requests::{Requests, requests};
pub use snapshot::Snapshot;
