//! Kubernetes kinds as data: registry, schemas, defaulting, validation, patches, server-side apply, tables, discovery.
//!
//! Pure: no I/O, no clock, no randomness; time, UIDs and name suffixes are arguments. Objects are `serde_json::Value` from end
//! to end. The API server is the main caller: [`registry::Registry`] tells it what is served, [`decode`] reads bodies,
//! [`mod@write`] takes an object through defaulting, preparation and validation, [`patch`] makes new objects out of old ones,
//! [`table`] and [`object`] shape answers. Controllers and the node agent use [`object`], [`quantity`] and [`selector`].

pub mod apply;
pub mod decode;
pub mod delete;
pub mod discovery;
pub mod disruption;
pub mod duration;
pub mod error;
pub mod eviction;
pub mod field_error;
pub mod kind;
pub mod kinds;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod registry;
pub mod rollout;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod strategy;
pub mod table;
pub mod validate;
pub mod write;

pub use error::{ApiError, Reason};
pub use field_error::FieldError;
pub use kind::{Endpoint, KindInfo, Scope, Subresource};
pub use registry::Registry;
