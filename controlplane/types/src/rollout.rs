//! What gitsync, a machine and the disruption gate tell each other about operating system images: `docs/decisions/0016-rollout.md`.
//!
//! gitsync alone writes [`MachineSpec`] (the server takes `machines.cairn.dev` from nobody else), a machine reports on its own Node, and the
//! gate notes there what it saw. The order of a rollout is therefore the repository's word.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Annotation of a Node: an [`ImageReport`] as JSON, written by the machine itself.
pub const IMAGE: &str = "rollout.cairn.dev/image";

/// Annotation of a Node: an [`ImageSeen`] as JSON, written by the gate alone.
pub const SEEN: &str = "rollout.cairn.dev/seen";

/// The spec of a `machines.cairn.dev` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSpec {
    /// Fingerprint of its key.
    pub identity: String,
    /// `control-plane` or `worker`.
    pub role: String,
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The image that it should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<WantedImage>,
    /// It tries new images before others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// How an image goes through its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
}

/// The image that a document names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedImage {
    /// Image digest.
    pub digest: String,
    /// Which wish for it.
    pub attempt: u32,
}

/// How a canary holds up the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanarySpec {
    /// How long it must have run the image before others follow.
    pub pause_seconds: u32,
}

/// How an image goes through the machines of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutSpec {
    /// Most workers of the class that may be away at once.
    pub unavailable: u8,
    /// Waves, in order.
    pub waves: Vec<WaveSpec>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        RolloutSpec { unavailable: 1, waves: Vec::new() }
    }
}

/// A part of a class that goes before the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaveSpec {
    /// Until so many machines of the class run the image; computed where the commit was read, from the number of its machines.
    pub machines: u32,
    /// How long they must have run it before the next wave.
    pub pause_seconds: u32,
}

/// What a machine says of the images that it tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageReport {
    /// The image that runs and proved itself, where its digest is known.
    pub good: Option<String>,
    /// The image that was tried last and did not prove itself, until it does or another wish ends there.
    pub failed: Option<FailedImage>,
}

/// An image that did not prove itself on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedImage {
    /// Image digest.
    pub digest: String,
    /// Which wish of the document for it; `None`: a person's.
    pub attempt: Option<u32>,
    /// Why, for people.
    pub reason: String,
}

/// Since when the gate has seen a machine run an image, Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSeen {
    /// Image digest.
    pub digest: String,
    /// Since when, by the gate's clock.
    pub since: Timestamp,
}
