//! How everybody but kubectl reaches the API server: a [`Transport`] (HTTP or in process), a typed client and informers on it.
//!
//! Controllers, gitsync, the agent and cairnctl write through this crate like any other client; there is no back door.
//!
//! - [`Client`] and [`Api`]: the verbs, typed by `k8s-openapi` or [`DynamicObject`]; nothing is ever retried inside
//! - [`Informers`], [`Informer`], [`Cache`]: shared list-and-watch caches with indexes and change handlers
//! - [`spawn_workers`]: works a queue of [`ObjectKey`]s off
//! - [`Recorder`]: events for people
//! - [`HttpsTransport`]: the transport over mTLS

mod api;
mod cache;
mod client;
mod endpoints;
mod error;
mod https;
#[cfg(test)]
mod https_tests;
mod informer;
#[cfg(test)]
mod informer_tests;
mod object;
mod recorder;
mod transport;
mod watch;
mod worker;

pub use api::{Api, Apply, List, Patch, Selection};
pub use cache::{Cache, Change, IndexBy};
pub use client::Client;
pub use endpoints::EndpointsError;
pub use error::{ClientError, Optional, Reason, Status};
pub use https::HttpsTransport;
pub use informer::{Informer, Informers, MetadataOnly, Synced};
pub use object::{DynamicObject, Kind, Object, ObjectKey, ResourceKind, Scoped};
pub use recorder::{EventType, Recorder, reference};
pub use transport::{Body, BoxError, Transport, TransportError, empty_body, full_body};
pub use watch::{WatchEvent, WatchStream};
pub use worker::spawn_workers;
