//! Takes an object from what a client sent to what is stored: naming, defaulting, preparation, validation.
//!
//! The API server calls `begin_*`, runs its own admission on the result, and calls `finish_*` before it stores. Updates work
//! on the stored object as read in the same transaction; a conflict is found here by resource version.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::apply;
use crate::error::ApiError;
use crate::field_error::FieldError;
use crate::kind::{Endpoint, Generation, KindInfo};
use crate::object::{self, Object};
use crate::validate;

/// What a write is about.
#[derive(Debug, Clone, Copy)]
pub struct WriteContext<'a> {
    /// The kind, from the path.
    pub kind: &'a KindInfo,
    /// Namespace from the path; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name from the path; empty on create.
    pub name: &'a str,
    /// Which endpoint of the kind.
    pub endpoint: Endpoint,
    /// `fieldManager`, or the first part of the user agent.
    pub manager: &'a str,
    /// The time of the request.
    pub now: Timestamp,
}

/// What a new object needs that no pure function can make.
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'a> {
    /// A random UUID, the object's UID.
    pub uid: &'a str,
    /// Random lower-case letters and digits (five, by custom) that `generateName` is completed with.
    pub suffix: &'a str,
}

/// How managedFields come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Managed {
    /// The manager owns what differs from the old object (create, update, and all patches but apply).
    Track,
    /// [`apply::apply`] has written them.
    Applied,
}

/// Characters that `generateName` may have, so that suffix and name fit into a label.
const GENERATE_NAME_LIMIT: usize = 58;

/// Prepares a new object: everything but validation, so that admission sees it complete.
///
/// # Errors
/// The object is of another kind, namespace or name than the path, or carries a resource version.
pub fn begin_create(
    context: &WriteContext<'_>,
    mut object: Value,
    fresh: Fresh<'_>,
    managed: Managed,
) -> Result<Value, ApiError> {
    check_type(context, &mut object)?;
    set_namespace(context, &mut object)?;
    if !context.name.is_empty() {
        check_name(context, &mut object)?;
    }
    if !matches!(object.resource_version(), "" | "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    (context.kind.strategy.default)(&mut object);
    name_it(&mut object, fresh);
    {
        let metadata = object::map_mut(&mut object, &["metadata"]);
        for unwanted in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"]
        {
            metadata.remove(unwanted);
        }
        metadata.insert("uid".into(), json!(fresh.uid));
        metadata.insert("creationTimestamp".into(), json!(object::time(context.now)));
    }
    drop_empty_metadata(&mut object);
    if context.kind.has(crate::Subresource::Status) && !context.kind.strategy.status_on_create {
        object::remove(&mut object, &[], "status");
    }
    (context.kind.strategy.prepare_create)(&mut object);
    (context.kind.strategy.default)(&mut object);
    if context.kind.strategy.generation != Generation::Off {
        object::set(&mut object, &["metadata"], "generation", 1);
    }
    if managed == Managed::Track {
        apply::track(context, None, &mut object);
    }
    Ok(object)
}

/// Validates a new object as [`begin_create`] and admission left it.
///
/// # Errors
/// `Invalid` with all causes.
pub fn finish_create(context: &WriteContext<'_>, object: &Value) -> Result<(), ApiError> {
    let mut errors = validate::metadata(context.kind, object);
    errors.extend((context.kind.strategy.validate)(object));
    refuse(context.kind, object, errors)
}

/// Prepares a changed object: `new` is what the client wants, `old` what is stored.
///
/// # Errors
/// The object is of another kind, namespace, name or UID than the stored one, or was changed in between.
pub fn begin_update(
    context: &WriteContext<'_>,
    old: &Value,
    mut new: Value,
    managed: Managed,
) -> Result<Value, ApiError> {
    check_type(context, &mut new)?;
    set_namespace(context, &mut new)?;
    check_name(context, &mut new)?;
    check_version(context, old, &new)?;
    (context.kind.strategy.default)(&mut new);
    keep_system_metadata(old, &mut new);
    drop_empty_metadata(&mut new);
    match context.endpoint {
        Endpoint::Main => {
            if context.kind.has(crate::Subresource::Status) {
                keep(old, &mut new, "status");
            }
            (context.kind.strategy.prepare_update)(&mut new, old);
        }
        Endpoint::Status => keep_all_but_status(old, &mut new),
        Endpoint::Other(_) => {}
    }
    if managed == Managed::Track {
        apply::track(context, Some(old), &mut new);
    }
    count_generation(context, old, &mut new);
    Ok(new)
}

/// Validates a changed object as [`begin_update`] and admission left it.
///
/// # Errors
/// `Invalid` with all causes.
pub fn finish_update(context: &WriteContext<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let mut errors = validate::metadata(context.kind, new);
    errors.extend(validate::metadata_update(new, old));
    match context.endpoint {
        Endpoint::Main => {
            errors.extend((context.kind.strategy.validate)(new));
            errors.extend((context.kind.strategy.validate_update)(new, old));
        }
        Endpoint::Status => errors.extend((context.kind.strategy.validate_status)(new)),
        Endpoint::Other(_) => {}
    }
    refuse(context.kind, new, errors)
}

/// Tells whether an update changes nothing, so that it is answered without a write: times in managedFields do not count.
pub fn is_unchanged(old: &Value, new: &Value) -> bool {
    let stripped = |object: &Value| {
        let mut object = object.clone();
        object::remove(&mut object, &["metadata"], "resourceVersion");
        if let Some(entries) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
        object
    };
    stripped(old) == stripped(new)
}

fn refuse(kind: &KindInfo, object: &Value, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let shown =
        if object.name().is_empty() { object::text(object, &["metadata", "generateName"]) } else { object.name() };
    Err(ApiError::invalid(kind, shown, errors))
}

fn check_type(context: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    let (kind, version) = (&context.kind.kind, context.kind.api_version());
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!("the body is not an object of kind {kind}")));
    };
    let expectations = [("kind", "kind", kind.as_str()), ("apiVersion", "API version", version.as_str())];
    for (key, shown, expected) in expectations {
        let said = map.get(key).and_then(Value::as_str).unwrap_or_default();
        if !said.is_empty() && said != expected {
            return Err(ApiError::bad_request(format!(
                "the {shown} in the data ({said}) does not match the expected {shown} ({expected})"
            )));
        }
        map.insert(key.into(), expected.into());
    }
    Ok(())
}

