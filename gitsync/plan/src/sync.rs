//! What to do to the cluster: apply these in this order, then prune those in that order. Leaves no choices.

use crate::inventory::{Entry, Inventory};
use crate::object::{DesiredObject, ObjectKey};
use gitsync_verify::{Policy, Reason, Refusal};
use std::collections::BTreeMap;
use std::fmt;

/// A plan for the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncPlan {
    /// What to apply, in order: namespaces and definitions before what lies in them, workloads last.
    pub apply: Vec<DesiredObject>,
    /// What to delete, in order: the reverse.
    pub prune: Vec<(ObjectKey, Entry)>,
    /// What the inventory holds once both are done.
    pub inventory: Inventory,
}

/// When a kind is applied; smaller is earlier, and pruned later.
fn rank(key: &ObjectKey) -> u8 {
    match (key.group.as_str(), key.kind.as_str()) {
        ("", "Namespace") => 0,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => 1,
        ("", "ServiceAccount" | "ConfigMap" | "Secret" | "PersistentVolumeClaim") => 2,
        ("", "Service") => 3,
        _ => 4,
    }
}

/// Compares what should be with what was applied.
///
/// # Errors
/// `Budget` when a rule of the policy does not allow that much to go.
pub fn diff(desired: &[DesiredObject], inventory: &Inventory, policy: &Policy) -> Result<SyncPlan, Refusal> {
    let wanted = Inventory::of(desired);
    let mut apply = desired.to_vec();
    apply.sort_by(|a, b| (rank(&a.key), &a.origin).cmp(&(rank(&b.key), &b.origin)));
    let gone = inventory.0.iter().filter(|(key, _)| !wanted.0.contains_key(key));
    let mut prune: Vec<_> = gone.map(|(key, entry)| (key.clone(), entry.clone())).collect();
    prune.sort_by(|(a, _), (b, _)| (rank(b), b).cmp(&(rank(a), a)));
    check_budgets(&prune, policy)?;
    Ok(SyncPlan { apply, prune, inventory: wanted })
}

fn check_budgets(prune: &[(ObjectKey, Entry)], policy: &Policy) -> Result<(), Refusal> {
    let mut spent: BTreeMap<&str, u32> = BTreeMap::new();
    for (key, entry) in prune {
        for rule in policy.owners(&entry.path) {
            let refuse =
                |message: String| Err(Refusal::new(Reason::Budget, message).at_path(&entry.path).by_rule(&rule.name));
            if rule.budget.protected.contains(&key.kind) {
                return refuse(format!("{key} is of a protected kind; put it back, or let root change the rule first"));
            }
            let spent = spent.entry(&rule.name).or_default();
            *spent += 1;
            if let Some(limit) = rule.budget.deletions.filter(|limit| *spent > *limit) {
                return refuse(format!(
                    "more than {limit} objects would be deleted at once; remove them in several commits"
                ));
            }
        }
    }
    Ok(())
}

impl fmt::Display for SyncPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.apply {
            writeln!(f, "apply {} ({}:{})", object.key, object.origin.path, object.origin.line)?;
        }
        self.prune.iter().try_for_each(|(key, entry)| writeln!(f, "prune {key} ({})", entry.path))
    }
}
