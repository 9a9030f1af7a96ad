//! Objects in the store: their keys, their bytes, and reads. The only place that knows how an object lies in the store.
//!
//! A value is the object's JSON without `metadata.resourceVersion`, which is the revision of the last put. Writes go through
//! [`Txn`]s that the registry builds, so that what must hold together is written together.

use crate::failure::Failure;
use crate::request::ResourcePath;
use bytes::Bytes;
use controlplane_store::{Consistency, Entry, Op, RangeRequest, Store, prefix_end};
use controlplane_types::object::{self, Object};
use controlplane_types::{ApiError, KindInfo};
use machined_ids::Revision;
use serde_json::Value;

/// Key prefix of a collection: a kind, in one namespace when it names one.
pub(crate) fn collection_prefix(kind: &KindInfo, namespace: &str) -> String {
    let namespace = if kind.namespaced() { namespace } else { "" };
    let separator = if namespace.is_empty() { "" } else { "/" };
    format!("/registry/{}/{namespace}{separator}", kind.storage_prefix())
}

/// Key of one object. The namespace counts only where the kind is namespaced.
pub(crate) fn key(kind: &KindInfo, namespace: &str, name: &str) -> Bytes {
    Bytes::from(format!("{}{name}", collection_prefix(kind, namespace)))
}

/// Key of the object that a path names.
pub(crate) fn key_of(kind: &KindInfo, path: &ResourcePath) -> Bytes {
    key(kind, &path.namespace, &path.name)
}

/// Every key that begins with the prefix.
pub(crate) fn whole(prefix: &str) -> (Bytes, Bytes) {
    (Bytes::from(prefix.to_owned()), prefix_end(prefix.as_bytes()))
}

/// An object as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    /// With `metadata.resourceVersion`.
    pub(crate) object: Value,
    /// Its last put.
    pub(crate) revision: Revision,
}

/// Bytes of an object.
pub(crate) fn encode(kind: &KindInfo, object: &Value) -> Bytes {
    let mut object = object.clone();
    object::remove(&mut object, &["metadata"], "resourceVersion");
    kind.to_storage(&mut object);
    Bytes::from(object.to_string())
}

/// The object of an entry.
pub(crate) fn decode(kind: &KindInfo, entry: &Entry) -> Result<Stored, ApiError> {
    Ok(Stored { object: decode_at(kind, &entry.value, entry.modified)?, revision: entry.modified })
}

/// The object of some bytes, with the revision that it is to show.
pub(crate) fn decode_at(kind: &KindInfo, value: &[u8], revision: Revision) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(value)
        .map_err(|error| ApiError::internal(&format!("a stored object cannot be read: {error}")))?;
    object.set_resource_version(revision.0);
    kind.from_storage(&mut object);
    Ok(object)
}

/// Reads one object.
pub(crate) async fn get(
    store: &dyn Store,
    kind: &KindInfo,
    path: &ResourcePath,
    consistency: Consistency,
) -> Result<Option<Stored>, Failure> {
    let answer = store.range(RangeRequest::key(key_of(kind, path)), consistency).await?;
    Ok(answer.entries.first().map(|entry| decode(kind, entry)).transpose()?)
}

/// Reads all objects of a kind, in one namespace when it names one.
pub(crate) async fn list(
    store: &dyn Store,
    kind: &KindInfo,
    namespace: &str,
    consistency: Consistency,
) -> Result<Vec<Stored>, Failure> {
    let (start, end) = whole(&collection_prefix(kind, namespace));
    let answer = store.range(RangeRequest::new(start, end), consistency).await?;
    Ok(answer.entries.iter().map(|entry| decode(kind, entry)).collect::<Result<_, _>>()?)
}

/// The put of an object.
pub(crate) fn put(kind: &KindInfo, key: &Bytes, object: &Value) -> Op {
    Op::Put(key.clone(), encode(kind, object))
}
