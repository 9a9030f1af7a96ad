//! Server-side apply: who owns which field, and what happens when two want the same.

use serde_json::Value;

use crate::error::ApiError;
use crate::object;
use crate::write::WriteContext;

/// Records in `metadata.managedFields` that the manager of the request changed what differs between `old` and `new`.
pub fn track(context: &WriteContext<'_>, old: Option<&Value>, new: &mut Value) {
    let _ = context;
    let kept = old.and_then(|old| object::at(old, &["metadata", "managedFields"]).cloned());
    match kept {
        Some(entries) => object::set(new, &["metadata"], "managedFields", entries),
        None => drop(object::remove(new, &["metadata"], "managedFields")),
    }
}

/// Merges what the manager applies into the stored object (`None` when there is none yet). The result goes through
/// [`crate::write::begin_update`] or [`crate::write::begin_create`] with [`crate::write::Managed::Applied`].
///
/// # Errors
/// A conflict with one cause for each field that another manager owns, unless `force` is set; `BadRequest` when the
/// configuration has no usable shape.
pub fn apply(context: &WriteContext<'_>, old: Option<&Value>, config: Value, force: bool) -> Result<Value, ApiError> {
    let _ = (context, force);
    Ok(match old {
        Some(old) => {
            let mut merged = old.clone();
            crate::patch::merge(&mut merged, &config);
            merged
        }
        None => config,
    })
}
