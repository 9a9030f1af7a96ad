//! Bundles that people bring when no git host answers. One is kept, for gitsync to look at; nothing in it is believed here.

use machined_ids::Digest;
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};
use tokio_stream::{Stream, StreamExt};

/// Largest bundle in bytes: years of a busy repository's text; what is larger is brought in parts.
pub(crate) const BUNDLE_BYTES_MAX: u64 = 64 << 20;

/// Where the bundle lies: gone with the EPHEMERAL volume, since gitsync keeps what it takes from it.
const FOLDER: &str = "/var/lib/machined";

/// A bundle that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
}

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliverError {
    #[error(
        "the bundle is larger than {BUNDLE_BYTES_MAX} bytes; bundle fewer commits: `git bundle create FILE <accepted>..main`"
    )]
    Long,
    #[error("the bundle is empty; make one with `git bundle create FILE main`")]
    Empty,
    #[error("another bundle is being delivered; try again in a moment")]
    Busy,
    #[error("the bundle could not be written to {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the delivery broke off; start it again")]
    Broken(#[source] tonic::Status),
}

/// The place for bundles. Clones are the same.
#[derive(Clone)]
pub(crate) struct Deliveries {
    folder: PathBuf,
    writing: Arc<Mutex<()>>,
    newest: watch::Sender<Option<Bundle>>,
    seen: watch::Receiver<Option<Bundle>>,
}

impl Default for Deliveries {
    fn default() -> Self {
        Deliveries::at(FOLDER)
    }
}

impl Deliveries {
    /// Bundles are kept in `folder`.
    pub(crate) fn at(folder: impl Into<PathBuf>) -> Self {
        let (newest, seen) = watch::channel(None);
        Deliveries { folder: folder.into(), writing: Arc::default(), newest, seen }
    }

    /// The bundle that came last.
    pub(crate) fn newest(&self) -> Option<Bundle> {
        self.seen.borrow().clone()
    }

    /// Waits for another bundle.
    pub(crate) async fn changed(&mut self) {
        self.seen.changed().await.expect("because this value holds the sender");
    }

    /// Takes chunks until there are no more; the bundle counts when all of it is there.
    pub(crate) async fn take(
        &self,
        chunks: impl Stream<Item = Result<Vec<u8>, tonic::Status>> + Unpin,
    ) -> Result<Bundle, DeliverError> {
        let _one_at_a_time = self.writing.try_lock().map_err(|_| DeliverError::Busy)?;
        let beside = self.folder.join("bundle.new");
        let taken = self.write(&beside, chunks).await;
        match &taken {
            Ok(bundle) => drop(self.newest.send_replace(Some(bundle.clone()))),
            // Half a bundle is nothing; what cannot be removed is overwritten by the next one.
            Err(_) => drop(tokio::fs::remove_file(&beside).await),
        }
        taken
    }

    async fn write(
        &self,
        beside: &Path,
        mut chunks: impl Stream<Item = Result<Vec<u8>, tonic::Status>> + Unpin,
    ) -> Result<Bundle, DeliverError> {
        let failed = |source| DeliverError::Write { path: beside.to_owned(), source };
        tokio::fs::create_dir_all(&self.folder).await.map_err(failed)?;
        let mut file = tokio::fs::File::create(beside).await.map_err(failed)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = chunks.next().await.transpose().map_err(DeliverError::Broken)? {
            bytes += chunk.len() as u64;
            if bytes > BUNDLE_BYTES_MAX {
                return Err(DeliverError::Long);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        if bytes == 0 {
            return Err(DeliverError::Empty);
        }
        file.flush().await.map_err(failed)?;
        let path = self.folder.join("bundle");
        tokio::fs::rename(beside, &path).await.map_err(failed)?;
        Ok(Bundle { path, sha256: Digest::from_bytes(hash.finalize().into()), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn deliver(deliveries: &Deliveries, chunks: Vec<Vec<u8>>) -> Result<Bundle, DeliverError> {
        deliveries.take(tokio_stream::iter(chunks.into_iter().map(Ok))).await
    }

    #[tokio::test]
    async fn a_bundle_counts_when_it_is_whole_and_not_too_large() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let deliveries = Deliveries::at(folder.path());
        assert!(matches!(deliver(&deliveries, Vec::new()).await, Err(DeliverError::Empty)));
        let good = deliver(&deliveries, vec![b"# v2 git".to_vec(), b" bundle\n".to_vec()]).await;
        let good = good.expect("because it is small");
        assert_eq!(std::fs::read(&good.path).expect("because it was written"), b"# v2 git bundle\n");
        let large = deliver(&deliveries, vec![vec![0; 1 << 20]; 65]).await;
        assert!(matches!(large, Err(DeliverError::Long)), "{large:?}");
        let broken = deliveries.take(tokio_stream::iter([Ok(vec![1]), Err(tonic::Status::cancelled("gone"))])).await;
        assert!(matches!(broken, Err(DeliverError::Broken(_))), "{broken:?}");
        assert_eq!(deliveries.newest(), Some(good), "what failed takes nobody's place");
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("because it is there").count(),
            1,
            "nothing is left beside it"
        );
    }
}
