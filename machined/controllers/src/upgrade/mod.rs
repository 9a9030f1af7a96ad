//! Upgrades of the operating system: from a wish to a slot that proved itself, or back, with the reason.
//!
//! ```text
//! obtaining -> writing -> written -> trying --good--> ended        (each step is on STATE before it is acted on)
//!     |           |          |         '--not good, too often, ended by PID 1--> ended, on the slot from before
//!     '-----------'----------'--refused, superseded--> ended
//! ```
//!
//! `judge` and `plan` decide and are pure; `upgrade_record` drives and keeps the journal. docs/decisions/0004-upgrades.md says what must
//! never happen and how each power cut ends.

mod journal;
mod judge;
mod permit;
mod plan;
mod request;
#[cfg(test)]
mod tests;
mod upgrade_record;

pub use journal::{Ended, ImageNote, Journal, Origin, Outcome, Stage, Task, Wanted};
pub use judge::{ImageRefusal, Rules, floor_permits, judge};
pub use permit::{AloneOr, Disruption, PermitRefused, Permits};
pub use plan::{Step, next};
pub use request::{UpgradeAnswer, UpgradeError, UpgradeInbox, UpgradeRecordError, UpgradeRefused, UpgradeRequest};
pub use upgrade_record::{HealthProbe, UpgradeController};

use init_boot::artefact::{ArtefactHeader, ArtefactManifest};
use init_boot::{BootRecord, Guid, RootHash, Slot};
use machined_runtime::Resource;
use std::future::Future;

/// How the upgrade stands, for status, events and `cairnctl upgrade status`; the id is [`UpgradeStatus::ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeStatus {
    /// Where a running upgrade is: idle, obtaining, writing, written, trying.
    pub phase: &'static str,
    /// What the running upgrade does or waits for, for people; empty when none runs.
    pub message: String,
    /// The image of the running upgrade, once it is known.
    pub target: Option<ImageNote>,
    /// The image that runs.
    pub running: ImageNote,
    /// Its slot.
    pub slot: Option<Slot>,
    /// The image in the other slot, if it is known.
    pub other: Option<ImageNote>,
    /// How the last upgrade ended.
    pub last: Option<Ended>,
}

impl UpgradeStatus {
    /// The id of the one status.
    pub const ID: &'static str = "upgrade";
    /// The phase in which a request is taken.
    pub const IDLE: &'static str = "idle";

    /// Whether the upgrade is about to restart the machine, or the restarted image proves itself: nobody else asks for a restart then, for
    /// a machine has one wish at the disruption gate, and a try has few starts.
    #[must_use]
    pub fn goes_first(&self) -> bool {
        [Stage::Written, Stage::Trying].iter().any(|stage| stage.as_str() == self.phase)
    }

    /// Digest of the image that runs and proved itself, where it is known.
    #[must_use]
    pub fn good(&self) -> Option<&str> {
        (self.phase != Stage::Trying.as_str()).then_some(self.running.digest.as_deref()).flatten()
    }

    /// The image that did not prove itself here, until it does or another wish ends: its digest, which of the document's wishes it was
    /// (`None`: a person's), and why. While it is tried again, it still failed: others follow once it is good.
    #[must_use]
    pub fn failed(&self) -> Option<(&str, Option<u32>, &str)> {
        let last = self.last.as_ref().filter(|last| last.outcome == Outcome::Failed)?;
        let attempt = match &last.origin {
            Origin::Document { wanted, .. } => Some(wanted.attempt),
            Origin::Request { .. } => None,
            // What ran before and does not any more says nothing of the image for others.
            Origin::Rollback { .. } => return None,
        };
        Some((last.image.as_ref()?.digest.as_deref()?, attempt, &last.reason))
    }
}

impl Resource for UpgradeStatus {
    const KIND: &'static str = "upgrade status";
}

/// What disk, boot record and boot loader say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// The slot that runs.
    pub running: Slot,
    /// Its root hash.
    pub root: RootHash,
    /// The GUID of the other slot, which says what it holds.
    pub other: Guid,
    /// The slot that the boot loader starts by default; `None` when its configuration is none of ours.
    pub default: Option<Slot>,
    /// The boot record; `None` before the first upgrade.
    pub record: Option<BootRecord>,
}

impl Slots {
    /// The boot record, or what it would say had it been written.
    #[must_use]
    pub fn record(&self) -> BootRecord {
        self.record.clone().unwrap_or_else(|| BootRecord::first(self.default.unwrap_or(self.running)))
    }
}

/// Something on this machine could not be done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct UpgradeHostError {
    /// "write the root image to /dev/vda3".
    pub doing: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Disk, boot loader and firmware of this machine. Every call may be made again after a power cut in it.
pub trait UpgradeHost: Send + Sync + 'static {
    /// Looks at the slots.
    fn look(&self) -> impl Future<Output = Result<Slots, UpgradeHostError>> + Send;
    /// Fetches an artefact to the place for obtained ones.
    fn obtain(&self, url: &str) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// The header of the obtained artefact; `None` when there is none.
    fn header(&self) -> impl Future<Output = Result<Option<ArtefactHeader>, UpgradeHostError>> + Send;
    /// Compares all of the obtained artefact with its manifest.
    fn verify(&self, header: &ArtefactHeader) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Forgets the obtained artefact.
    fn discard(&self) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Makes a slot hold nothing: its GUID first, then its boot entry.
    fn empty(&self, slot: Slot) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Writes root image and boot entry from the obtained artefact into an empty slot, and reads both back.
    fn write(&self, slot: Slot, header: &ArtefactHeader) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Says by its GUID what a slot holds.
    fn name(&self, slot: Slot, root: &RootHash) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Writes a boot record in the place of the older copy.
    fn record(&self, record: &BootRecord) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Makes a slot the one that the boot loader starts.
    fn set_default(&self, slot: Slot) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Asks the boot loader to start a slot once.
    fn ask_once(&self, slot: Slot) -> impl Future<Output = Result<(), UpgradeHostError>> + Send;
    /// Tells PID 1 that the running image is good.
    fn tell_good(&self);
    /// Restarts the machine in order, at some time after this returned.
    fn restart(&self);
}

/// What is written down about an image, as its manifest has it.
#[must_use]
pub fn note_of(manifest: &ArtefactManifest) -> ImageNote {
    ImageNote {
        root: manifest.root_hash.to_string(),
        digest: Some(manifest.digest().to_string()),
        version: manifest.version.to_string(),
        number: manifest.number.0,
        level: manifest.level,
        profile: manifest.profile.clone(),
    }
}
