//! What becomes of an object, given its owners and dependents. Upstream's rules.

use super::graph::{FOREGROUND, Graph, Item, ORPHAN, Uid};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What to do about an object.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing.
    Keep,
    /// These dependents lose their reference, then the object its finalizer.
    Orphan(Vec<Arc<Item>>),
    /// These dependents have to go first; their going wakes the object again.
    WaitFor(Vec<Arc<Item>>),
    /// No dependent is in the way any more: the finalizer goes.
    Finish(&'static str),
    /// Some owners are gone: only these references stay.
    Detach(Vec<OwnerReference>),
    /// No owner is left.
    Delete(Propagation),
}

/// What becomes of a deleted object's own dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    /// They follow.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// The owners that the graph does not know: they are gone, or the graph is behind, and the server must be asked.
pub(super) fn suspects(item: &Item, graph: &Graph) -> Vec<OwnerReference> {
    if item.deleting {
        return Vec::new();
    }
    let unknown = |owner: &&OwnerReference| graph.get(&Uid(owner.uid.clone())).is_none();
    item.owners.iter().filter(unknown).cloned().collect()
}

/// Plans, with those of the suspects that are gone indeed.
pub(super) fn plan(item: &Item, graph: &Graph, gone: &BTreeSet<Uid>) -> Plan {
    if item.orphans() {
        let dependents = graph.dependents(&item.uid);
        return if dependents.is_empty() { Plan::Finish(ORPHAN) } else { Plan::Orphan(dependents) };
    }
    if item.waits() {
        let dependents = graph.dependents(&item.uid);
        if !dependents.iter().any(|dependent| dependent.blocks(&item.uid)) {
            return Plan::Finish(FOREGROUND);
        }
        return Plan::WaitFor(dependents.into_iter().filter(|dependent| !dependent.deleting).collect());
    }
    if item.deleting || item.owners.is_empty() {
        return Plan::Keep;
    }
    let is_gone = |owner: &OwnerReference| gone.contains(&Uid(owner.uid.clone()));
    let waits = |owner: &OwnerReference| graph.get(&Uid(owner.uid.clone())).is_some_and(|owner| owner.waits());
    let solid: Vec<OwnerReference> =
        item.owners.iter().filter(|owner| !is_gone(owner) && !waits(owner)).cloned().collect();
    if solid.len() == item.owners.len() {
        return Plan::Keep;
    }
    if !solid.is_empty() {
        return Plan::Detach(solid);
    }
    let has = |finalizer: &str| item.finalizers.iter().any(|one| one == finalizer);
    let has_dependents = !graph.dependents(&item.uid).is_empty();
    Plan::Delete(if item.owners.iter().any(waits) && has_dependents {
        // The owner waits for all below it, not only for those next to it.
        Propagation::Foreground
    } else if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_client::{Kind, MetadataOnly};
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn item(uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> Item {
        let owner = |uid: &&str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": true});
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        let object = json!({"metadata": {"name": uid, "uid": uid, "finalizers": finalizers, "deletionTimestamp": deletion,
            "ownerReferences": owners.iter().map(owner).collect::<Vec<_>>()}});
        let object: MetadataOnly = serde_json::from_value(object).expect("because the test wrote an object");
        Item::new(&Arc::new(ConfigMap::RESOURCE), &object)
    }

    fn graph(items: &[Item]) -> Graph {
        let mut graph = Graph::default();
        for item in items {
            graph.put(item.clone());
        }
        graph
    }

    fn gone(uids: &[&str]) -> BTreeSet<Uid> {
        uids.iter().map(|uid| Uid((*uid).to_owned())).collect()
    }

    #[test]
    fn an_object_goes_when_its_last_owner_is_gone_and_not_before() {
        let (a, x) = (item("a", &[], &[], false), item("x", &["a", "b"], &[], false));
        let both = graph(&[a, x.clone()]);
        assert_eq!(suspects(&x, &both).len(), 1);
        assert!(matches!(plan(&x, &both, &gone(&[])), Plan::Keep));
        let Plan::Detach(left) = plan(&x, &both, &gone(&["b"])) else { panic!("the reference to b goes") };
        assert_eq!(left[0].uid, "a");
        let none = graph(std::slice::from_ref(&x));
        assert!(matches!(plan(&x, &none, &gone(&["a", "b"])), Plan::Delete(Propagation::Background)));
    }

    #[test]
    fn a_foreground_owner_waits_for_all_below_it() {
        let owner = item("o", &[], &[FOREGROUND], true);
        let (middle, leaf) = (item("m", &["o"], &[], false), item("l", &["m"], &[], false));
        let full = graph(&[owner.clone(), middle.clone(), leaf]);
        let Plan::WaitFor(first) = plan(&owner, &full, &gone(&[])) else { panic!("it waits for its dependent") };
        assert_eq!(first[0].uid, middle.uid);
        assert!(matches!(plan(&middle, &full, &gone(&[])), Plan::Delete(Propagation::Foreground)));
        assert!(matches!(plan(&owner, &graph(std::slice::from_ref(&owner)), &gone(&[])), Plan::Finish(FOREGROUND)));
    }

    #[test]
    fn dependents_of_an_orphaning_owner_are_let_go_and_not_deleted() {
        let (owner, x) = (item("o", &[], &[ORPHAN], true), item("x", &["o"], &[], false));
        let full = graph(&[owner.clone(), x]);
        assert!(matches!(plan(&owner, &full, &gone(&[])), Plan::Orphan(dependents) if dependents.len() == 1));
        assert!(matches!(plan(&owner, &graph(std::slice::from_ref(&owner)), &gone(&[])), Plan::Finish(ORPHAN)));
    }

    #[test]
    fn the_end_of_an_object_wakes_its_dependents_and_owners_that_wait() {
        let owner = item("o", &[], &[FOREGROUND], true);
        let (x, y) = (item("x", &["o"], &[], false), item("y", &["x"], &[], false));
        let mut graph = graph(&[owner.clone(), x.clone(), y.clone()]);
        assert_eq!(graph.remove(&x.uid), [owner.uid, y.uid]);
    }
}
