//! The only crate with unsafe code: what PID 1 and machined ask of the Linux kernel, as safe functions.
//!
//! PID 1 goes through the [`Kernel`] trait, so that its decisions are tested against a `FakeKernel` (feature `fake`);
//! the other crates call the plain functions in the modules. What `nix` or `std` already offer safely is not wrapped
//! again. Nothing here decides anything: each function does one thing and says with which subject it failed.

mod block;
pub mod clock;
pub mod device_mapper;
pub mod efi;
mod error;
#[cfg(feature = "fake")]
mod fake;
mod files;
mod init_socket;
mod kernel;
mod keyring;
pub mod kmsg;
mod linux;
pub mod loop_device;
pub mod modules;
mod mounts;
mod power;
mod process;
pub mod sandbox;
mod spawn;
mod switch_root;
pub mod walls;
mod watchdog;

pub use error::SystemError;
#[cfg(feature = "fake")]
pub use fake::{Call, Event, FakeKernel, State};
pub use init_socket::{InitSocket, Received};
pub use kernel::{Channel, FileKind, Kernel, Launch, Mount, MountFlag, Power, Propagation, Reaped, Started, Wake};
pub use linux::Linux;
pub use mounts::{mount, unmount};
pub use process::ProcessHandle;
pub use spawn::{ChildSetup, Session};
