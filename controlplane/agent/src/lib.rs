//! The node agent: runs the pods that the API binds to this node on containerd, and tells the API how they are.
//!
//! ```text
//! API (informer) -> pod::manager -> pod::worker: plan (pure) -> containerd, network, volumes, images
//!                                        |-> status (pure) -> API
//! containerd events, probes, time -------^      server: logs, exec <- API server
//! ```
//! The daemon calls [`run`]. Everything that the agent must know after a restart lies in containerd's labels and in the
//! network's files; stopping the agent stops no container.

mod config;
mod containerd;
mod events;
mod images;
mod logs;
mod node;
mod pod;
mod run;
mod runtime;
mod server;
mod spec;
mod volumes;

pub use config::{AGENT_PORT, AgentConfig, Folders, PodDns};
pub use containerd::ContainerdConfig;
pub use images::{ImagesConfig, RegistryMirror};
pub use run::{RunError, run};
pub use server::{Doorkeeper, ServerError};
pub use volumes::HostRoot;
