//! A desired machine for tests: `cp1`, alone in the cluster `demo`, as ada's first step wants it.

use super::RawDesired;
use machined_access::AccessTable;
use machined_ids::{Generation, Seq, StepId};

/// The cluster's id.
pub(crate) const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// The step that it all came in.
pub(crate) fn step() -> StepId {
    StepId::from_bytes([7; 32])
}

/// A table of nobody.
pub(crate) fn access() -> AccessTable {
    AccessTable {
        cluster: CLUSTER.parse().expect("because it is an id"),
        seq: Seq(1),
        step: step(),
        people: Default::default(),
        roles: Default::default(),
        machines: Default::default(),
        images: Default::default(),
    }
}

/// The machine with this document and this table.
pub(crate) fn desired(generation: u64, machine_kdl: String, access: AccessTable) -> RawDesired {
    let cluster_kdl = format!(
        "cluster {{\n id \"{CLUSTER}\"\n name \"demo\"\n level 1\n bootstrap \"cp1\"\n endpoint \"10.0.2.15\"\n network {{\n \
         pods \"10.244.0.0/16\"\n services \"10.96.0.0/12\"\n domain \"cluster.local\"\n }}\n}}"
    );
    RawDesired {
        generation: Generation(generation),
        step: step(),
        commit: "c".repeat(40).parse().expect("because it is an id"),
        seq: Seq(1),
        signer: "ada".parse().expect("because it is a name"),
        machine: "cp1".parse().expect("because it is a name"),
        cluster_kdl,
        machine_kdl,
        access,
    }
}
