//! Why a volume is not there, in words for the console.

use super::{BlockError, EncryptionError};
use crate::tpm::TpmAccessError;
use machined_reconcile::story;
use std::path::PathBuf;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The host refused something.
    #[error("the volume {label} could not be brought up")]
    Host {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// The partition holds something that is not ours.
    #[error(
        "the partition {label} ({device}) holds data that is not ext4; it is left alone. Wipe its first megabyte to have it formatted"
    )]
    Unknown {
        /// GPT label.
        label: &'static str,
        /// Device file.
        device: PathBuf,
    },
    /// Its key cannot be had.
    #[error(
        "the volume {label} is encrypted and locked; {}. {}{}",
        story(source),
        match source.is_with_peers() { true => "This is tried again; or ", false => "Undo what changed (image, firmware's settings, TPM) and restart, or " },
        match recovery { true => "type its recovery key at this console", false => "install the machine again: it has no recovery key" }
    )]
    Locked {
        /// GPT label.
        label: &'static str,
        /// Whether a recovery key would open it.
        recovery: bool,
        /// Why; part of the sentence.
        source: Box<EncryptionError>,
    },
    /// It cannot be encrypted, and is not made without.
    #[error(
        "the volume {label} cannot be encrypted; clear the TPM in the firmware's setup, or switch it off there to keep the volume unencrypted"
    )]
    Encrypt {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: EncryptionError,
    },
    /// The seed wants it encrypted, and this machine cannot.
    #[error("the volume {label} is not made: the seed insists on encryption, and {why}")]
    Insisted {
        /// GPT label.
        label: &'static str,
        /// What is missing, and what to do.
        why: &'static str,
    },
    /// The TPM does not take that the volumes are open.
    #[error("the TPM still gives the volumes' keys out, because PCR 11 cannot be extended; this is tried again")]
    Seal(#[source] TpmAccessError),
}
