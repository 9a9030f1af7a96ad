//! The access table: the people, roles and machines of one accepted step.

use machined_ids::{ClusterId, Fingerprint, MachineName, PrincipalName, Seq, StepId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Who may reach the APIs, as the accepted step says. Built by gitsync, read by machined and the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTable {
    /// The cluster that login statements must name.
    pub cluster: ClusterId,
    /// Position of the step that this table was read from.
    pub seq: Seq,
    /// The step that this table was read from.
    pub step: StepId,
    /// People and robots with at least one key for `login`.
    pub people: BTreeMap<PrincipalName, Person>,
    /// Roles, and what they may do on the APIs.
    pub roles: BTreeMap<PrincipalName, RoleEntry>,
    /// Machines by name.
    pub machines: BTreeMap<MachineName, MachineEntry>,
    /// Which images may run. Not written while it says nothing, so that the release before this one reads the table too.
    #[serde(default, skip_serializing_if = "ImageRules::is_empty")]
    pub images: ImageRules,
}

/// Which operating system images machines may run, beside those that a document names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRules {
    /// Fingerprints of the SSH keys whose uses include `image`: what they signed may run.
    pub keys: BTreeSet<Fingerprint>,
    /// The lowest release number that may run, whoever named or signed it.
    pub floor: u64,
}

impl ImageRules {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.floor == 0
    }
}

/// A principal who may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Fingerprints of the SSH keys whose uses include `login`.
    pub keys: BTreeSet<Fingerprint>,
    /// Roles that name this principal.
    pub roles: BTreeSet<PrincipalName>,
}

/// What a role may do on the APIs. A role that stands in `trust/` for approvals only has no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleEntry {
    /// The right that the role gives.
    pub access: Access,
}

/// A right on the APIs. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Sees everything but secrets.
    Reader,
    /// Also restarts services and machines, reads logs, runs commands in containers.
    Operator,
    /// Everything.
    Admin,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineEntry {
    /// Fingerprint of its identity key.
    pub identity: Fingerprint,
    /// Its part in the cluster.
    pub role: MachineRole,
}

/// A machine's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineRole {
    /// Runs the store, the API server and workloads.
    ControlPlane,
    /// Runs workloads.
    Worker,
}

impl AccessTable {
    /// Whether an identity is that of a control-plane machine.
    #[must_use]
    pub fn is_control_plane(&self, identity: &Fingerprint) -> bool {
        self.machine_by_identity(identity).is_some_and(|(_, machine)| machine.role == MachineRole::ControlPlane)
    }

    /// The machine whose identity has this fingerprint. One fingerprint is one machine.
    #[must_use]
    pub fn machine_by_identity(&self, identity: &Fingerprint) -> Option<(&MachineName, &MachineEntry)> {
        self.machines.iter().find(|(_, machine)| machine.identity == *identity)
    }

    /// The person who logs in with the SSH key of this fingerprint. `likely` is looked at first: whom it belonged to before.
    #[must_use]
    pub fn person_by_key(
        &self,
        key: &Fingerprint,
        likely: Option<&PrincipalName>,
    ) -> Option<(&PrincipalName, &Person)> {
        let has = |person: &Person| person.keys.contains(key);
        let likely = likely.and_then(|name| self.people.get_key_value(name)).filter(|(_, person)| has(person));
        likely.or_else(|| self.people.iter().find(|(_, person)| has(person)))
    }

    /// The strongest right among a person's roles.
    #[must_use]
    pub fn access_of(&self, person: &Person) -> Option<Access> {
        person.roles.iter().filter_map(|role| self.roles.get(role)).map(|role| role.access).max()
    }
}
