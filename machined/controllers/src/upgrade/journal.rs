//! What must be known after a power cut: the running upgrade, what each slot holds, how the last one ended.
//!
//! The file is read by the release before this one when a try falls back, so fields are only ever added, with defaults.

use init_boot::{RootHash, Slot};
use machined_config::ImageConfig;
use serde::{Deserialize, Serialize};

/// Longest texts that are kept, in characters; reasons come from errors, which may hold a path or two.
pub(super) const TEXT_CHARS_MAX: usize = 600;

/// Where upgrades stand. Also the form of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Journal {
    /// What slot A holds, as far as it is known.
    pub a: Option<ImageNote>,
    /// What slot B holds.
    pub b: Option<ImageNote>,
    /// The upgrade that runs.
    pub task: Option<Task>,
    /// How the last one ended.
    pub last: Option<Ended>,
    /// The wish of the document that is not fulfilled again by itself: it failed, was refused, or somebody went back.
    pub avoided: Option<Wanted>,
}

/// An image, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageNote {
    /// Root hash, hex.
    pub root: String,
    /// Image digest, `sha256:` and hex; not known of an image that was flashed.
    pub digest: Option<String>,
    /// Version.
    pub version: String,
    /// Release number, which floors count.
    pub number: u64,
    /// Cluster level.
    pub level: u32,
    /// Profile that it was built from; empty when it is not known.
    pub profile: String,
}

/// A document's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Image digest.
    pub digest: String,
    /// Which wish for it.
    pub attempt: u32,
}

impl From<&ImageConfig> for Wanted {
    fn from(image: &ImageConfig) -> Self {
        Wanted { digest: image.digest.to_string(), attempt: image.attempt }
    }
}

/// Where the wish for an upgrade came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Origin {
    /// The machine's document.
    Document {
        /// The wish.
        wanted: Wanted,
        /// Where the artefact is.
        url: String,
    },
    /// A person, over the machine API.
    Request {
        /// Who.
        by: String,
        /// Where the artefact is; `None` when the person sent it.
        url: Option<String>,
        /// An admin takes it upon themselves that no permit was asked for.
        without_permit: bool,
    },
    /// A person, who wants the other slot's image back.
    Rollback {
        /// Who.
        by: String,
        /// An admin takes it upon themselves that no permit was asked for.
        without_permit: bool,
    },
}

impl Origin {
    /// Whether an admin does without a permit.
    #[must_use]
    pub fn without_permit(&self) -> bool {
        match self {
            Origin::Document { .. } => false,
            Origin::Request { without_permit, .. } | Origin::Rollback { without_permit, .. } => *without_permit,
        }
    }

    /// Who wanted it, for people.
    #[must_use]
    pub fn by(&self) -> &str {
        match self {
            Origin::Document { .. } => "the repository",
            Origin::Request { by, .. } | Origin::Rollback { by, .. } => by,
        }
    }
}

/// An upgrade that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Where the wish came from.
    pub origin: Origin,
    /// How far it is.
    pub stage: Stage,
    /// The image, once its header was read.
    #[serde(default)]
    pub image: Option<ImageNote>,
    /// Where it is written and tried.
    #[serde(default)]
    pub slot: Option<SlotLetter>,
    /// How long after the kernel's start it must be good, in seconds.
    pub deadline_seconds: u64,
    /// How often fetching failed.
    #[serde(default)]
    pub fetches_failed: u32,
    /// How often the boot loader was asked to start it.
    #[serde(default)]
    pub asked: u32,
    /// What was missing for it to be good, as the tried image saw it last.
    #[serde(default)]
    pub unhealthy: Option<String>,
}

impl Task {
    /// The image's root hash.
    #[must_use]
    pub fn root(&self) -> Option<RootHash> {
        self.image.as_ref()?.root.parse().ok()
    }
}

/// A slot, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SlotLetter {
    /// Slot A.
    A,
    /// Slot B.
    B,
}

impl From<Slot> for SlotLetter {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::A => SlotLetter::A,
            Slot::B => SlotLetter::B,
        }
    }
}

impl From<SlotLetter> for Slot {
    fn from(letter: SlotLetter) -> Self {
        match letter {
            SlotLetter::A => Slot::A,
            SlotLetter::B => Slot::B,
        }
    }
}

/// How far an upgrade is. What a stage names may have been begun, and is done again after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The artefact is fetched and judged.
    Obtaining,
    /// The artefact may run; the other slot is emptied and written.
    Writing,
    /// The other slot is whole and named; the try waits for its permit.
    Written,
    /// The boot loader was asked to start it.
    Trying,
}

impl Stage {
    /// The word in the machine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Obtaining => "obtaining",
            Stage::Writing => "writing",
            Stage::Written => "written",
            Stage::Trying => "trying",
        }
    }
}

/// How an upgrade ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The image proved itself and is the default.
    Good,
    /// It was tried and did not prove itself; the machine is back on the slot from before.
    Failed,
    /// It was not tried.
    Refused,
}

impl Outcome {
    /// The word in the machine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Good => "good",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        }
    }
}

/// An upgrade that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// The image, if its header was read.
    pub image: Option<ImageNote>,
    /// Where the wish came from.
    pub origin: Origin,
    /// Why, for people, with the next step.
    pub reason: String,
}

impl Journal {
    /// What a slot holds.
    #[must_use]
    pub fn image(&self, slot: Slot) -> Option<&ImageNote> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    /// Says what a slot holds.
    pub fn set_image(&mut self, slot: Slot, image: Option<ImageNote>) {
        match slot {
            Slot::A => self.a = image,
            Slot::B => self.b = image,
        }
    }

    /// Ends the task. A wish of the document that was not fulfilled is not begun again by itself.
    pub fn end(&mut self, outcome: Outcome, reason: impl Into<String>) {
        let Some(task) = self.task.take() else { return };
        if let (Outcome::Failed | Outcome::Refused, Origin::Document { wanted, .. }) = (outcome, &task.origin) {
            self.avoided = Some(wanted.clone());
        }
        let reason = cut(reason.into());
        self.last = Some(Ended { outcome, image: task.image, origin: task.origin, reason });
    }
}

/// Cuts a text to what is kept.
pub(super) fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(end);
    }
    text
}
