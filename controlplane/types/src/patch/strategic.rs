//! Strategic merge patch: a merge patch in which some lists are merged by key, with directives.
//!
//! `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::schema::{Field, MergeRule, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies the patch to the object.
///
/// # Errors
/// `BadRequest` for unknown directives and entries without their key.
pub(super) fn apply(schema: &Schema, target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Some(patch) = patch.as_object() else {
        return Err(ApiError::bad_request("error decoding patch: a strategic merge patch is a JSON object"));
    };
    let map = target.as_object_mut().ok_or_else(|| ApiError::internal("the stored object is no JSON object"))?;
    merge_map(Some(schema), map, patch)
}

/// What the schema knows of a field; nothing for free-form content.
fn known<'a>(schema: Option<&'a Schema>, key: &str) -> (Option<&'a Schema>, Option<&'a MergeRule>) {
    match schema.and_then(|schema| schema.field(key)) {
        Some(Field { schema, rule }) => (Some(&**schema), Some(rule)),
        None => (schema.and_then(Schema::values), None),
    }
}

fn merge_map(
    schema: Option<&Schema>,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), ApiError> {
    match directive(patch)? {
        Some(Directive::Delete) => {
            target.clear();
            return Ok(());
        }
        Some(Directive::Replace) => {
            *target = plain_map(patch);
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    retain_keys(target, patch)?;
    for (key, value) in patch.iter().filter(|(key, _)| key.starts_with(DELETE_PRIMITIVES)) {
        let name = &key[DELETE_PRIMITIVES.len()..];
        let unwanted = value.as_array().ok_or_else(|| bad_list(key))?;
        if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
            list.retain(|item| !unwanted.contains(item));
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let (below, rule) = known(schema, key);
        if value.is_null() {
            target.remove(key);
        } else {
            merge_value(below, rule, target, key, value)?;
        }
    }
    for (key, order) in patch.iter().filter(|(key, _)| key.starts_with(SET_ORDER)) {
        let name = &key[SET_ORDER.len()..];
        let order = order.as_array().ok_or_else(|| bad_list(key))?;
        let merge_key = known(schema, name).1.map_or("", |rule| rule.patch_key.as_str());
        let sent = patch.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
            set_order(list, order, sent, merge_key);
        }
    }
    Ok(())
}

fn merge_value(
    schema: Option<&Schema>,
    rule: Option<&MergeRule>,
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), ApiError> {
    match (target.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(patch)) => merge_map(schema, old, patch)?,
        (None, Value::Object(patch)) => {
            let mut fresh = Map::new();
            merge_map(schema, &mut fresh, patch)?;
            target.insert(key.to_string(), Value::Object(fresh));
        }
        (old, Value::Array(patch)) if rule.is_some_and(|rule| rule.patch_merge) => {
            let mut list = old.and_then(|old| old.as_array().cloned()).unwrap_or_default();
            let merge_key = rule.map_or("", |rule| rule.patch_key.as_str());
            let items = schema.and_then(Schema::items);
            merge_list(items, merge_key, &mut list, patch)?;
            target.insert(key.to_string(), Value::Array(list));
        }
        (_, value) => drop(target.insert(key.to_string(), plain(value))),
    }
    Ok(())
}

fn merge_list(schema: Option<&Schema>, key: &str, list: &mut Vec<Value>, patch: &[Value]) -> Result<(), ApiError> {
    if key.is_empty() || !patch.iter().all(Value::is_object) {
        for item in patch {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        return Ok(());
    }
    let mut replace = false;
    for item in patch.iter().filter_map(Value::as_object) {
        let directive = directive(item)?;
        if directive == Some(Directive::Replace) && item.len() == 1 {
            replace = true;
            continue;
        }
        let id = item.get(key).ok_or_else(|| {
            let shown = Value::Object(item.clone());
            ApiError::bad_request(format!("map: {shown} does not contain declared merge key: {key}"))
        })?;
        if directive == Some(Directive::Delete) {
            list.retain(|old| old.get(key) != Some(id));
        }
    }
    if replace {
        list.clear();
    }
    for item in patch.iter().filter_map(Value::as_object) {
        let directive = directive(item)?;
        if item.get(key).is_none() || directive == Some(Directive::Delete) {
            continue;
        }
        let at = list.iter().position(|old| old.get(key) == item.get(key));
        match at.and_then(|at| list[at].as_object_mut()) {
            Some(old) => merge_map(schema, old, item)?,
            None => {
                let mut fresh = Map::new();
                merge_map(schema, &mut fresh, item)?;
                list.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, ApiError> {
    match patch.get(DIRECTIVE).map(|value| value.as_str().unwrap_or_default()) {
        None => Ok(None),
        Some("merge") => Ok(Some(Directive::Merge)),
        Some("replace") => Ok(Some(Directive::Replace)),
        Some("delete") => Ok(Some(Directive::Delete)),
        Some(_) => {
            let shown = Value::Object(patch.clone());
            Err(ApiError::bad_request(format!("unknown patch type found in the patch: {shown}")))
        }
    }
}

fn retain_keys(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), ApiError> {
    let Some(keep) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keep = keep.as_array().ok_or_else(|| bad_list(RETAIN_KEYS))?;
    let kept = |key: &str| keep.iter().any(|one| one.as_str() == Some(key));
    if let Some((stray, _)) = patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key))
    {
        return Err(ApiError::bad_request(format!(
            "{RETAIN_KEYS} must contain all fields of the patch: {stray} is missing"
        )));
    }
    target.retain(|key, _| kept(key));
    Ok(())
}

fn bad_list(key: &str) -> ApiError {
    ApiError::bad_request(format!("error decoding patch: {key} has to be a list"))
}

/// Removes directives from content that is taken over as it is.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(list) => {
            let is_directive =
                |item: &&Value| item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(DIRECTIVE));
            Value::Array(list.iter().filter(|item| !is_directive(item)).map(plain).collect())
        }
        other => other.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    let wanted = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    wanted.map(|(key, value)| (key.clone(), plain(value))).collect()
}

/// Sorts the list: entries that `order` names stand in its order; entries that only the server has keep their place relative
/// to their neighbours.
fn set_order(list: &mut Vec<Value>, order: &[Value], sent: &[Value], merge_key: &str) {
    let id = |item: &Value| {
        if merge_key.is_empty() { item.clone() } else { item.get(merge_key).cloned().unwrap_or_default() }
    };
    let order: Vec<Value> = order.iter().chain(sent).map(id).collect();
    let place = |item: &Value| order.iter().position(|one| *one == id(item));
    let all = std::mem::take(list).into_iter().enumerate();
    let (mut named, foreign): (Vec<_>, Vec<_>) = all.partition(|(_, item)| place(item).is_some());
    named.sort_by_key(|(_, item)| place(item));
    // A foreign entry stays before the first named entry that was behind it.
    let mut foreign = foreign.into_iter().peekable();
    for (was, item) in named {
        while let Some((_, stranger)) = foreign.next_if(|(at, _)| *at < was) {
            list.push(stranger);
        }
        list.push(item);
    }
    list.extend(foreign.map(|(_, item)| item));
}
