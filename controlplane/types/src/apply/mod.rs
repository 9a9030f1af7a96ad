//! Server-side apply: who owns which field, and what happens when two want the same.
//!
//! Follows KEP-555. [`track`] is called for every write that is no apply and notes who changed what; [`apply`] merges a
//! configuration, removes what its manager no longer wants, and refuses what belongs to others.

pub mod managed;
mod merge;
pub mod set;
mod typed;

use serde_json::{Value, json};

use crate::error::{ApiError, Cause, Details, Reason};
use crate::kind::Endpoint;
use crate::object::{self, Object};
use crate::write::WriteContext;
use managed::{Entry, Operation};
use set::FieldSet;
use typed::Typed;

/// Manager of what was there before anybody applied, in objects without managedFields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's manager for server-side apply: it may take over from its own client-side apply.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Characters of a manager's name, as upstream limits them.
const MANAGER_LIMIT: usize = 128;

/// Records in `metadata.managedFields` that the manager of the request changed what differs between `old` and `new`.
pub fn track(context: &WriteContext<'_>, old: Option<&Value>, new: &mut Value) {
    let mut entries = starting_entries(old, new);
    object::remove(new, &["metadata"], "managedFields");
    let root = Typed::root(&context.kind.schema);
    let empty = skeleton(new);
    let mut difference = typed::compare(root, old.unwrap_or(&empty), new);
    strip(&mut difference.changed, context);
    for entry in &mut entries {
        entry.fields.subtract(&difference.changed);
        entry.fields.subtract(&difference.removed);
    }
    if !difference.changed.is_empty() {
        let mut entry = new_entry(context, Operation::Update);
        entry.fields = difference.changed;
        if let Some(at) = entries.iter().position(|known| known.is_same(&entry)) {
            entry.fields.unite(&entries.remove(at).fields);
        }
        entries.push(entry);
    }
    managed::write(new, entries);
}

/// Merges what the manager applies into the stored object (`None` when there is none yet). The result goes through
/// [`crate::write::begin_update`] or [`crate::write::begin_create`] with [`crate::write::Managed::Applied`].
///
/// # Errors
/// A conflict with one cause for each field that another manager owns, unless `force` is set; `BadRequest` when the
/// configuration has no usable shape or the manager no name.
pub fn apply(context: &WriteContext<'_>, old: Option<&Value>, config: Value, force: bool) -> Result<Value, ApiError> {
    let config = checked_config(context, config)?;
    let empty = json!({});
    let live = old.unwrap_or(&empty);
    let mut merged = match merge_config(context, live, &config, force) {
        Err(Refused::Conflicts(conflicts)) if context.manager == KUBECTL => {
            let foreign = without(conflicts, &from_last_applied(context, live));
            if !foreign.is_empty() {
                return Err(conflict_error(&foreign));
            }
            merge_config(context, live, &config, true)
        }
        result => result,
    }
    .map_err(Refused::into_error)?;
    if context.manager == KUBECTL && live.annotation(LAST_APPLIED).is_some() {
        sync_last_applied(&mut merged, &config);
    }
    Ok(merged)
}

/// Keeps the annotation of client-side apply true, for people who go back to it.
fn sync_last_applied(merged: &mut Value, config: &Value) {
    let mut config = config.clone();
    object::remove(&mut config, &["metadata", "annotations"], LAST_APPLIED);
    object::set(merged, &["metadata", "annotations"], LAST_APPLIED, config.to_string());
}

enum Refused {
    Shape(ApiError),
    Conflicts(Vec<Entry>),
}

impl Refused {
    fn into_error(self) -> ApiError {
        match self {
            Refused::Shape(error) => error,
            Refused::Conflicts(conflicts) => conflict_error(&conflicts),
        }
    }
}

fn checked_config(context: &WriteContext<'_>, mut config: Value) -> Result<Value, ApiError> {
    if context.manager.is_empty() {
        let error = crate::FieldError::required("fieldManager", "is required for apply patch");
        let mut refusal = ApiError::invalid(context.kind, "", vec![error]);
        refusal.message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
                .into();
        return Err(refusal);
    }
    if context.manager.chars().count() > MANAGER_LIMIT {
        return Err(ApiError::bad_request(format!("fieldManager: may not be longer than {MANAGER_LIMIT} characters")));
    }
    if !object::list(&config, &["metadata", "managedFields"]).is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    object::remove(&mut config, &["metadata"], "managedFields");
    object::remove(&mut config, &["metadata"], "creationTimestamp");
    if let Some(map) = config.as_object_mut() {
        match context.endpoint {
            Endpoint::Main if context.kind.has(crate::Subresource::Status) => drop(map.remove("status")),
            Endpoint::Main | Endpoint::Other(_) => {}
            Endpoint::Status => {
                map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            }
        }
    }
    Ok(config)
}

