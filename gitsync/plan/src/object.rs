//! One cluster object that should be.

use serde_json::Value;
use std::fmt;

/// What names an object in a cluster. The version is left out: the same object has several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// API group, empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match self.namespace.as_str() {
            "" => write!(f, " {}", self.name),
            namespace => write!(f, " {namespace}/{}", self.name),
        }
    }
}

/// Where an object was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// File in the repository.
    pub path: String,
    /// Line of its document, from 1.
    pub line: u32,
}

/// One cluster object that should be.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredObject {
    /// What names it.
    pub key: ObjectKey,
    /// Version within the group.
    pub version: String,
    /// Resource name in paths: `deployments`.
    pub plural: String,
    /// Where it was written.
    pub origin: Origin,
    /// What the author wrote, with the namespace filled in.
    pub manifest: Value,
}

/// Path of an object at the API server.
#[must_use]
pub(crate) fn url_path(key: &ObjectKey, version: &str, plural: &str) -> String {
    let base = if key.group.is_empty() { format!("/api/{version}") } else { format!("/apis/{}/{version}", key.group) };
    match key.namespace.as_str() {
        "" => format!("{base}/{plural}/{}", key.name),
        namespace => format!("{base}/namespaces/{namespace}/{plural}/{}", key.name),
    }
}

impl DesiredObject {
    /// Its path at the API server.
    #[must_use]
    pub fn url_path(&self) -> String {
        url_path(&self.key, &self.version, &self.plural)
    }
}
