//! The machine's controllers. Each noun has a folder; a controller reads and writes resources of `machined/runtime` and touches
//! the world only through the trait that its folder declares.
//!
//! ```text
//! kernel --> network/status --> LinkStatus --> network/config --> LinkSpec --> network/lease --> Lease --> network/spec --> kernel
//!                          seed, DesiredMachine --^      \--> NamesSpec --> files --> /run/cairn/etc
//! block --> Volume --> ledger (DesiredMachine), introduction (Introduction), trust (TrustRecord, Presence)
//! DesiredMachine, Volume --> extensions (ExtensionStatus, Merged) --> services
//! identity --> MachineKey      DesiredMachine --> services (ServiceStatus), time (TimeStatus), settings
//! ```
//!
//! `machined/daemon` starts them, `machined/host` implements the traits. Nothing here makes a system call, and nothing here
//! knows what runs on top of the machine.

pub mod block;
pub mod extensions;
pub mod files;
pub mod identity;
pub mod install;
pub mod introduction;
pub mod ledger;
pub mod network;
pub mod reset;
pub mod services;
pub mod time;
pub mod tpm;
pub mod trust;
pub mod upgrade;
