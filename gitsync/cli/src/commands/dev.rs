//! `cairnctl dev`: lets the people of a checkout log in to `controlplane dev` on this computer.
//!
//! The checkout is believed as it lies there, committed or not: it is the developer's own, and so is the control plane. A machine
//! never takes this way; it verifies every commit for itself.

use super::Surroundings;
use crate::arguments::Dev;
use crate::contexts::{self, Context, Machine};
use crate::repository::Checkout;
use anyhow::{Context as _, Result};
use gitsync_verify::{Introduction, Policy, Position, access_table, next_step, root_step};
use machined_access::{AccessTable, IdentityKey};
use machined_ids::{Fingerprint, MachineName, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Files that `controlplane dev` reads in its data folder.
const ACCESS_FILE: &str = "access.json";
const IDENTITY_FILE: &str = "identity.pem";

/// Writes the access table and the context.
pub(super) fn dev(around: &Surroundings, dev: &Dev) -> Result<()> {
    let checkout = Checkout::open(&dev.checkout)?;
    let introduction = checkout.introduction()?;
    let policy = Policy::parse(&checkout.files("trust")?)?;
    let table = table(&introduction, &policy);
    let identity = identity(&dev.data.join(IDENTITY_FILE))?;
    contexts::write_private(&dev.data.join(ACCESS_FILE), &serde_json::to_vec_pretty(&table)?)?;

    let mut contexts = around.contexts()?;
    let known = contexts.contexts.values().find(|context| context.cluster == introduction.cluster);
    let ssh_key = known.and_then(|context| context.ssh_key.clone());
    let address = dev.listen.clone();
    let machine = Machine { address: address.clone(), identity };
    let machines = BTreeMap::from([(MachineName::parse("dev")?, machine)]);
    let kubernetes = Some(format!("https://{address}"));
    let context = Context { cluster: introduction.cluster, ssh_key, kubernetes, machines };
    contexts.contexts.insert(dev.name.to_string(), context);
    contexts.current = Some(dev.name.to_string());
    contexts.save(&around.folder)?;
    let people: Vec<&str> = table.people.keys().map(|name| name.as_str()).collect();
    println!("{} may log in at {address}", people.join(", "));
    println!("next: run `controlplane dev --data {}`, `cairnctl login` and `cairnctl kubeconfig`", dev.data.display());
    Ok(())
}

/// The table of the checkout's people. `controlplane dev` adds itself as the one machine.
fn table(introduction: &Introduction, policy: &Policy) -> AccessTable {
    let position = Position {
        seq: Seq(0),
        step: next_step(&root_step(introduction), &introduction.tree),
        commit: introduction.commit.clone(),
        commit_sha256: introduction.commit_sha256,
        tree: introduction.tree,
        policy: introduction.policy,
        signer: None,
        key: None,
        keys: BTreeSet::new(),
        subject: String::new(),
    };
    access_table(introduction.cluster, &position, policy, BTreeMap::new())
}

/// The fingerprint of the development machine's identity, which is made here when it never ran.
fn identity(file: &Path) -> Result<Fingerprint> {
    if !file.exists() {
        let pem = IdentityKey::generate()?.to_pem().expect("because it was not made in a TPM");
        contexts::write_private(file, pem.as_bytes())?;
    }
    let pem = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let key = IdentityKey::from_pem(&pem);
    Ok(key.with_context(|| format!("{} is no identity key; remove it to get a new one", file.display()))?.fingerprint())
}
