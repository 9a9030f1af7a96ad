//! The pod machinery: what a pod needs next ([`plan`], pure), what it looks like ([`status`], pure), and the workers
//! that carry it out.

pub mod backoff;
pub mod env;
pub mod fields;
pub mod files;
pub mod hooks;
pub mod manager;
pub mod plan;
pub mod probe;
pub mod probes;
pub mod sources;
pub mod start;
pub mod status;
pub mod worker;
