//! What the client needs to know about a kind, and how an object is named.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// A kind of object as URLs name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKind {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version inside the group, as `v1`.
    pub version: Cow<'static, str>,
    /// The plural in the URL, as `pods`.
    pub plural: Cow<'static, str>,
    /// The kind, as `Pod`.
    pub kind: Cow<'static, str>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl ResourceKind {
    /// The kind of a type of `k8s-openapi`.
    #[must_use]
    pub const fn of<K>() -> Self
    where
        K: k8s_openapi::Resource,
        K::Scope: Scoped,
    {
        ResourceKind {
            group: Cow::Borrowed(K::GROUP),
            version: Cow::Borrowed(K::VERSION),
            plural: Cow::Borrowed(K::URL_PATH_SEGMENT),
            kind: Cow::Borrowed(K::KIND),
            namespaced: K::Scope::NAMESPACED,
        }
    }

    /// `v1` or `apps/v1`, as objects carry it.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The URL path of all its objects, or of those in a namespace.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.plural) } else { write!(f, "{}.{}", self.plural, self.group) }
    }
}

/// Where a type's objects live; implemented for the two scopes of `k8s-openapi`.
pub trait Scoped {
    /// Whether they live in namespaces.
    const NAMESPACED: bool;
}

impl Scoped for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scoped for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// Anything with object metadata that travels as JSON.
pub trait Object: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// Its name; empty before it has one.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    /// Its namespace, if it lives in one.
    fn namespace(&self) -> Option<&str> {
        self.meta().namespace.as_deref()
    }

    /// Its uid; empty before it has one.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// Namespace and name.
    fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.meta().namespace.clone(), name: self.name().to_owned() }
    }

    /// A label's value.
    fn label(&self, name: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(name).map(String::as_str)
    }

    /// An annotation's value.
    fn annotation(&self, name: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// The owner that manages it, if one does.
    fn controller(&self) -> Option<&OwnerReference> {
        self.meta().owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether its deletion was asked for.
    fn is_terminating(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
}

impl<K> Object for K
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// A [`Object`] whose kind the compiler knows: a type of `k8s-openapi`.
pub trait Kind: Object {
    /// The kind.
    const RESOURCE: ResourceKind;

    /// A reference that makes `self` the managing owner of something.
    fn controller_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: Self::RESOURCE.api_version(),
            kind: Self::RESOURCE.kind.into_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

impl<K> Kind for K
where
    K: Object + k8s_openapi::Metadata<Ty = ObjectMeta>,
    K::Scope: Scoped,
{
    const RESOURCE: ResourceKind = ResourceKind::of::<K>();
}

/// An object of a kind that only its reader knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicObject {
    /// `v1`, `apps/v1`; empty in lists of some servers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// `Pod`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

impl Object for DynamicObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Namespace and name: an object's place among those of its kind, and a work queue's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, for kinds that live in one.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key in a namespace.
    #[must_use]
    pub fn in_namespace(namespace: &str, name: &str) -> Self {
        ObjectKey { namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }

    /// A key of a kind without namespaces.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        ObjectKey { namespace: None, name: name.to_owned() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Node, Pod};

    #[test]
    fn paths_follow_group_and_scope() {
        assert_eq!(Pod::RESOURCE.path(Some("a")), "/api/v1/namespaces/a/pods");
        assert_eq!(Pod::RESOURCE.path(None), "/api/v1/pods");
        assert_eq!(Deployment::RESOURCE.path(Some("a")), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(Node::RESOURCE.path(Some("ignored")), "/api/v1/nodes");
        assert_eq!(Deployment::RESOURCE.api_version(), "apps/v1");
    }
}
