//! What gitsync has applied so far, so that what leaves the repository leaves the cluster.

use crate::object::{DesiredObject, ObjectKey, url_path};
use gitsync_verify::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the stored form.
const VERSION: u32 = 1;

/// Everything applied, by key. Kept in the cluster beside the objects, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory(pub BTreeMap<ObjectKey, Entry>);

/// How to find an applied object again, and which file it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Version within the group that it was applied in.
    pub version: String,
    /// Resource name in paths.
    pub plural: String,
    /// File in the repository.
    pub path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    objects: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    group: String,
    kind: String,
    namespace: String,
    name: String,
    version: String,
    plural: String,
    path: String,
}

impl Inventory {
    /// The inventory of objects that are all applied.
    #[must_use]
    pub fn of(objects: &[DesiredObject]) -> Self {
        let entry = |object: &DesiredObject| Entry {
            version: object.version.clone(),
            plural: object.plural.clone(),
            path: object.origin.path.clone(),
        };
        Inventory(objects.iter().map(|object| (object.key.clone(), entry(object))).collect())
    }

    /// Both together; what `other` says of a key counts.
    #[must_use]
    pub fn with(&self, other: &Inventory) -> Inventory {
        let mut both = self.0.clone();
        both.extend(other.0.clone());
        Inventory(both)
    }

    /// Path of an entry's object at the API server.
    #[must_use]
    pub fn url_path(key: &ObjectKey, entry: &Entry) -> String {
        url_path(key, &entry.version, &entry.plural)
    }

    /// Writes the stored form.
    #[must_use]
    pub fn to_json(&self) -> String {
        let row = |(key, entry): (&ObjectKey, &Entry)| {
            let ObjectKey { group, kind, namespace, name } = key.clone();
            let Entry { version, plural, path } = entry.clone();
            Row { group, kind, namespace, name, version, plural, path }
        };
        let stored = Stored { version: VERSION, objects: self.0.iter().map(row).collect() };
        serde_json::to_string(&stored).expect("because an inventory holds only texts")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `NewerState` when a later release wrote it, `Parse` when it is damaged.
    pub fn from_json(json: &str) -> Result<Self, Refusal> {
        let stored: Stored = serde_json::from_str(json).map_err(|error| {
            let message =
                format!("the inventory in the cluster is damaged ({error}); delete it, and nothing is pruned once");
            Refusal::new(Reason::Parse, message)
        })?;
        if stored.version > VERSION {
            let message = format!("the inventory has version {}, this release knows {VERSION}", stored.version);
            return Err(Refusal::new(Reason::NewerState, message));
        }
        let pair = |row: Row| {
            let Row { group, kind, namespace, name, version, plural, path } = row;
            (ObjectKey { group, kind, namespace, name }, Entry { version, plural, path })
        };
        Ok(Inventory(stored.objects.into_iter().map(pair).collect()))
    }
}
