//! The verbs on objects of one kind.

use crate::client::{Client, Outgoing};
use crate::error::{ClientError, Optional};
use crate::object::{Object, ResourceKind};
use crate::watch::WatchStream;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;
use std::time::Duration;

/// The objects of a kind, in one namespace or in all.
///
/// A verb that names one object needs the namespace, if the kind lives in namespaces.
pub struct Api<K> {
    client: Client,
    kind: ResourceKind,
    namespace: Option<String>,
    object: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Api {
            client: self.client.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            object: PhantomData,
        }
    }
}

/// Which objects a list or a watch is about; empty selectors mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// A label selector in Kubernetes' text form.
    pub labels: String,
    /// A field selector, as `spec.nodeName=a`.
    pub fields: String,
}

impl Selection {
    /// Objects with these labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Selection { labels: selector.into(), fields: String::new() }
    }

    /// Objects with these fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Selection { labels: String::new(), fields: selector.into() }
    }

    fn add_to<'a>(&self, mut outgoing: Outgoing<'a>) -> Outgoing<'a> {
        if !self.labels.is_empty() {
            outgoing = outgoing.query("labelSelector", &*self.labels);
        }
        if !self.fields.is_empty() {
            outgoing = outgoing.query("fieldSelector", &*self.fields);
        }
        outgoing
    }
}

/// A page of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct List<K> {
    /// Version and continuation.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<K>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, K: DeserializeOwned>(deserializer: D) -> Result<Vec<K>, D::Error> {
    Option::<Vec<K>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<K> List<K> {
    /// What to watch from.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }

    /// The token of the next page, if there is one.
    #[must_use]
    pub fn next_page(&self) -> Option<&str> {
        self.metadata.continue_.as_deref().filter(|token| !token.is_empty())
    }
}

