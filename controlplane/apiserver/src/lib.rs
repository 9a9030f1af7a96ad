//! The Kubernetes REST API: one generic registry over the store.
//!
//! A request runs through [`ApiServer::handle`]: request info -> authentication -> audit -> in-flight limit -> authorization ->
//! admission -> registry -> store. Kinds are data from `controlplane_types`; what a kind needs beyond that is a function in
//! `admission` or a row in `subresource`. Called by the daemon's TLS listener and by in-process transports; talks to nothing but
//! the store and, for logs and commands, to node agents through [`NodeConnector`].

mod admission;
mod audit;
mod authz;
mod body;
mod bootstrap;
mod caller;
mod eviction;
mod expiry;
mod failure;
mod metrics;
mod negotiate;
mod node_scope;
mod nodes;
mod other;
mod protobuf;
mod proxy;
mod query;
mod random;
mod registry;
mod request;
mod resource;
mod respond;
mod reviews;
mod selection;
mod server;
mod storage;
mod subresource;
mod tenure;
mod token_tenure;
mod tokens;
mod watch;

pub use body::{Body, BoxError, REQUEST_BODY_LIMIT, empty as empty_body, full as full_body};
pub use caller::{
    AUTHENTICATED, CONTROLLERS, Caller, GITSYNC, GITSYNC_WORKERS, MASTERS, NODES, OPERATOR, READER, ROLE_PREFIX,
    Refused, SERVICE_ACCOUNTS, UNAUTHENTICATED,
};
pub use failure::Failure;
pub use nodes::{NodeConnector, NodeError};
pub use server::{ApiServer, Options};
pub use tenure::Tenure;
pub use tokens::{KeyError, ServiceAccountKeys};
