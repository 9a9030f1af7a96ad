//! The machine's TPM: a counter that never goes back, registers that are extended, and what it says about them.
//!
//! `trust` counts in it, [`MeasureController`] extends it, `identity` has its key in it. A machine without one works; it says what it cannot
//! notice. Nothing here decides what a counter's value means.

#[cfg(test)]
pub(crate) mod fake;
mod measure;

pub use measure::{MeasureController, MeasureError, Measured};

use init_boot::tpm::{AttestationPublic, Pcr, PcrValue, PolicyKey, RawQuote, Sealed, TpmError, WrappedKey};
use machined_access::ChipKey;
use machined_luks::{Secret, SignedPolicy};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why the TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmAccessError {
    /// The device refused.
    #[error("cannot access the TPM at {device}")]
    Access {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TPM answered, and not as hoped.
    #[error("the TPM at {device} does not do what the machine needs")]
    Answer {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: TpmError,
    },
    /// It is busy for too long.
    #[error("the TPM at {device} has not answered within {} s; restart the machine, and look at its firmware", limit.as_secs())]
    Silent {
        /// Device file.
        device: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// The counter's place is taken by something that is not ours.
    #[error(
        "the TPM at {device} holds something else at NV index {index:#x}, where the machine's counter should be; clear the TPM in the firmware's setup"
    )]
    Foreign {
        /// Device file.
        device: PathBuf,
        /// The NV index.
        index: u32,
    },
    /// It cannot unwrap a key.
    #[error("the TPM at {device} is not the one that wrapped the key, or it was cleared since")]
    OtherTpm {
        /// Device file.
        device: PathBuf,
    },
    /// The image, or how far it has come, is not what the policy key signed.
    #[error(
        "the TPM at {device} does not give the secret out: the key that it is sealed to did not sign what has started on this machine"
    )]
    Unsigned {
        /// Device file.
        device: PathBuf,
    },
}

/// What the TPM says about its registers, with the key that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmEvidence {
    /// The attestation key.
    pub key: AttestationPublic,
    /// What it signed.
    pub quote: RawQuote,
    /// The registers that were asked for, read at the same time.
    pub values: Vec<(Pcr, PcrValue)>,
}

/// The machine's TPM.
pub trait TpmHost: Send + Sync + 'static {
    /// Whether the machine has a TPM 2.0 that the kernel drives.
    fn is_present(&self) -> bool;
    /// The counter's value; `None` when it was never made or never incremented.
    fn counter(&self) -> impl Future<Output = Result<Option<u64>, TpmAccessError>> + Send;
    /// Adds one to the counter, making it first when there is none, and gives the new value. Wears the TPM's memory.
    fn increment(&self) -> impl Future<Output = Result<u64, TpmAccessError>> + Send;
    /// Extends a register with a digest.
    fn extend(&self, pcr: Pcr, digest: [u8; 32]) -> impl Future<Output = Result<(), TpmAccessError>> + Send;
    /// Values of at most eight registers.
    fn registers(&self, pcrs: Vec<Pcr>) -> impl Future<Output = Result<Vec<(Pcr, PcrValue)>, TpmAccessError>> + Send;
    /// Signs at most eight registers together with a nonce of at most 32 bytes.
    fn quote(&self, nonce: Vec<u8>, pcrs: Vec<Pcr>)
    -> impl Future<Output = Result<TpmEvidence, TpmAccessError>> + Send;
    /// Removes the counter, which nothing counts with any more. The next one begins above every value that this one had.
    fn forget_counter(&self) -> impl Future<Output = Result<(), TpmAccessError>> + Send;
    /// Makes a signing key that never leaves the TPM, another one each time. The TPM keeps nothing of it: what is given has to be kept.
    fn make_key(&self) -> impl Future<Output = Result<WrappedKey, TpmAccessError>> + Send;
    /// Loads a key that this TPM made, to sign with it for as long as the value lives.
    fn load_key(&self, key: WrappedKey) -> impl Future<Output = Result<Arc<dyn ChipKey>, TpmAccessError>> + Send;
    /// Seals a secret: this TPM gives it back while PCR 11 is as the key signed. What is given has to be kept.
    fn seal(&self, secret: Secret, key: PolicyKey) -> impl Future<Output = Result<Sealed, TpmAccessError>> + Send;
    /// Gives a sealed secret back, if the running image's policy allows it.
    fn unseal(
        &self,
        sealed: Sealed,
        policy: SignedPolicy,
    ) -> impl Future<Output = Result<Secret, TpmAccessError>> + Send;
}
