//! What one Kubernetes kind is: the row of the registry that everything generic in the API server reads.
//!
//! A kind joins by a row in [`crate::kinds`]; there are no handlers per kind. What cannot be said as data is a plain function
//! in the row's [`Strategy`].

use std::sync::Arc;

use serde_json::Value;

use crate::field_error::FieldError;
use crate::schema::Schema;
use crate::table::Printer;

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Named within a namespace.
    Namespaced,
    /// Named once for the cluster.
    Cluster,
}

/// A path below an object that is served apart from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// The observed half of the object; writing it leaves the rest alone.
    Status,
    /// `autoscaling/v1 Scale` seen through the object.
    Scale,
    /// A container's output, proxied from the node.
    Log,
    /// A command in a container, proxied from the node.
    Exec,
    /// The input and output of a container's own process, proxied from the node.
    Attach,
    /// Writes `spec.nodeName` of a pod, once.
    Binding,
    /// Deletes a pod through its disruption budget.
    Eviction,
    /// Writes `spec.finalizers` of a namespace.
    Finalize,
    /// Issues a token for a service account.
    Token,
}

impl Subresource {
    /// Returns the last part of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::Finalize => "finalize",
            Subresource::Token => "token",
        }
    }

    /// Returns the verbs served on the path.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Status | Subresource::Scale => &["get", "patch", "update"],
            Subresource::Log => &["get"],
            Subresource::Exec | Subresource::Attach => &["create", "get"],
            Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
            Subresource::Finalize => &["update"],
        }
    }

    /// Returns group, version and kind of what is sent there; `None` means the parent's own.
    pub fn body_kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Subresource::Status | Subresource::Finalize | Subresource::Log => None,
            Subresource::Scale => Some(("autoscaling", "v1", "Scale")),
            Subresource::Exec => Some(("", "v1", "PodExecOptions")),
            Subresource::Attach => Some(("", "v1", "PodAttachOptions")),
            Subresource::Binding => Some(("", "v1", "Binding")),
            Subresource::Eviction => Some(("policy", "v1", "Eviction")),
            Subresource::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
        }
    }
}

/// Which endpoint a write goes through, as far as it decides which fields count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The object itself: status is kept from the old object.
    Main,
    /// `/status`: everything but status is kept from the old object.
    Status,
    /// Another subresource that changes the object (`scale`, `binding`, `finalize`): the change was made by our own code.
    Other(Subresource),
}

impl Endpoint {
    /// Returns the subresource's name for managedFields, or an empty text.
    pub fn subresource(self) -> &'static str {
        match self {
            Endpoint::Main => "",
            Endpoint::Status => "status",
            Endpoint::Other(subresource) => subresource.as_str(),
        }
    }
}

/// What differs between kinds and is not data: plain functions of values.
pub struct Strategy {
    /// Fills in what the author left out; runs on every object that comes in. Idempotent.
    pub default: fn(&mut Value),
    /// Changes a new object before validation, beyond resetting status.
    pub prepare_create: fn(&mut Value),
    /// Whether a new object keeps the status that came with it; nodes describe themselves at once.
    pub status_on_create: bool,
    /// Changes the new object (first) with regard to the old one before validation, at the main endpoint.
    pub prepare_update: fn(&mut Value, &Value),
    /// Checks the object without its metadata.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Checks a change (new, old) at the main endpoint, without metadata.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Checks the object at the status endpoint.
    pub validate_status: fn(&Value) -> Vec<FieldError>,
    /// How names look.
    pub names: NameRule,
    /// What `metadata.generation` counts.
    pub generation: Generation,
    /// Whether an update may leave out the resource version.
    pub unconditional_update: bool,
    /// Whether a PUT to a name that is not there creates it.
    pub create_on_update: bool,
    /// Seconds of grace that a deletion gets, given what the client asked for; `None` for kinds without grace.
    pub grace: fn(&Value, Option<i64>) -> Option<i64>,
    /// Tells whether something besides metadata.finalizers keeps an object that is being deleted.
    pub holds: fn(&Value) -> bool,
    /// Changes an object when it is marked for deletion.
    pub marked: fn(&mut Value),
    /// Fields that field selectors may use besides name and namespace, with their values.
    pub selectable: fn(&Value) -> Vec<(&'static str, String)>,
    /// Columns of tables.
    pub printer: Printer,
}

/// What `metadata.generation` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Nothing; the field stays away.
    Off,
    /// Changes of anything but metadata and status.
    Spec,
    /// Like `Spec`, and changes of annotations.
    SpecAndAnnotations,
}

