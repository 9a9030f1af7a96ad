//! Sets of field paths in the form of `FieldsV1`, where each step of a path is a text: `f:<field>`, `k:<keys of an entry>`,
//! `v:<value of an entry>`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The path that leads here is in the set.
    pub member: bool,
    /// Longer paths.
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads `fieldsV1`; anything that is no map is an empty set.
    pub fn from_value(fields: &Value) -> Self {
        let mut set = FieldSet::default();
        for (key, below) in fields.as_object().into_iter().flatten() {
            if key == "." {
                set.member = true;
                continue;
            }
            let mut child = FieldSet::from_value(below);
            child.member |= child.children.is_empty();
            set.children.insert(key.clone(), child);
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// Tells whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[String]) {
        let mut here = self;
        for step in path {
            here = here.children.entry(step.clone()).or_default();
        }
        here.member = true;
    }

    /// Returns what is below a step.
    pub fn child(&self, step: &str) -> Option<&FieldSet> {
        self.children.get(step)
    }

    /// Adds all paths of the other set.
    pub fn unite(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (key, below) in &other.children {
            self.children.entry(key.clone()).or_default().unite(below);
        }
    }

    /// Removes the paths of the other set, each by itself: what is below stays.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (key, below) in &other.children {
            if let Some(child) = self.children.get_mut(key) {
                child.subtract(below);
                if child.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    /// Returns the paths that are in both sets.
    pub fn common(&self, other: &FieldSet) -> FieldSet {
        let mut common = FieldSet { member: self.member && other.member, children: BTreeMap::new() };
        for (key, below) in &self.children {
            let both = other.child(key).map(|other| below.common(other)).filter(|both| !both.is_empty());
            if let Some(both) = both {
                common.children.insert(key.clone(), both);
            }
        }
        common
    }

    /// Removes a path and all that is below it.
    pub fn cut(&mut self, path: &[&str]) {
        match path {
            [] => *self = FieldSet::default(),
            [last] => drop(self.children.remove(*last)),
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.cut(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Lists all paths as people read them, e.g. `.spec.template.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, here: &str, paths: &mut Vec<String>) {
        // Upstream lists what ends on a level before what goes on below it.
        let steps = self.children.iter().map(|(step, below)| (format!("{here}{}", shown(step)), below));
        paths.extend(steps.clone().filter(|(_, below)| below.member).map(|(path, _)| path));
        steps.for_each(|(path, below)| below.collect(&path, paths));
    }
}

fn shown(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let list: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", list.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_string(),
    }
}
