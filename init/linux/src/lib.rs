//! The only crate with unsafe code: what PID 1 and machined ask of the Linux kernel, as safe functions.
//!
//! PID 1 goes through the [`Kernel`] trait, so that its decisions are tested against [`FakeKernel`]; the other crates call the plain
//! functions in the modules. What `nix` or `std` already offer safely is not wrapped again. Nothing here decides anything: each function
//! does one thing and says with which subject it failed.

mod block;
pub mod clock;
mod device_mapper;
pub mod efi;
mod error;

mod files;
mod kernel;
pub mod kmsg;
mod linux;
mod modules;
mod mounts;
pub mod power;
mod process;
mod spawn;
mod switch_root;

pub use block::block_device_bytes;
pub use error::SystemError;

pub use kernel::{Channel, Kernel, Launch, Mount, MountFlag, Power, Reaped, Started, Wake};
pub use linux::Linux;
pub use process::{ProcessHandle, signal_everything};
pub use spawn::{ChildSetup, Session};
