//! What people ask of upgrades, and what they and the log are told when it cannot be.

use super::UpgradeHostError;
use crate::files::FileError;
use init_boot::DEADLINE_SECONDS;
use machined_runtime::Inbox;
use std::path::PathBuf;

/// A person's wish.
#[derive(Debug, Clone)]
pub enum UpgradeRequest {
    /// An image, fetched from a URL or lying in the place for obtained ones.
    Start {
        /// Who.
        by: String,
        /// Where the artefact is; `None` when it was sent.
        url: Option<String>,
        /// Without a permit.
        without_permit: bool,
        /// Deadline of the try in seconds; 0 for the usual one.
        deadline_seconds: u64,
    },
    /// The other slot's image.
    Rollback {
        /// Who.
        by: String,
        /// Without a permit.
        without_permit: bool,
        /// Deadline of the try in seconds; 0 for the usual one.
        deadline_seconds: u64,
    },
    /// The document's image once more, though it failed.
    Retry,
}

/// Why a wish is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRefused {
    /// The state volume is not there yet, or the slots cannot be read.
    #[error("the machine cannot upgrade yet ({0}); try again in a moment")]
    NotReady(String),
    /// One runs.
    #[error("an upgrade wanted by {by} is {phase}; `cairnctl upgrade status` follows it, ask again when it is over")]
    Busy {
        /// Who wanted the running one.
        by: String,
        /// Where it is.
        phase: &'static str,
    },
    /// A deadline that cannot be.
    #[error("a deadline is {} to {} seconds after the kernel's start", DEADLINE_SECONDS.start(), DEADLINE_SECONDS.end())]
    Deadline,
    /// No image to go back to.
    #[error(
        "the other slot holds no image that proved itself on this machine; `cairnctl upgrade --image FILE` brings one"
    )]
    NothingThere,
    /// The floor.
    #[error("{0}")]
    Floor(String),
    /// Nothing that failed.
    #[error("nothing is held back: no image that the document names has failed")]
    NothingHeldBack,
}

/// What was taken.
pub type UpgradeAnswer = Result<(), UpgradeRefused>;

/// Where people's wishes go in.
pub type UpgradeInbox = Inbox<UpgradeRequest, UpgradeAnswer>;

/// Why an upgrade cannot go on now.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Disk, boot loader or firmware.
    #[error(transparent)]
    Host(#[from] UpgradeHostError),
    /// The journal.
    #[error(transparent)]
    Record(#[from] UpgradeRecordError),
}

/// Why the journal cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeRecordError {
    /// The file failed.
    #[error("the journal of upgrades cannot be kept")]
    File(#[source] FileError),
    /// The file is damaged.
    #[error(
        "the journal of upgrades {path} is damaged; what it said about a running upgrade is lost, the boot record decides"
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
