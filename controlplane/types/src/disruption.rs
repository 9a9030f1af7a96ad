//! The annotations of a Node through which a machine and the disruption gate talk: `docs/decisions/0011-disruption.md`.
//!
//! What is in them belongs to `controlplane/controllers`; who may write them is the API server's to see to.

/// The machine wants to restart or power off. Written by the machine itself.
pub const WISH: &str = "disruption.cairn.dev/wish";

/// What became of the wish. Written by the gate alone: whoever could write it could send a machine away that others need.
pub const ANSWER: &str = "disruption.cairn.dev/answer";
