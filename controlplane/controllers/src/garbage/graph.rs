//! Who owns whom, by uid. Pure: fed by informers, asked by the planner.

use controlplane_client::{MetadataOnly, Object, ObjectKey, ResourceKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// An object's uid: the queue's key, for names can be used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Uid(pub(super) String);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The finalizer of an owner that waits for its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// The finalizer of an owner whose dependents are to stay.
pub(super) const ORPHAN: &str = "orphan";

/// An object in the graph.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) uid: Uid,
    pub(super) kind: Arc<ResourceKind>,
    pub(super) key: ObjectKey,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
    pub(super) version: Option<String>,
}

impl Item {
    pub(super) fn new(kind: &Arc<ResourceKind>, object: &MetadataOnly) -> Self {
        Item {
            uid: Uid(object.uid().to_owned()),
            kind: Arc::clone(kind),
            key: object.key(),
            owners: object.metadata.owner_references.clone().unwrap_or_default(),
            finalizers: object.metadata.finalizers.clone().unwrap_or_default(),
            deleting: object.is_terminating(),
            version: object.metadata.resource_version.clone(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }

    /// Whether it is being deleted and waits for its dependents to go first.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// Whether it is being deleted and its dependents are to stay.
    pub(super) fn orphans(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }

    /// Whether the reference keeps its owner waiting.
    pub(super) fn blocks(&self, owner: &Uid) -> bool {
        self.owners.iter().any(|one| one.uid == owner.0 && one.block_owner_deletion == Some(true))
    }
}

/// All objects that are known, and who depends on whom.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<Uid, Arc<Item>>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &Uid) -> Option<&Arc<Item>> {
        self.items.get(uid)
    }

    pub(super) fn dependents(&self, owner: &Uid) -> Vec<Arc<Item>> {
        let uids = self.dependents.get(owner).into_iter().flatten();
        uids.filter_map(|uid| self.items.get(uid).cloned()).collect()
    }

    /// Learns an object; returns those that should be looked at again.
    pub(super) fn put(&mut self, item: Item) -> Vec<Uid> {
        let uid = item.uid.clone();
        let mut concerned = self.unlink(&uid);
        for owner in &item.owners {
            self.dependents.entry(Uid(owner.uid.clone())).or_default().insert(uid.clone());
        }
        if item.waits() {
            // Its dependents may have to go with it.
            concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        self.items.insert(uid.clone(), Arc::new(item));
        concerned.push(uid);
        concerned
    }

    /// Forgets an object; returns those that should be looked at again: its dependents, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        let mut concerned = self.unlink(uid);
        self.items.remove(uid);
        concerned.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        concerned
    }

    /// Takes an object out of its owners' dependents; returns those owners that wait.
    fn unlink(&mut self, uid: &Uid) -> Vec<Uid> {
        let Some(item) = self.items.get(uid).cloned() else { return Vec::new() };
        let mut waiting = Vec::new();
        for owner in &item.owners {
            let owner = Uid(owner.uid.clone());
            if let Some(dependents) = self.dependents.get_mut(&owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner);
                }
            }
            if self.items.get(&owner).is_some_and(|owner| owner.waits() || owner.orphans()) {
                waiting.push(owner);
            }
        }
        waiting
    }
}
