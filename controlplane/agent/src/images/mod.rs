//! Images: from the cache of OCI archives or a registry into containerd, unpacked.
//!
//! [`Images::ensure`] is all that the pod machinery calls. The cache comes first, so a machine without network runs
//! what was baked into it; what containerd has is next, a registry last. Pulls take turns.

mod archive;
mod manifest;
mod registry;

pub(crate) use manifest::{Blob, ImageConfig, ImageHandle, ManifestError, PreparedImage};
pub(crate) use registry::Credentials;
pub use registry::RegistryMirror;

use crate::containerd::Containerd;
use crate::runtime::RuntimeError;
use archive::ArchiveError;
use oci_client::Reference;
use registry::RegistryError;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::AsyncRead;
use tokio::sync::Mutex;

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// For each start of a container.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never: it must be there.
    Never,
}

/// Where images come from.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// Folders of OCI archives (`*.tar`), default /usr/share/cairn/images.
    pub caches: Vec<PathBuf>,
    /// Mirrors, asked in order before the registry itself.
    pub mirrors: Vec<RegistryMirror>,
    /// Folder for blobs on their way, default /var/lib/cairn/pulls; emptied at start.
    pub spool: PathBuf,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            caches: vec![PathBuf::from("/usr/share/cairn/images")],
            mirrors: Vec::new(),
            spool: PathBuf::from("/var/lib/cairn/pulls"),
        }
    }
}

/// Opens the bytes of blobs.
pub(crate) trait BlobSource: Send + Sync {
    /// Opens a blob at its beginning.
    fn open<'a>(&'a self, blob: &'a Blob) -> BlobFuture<'a>;
}

/// What [`BlobSource::open`] gives.
pub(crate) type BlobFuture<'a> = Pin<Box<dyn Future<Output = Result<BlobReader, BlobError>> + Send + 'a>>;
/// The bytes of a blob.
pub(crate) type BlobReader = Box<dyn AsyncRead + Send + Unpin>;
/// Any reason why a blob cannot be had.
pub(crate) type BlobError = Box<dyn std::error::Error + Send + Sync>;

/// An image cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The name is no image name.
    #[error("{name:?} is no image name: {message}")]
    Name {
        /// What the pod says.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// It is not there, and the pod forbids fetching it.
    #[error("the image {name} is not on this machine and the pull policy is Never")]
    Absent {
        /// The image.
        name: String,
    },
    /// A cached archive is broken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Manifest or configuration is broken.
    #[error("the image {name} is broken")]
    Manifest {
        /// The image.
        name: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// No registry gave it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// containerd refused it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl ImageError {
    /// The reason that a waiting container shows.
    #[must_use]
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "InvalidImageName",
            Self::Absent { .. } => "ErrImageNeverPull",
            Self::Archive(_) | Self::Manifest { .. } | Self::Registry(_) | Self::Runtime(_) => "ErrImagePull",
        }
    }
}

/// The images of this node.
pub(crate) struct Images {
    containerd: Containerd,
    config: ImagesConfig,
    turn: Mutex<()>,
}

impl Images {
    /// Images from `config` into `containerd`.
    #[must_use]
    pub(crate) fn new(containerd: Containerd, config: ImagesConfig) -> Self {
        Self { containerd, config, turn: Mutex::new(()) }
    }

    /// Makes the image ready to run containers from.
    ///
    /// # Errors
    /// When it cannot be had under the policy; the reason is for the pod's status.
    pub(crate) async fn ensure(
        &self,
        name: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> Result<ImageHandle, ImageError> {
        let reference = parse(name)?;
        let full = reference.whole();
        let _turn = self.turn.lock().await;
        let present = self.containerd.image_digest(&full).await?;
        if let Some((archive, image)) = self.cached(&reference).await? {
            if present.as_deref() != Some(image.manifest.digest.as_str()) || !self.is_unpacked(&image).await? {
                self.containerd.store_image(&full, &image, &archive).await?;
                tracing::info!(image = full, digest = image.manifest.digest, "image taken from the cache");
            }
            return Ok(image.handle);
        }
        if let Some(digest) = present.filter(|_| policy != PullPolicy::Always)
            && let Some(handle) = self.stored(&full, &digest).await?
        {
            return Ok(handle);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::Absent { name: full });
        }
        let pull = registry::Pull::begin(&reference, &self.config, credentials).await?;
        self.containerd.store_image(&full, &pull.image, &pull).await?;
        tracing::info!(image = full, digest = pull.image.manifest.digest, "image pulled");
        Ok(pull.image.handle.clone())
    }

    async fn is_unpacked(&self, image: &PreparedImage) -> Result<bool, ImageError> {
        Ok(self.containerd.has_snapshot(&image.handle.chain).await?)
    }

    async fn cached(&self, reference: &Reference) -> Result<Option<(archive::Archive, PreparedImage)>, ImageError> {
        let (folders, reference) = (self.config.caches.clone(), reference.clone());
        let look = tokio::task::spawn_blocking(move || archive::find(&folders, &reference));
        look.await
            .expect("because reading an archive does not panic and the runtime outlives its tasks")
            .map_err(Into::into)
    }

    /// The image as containerd has it; none when a layer is missing.
    async fn stored(&self, name: &str, digest: &str) -> Result<Option<ImageHandle>, ImageError> {
        let broken = |source| ImageError::Manifest { name: name.to_owned(), source };
        let manifest = self.containerd.read_document(digest).await?;
        let config_digest = manifest::config_digest(&manifest).map_err(broken)?;
        let config = self.containerd.read_document(&config_digest).await?;
        let image = PreparedImage::read(&manifest, &config).map_err(broken)?;
        Ok(self.is_unpacked(&image).await?.then_some(image.handle))
    }
}

/// Reads an image name, adding registry, `library/` and `latest` where they are left out.
pub(crate) fn parse(name: &str) -> Result<Reference, ImageError> {
    name.parse()
        .map_err(|error: oci_client::ParseError| ImageError::Name { name: name.to_owned(), message: error.to_string() })
}
