//! `trust/` and `machines/` -> who may reach the APIs, and which images may run.

use crate::policy::{Policy, Use};
use crate::state::Position;
use machined_access::{AccessTable, ImageRules, MachineEntry, Person, RoleEntry};
use machined_ids::{ClusterId, MachineName};
use std::collections::BTreeMap;

/// The access table of an accepted step. Machines come from its `machines/*.kdl`, which `gitsync/plan` reads.
#[must_use]
pub fn access_table(
    cluster: ClusterId,
    position: &Position,
    policy: &Policy,
    machines: BTreeMap<MachineName, MachineEntry>,
) -> AccessTable {
    let mut people = BTreeMap::new();
    for (name, principal) in policy.principals() {
        let logins = principal.keys.iter().filter(|(_, uses)| uses.contains(&Use::Login));
        let keys: std::collections::BTreeSet<_> = logins.map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            continue;
        }
        let roles = policy.roles().iter().filter(|(_, role)| role.members.contains(name));
        people.insert(name.clone(), Person { keys, roles: roles.map(|(role, _)| role.clone()).collect() });
    }
    let roles =
        policy.roles().iter().filter_map(|(name, role)| Some((name.clone(), RoleEntry { access: role.access? })));
    let signing = policy.principals().values().flat_map(|principal| &principal.keys);
    let signing = signing.filter(|(_, uses)| uses.contains(&Use::Image)).map(|(key, _)| key.clone());
    let images = ImageRules { keys: signing.collect(), floor: policy.floors().image };
    AccessTable { cluster, seq: position.seq, step: position.step, people, roles: roles.collect(), machines, images }
}
