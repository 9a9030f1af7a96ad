//! Reads the key from META, or makes it there.
//!
//! ```text
//! META empty, TPM there     forget the counter, make in the TPM --> load, sign, check --> write META --> MachineKey
//! META empty, no TPM        make ------------------------------------------------------> write META --> MachineKey
//! META holds a PEM          -------------------------------------------------------------------------> MachineKey, whether there is a TPM or not
//! META holds a wrapped key  load (refused by another TPM, and by none) ------------------------------> MachineKey
//! ```
//!
//! The one write is one sector: a power cut leaves META empty, and the next start makes another key that nobody saw, or with the key.

use super::{MachineKey, MetaAccessError, MetaHost};
use crate::tpm::{TpmAccessError, TpmHost};
use init_boot::MetaKind;
use init_boot::tpm::{TpmError, WrappedKey};
use machined_access::{IdentityError, IdentityKey};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Writer};
use std::sync::Arc;

/// What a new key signs before it is kept: a key that cannot sign would be the machine's for ever.
const TRIAL: &[u8] = b"cairn.trial.v1\n";

/// Why the machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityLoadError {
    /// META failed.
    #[error("the identity key cannot be kept")]
    Meta(#[from] MetaAccessError),
    /// The record is not a key.
    #[error("the identity key in META cannot be used; the machine must be installed again to get a new one")]
    Key(#[source] IdentityError),
    /// The record is not text.
    #[error("the identity key in META is not PEM; the machine must be installed again to get a new one")]
    NotText,
    /// The record says that it is a wrapped key, and is none.
    #[error(
        "the wrapped identity key in META cannot be understood; the machine must be installed again to get a new one"
    )]
    Wrapped(#[source] TpmError),
    /// The TPM is not there any more.
    #[error(
        "this machine's identity key lies in a TPM, and the machine has none; switch the TPM on in the firmware's setup, or put the disk back \
         into the machine that it comes from"
    )]
    NoTpm,
    /// Another TPM, or a cleared one.
    #[error(
        "this machine's identity key lies in another TPM, or the TPM was cleared; put the disk back into the machine that it comes from. \
         If the TPM was cleared, the key is lost: install the machine again, and take its old machines/ file out of the repository"
    )]
    OtherTpm(#[source] TpmAccessError),
    /// The TPM does not load it.
    #[error("the TPM does not load the machine's identity key; this is tried again")]
    Load(#[source] TpmAccessError),
    /// No key could be made in the TPM.
    #[error(
        "an identity key cannot be made in the TPM; clear the TPM in the firmware's setup, or switch it off there to keep the key on the disk"
    )]
    MakeInTpm(#[source] TpmAccessError),
    /// The TPM made a key that does not sign.
    #[error(
        "the TPM does not sign with the identity key that it made; switch it off in the firmware's setup to keep the key on the disk"
    )]
    Trial(#[source] IdentityError),
    /// No key could be made.
    #[error("an identity key cannot be made")]
    Generate(#[source] IdentityError),
}

/// Writes [`MachineKey`].
pub struct IdentityController<H, T> {
    host: Arc<H>,
    tpm: Arc<T>,
    keys: Writer<MachineKey>,
}

impl<H: MetaHost, T: TpmHost> IdentityController<H, T> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>, tpm: Arc<T>) -> Self {
        IdentityController { host, tpm, keys: ports.output() }
    }

    /// The key in META, made there when there is none. A record that cannot be used is never replaced: peers know the old key.
    async fn load_or_make(&self) -> Result<MachineKey, IdentityLoadError> {
        match self.host.read(MetaKind::IdentityKey).await? {
            Some(bytes) if WrappedKey::is_kept(&bytes) => {
                self.load(WrappedKey::parse(&bytes).map_err(IdentityLoadError::Wrapped)?).await
            }
            Some(bytes) => {
                let pem = std::str::from_utf8(&bytes).map_err(|_| IdentityLoadError::NotText)?;
                IdentityKey::from_pem(pem).map(MachineKey::new).map_err(IdentityLoadError::Key)
            }
            None => {
                let (key, bytes) = if self.tpm.is_present() { self.make_in_tpm().await? } else { make_on_disk()? };
                self.host.write(MetaKind::IdentityKey, bytes).await?;
                tracing::info!(identity = %key.fingerprint, place = key.place().as_str(), "made the machine's identity key");
                Ok(key)
            }
        }
    }

    async fn load(&self, wrapped: WrappedKey) -> Result<MachineKey, IdentityLoadError> {
        if !self.tpm.is_present() {
            return Err(IdentityLoadError::NoTpm);
        }
        let point = wrapped.public().point();
        let chip = self.tpm.load_key(wrapped).await.map_err(|error| match error {
            TpmAccessError::OtherTpm { .. } => IdentityLoadError::OtherTpm(error),
            TpmAccessError::Access { .. }
            | TpmAccessError::Answer { .. }
            | TpmAccessError::Silent { .. }
            | TpmAccessError::Unsigned { .. }
            | TpmAccessError::Foreign { .. } => IdentityLoadError::Load(error),
        })?;
        Ok(MachineKey::new(IdentityKey::in_tpm(point, chip)))
    }

    async fn make_in_tpm(&self) -> Result<(MachineKey, Vec<u8>), IdentityLoadError> {
        // A new machine has counted nothing. From here on a counter without a record is a doubt, see `trust`.
        self.tpm.forget_counter().await.map_err(IdentityLoadError::MakeInTpm)?;
        let wrapped = self.tpm.make_key().await.map_err(IdentityLoadError::MakeInTpm)?;
        let bytes = wrapped.to_bytes();
        let key = self.load(wrapped).await?;
        key.sign(TRIAL.to_vec()).await.map_err(IdentityLoadError::Trial)?;
        Ok((key, bytes))
    }
}

fn make_on_disk() -> Result<(MachineKey, Vec<u8>), IdentityLoadError> {
    let key = IdentityKey::generate().map_err(IdentityLoadError::Generate)?;
    let pem = key.to_pem().expect("because it was not made in a TPM");
    Ok((MachineKey::new(key), pem.into_bytes()))
}

impl<H: MetaHost, T: TpmHost> Controller for IdentityController<H, T> {
    type Error = IdentityLoadError;

    async fn reconcile(&mut self) -> Result<Outcome, IdentityLoadError> {
        if self.keys.current().is_empty() {
            let key = self.load_or_make().await?;
            self.keys.put(MachineKey::ID, key);
        }
        Ok(Outcome::Done)
    }
}