/// A patch that is no apply.
#[derive(Debug, Clone, Copy)]
pub enum Patch<'a> {
    /// RFC 7386.
    Merge(&'a serde_json::Value),
    /// Kubernetes' merge with merge keys.
    Strategic(&'a serde_json::Value),
    /// RFC 6902.
    Json(&'a serde_json::Value),
}

/// How to apply.
#[derive(Debug, Clone, Copy)]
pub struct Apply<'a> {
    /// Who owns the fields.
    pub manager: &'a str,
    /// Whether to take fields from other owners instead of failing with a conflict.
    pub force: bool,
    /// Whether to check only.
    pub dry_run: bool,
}

/// Objects a page of [`Api::list_all`]; client-go's default.
const PAGE_LIMIT: usize = 500;

impl<K: Object> Api<K> {
    pub(crate) fn new(client: Client, kind: ResourceKind, namespace: Option<String>) -> Self {
        Api { client, kind, namespace, object: PhantomData }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &ResourceKind {
        &self.kind
    }

    fn collection(&self) -> String {
        self.kind.path(self.namespace.as_deref())
    }

    fn one(&self, name: &str) -> String {
        format!("{}/{name}", self.collection())
    }

    fn subresource(&self, name: &str, subresource: &str) -> String {
        format!("{}/{name}/{subresource}", self.collection())
    }

    /// Reads an object.
    ///
    /// # Errors
    /// See [`ClientError`]; [`Optional::optional`] makes `None` of "not found".
    pub async fn get(&self, name: &str) -> Result<K, ClientError> {
        self.client.exchange(Outgoing::new(Method::GET, &self.one(name))).await
    }

    /// Lists all that are selected, page by page, at one resource version.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(&self, selection: &Selection) -> Result<List<K>, ClientError> {
        let mut list = self.list_page(selection, PAGE_LIMIT, None).await?;
        while let Some(token) = list.next_page().map(str::to_owned) {
            let page = self.list_page(selection, PAGE_LIMIT, Some(&token)).await?;
            list.items.extend(page.items);
            list.metadata = page.metadata;
        }
        Ok(list)
    }

    /// Lists a page of at most `limit` objects.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_page(
        &self,
        selection: &Selection,
        limit: usize,
        token: Option<&str>,
    ) -> Result<List<K>, ClientError> {
        let path = self.collection();
        let mut outgoing = selection.add_to(Outgoing::new(Method::GET, &path)).query("limit", limit.to_string());
        if let Some(token) = token {
            outgoing = outgoing.query("continue", token);
        }
        self.client.exchange(outgoing).await
    }

    /// Watches changes after `resource_version`; the server ends it after `timeout`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(
        &self,
        selection: &Selection,
        resource_version: &str,
        timeout: Duration,
    ) -> Result<WatchStream<K>, ClientError> {
        let path = self.collection();
        let outgoing = selection
            .add_to(Outgoing::new(Method::GET, &path))
            .query("watch", "true")
            .query("allowWatchBookmarks", "true")
            .query("resourceVersion", resource_version)
            .query("timeoutSeconds", timeout.as_secs().to_string());
        let response = self.client.start(outgoing).await?;
        Ok(WatchStream::new(format!("watch of {path}"), response.into_body()))
    }

    /// Creates an object.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create(&self, object: &K) -> Result<K, ClientError> {
        self.client.exchange(Outgoing::new(Method::POST, &self.collection()).json(object)).await
    }

    /// Replaces an object; refused as a conflict when its resource version is not the newest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn update(&self, object: &K) -> Result<K, ClientError> {
        self.client.exchange(Outgoing::new(Method::PUT, &self.one(object.name())).json(object)).await
    }

    /// Replaces an object's status and nothing else.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn update_status(&self, object: &K) -> Result<K, ClientError> {
        let path = self.subresource(object.name(), "status");
        self.client.exchange(Outgoing::new(Method::PUT, &path).json(object)).await
    }

    /// Patches an object.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch(&self, name: &str, patch: Patch<'_>) -> Result<K, ClientError> {
        self.send_patch(&self.one(name), patch).await
    }

    /// Patches an object's status and nothing else.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch_status(&self, name: &str, patch: Patch<'_>) -> Result<K, ClientError> {
        self.send_patch(&self.subresource(name, "status"), patch).await
    }

    async fn send_patch(&self, path: &str, patch: Patch<'_>) -> Result<K, ClientError> {
        let (content_type, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
        };
        self.client.exchange(Outgoing::new(Method::PATCH, path).body(content_type, body)).await
    }

    /// Applies a configuration server-side: `object` may be a [`Kind`](crate::Kind), or JSON with some of its fields.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apply<T: Serialize>(&self, name: &str, object: &T, how: Apply<'_>) -> Result<K, ClientError> {
        self.send_apply(&self.one(name), object, how).await
    }

    /// Applies a status server-side.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apply_status<T: Serialize>(&self, name: &str, object: &T, how: Apply<'_>) -> Result<K, ClientError> {
        self.send_apply(&self.subresource(name, "status"), object, how).await
    }

    async fn send_apply<T: Serialize>(&self, path: &str, object: &T, how: Apply<'_>) -> Result<K, ClientError> {
        let mut outgoing = Outgoing::new(Method::PATCH, path)
            .query("fieldManager", how.manager)
            .query("force", how.force.to_string())
            .body("application/apply-patch+yaml", object);
        if how.dry_run {
            outgoing = outgoing.query("dryRun", "All");
        }
        self.client.exchange(outgoing).await
    }

    /// Asks for an object's deletion. It may still be there afterwards, terminating.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<(), ClientError> {
        let path = self.one(name);
        let outgoing = Outgoing::new(Method::DELETE, &path).json(options);
        self.client.exchange::<serde_json::Value>(outgoing).await.map(|_the_object_or_a_status| ())
    }

    /// Asks for an object's deletion, unless it is gone.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_if_there(&self, name: &str, options: &DeleteOptions) -> Result<(), ClientError> {
        self.delete(name, options).await.optional().map(|_gone_or_asked| ())
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_subresource<T, R>(&self, name: &str, subresource: &str, object: &T) -> Result<R, ClientError>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let path = self.subresource(name, subresource);
        self.client.exchange(Outgoing::new(Method::POST, &path).json(object)).await
    }

    /// Replaces a subresource: `finalize`, `scale`, `approval`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn update_subresource<T, R>(&self, name: &str, subresource: &str, object: &T) -> Result<R, ClientError>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let path = self.subresource(name, subresource);
        self.client.exchange(Outgoing::new(Method::PUT, &path).json(object)).await
    }
}
