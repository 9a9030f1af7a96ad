//! As much of nf_tables over netlink as the service proxy needs: typed statements in, one atomic transaction out.
//!
//! The image carries no `nft` program, so the messages are written here. [`statement`] says what can be asked for,
//! `wire` turns it into bytes (pure), [`socket`] sends them. Only the table that the caller names is ever touched.

pub mod socket;
pub mod statement;
mod wire;

pub use socket::{ApplyError, NftSocket};
pub use statement::{Chain, Element, Hook, Map, Rule, Statement, Table, Value, Verdict};
pub use wire::encode;
