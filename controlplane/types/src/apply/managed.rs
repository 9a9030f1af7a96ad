//! `metadata.managedFields`: one entry for each manager, operation and subresource.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::set::FieldSet;
use crate::object;

/// Entries for updates that an object keeps; the oldest are united beyond that, as upstream does, so that objects do not
/// grow with the number of clients.
const UPDATE_ENTRIES_LIMIT: usize = 10;

/// Who the united entries belong to.
const ANCIENT: &str = "ancient-changes";

/// How the fields came to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the manager.
    pub manager: String,
    /// How.
    pub operation: Operation,
    /// Version of the object in which the paths are to be read.
    pub api_version: String,
    /// Subresource through which it was; empty for the object itself.
    pub subresource: String,
    /// When, RFC 3339; empty when not known.
    pub time: String,
    /// What the manager owns.
    pub fields: FieldSet,
}

impl Entry {
    /// Makes an entry of now.
    pub fn new(manager: &str, operation: Operation, api_version: String, subresource: &str, now: Timestamp) -> Self {
        let time = object::time(now);
        let (manager, subresource) = (manager.to_string(), subresource.to_string());
        Entry { manager, operation, api_version, subresource, time, fields: FieldSet::default() }
    }

    /// Tells whether the entries are the same manager's; an applier is the same in all versions.
    pub fn is_same(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// Returns what tells managers apart, in the order in which conflicts are listed.
    pub fn identity(&self) -> (&str, Operation, &str, &str) {
        (&self.manager, self.operation, &self.api_version, &self.subresource)
    }

    /// Returns the manager as conflict texts name it.
    pub fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn from_value(value: &Value) -> Option<Entry> {
        let text = |key: &str| object::text(value, &[key]).to_string();
        let operation = match object::text(value, &["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Entry {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_value(&value["fieldsV1"]),
        })
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": self.operation.as_str(), "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_value(),
        });
        for (key, text) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !text.is_empty() {
                value[key] = json!(text);
            }
        }
        value
    }
}

/// Reads the entries of an object; `None` when one of them cannot be read.
pub fn read(object: &Value) -> Option<Vec<Entry>> {
    object::list(object, &["metadata", "managedFields"]).iter().map(Entry::from_value).collect()
}

/// Writes the entries into an object, in upstream's order; empty ones are left out.
pub fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    unite_oldest(&mut entries);
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    if entries.is_empty() {
        object::remove(object, &["metadata"], "managedFields");
    } else {
        let list: Vec<Value> = entries.iter().map(Entry::to_value).collect();
        object::set(object, &["metadata"], "managedFields", list);
    }
}

fn order(entry: &Entry) -> (Operation, &str, &str, &str, &str) {
    (entry.operation, &entry.time, &entry.manager, &entry.api_version, &entry.subresource)
}

fn unite_oldest(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    if updates <= UPDATE_ENTRIES_LIMIT {
        return;
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    let first = entries.len() - updates;
    let oldest: Vec<Entry> = entries.drain(first..=first + updates - UPDATE_ENTRIES_LIMIT).collect();
    for old in oldest {
        match entries.iter_mut().find(|entry| entry.manager == ANCIENT && entry.api_version == old.api_version) {
            Some(ancient) => {
                ancient.fields.unite(&old.fields);
                ancient.time = old.time;
            }
            None => entries.push(Entry { manager: ANCIENT.into(), subresource: String::new(), ..old }),
        }
    }
}
