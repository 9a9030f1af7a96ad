//! Who manages what: adopting orphans that a selector matches, releasing what it no longer matches.

use controlplane_client::{Kind, Object, ObjectKey};
use controlplane_types::selector::typed::selects;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use serde_json::{Value, json};
use std::sync::Arc;

/// Objects of one kind, as they stand to a possible owner.
#[derive(Debug)]
pub(crate) struct Claimed<K> {
    /// Managed by the owner, and matching its selector.
    pub(crate) owned: Vec<Arc<K>>,
    /// Managed by nobody, and matching: to be adopted.
    pub(crate) orphans: Vec<Arc<K>>,
    /// Managed by the owner, and no longer matching: to be released.
    pub(crate) strays: Vec<Arc<K>>,
}

/// Sorts the objects of the owner's namespace. An owner that is being deleted adopts nothing.
pub(crate) fn claim<O: Kind, K: Object>(
    owner: &O,
    selector: &LabelSelector,
    objects: impl IntoIterator<Item = Arc<K>>,
) -> Claimed<K> {
    let mut claimed = Claimed { owned: Vec::new(), orphans: Vec::new(), strays: Vec::new() };
    // A selector without conditions matches everything; validation refuses it, and adopting everything would be worse.
    let empty = selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none();
    for object in objects {
        let matches = !empty && selects(Some(selector), object.meta().labels.as_ref());
        match object.controller() {
            Some(manager) if manager.uid == owner.uid() && matches => claimed.owned.push(object),
            Some(manager) if manager.uid == owner.uid() => claimed.strays.push(object),
            Some(_somebody_else) => {}
            None if matches && !object.is_terminating() && !owner.is_terminating() => claimed.orphans.push(object),
            None => {}
        }
    }
    claimed
}

/// The patch by which `owner` adopts an object. It names uid and version, so that it changes nothing newer than what was seen.
pub(crate) fn adoption<O: Kind, K: Object>(owner: &O, object: &K) -> Value {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(owner.controller_reference());
    owners_patch(object, &owners)
}

/// The patch by which the owner of this uid lets go of an object.
pub(crate) fn release<K: Object>(owner_uid: &str, object: &K) -> Value {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != owner_uid);
    owners_patch(object, &owners)
}

/// The patch that gives an object exactly these owners.
pub(crate) fn owners_patch<K: Object>(object: &K, owners: &[OwnerReference]) -> Value {
    let meta = object.meta();
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}})
}

/// The key of the owner of kind `O` that manages an object.
pub(crate) fn manager_key<O: Kind, K: Object>(object: &K) -> Option<ObjectKey> {
    let manager = object.controller()?;
    let is_kind = manager.kind == O::RESOURCE.kind && manager.api_version == O::RESOURCE.api_version();
    is_kind.then(|| ObjectKey { namespace: object.meta().namespace.clone(), name: manager.name.clone() })
}

/// Index of objects by the uid of what manages them; [`ORPHANS`] of a namespace under their own value.
pub(crate) fn by_manager<K: Object>(object: &K) -> Vec<String> {
    match object.controller() {
        Some(manager) => vec![manager.uid.clone()],
        None => vec![orphans_of(object.namespace().unwrap_or_default())],
    }
}

/// Name of the index that [`by_manager`] fills.
pub(crate) const BY_MANAGER: &str = "manager";

/// The value under which [`by_manager`] keeps a namespace's objects without a manager; no uid looks like it.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}
