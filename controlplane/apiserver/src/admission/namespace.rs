//! NamespaceLifecycle: nothing new in a namespace that is missing or going.

use super::Extra;
use crate::failure::Failure;
use crate::registry::Call;
use crate::request::ResourcePath;
use crate::storage;
use controlplane_store::{Condition, Consistency};
use controlplane_types::ApiError;
use controlplane_types::error::Cause;
use controlplane_types::object::Object;

/// Namespaces without which the cluster does not work.
const KEPT: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "cairn-system"];

/// Checks the namespace of a new object; the write then holds only while the namespace is as it was seen here.
pub(super) async fn accepts(call: &Call<'_>) -> Result<Extra, Failure> {
    let kind = call.server.kind("", "v1", "namespaces")?;
    let name = &call.path.namespace;
    let path = ResourcePath { name: name.clone(), ..ResourcePath::default() };
    // A stale read is good enough: the condition below refuses what it missed.
    let mut found = storage::get(&*call.server.store, &kind, &path, Consistency::Local).await?;
    if found.as_ref().is_none_or(|ns| ns.object.is_deleting()) {
        found = storage::get(&*call.server.store, &kind, &path, Consistency::Linearizable).await?;
    }
    let namespace = found.ok_or_else(|| ApiError::not_found(&kind, name))?;
    if namespace.object.is_deleting() {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = ApiError::forbidden(&call.kind, &call.path.name, &why);
        if let Some(details) = &mut error.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        return Err(error.into());
    }
    let condition = Condition::Modified(storage::key_of(&kind, &path), namespace.revision);
    Ok(Extra { conditions: vec![condition], ops: vec![] })
}

/// Refuses to delete what the cluster itself lives in.
pub(super) fn may_be_deleted(call: &Call<'_>) -> Result<(), Failure> {
    if KEPT.contains(&call.path.name.as_str()) {
        return Err(ApiError::forbidden(&call.kind, &call.path.name, "this namespace may not be deleted").into());
    }
    Ok(())
}
