//! Objects seen through their schema: which paths they have, how two differ, how one is merged into the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::{Field, ListType, MergeRule, Schema, Shape};

/// A type with the merge rules of the place where it stands.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) schema: &'a Schema,
    pub(super) rule: &'a MergeRule,
}

static NO_RULE: LazyLock<MergeRule> = LazyLock::new(MergeRule::default);
static ANYTHING: LazyLock<Field> = LazyLock::new(|| Field {
    schema: Arc::new(Schema { name: String::new(), shape: Shape::Any, atomic: false }),
    rule: MergeRule::default(),
});

/// How a value is taken apart.
enum Parts<'a> {
    /// Not at all.
    Leaf,
    /// By field or key.
    Fields(&'a Map<String, Value>),
    /// By entry.
    Items(&'a [Value]),
}

impl<'a> Typed<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Typed { schema, rule: &NO_RULE }
    }

    /// Tells whether values here are owned as a whole.
    fn whole(&self) -> bool {
        match &self.schema.shape {
            Shape::Object(_) | Shape::Map(_) | Shape::Any => self.rule.atomic || self.schema.atomic,
            Shape::List(_) => self.rule.list == ListType::Atomic,
            _ => true,
        }
    }

    fn parts<'v>(&self, value: &'v Value) -> Parts<'v> {
        match value {
            Value::Object(map) if !self.whole() => Parts::Fields(map),
            Value::Array(list) if !self.whole() && matches!(self.schema.shape, Shape::List(_)) => Parts::Items(list),
            _ => Parts::Leaf,
        }
    }

    /// Returns the type of a field, and whether the field is named in the schema (and not a key of a map).
    fn field(&self, name: &str) -> (Typed<'a>, bool) {
        match &self.schema.shape {
            Shape::Object(fields) => match fields.get(name) {
                Some(field) => (Typed { schema: &field.schema, rule: &field.rule }, true),
                None => (anything(), false),
            },
            Shape::Map(values) => (Typed { schema: values, rule: &NO_RULE }, false),
            _ => (anything(), false),
        }
    }

    fn item(&self) -> Typed<'a> {
        match &self.schema.shape {
            Shape::List(items) => Typed { schema: items, rule: &NO_RULE },
            _ => anything(),
        }
    }

    /// Returns the step that leads to an entry.
    pub(super) fn step(&self, item: &Value) -> Result<String, String> {
        match &self.rule.list {
            ListType::Atomic | ListType::Set => Ok(format!("v:{item}")),
            ListType::Map(names) => {
                let mut keys = BTreeMap::new();
                for name in names {
                    let set = item.get(name).filter(|value| !value.is_null()).cloned();
                    if let Some(value) = set.or_else(|| self.item().default_key(name)) {
                        keys.insert(name.as_str(), value);
                    }
                }
                if keys.is_empty() {
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields {names:?} (and doesn't have default values for any key fields)"
                    ));
                }
                Ok(format!("k:{}", json!(keys)))
            }
        }
    }

    /// What a key is that an entry leaves out. Fields that are always written in Go have their zero value; references to
    /// objects may leave out the name, and then have none.
    fn default_key(&self, name: &str) -> Option<Value> {
        match (&self.field(name).0.schema.shape, self.schema.name.as_str()) {
            (Shape::Text, _) if name == "protocol" => Some(json!("TCP")),
            (_, "io.k8s.api.core.v1.ObjectReference") => None,
            (Shape::Text, _) => Some(json!("")),
            (Shape::Int32 | Shape::Int64, _) => Some(json!(0)),
            (_, _) => None,
        }
    }

    fn is_key(&self, field: &str) -> bool {
        matches!(&self.rule.list, ListType::Map(names) if names.iter().any(|name| name == field))
    }
}

fn anything() -> Typed<'static> {
    Typed { schema: &ANYTHING.schema, rule: &NO_RULE }
}

fn is_empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// Returns the paths that a value sets.
///
/// # Errors
/// A text with the path, when an entry of a list has no key or occurs twice.
pub(super) fn paths(typed: Typed<'_>, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    match typed.parts(value) {
        Parts::Leaf => set.member = true,
        Parts::Fields(map) => {
            for (key, value) in map {
                let (below, named) = typed.field(key);
                let mut child = paths(below, value).map_err(|error| format!(".{key}{error}"))?;
                child.member |= !named || value.is_null() || is_empty_map(value);
                if !child.is_empty() {
                    set.children.insert(format!("f:{key}"), child);
                }
            }
        }
        Parts::Items(list) => {
            for (index, item) in list.iter().enumerate() {
                let step = typed.step(item).map_err(|error| format!(": element {index}: {error}"))?;
                let mut child = paths(typed.item(), item).map_err(|error| format!("[{index}]{error}"))?;
                child.member = true;
                if set.children.contains_key(&step) {
                    return Err(format!(": duplicate entries for key {}", &step[2..]));
                }
                set.children.insert(step, child);
            }
        }
    }
    Ok(set)
}

/// How two values differ.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Paths that only the new value has, and paths whose values differ.
    pub(super) changed: FieldSet,
    /// Paths that only the old value has.
    pub(super) removed: FieldSet,
}

/// Compares two values.
pub(super) fn compare(typed: Typed<'_>, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    Compare { difference: &mut difference, path: Vec::new() }.both(typed, old, new);
    difference
}

struct Compare<'a> {
    difference: &'a mut Difference,
    path: Vec<String>,
}

