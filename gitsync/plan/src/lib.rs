//! From the files of a verified commit to what should be: rendered, validated whole, compared with what is. Pure.
//!
//! ```text
//! Files --render--> DesiredState { cluster.kdl, machines, access table, objects }     all mistakes at once, or nothing
//! DesiredState + Inventory --diff--> SyncPlan { apply in order, prune in order }      printable, leaves no choices
//! ```
//!
//! Called by `gitsync` on the machine and by `cairnctl` on a laptop. It never does I/O and never decides who may: that is
//! `gitsync/verify`'s part.

mod documents;
mod foreign;
mod inventory;
mod manifests;
mod object;
mod pods;
mod privilege;
mod reach;
mod render;
mod sync;
mod yaml;

pub use documents::MachineDocuments;
pub use inventory::{Entry, Inventory};
pub use object::{DesiredObject, ObjectKey, Origin};
pub use render::{DesiredState, access, lint, render};
pub use sync::{SyncPlan, diff};
