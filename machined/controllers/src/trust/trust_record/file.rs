//! The form of the record's file, and who wrote it. Pure but for the signature that a seal is.
//!
//! On a machine whose identity key lies in its TPM the record is sealed by that key, so that a record which somebody made elsewhere is not
//! taken for the machine's own. Where the key lies on the disk, whoever writes the disk could seal as well: the file is what the releases
//! before wrote.

use super::super::TrustRecord;
use crate::identity::MachineKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machined_access::{IdentityError, KeyPlace};
use serde::{Deserialize, Serialize};

/// Version of the form with a seal, the newest that this release reads.
pub(super) const SEALED_VERSION: u32 = 3;

/// Stands before the record in what is sealed, so that no other state that the machine seals is a record.
const CONTEXT: &[u8] = b"trust record\n";

/// A record with its seal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Sealed {
    version: u32,
    /// The record as JSON, byte by byte as it was sealed.
    record: String,
    /// Base64.
    seal: String,
}

/// What a file is.
#[derive(Debug)]
pub(super) enum Kept {
    /// This machine's record.
    Record(Box<TrustRecord>),
    /// A newer release wrote it.
    Newer(u32),
    /// It has no seal of this machine, and needs one.
    NotOurs,
    /// It cannot be understood.
    Damaged(serde_json::Error),
}

/// The version that a file says it has. Its other fields may be anything.
fn version(bytes: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<u32>,
    }
    serde_json::from_slice::<Versioned>(bytes).ok()?.version
}

/// Reads a file.
pub(super) fn read(bytes: &[u8], key: &MachineKey) -> Kept {
    let understood =
        |record: Result<TrustRecord, _>| record.map_or_else(Kept::Damaged, |record| Kept::Record(Box::new(record)));
    match (version(bytes), key.place()) {
        (Some(version), _) if version > SEALED_VERSION => Kept::Newer(version),
        (Some(SEALED_VERSION), _) => match unsealed(bytes, key) {
            Some(record) => understood(serde_json::from_str(&record)),
            None => Kept::NotOurs,
        },
        (_, KeyPlace::Tpm) => Kept::NotOurs,
        (_, KeyPlace::Disk) => understood(serde_json::from_slice(bytes)),
    }
}

fn unsealed(bytes: &[u8], key: &MachineKey) -> Option<String> {
    let sealed: Sealed = serde_json::from_slice(bytes).ok()?;
    let seal = STANDARD.decode(&sealed.seal).ok()?;
    key.check_seal(&[CONTEXT, sealed.record.as_bytes()].concat(), &seal).then_some(sealed.record)
}

/// A file for a record.
///
/// # Errors
/// When the TPM does not sign.
pub(super) async fn write(record: &TrustRecord, key: &MachineKey) -> Result<Vec<u8>, IdentityError> {
    let because = "because its map keys are strings";
    let record = serde_json::to_string(record).expect(because);
    match key.place() {
        KeyPlace::Disk => Ok(record.into_bytes()),
        KeyPlace::Tpm => {
            let seal = STANDARD.encode(key.seal([CONTEXT, record.as_bytes()].concat()).await?);
            Ok(serde_json::to_vec(&Sealed { version: SEALED_VERSION, record, seal }).expect(because))
        }
    }
}