fn set_namespace(context: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !context.kind.namespaced() {
        object::remove(object, &["metadata"], "namespace");
        return Ok(());
    }
    if !matches!(object.namespace(), said if said.is_empty() || said == context.namespace) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::set(object, &["metadata"], "namespace", context.namespace);
    Ok(())
}

fn check_name(context: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    let said = object.name();
    if !said.is_empty() && said != context.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({})",
            context.name
        )));
    }
    object::set(object, &["metadata"], "name", context.name);
    Ok(())
}

fn check_version(context: &WriteContext<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
    let uid = new.uid();
    if !uid.is_empty() && uid != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
        return Err(ApiError::conflict(context.kind, context.name, &why));
    }
    match new.resource_version() {
        "" | "0" if context.kind.strategy.unconditional_update => Ok(()),
        "" | "0" => {
            let error = FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            Err(ApiError::invalid(context.kind, context.name, vec![error]))
        }
        version if version == old.resource_version() => Ok(()),
        _ => Err(ApiError::modified(context.kind, context.name)),
    }
}

fn name_it(object: &mut Value, fresh: Fresh<'_>) {
    let base = object::text(object, &["metadata", "generateName"]);
    if object.name().is_empty() && !base.is_empty() {
        let end = base.char_indices().nth(GENERATE_NAME_LIMIT).map_or(base.len(), |(at, _)| at);
        let name = format!("{}{}", &base[..end], fresh.suffix);
        object::set(object, &["metadata"], "name", name);
    }
}

/// Removes what upstream leaves out of its answers: empty maps and lists in metadata, and nulls.
fn drop_empty_metadata(object: &mut Value) {
    object::map_mut(object, &["metadata"]).retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    });
}

/// Takes from the old object what no client may change.
fn keep_system_metadata(old: &Value, new: &mut Value) {
    const KEPT: [&str; 6] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    let empty = Map::new();
    let from = object::map(old, &["metadata"]).unwrap_or(&empty);
    let metadata = object::map_mut(new, &["metadata"]);
    metadata.remove("selfLink");
    for key in KEPT {
        match from.get(key) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.remove(key),
        };
    }
    // A generated name says where it came from for good.
    if let (Some(base), None) = (from.get("generateName"), metadata.get("generateName")) {
        metadata.insert("generateName".into(), base.clone());
    }
}

fn keep(old: &Value, new: &mut Value, key: &str) {
    match old.get(key) {
        Some(value) => object::set(new, &[], key, value.clone()),
        None => drop(object::remove(new, &[], key)),
    }
}

fn keep_all_but_status(old: &Value, new: &mut Value) {
    let status = object::remove(new, &[], "status");
    let metadata = object::remove(new, &[], "metadata");
    let mut kept = old.clone();
    match status {
        Some(status) => object::set(&mut kept, &[], "status", status),
        None => drop(object::remove(&mut kept, &[], "status")),
    }
    // Owners are not changed through status; labels and annotations may be.
    let owners = object::at(old, &["metadata", "ownerReferences"]).cloned();
    object::set(&mut kept, &[], "metadata", metadata.unwrap_or_default());
    match owners {
        Some(owners) => object::set(&mut kept, &["metadata"], "ownerReferences", owners),
        None => drop(object::remove(&mut kept, &["metadata"], "ownerReferences")),
    }
    *new = kept;
}

fn count_generation(context: &WriteContext<'_>, old: &Value, new: &mut Value) {
    let counts_annotations = match context.kind.strategy.generation {
        Generation::Off => return,
        Generation::Spec => false,
        Generation::SpecAndAnnotations => true,
    };
    if context.endpoint == Endpoint::Status {
        return;
    }
    let content = |object: &Value| {
        let mut map = object.as_object().cloned().unwrap_or_default();
        map.retain(|key, _| key != "metadata" && key != "status");
        map
    };
    let annotations = |object: &Value| object::at(object, &["metadata", "annotations"]).cloned();
    if content(old) != content(new) || (counts_annotations && annotations(old) != annotations(new)) {
        object::set(new, &["metadata"], "generation", old.generation() + 1);
    }
}
