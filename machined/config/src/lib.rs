//! The repository's own documents, `cluster.kdl` and `machines/*.kdl`: from text to validated values, every mistake at once.
//!
//! gitsync validates with this crate before a commit may become desired state; machined and the control plane read the same
//! documents with it later. [`read`] is the strict KDL reader underneath, which the trust policy uses as well.
//!
//! ```kdl
//! cluster {                                   // cluster.kdl
//!     id "00112233445566778899aabbccddeeff"
//!     name "demo"
//!     level 1
//!     bootstrap "cp1"
//!     endpoint "10.0.2.15"
//!     network {
//!         pods "10.244.0.0/16"
//!         services "10.96.0.0/12"
//!         domain "cluster.local"
//!     }
//! }
//! ```
//!
//! ```kdl
//! machine "cp1" {                             // machines/cp1.kdl
//!     identity "SHA256:..."
//!     role "control-plane"
//!     network {
//!         link "eth0" { dhcp #true; }
//!         nameserver "10.0.2.3"
//!     }
//!     time { server "192.0.2.1"; }
//!     registry "docker.io" { mirror "http://10.0.2.2:5000"; }
//!     image digest="sha256:..." url="https://images.example/cairn-0.2.0-cloud.artefact"
//! }
//! ```
//!
//! ```kdl
//! class "workers" {                           // machines/classes.kdl; `class "workers"` in a machine's document
//!     image digest="sha256:..." url="https://images.example/cairn-0.2.0-cloud.artefact"
//!     rollout unavailable=2 {
//!         wave 1 pause="10m"
//!         wave "25%"
//!     }
//! }
//! ```

mod address;
mod class;
#[cfg(test)]
mod class_tests;
mod cluster;
mod insistence;
mod machine;
pub mod read;
mod render;
mod settings;

pub use address::{Cidr, CidrError};
pub use class::{Canary, Machines, Member, RolloutConfig, Share, UNAVAILABLE_MAX, Wave};
pub use cluster::{CLUSTER_LEVEL, ClusterConfig, ClusterNetwork, RolloutDeadline};
pub use insistence::{Insistence, InsistenceError};
pub use machine::{
    Addressing, ExtensionConfig, ImageConfig, LinkConfig, MachineConfig, MachineDocument, MachineNetwork,
    RegistryConfig, Role,
};
pub use read::{Problem, Problems};
