//! One registry for all kinds: what a verb does to an object is here, what differs between kinds is data in [`crate::kinds`] and
//! a few functions in [`crate::strategy`].
//!
//! Writes are compare-and-write transactions on the store. A write that lost a race is tried again only where the client did
//! not name the revision it meant.

mod delete;
mod read;
mod write;

pub(crate) use delete::{Deleted, delete, delete_collection, delete_noting};
pub(crate) use read::{Page, get, list, watch};
pub(crate) use write::{Change, Written, create, modify, patch, update};

use crate::caller::Caller;
use crate::request::ResourcePath;
use crate::server::Inner;
use crate::storage;
use bytes::Bytes;
use controlplane_types::KindInfo;
use controlplane_types::object::Object;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// Times a write that lost a race is tried again. Beyond this the object is so busy that the client should hear of it.
pub(crate) const WRITE_ATTEMPTS_MAX: usize = 8;

/// Everything a verb needs to know about the request it serves.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Inner,
    pub(crate) kind: Arc<KindInfo>,
    pub(crate) path: ResourcePath,
    pub(crate) caller: &'a Caller,
    /// First word of the User-Agent: the field manager of clients that name none.
    pub(crate) agent: &'a str,
    /// The time of the request.
    pub(crate) now: jiff::Timestamp,
    warnings: Mutex<Vec<String>>,
}

impl<'a> Call<'a> {
    /// A call about `path`, whose kind is `kind`.
    pub(crate) fn new(
        server: &'a Inner,
        kind: Arc<KindInfo>,
        path: ResourcePath,
        caller: &'a Caller,
        agent: &'a str,
    ) -> Call<'a> {
        Call { server, kind, path, caller, agent, now: jiff::Timestamp::now(), warnings: Mutex::default() }
    }

    /// The same call about one object of the collection.
    pub(crate) fn of_object(&self, object: &Value) -> Call<'a> {
        let mut path = self.path.clone();
        path.name = object.name().to_owned();
        path.namespace = object.namespace().to_owned();
        Call { path, kind: Arc::clone(&self.kind), warnings: Mutex::default(), ..*self }
    }

    /// The kind.
    pub(crate) fn kind(&self) -> &KindInfo {
        &self.kind
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> Bytes {
        storage::key_of(&self.kind, &self.path)
    }

    /// Tells the client something in a `Warning` header.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// The warnings so far.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