fn merge_config(context: &WriteContext<'_>, live: &Value, config: &Value, force: bool) -> Result<Value, Refused> {
    let root = Typed::root(&context.kind.schema);
    let mut entries = applied_entries(context, live);
    let mut live = live.clone();
    object::remove(&mut live, &["metadata"], "managedFields");

    let mut entry = new_entry(context, Operation::Apply);
    entry.fields = typed::paths(root, config).map_err(|problem| {
        let (namespace, name, kind) = (context.namespace, config.name(), &context.kind.kind);
        let version = context.kind.api_version();
        let text =
            format!("failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {problem}");
        Refused::Shape(ApiError::bad_request(text))
    })?;
    // Name and kind belong to nobody, but what is applied has them: they count when it is decided what may go.
    let mut owned = entry.fields.clone();
    strip(&mut entry.fields, context);

    let last = entries.iter().position(|known| known.is_same(&entry)).map(|at| entries.remove(at));
    let mut merged = merge::merged(root, &live, config);
    if let Some(last) = &last {
        entries.iter().for_each(|other| owned.unite(&other.fields));
        merge::prune(root, &mut merged, &last.fields, &owned);
    }

    let difference = typed::compare(root, &live, &merged);
    let mut conflicts: Vec<Entry> = entries
        .iter()
        .map(|other| Entry { fields: other.fields.common(&difference.changed), ..other.clone() })
        .filter(|conflict| !conflict.fields.is_empty())
        .collect();
    conflicts.sort_by(|a, b| a.identity().cmp(&b.identity()));
    if !conflicts.is_empty() && !force {
        return Err(Refused::Conflicts(conflicts));
    }
    for other in &mut entries {
        other.fields.subtract(&difference.changed);
        other.fields.subtract(&difference.removed);
    }
    if let Some(last) = last.filter(|last| last.fields == entry.fields && live == merged) {
        entry.time = last.time;
    }
    entries.push(entry);
    managed::write(&mut merged, entries);
    Ok(merged)
}

fn new_entry(context: &WriteContext<'_>, operation: Operation) -> Entry {
    let subresource = context.endpoint.subresource();
    Entry::new(context.manager, operation, context.kind.api_version(), subresource, context.now)
}

/// What a client sent as managedFields counts (so they can be edited), unless it cannot be read or is not there.
fn starting_entries(old: Option<&Value>, new: &Value) -> Vec<Entry> {
    let sent = object::list(new, &["metadata", "managedFields"]);
    if sent.len() == 1 && sent[0].as_object().is_some_and(serde_json::Map::is_empty) {
        return Vec::new();
    }
    let sent = managed::read(new).filter(|entries| !entries.is_empty());
    sent.or_else(|| old.and_then(managed::read)).unwrap_or_default()
}

fn applied_entries(context: &WriteContext<'_>, live: &Value) -> Vec<Entry> {
    let entries = managed::read(live).unwrap_or_default();
    if !entries.is_empty() || live.uid().is_empty() {
        return entries;
    }
    let mut before = new_entry(context, Operation::Update);
    before.manager = BEFORE_FIRST_APPLY.into();
    before.fields = typed::compare(Typed::root(&context.kind.schema), &skeleton(live), live).changed;
    strip(&mut before.fields, context);
    vec![before]
}

/// What an object has before it has anything: the structures that are always there, so that nobody owns them as such.
fn skeleton(new: &Value) -> Value {
    let mut skeleton = json!({});
    for path in [
        &["metadata"][..],
        &["spec"],
        &["status"],
        &["spec", "strategy"],
        &["spec", "template"],
        &["spec", "template", "metadata"],
        &["spec", "template", "spec"],
    ] {
        if object::map(new, path).is_some() {
            object::map_mut(&mut skeleton, path);
        }
    }
    if object::at(new, &["spec", "template", "spec", "containers"]).is_some() {
        object::set(&mut skeleton, &["spec", "template", "spec"], "containers", json!([]));
    }
    if object::at(new, &["spec", "containers"]).is_some() {
        object::set(&mut skeleton, &["spec"], "containers", json!([]));
    }
    skeleton
}

/// Takes out what nobody owns: identity and bookkeeping, and what the endpoint does not write.
fn strip(fields: &mut FieldSet, context: &WriteContext<'_>) {
    for top in ["f:apiVersion", "f:kind"] {
        fields.cut(&[top]);
    }
    let names =
        ["name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"];
    for name in names {
        fields.cut(&["f:metadata", &format!("f:{name}")]);
    }
    if let Some(metadata) = fields.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            fields.children.remove("f:metadata");
        }
    }
    match context.endpoint {
        Endpoint::Main if context.kind.has(crate::Subresource::Status) => fields.cut(&["f:status"]),
        Endpoint::Status => fields.children.retain(|key, _| key == "f:status" || key == "f:metadata"),
        Endpoint::Main | Endpoint::Other(_) => {}
    }
}

/// Returns the fields that client-side apply has set and nobody has changed since.
fn from_last_applied(context: &WriteContext<'_>, live: &Value) -> FieldSet {
    let root = Typed::root(&context.kind.schema);
    let parsed = live.annotation(LAST_APPLIED).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(mut applied) = parsed else { return FieldSet::default() };
    // The annotation holds what the client sent: bring it into the form of stored objects first.
    let parsed = crate::decode::Parsed { value: applied.clone(), duplicates: Vec::new() };
    if let Ok(decoded) = crate::decode::check(context.kind, parsed, crate::decode::FieldValidation::Ignore) {
        applied = decoded.object;
    }
    let Ok(mut fields) = typed::paths(root, &applied) else { return FieldSet::default() };
    let difference = typed::compare(root, &applied, live);
    fields.subtract(&difference.changed);
    fields.subtract(&difference.removed);
    fields
}

fn without(conflicts: Vec<Entry>, allowed: &FieldSet) -> Vec<Entry> {
    let mut rest = conflicts;
    for conflict in &mut rest {
        conflict.fields.subtract(allowed);
    }
    rest.retain(|conflict| !conflict.fields.is_empty());
    rest
}

fn conflict_error(conflicts: &[Entry]) -> ApiError {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for conflict in conflicts {
        lines.push(format!("conflicts with {}:", conflict.shown()));
        for field in conflict.fields.paths() {
            lines.push(format!("- {field}"));
            let message = format!("conflict with {}", conflict.shown());
            causes.push(Cause { reason: "FieldManagerConflict", message, field });
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    let details = Details { causes, ..Details::default() };
    ApiError { reason: Reason::Conflict, message, details: Some(Box::new(details)) }
}
