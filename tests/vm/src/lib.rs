//! Real images in QEMU, and `controlplane dev` on this computer, driven as a person would drive them: by cairnctl, kubectl, git, HTTP
//! and the power switch.
//!
//! The demo (`make up`), the tests in [`scenarios`] and `cargo xtask bench boot` share this path, so that what a newcomer sees
//! is what is tested and measured.

mod artefacts;
mod cluster;
pub mod console;
pub mod dev;
pub mod disks;
pub mod downtime;
pub mod extensions;
pub mod faults;
pub mod flips;
mod images;
pub mod install;
mod kubectl;
mod machine;
pub mod members;
pub mod peer_keys;
mod places;
pub mod power;
pub mod scenarios;
pub mod secure_boot;
mod steps;
pub mod tpm;
pub mod upgrades;

pub use artefacts::Artefacts;
pub use cluster::{Cluster, DEMO_IMAGE, DEMO_PORT, demo_manifests};
pub use kubectl::{Follower, Kubectl};
pub use machine::{Medium, Ports, VirtualMachine};
pub use places::Places;
pub use steps::Steps;
