//! Objects seen through their schema: which paths they have, and how two differ. [`super::merge`] joins them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::{ListType, MergeRule, Schema, Shape};

/// A type with the merge rules of the place where it stands.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) schema: &'a Schema,
    pub(super) rule: &'a MergeRule,
}

static NO_RULE: LazyLock<MergeRule> = LazyLock::new(MergeRule::default);
static ANYTHING: Schema = Schema { name: String::new(), shape: Shape::Any, atomic: false };

/// How a value is taken apart.
pub(super) enum Parts<'a> {
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
    pub(super) fn whole(&self) -> bool {
        match &self.schema.shape {
            Shape::Object(_) | Shape::Map(_) | Shape::Any => self.rule.atomic || self.schema.atomic,
            Shape::List(_) => self.rule.list == ListType::Atomic,
            Shape::Text
            | Shape::Time(_)
            | Shape::Bytes
            | Shape::Int32
            | Shape::Int64
            | Shape::Number
            | Shape::Boolean
            | Shape::IntOrString
            | Shape::Quantity => true,
        }
    }

    pub(super) fn parts<'v>(&self, value: &'v Value) -> Parts<'v> {
        match value {
            Value::Object(map) if !self.whole() => Parts::Fields(map),
            Value::Array(list) if !self.whole() && self.schema.items().is_some() => Parts::Items(list),
            _ => Parts::Leaf,
        }
    }

    /// Returns the type of a field, and whether the field is named in the schema (and not a key of a map).
    pub(super) fn field(&self, name: &str) -> (Typed<'a>, bool) {
        if let Some(field) = self.schema.field(name) {
            return (Typed { schema: &field.schema, rule: &field.rule }, true);
        }
        let schema = self.schema.values().unwrap_or(&ANYTHING);
        (Typed { schema, rule: &NO_RULE }, false)
    }

    pub(super) fn item(&self) -> Typed<'a> {
        Typed { schema: self.schema.items().unwrap_or(&ANYTHING), rule: &NO_RULE }
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

    pub(super) fn is_key(&self, field: &str) -> bool {
        matches!(&self.rule.list, ListType::Map(names) if names.iter().any(|name| name == field))
    }
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
pub(super) fn by_step<'v>(typed: Typed<'_>, list: &'v [Value]) -> BTreeMap<String, &'v Value> {
    let mut map = BTreeMap::new();
    for item in list {
        if let Ok(step) = typed.step(item) {
            map.entry(step).or_insert(item);
        }
    }
    map
}
