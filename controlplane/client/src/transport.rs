//! One HTTP exchange, however it travels.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use std::future::Future;
use std::pin::Pin;

/// Any error that a body may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming body in either direction.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Carries requests to an API server: over mTLS, or by a function call in the same process.
///
/// Request URIs have a path and a query only; the transport knows the host. A response with any status is `Ok`.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and returns the response head with its streaming body.
    fn call(
        &self,
        request: http::Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send + '_>>;
}

/// The request got no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the API server at {server}")]
pub struct TransportError {
    /// Where it was sent: an address, or "this process".
    pub server: String,
    /// What went wrong.
    #[source]
    pub source: BoxError,
}

/// A body without bytes.
#[must_use]
pub fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known bytes.
#[must_use]
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