/// How the names of a kind's objects look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 label: at most 63 characters, no dots.
    Label,
    /// RFC 1123 subdomain: labels with dots, at most 253 characters.
    Subdomain,
    /// RFC 1035 label: like a label, beginning with a letter.
    Rfc1035,
    /// Anything that fits into a path: no `/`, no `%`, neither `.` nor `..`.
    Path,
}

/// One kind at one version.
pub struct KindInfo {
    /// API group, empty for core.
    pub group: String,
    /// Version within the group.
    pub version: String,
    /// Kind, e.g. `Pod`.
    pub kind: String,
    /// Resource name in paths, e.g. `pods`.
    pub plural: String,
    /// For people, e.g. `pod`.
    pub singular: String,
    /// E.g. `po`.
    pub short_names: Vec<String>,
    /// E.g. `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// What is served below an object.
    pub subresources: Vec<Subresource>,
    /// Verbs of the main endpoint.
    pub verbs: Vec<&'static str>,
    /// Group under which objects are stored; differs from `group` where two groups share the storage.
    pub storage_group: String,
    /// Version in which objects are stored.
    pub storage_version: String,
    /// The only user that may write; `None` leaves it to authorization.
    pub writer: Option<String>,
    /// Field names as (here, in storage) where two versions share the storage; empty otherwise.
    pub renames: &'static [(&'static str, &'static str)],
    /// Behaviour.
    pub strategy: &'static Strategy,
    /// Shape of the objects.
    pub schema: Arc<Schema>,
}

impl std::fmt::Debug for KindInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KindInfo({} {})", self.api_version(), self.kind)
    }
}

impl KindInfo {
    /// Returns `apiVersion`: the version, with the group before it except for core.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Returns `plural` or `plural.group`, as error texts have it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Tells whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Tells whether the subresource is served.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Finds a served subresource by its path part.
    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|one| one.as_str() == name)
    }

    /// Tells whether the main endpoint serves the verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`).
    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Returns the path part after `/registry/`: `<group or core>/<plural>`.
    pub fn storage_prefix(&self) -> String {
        let group = if self.storage_group.is_empty() { "core" } else { &self.storage_group };
        format!("{group}/{}", self.plural)
    }

    /// Turns an object of this version into the stored version, in place.
    pub fn to_storage(&self, object: &mut Value) {
        self.rename(object, api_version(&self.storage_group, &self.storage_version), |&(here, stored)| (here, stored));
    }

    /// Turns a stored object into this version, in place.
    pub fn from_storage(&self, object: &mut Value) {
        self.rename(object, self.api_version(), |&(here, stored)| (stored, here));
    }

    fn rename(
        &self,
        object: &mut Value,
        version: String,
        direction: fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) {
        let Some(map) = object.as_object_mut() else { return };
        if !self.renames.is_empty() {
            let moved: Vec<_> = self
                .renames
                .iter()
                .map(direction)
                .filter_map(|(from, to)| map.remove(from).map(|value| (to, value)))
                .collect();
            map.extend(moved.into_iter().map(|(key, value)| (key.to_string(), value)));
        }
        map.insert("apiVersion".into(), version.into());
        map.insert("kind".into(), self.kind.clone().into());
    }
}

/// Joins group and version the way `apiVersion` has them.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}
