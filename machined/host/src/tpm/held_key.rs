//! A key inside the TPM that signs for machined. Its calls block: whoever signs is on a thread that may.

use super::LinuxTpm;
use init_boot::tpm::WrappedKey;
use machined_access::{ChipError, ChipKey};
use machined_controllers::tpm::TpmAccessError;
use sha2::{Digest, Sha256};

/// How often one signature is asked for. The second time is for a TPM that was started again and forgot what was loaded.
const ATTEMPTS: usize = 2;

/// A wrapped key with its TPM, which has it loaded or loads it again.
pub(super) struct HeldKey {
    tpm: LinuxTpm,
    key: WrappedKey,
}

impl HeldKey {
    pub(super) fn new(tpm: LinuxTpm, key: WrappedKey) -> Self {
        HeldKey { tpm, key }
    }
}

impl ChipKey for HeldKey {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], ChipError> {
        let digest = Sha256::digest(message).into();
        let mut last: Option<TpmAccessError> = None;
        for _ in 0..ATTEMPTS {
            match self.tpm.turn(|talk| talk.sign(&self.key, &digest)) {
                Ok(signature) => return Ok(signature),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("because there is at least one attempt").into())
    }
}
