//! The way to a node's agent: logs and commands go through the API server to it.
//!
//! Implemented in the daemon, which has the machine's keys. Nothing here knows certificates.

use crate::body::{Body, BoxError};
use controlplane_store::BoxFuture;
use http::{Request, Response};

/// Carries requests to node agents.
pub trait NodeConnector: Send + Sync + 'static {
    /// Sends a request to the agent of a node; its URI has a path and a query only.
    ///
    /// `address` is the node's InternalIP. A response with status 101 carries [`hyper::upgrade::OnUpgrade`] among its extensions.
    ///
    /// # Errors
    /// [`NodeError`] when the agent gave no answer.
    fn call<'a>(
        &'a self,
        node: &'a str,
        address: &'a str,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, NodeError>>;
}

/// The agent of a node gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the agent of node {node} at {address}")]
pub struct NodeError {
    /// The node.
    pub node: String,
    /// Where it was tried.
    pub address: String,
    /// What went wrong.
    #[source]
    pub source: BoxError,
}
