//! How everybody but kubectl reaches the API server: a [`Transport`] (HTTP or in process), a typed client and informers on it.
//!
//! Controllers, gitsync, the agent and cairnctl write through this crate like any other client; there is no back door.

mod transport;

pub use transport::{Body, BoxError, Transport, TransportError, empty_body, full_body};
