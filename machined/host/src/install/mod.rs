//! Installing on Linux: the medium that this machine was started from, the disks beside it, and the writing.
//!
//! `medium` reads what the installer brings, `disks` looks at what is there, `esp` makes the EFI system partition's content in memory,
//! `target` writes. Only the `install` call writes anything, and only to the disk that it names.

mod disks;
mod esp;
mod medium;
mod target;

pub use disks::list_disks;
pub use medium::{InstallMedium, MediumReadError};
pub use target::{InstallError, install};
