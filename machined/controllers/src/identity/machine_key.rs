//! The identity key as the rest of machined uses it. Signing may mean to ask a TPM, which takes a tenth of a second and more: it happens on
//! threads that may block, never on the runtime's.

use jiff::Timestamp;
use machined_access::{Chain, IdentityError, IdentityKey, KeyPlace};
use machined_ids::Fingerprint;
use machined_luks::OwnPart;
use machined_runtime::Resource;
use std::sync::Arc;
use std::time::Duration;

/// Longest that a signature may take, in whole: two signatures of a slow TPM that others use meanwhile.
const SIGN_LIMIT: Duration = Duration::from_secs(60);

/// The identity key in use; the id is [`MachineKey::ID`]. Shows its fingerprint and place only.
#[derive(Debug, Clone)]
pub struct MachineKey {
    key: Arc<IdentityKey>,
    /// The machine's fingerprint.
    pub fingerprint: Fingerprint,
}

impl MachineKey {
    /// The id of the one key.
    pub const ID: &'static str = "identity";

    /// Wraps a key.
    #[must_use]
    pub fn new(key: IdentityKey) -> Self {
        let fingerprint = key.fingerprint();
        MachineKey { key: Arc::new(key), fingerprint }
    }

    /// Where the key lies.
    #[must_use]
    pub fn place(&self) -> KeyPlace {
        self.key.place()
    }

    /// DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key()
    }

    /// [`IdentityKey::check_seal`]; it asks no TPM.
    #[must_use]
    pub fn check_seal(&self, state: &[u8], seal: &[u8]) -> bool {
        self.key.check_seal(state, seal)
    }

    /// [`IdentityKey::disk_part`].
    #[must_use]
    pub fn disk_part(&self) -> Option<OwnPart> {
        self.key.disk_part().map(OwnPart::new)
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&IdentityKey) -> Result<T, IdentityError> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let key = Arc::clone(&self.key);
        let signing = tokio::task::spawn_blocking(move || work(&key));
        match tokio::time::timeout(SIGN_LIMIT, signing).await {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => Err(IdentityError::Chip(panic.into())),
            Err(elapsed) => Err(IdentityError::Chip(elapsed.into())),
        }
    }

    /// [`IdentityKey::issue_leaf`].
    ///
    /// # Errors
    /// When the key or a name cannot go into a certificate, or the TPM does not sign.
    pub async fn issue_leaf(
        &self,
        spki: Vec<u8>,
        service: &'static str,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Chain, IdentityError> {
        self.on_a_thread(move |key| key.issue_leaf(&spki, service, &names, now)).await
    }

    /// [`IdentityKey::sign`].
    ///
    /// # Errors
    /// When the TPM does not sign.
    pub async fn sign(&self, message: Vec<u8>) -> Result<Vec<u8>, IdentityError> {
        self.on_a_thread(move |key| key.sign(&message)).await
    }

    /// [`IdentityKey::seal`].
    ///
    /// # Errors
    /// When the TPM does not sign.
    pub async fn seal(&self, state: Vec<u8>) -> Result<Vec<u8>, IdentityError> {
        self.on_a_thread(move |key| key.seal(&state)).await
    }

    /// [`IdentityKey::sign_mark`].
    ///
    /// # Errors
    /// When the TPM does not sign.
    pub async fn sign_mark(&self, lines: Vec<u8>) -> Result<Vec<u8>, IdentityError> {
        self.on_a_thread(move |key| key.sign_mark(&lines)).await
    }
}

impl PartialEq for MachineKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Resource for MachineKey {
    const KIND: &'static str = "machine key";
}
