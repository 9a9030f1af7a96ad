//! The pod machinery: what a pod needs next ([`plan`], pure), what it looks like ([`status`], pure), and the workers
//! that carry it out.

pub(crate) mod backoff;
pub(crate) mod cgroups;
pub(crate) mod env;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod hooks;
pub(crate) mod manager;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod probes;
pub(crate) mod sources;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod worker;