impl Compare<'_> {
    fn both(&mut self, typed: Typed<'_>, old: &Value, new: &Value) {
        if old == new {
            return;
        }
        match (typed.parts(old), typed.parts(new)) {
            (Parts::Fields(old), Parts::Fields(new)) => {
                let key = |key: &String| format!("f:{key}");
                for (name, value) in old {
                    let below = typed.field(name).0;
                    self.pair(key(name), below, Some(value), new.get(name));
                }
                for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                    self.pair(key(name), typed.field(name).0, None, Some(value));
                }
            }
            (Parts::Items(old), Parts::Items(new)) => {
                let (old, new) = (by_step(typed, old), by_step(typed, new));
                for (step, value) in &old {
                    self.pair(step.clone(), typed.item(), Some(value), new.get(step).copied());
                }
                for (step, value) in new.iter().filter(|(step, _)| !old.contains_key(*step)) {
                    self.pair(step.clone(), typed.item(), None, Some(value));
                }
            }
            _ => self.difference.changed.insert(&self.path),
        }
    }

    fn pair(&mut self, step: String, typed: Typed<'_>, old: Option<&Value>, new: Option<&Value>) {
        self.path.push(step);
        match (old, new) {
            (Some(old), Some(new)) => self.both(typed, old, new),
            (None, Some(new)) => one_sided(typed, new, &mut self.path, &mut self.difference.changed),
            (Some(old), None) => one_sided(typed, old, &mut self.path, &mut self.difference.removed),
            (None, None) => {}
        }
        self.path.pop();
    }
}

/// Inserts the path of a value and of everything in it.
fn one_sided(typed: Typed<'_>, value: &Value, path: &mut Vec<String>, into: &mut FieldSet) {
    into.insert(path);
    match typed.parts(value) {
        Parts::Leaf => {}
        Parts::Fields(map) => {
            for (key, value) in map {
                path.push(format!("f:{key}"));
                one_sided(typed.field(key).0, value, path, into);
                path.pop();
            }
        }
        Parts::Items(list) => {
            for (step, value) in by_step(typed, list) {
                path.push(step);
                one_sided(typed.item(), value, path, into);
                path.pop();
            }
        }
    }
}

/// Entries by step; of several with one step the first counts, and one without its keys is passed over (stored objects may
/// have such entries, configurations may not).
fn by_step<'v>(typed: Typed<'_>, list: &'v [Value]) -> BTreeMap<String, &'v Value> {
    let mut map = BTreeMap::new();
    for item in list {
        if let Ok(step) = typed.step(item) {
            map.entry(step).or_insert(item);
        }
    }
    map
}

/// Merges `config` into `live`: what `config` sets wins, the rest stays; entries follow the order of `config`.
pub(super) fn merged(typed: Typed<'_>, live: &Value, config: &Value) -> Value {
    match (typed.parts(live), typed.parts(config)) {
        (Parts::Fields(live), Parts::Fields(config)) => {
            let mut map = live.clone();
            for (key, value) in config {
                let below = typed.field(key).0;
                let value = live.get(key).map_or_else(|| value.clone(), |live| merged(below, live, value));
                map.insert(key.clone(), value);
            }
            Value::Object(map)
        }
        (Parts::Items(live), Parts::Items(config)) => Value::Array(merged_items(typed, live, config)),
        _ => config.clone(),
    }
}

fn merged_items(typed: Typed<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let step = |item: &Value| typed.step(item).unwrap_or_default();
    let wanted = by_step(typed, config);
    let have = by_step(typed, live);
    let mut result = Vec::with_capacity(live.len() + config.len());
    let mut rest = live.iter().map(|item| (step(item), item)).peekable();
    let mut done = BTreeSet::new();
    for item in config {
        // Entries of others stay where they are, entries that were merged already are not taken twice.
        while let Some((here, other)) = rest.next_if(|(here, _)| !wanted.contains_key(here) || done.contains(here)) {
            if !wanted.contains_key(&here) {
                result.push(other.clone());
            }
        }
        let here = step(item);
        result.push(have.get(&here).map_or_else(|| item.clone(), |live| merged(typed.item(), live, item)));
        done.insert(here);
    }
    result.extend(rest.filter(|(here, _)| !wanted.contains_key(here)).map(|(_, other)| other.clone()));
    result
}

/// Removes what the manager owned (`last`) and nobody owns any more (`owned` is what all own now).
pub(super) fn prune(typed: Typed<'_>, value: &mut Value, last: &FieldSet, owned: &FieldSet) {
    if typed.whole() {
        return;
    }
    match value {
        Value::Object(map) => prune_fields(typed, map, last, owned, |_| false),
        Value::Array(list) => {
            list.retain_mut(|item| {
                let Ok(step) = typed.step(item) else { return true };
                let Some(last) = last.child(&step) else { return true };
                match owned.child(&step).filter(|owned| !owned.is_empty()) {
                    None => !last.member,
                    Some(owned) => {
                        let below = typed.item();
                        if let (Value::Object(map), false) = (&mut *item, below.whole()) {
                            prune_fields(below, map, last, owned, |field| typed.is_key(field));
                        }
                        true
                    }
                }
            });
        }
        _ => {}
    }
}

fn prune_fields(
    typed: Typed<'_>,
    map: &mut Map<String, Value>,
    last: &FieldSet,
    owned: &FieldSet,
    is_key: impl Fn(&str) -> bool,
) {
    for (step, last) in &last.children {
        let Some(name) = step.strip_prefix("f:").filter(|name| !is_key(name)) else { continue };
        let (below, named) = typed.field(name);
        match owned.child(step).filter(|owned| !owned.is_empty()) {
            None if last.member || named => drop(map.remove(name)),
            None => {}
            Some(owned) => {
                if let Some(value) = map.get_mut(name) {
                    prune(below, value, last, owned);
                }
            }
        }
    }
}
