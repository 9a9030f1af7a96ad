//! The controllers that make objects true: each watches through informers, plans purely, and writes through the same client as
//! everybody else.
//!
//! The daemon calls [`run`] once. Each controller is a folder: `plan.rs` decides on values alone, `execute.rs` writes, `mod.rs` wires
//! informers to a queue of keys. A reconciliation is told a key and nothing else; it reads the caches, and when they are behind,
//! its write is refused as a conflict and it comes again.
//!
//! ```text
//! informer -> handler -> queue of keys -> worker: caches -> plan -> execute -> API server -> informer ...
//! ```

mod context;
mod deployment;
mod discovery;
mod disruption;
mod endpointslice;
mod events;
mod expectations;
mod garbage;
mod namespace;
mod nodes;
mod ownership;
mod permits;
mod podranges;
mod pods;
mod replicaset;
mod scheduling;

pub use context::Settings;
pub use permits::{ANSWER, Answer, Phase, RESET, StoreGroup, Voter, Voters, WISH, Wish};

use context::Context;
use controlplane_client::Transport;
use machined_reconcile::Supervisor;
use std::sync::Arc;

/// Starts all controllers under `supervisor`. Only one process of a cluster should run them at a time.
pub fn run(transport: Arc<dyn Transport>, supervisor: &Supervisor, settings: Settings) {
    let context = Context::new(transport, supervisor, settings);
    deployment::start(&context);
    replicaset::start(&context);
    scheduling::start(&context);
    endpointslice::start(&context);
    namespace::start(&context);
    garbage::start(&context);
    disruption::start(&context);
    nodes::start(&context);
    podranges::start(&context);
    permits::start(&context);
    events::start(&context);
}
