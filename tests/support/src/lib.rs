//! What tests and the demo lean on: servers on loopback and waiting on values. Never part of the product.
//!
//! [`git::serve`] serves a folder of bare repositories over smart HTTP by git's own `http-backend`; [`hostile`] is a git server that
//! attacks; [`registry::Registry`] is a small OCI registry that serves archives; [`authenticator::Authenticator`] is a hardware key
//! made of software, and [`agent::Agent`] the SSH agent that holds it; [`tpm::SoftwareTpm`] is a TPM made of software; [`wait_for`] waits for a value instead of sleeping.

pub mod agent;
pub mod authenticator;
pub mod authority;
pub mod git;
pub mod hostile;
mod http;
pub mod registry;
pub mod shattered;
pub mod tpm;
mod wait;

pub use http::Server;
pub use wait::{NotInTime, wait_for};
