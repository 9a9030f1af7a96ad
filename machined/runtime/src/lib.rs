//! The machine's own model: a typed store of resources, and the loop that runs one controller over it.
//!
//! A resource is a Rust struct keyed by its type and an id. Each type has exactly one [`Writer`]; everybody else holds
//! a [`Reader`], whose reads cannot fail. Nothing here survives a reboot: resources are derived from documents and from
//! the kernel, again and again. The machine's controllers and the daemon use this crate.
//!
//! It must never do I/O, and it knows no particular resource.

mod controller;
mod failures;
mod inbox;
mod ports;
mod store;

pub use controller::{Controller, start};
pub use failures::Failures;
pub use inbox::{Asked, INBOX_MAX, Inbox, Unanswered};
pub use ports::Ports;
pub use store::{Reader, Resource, Set, Store, Writer, WriterTaken};
