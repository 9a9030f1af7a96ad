//! The machine's identity key: read from META, made there at first boot.

use init_boot::{MetaError, MetaKind};
use machined_access::{IdentityError, IdentityKey};
use machined_ids::Fingerprint;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Resource, Writer};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a META record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetaAccessError {
    /// The kernel shows no META partition.
    #[error("the kernel shows no partition labelled CAIRN-META; was the disk written from a Cairn image?")]
    Missing,
    /// The device refused.
    #[error("cannot access META on {device}")]
    Access {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The record is not whole.
    #[error("the META record on {device} is damaged")]
    Record {
        /// Device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: MetaError,
    },
}

/// The META partition.
pub trait MetaHost: Send + Sync + 'static {
    /// The content of a record; `None` when it was never written.
    fn read(&self, kind: MetaKind) -> impl Future<Output = Result<Option<Vec<u8>>, MetaAccessError>> + Send;
    /// Writes a record and returns when it is on the disk.
    fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> impl Future<Output = Result<(), MetaAccessError>> + Send;
}

/// The identity key in use; the id is [`MachineKey::ID`]. Shows its fingerprint only.
#[derive(Debug, Clone)]
pub struct MachineKey {
    /// The key. It never leaves machined.
    pub key: Arc<IdentityKey>,
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
}

impl PartialEq for MachineKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Resource for MachineKey {
    const KIND: &'static str = "machine key";
}

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
    /// No key could be made.
    #[error("an identity key cannot be made")]
    Generate(#[source] IdentityError),
}

/// Writes [`MachineKey`].
pub struct IdentityController<H> {
    host: Arc<H>,
    keys: Writer<MachineKey>,
}

impl<H: MetaHost> IdentityController<H> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        IdentityController { host, keys: ports.output() }
    }

    /// The key in META, made there when there is none. A damaged record is never replaced: peers know the old key.
    async fn load_or_make(&self) -> Result<IdentityKey, IdentityLoadError> {
        if let Some(bytes) = self.host.read(MetaKind::IdentityKey).await? {
            let pem = std::str::from_utf8(&bytes).map_err(|_| IdentityLoadError::NotText)?;
            return IdentityKey::from_pem(pem).map_err(IdentityLoadError::Key);
        }
        let key = IdentityKey::generate().map_err(IdentityLoadError::Generate)?;
        self.host.write(MetaKind::IdentityKey, key.to_pem().into_bytes()).await?;
        tracing::info!(identity = %key.fingerprint(), "made the machine's identity key");
        Ok(key)
    }
}

impl<H: MetaHost> Controller for IdentityController<H> {
    type Error = IdentityLoadError;

    async fn reconcile(&mut self) -> Result<Outcome, IdentityLoadError> {
        if self.keys.current().is_empty() {
            let key = self.load_or_make().await?;
            self.keys.put(MachineKey::ID, MachineKey::new(key));
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_runtime::Store;
    use std::sync::Mutex;

    #[derive(Default)]
    struct FakeMeta(Mutex<Option<Vec<u8>>>);
    impl MetaHost for FakeMeta {
        async fn read(&self, _kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
            Ok(self.0.lock().expect("because no test panics with it").clone())
        }
        async fn write(&self, _kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
            *self.0.lock().expect("because no test panics with it") = Some(bytes);
            Ok(())
        }
    }

    async fn boot(meta: &Arc<FakeMeta>) -> Result<Fingerprint, IdentityLoadError> {
        let store = Store::new();
        let mut controller = IdentityController::new(&mut Ports::new(&store, "identity"), Arc::clone(meta));
        controller.reconcile().await?;
        Ok(store.reader::<MachineKey>().get(MachineKey::ID).expect("because reconciling made one").fingerprint)
    }

    #[tokio::test]
    async fn the_key_of_the_first_boot_is_the_key_of_every_boot() {
        let meta = Arc::new(FakeMeta::default());
        let first = boot(&meta).await.expect("because META can be written");
        assert_eq!(boot(&meta).await.expect("because META can be read"), first);
    }

    #[tokio::test]
    async fn a_damaged_key_is_not_replaced() {
        let meta = Arc::new(FakeMeta(Mutex::new(Some(b"not a key".to_vec()))));
        assert!(matches!(boot(&meta).await, Err(IdentityLoadError::Key(_))));
        assert_eq!(meta.0.lock().expect("because no test panics with it").as_deref(), Some(&b"not a key"[..]));
    }
}
