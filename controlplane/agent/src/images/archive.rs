//! Reads OCI archives, tar files of an OCI image layout, without unpacking them: an index of where each blob lies.
//!
//! Layout: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>. An image is found by the
//! annotation `io.containerd.image.name` or `org.opencontainers.image.ref.name` of its entry in index.json.

use super::manifest::{self, ManifestError, PreparedImage};
use super::{Blob, BlobFuture, BlobReader, BlobSource};
use oci_client::Reference;
use oci_spec::image::{Descriptor, ImageIndex};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Annotations that may hold an image's name.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Largest document in bytes; the OCI distribution specification asks for 4 MiB.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// An archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read the image archive {path}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It lacks a blob that it names.
    #[error("the image archive {path} lacks {entry}")]
    Lacks {
        /// The archive.
        path: PathBuf,
        /// What it should have.
        entry: String,
    },
    /// A document in it is broken.
    #[error("the image archive {path} is broken")]
    Broken {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
}

/// An archive and where its entries lie.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    /// Offset and size in bytes by name.
    entries: BTreeMap<String, (u64, u64)>,
}

/// Looks for an image in folders of archives. A missing folder is empty; a broken archive is skipped with a warning,
/// since it must not keep the others from being used.
pub(super) fn find(folders: &[PathBuf], wanted: &Reference) -> Result<Option<(Archive, PreparedImage)>, ArchiveError> {
    for path in folders.iter().flat_map(|folder| archives(folder)) {
        let archive = match Archive::open(&path) {
            Ok(archive) => archive,
            Err(error) => {
                tracing::warn!(archive = %path.display(), error = %error, "image archive skipped");
                continue;
            }
        };
        if let Some(manifest) = archive.manifest_of(wanted)? {
            let image = archive.prepare(&manifest)?;
            return Ok(Some((archive, image)));
        }
    }
    Ok(None)
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "tar")).collect();
    paths.sort();
    paths
}

impl Archive {
    fn open(path: &Path) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut entries = BTreeMap::new();
        let mut tar = tar::Archive::new(file);
        for entry in tar.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            entries.insert(name, (entry.raw_file_position(), entry.size()));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    fn locate(&self, entry: &str) -> Result<(u64, u64), ArchiveError> {
        let lacks = || ArchiveError::Lacks { path: self.path.clone(), entry: entry.to_owned() };
        self.entries.get(entry).copied().ok_or_else(lacks)
    }

    fn document(&self, entry: &str) -> Result<Vec<u8>, ArchiveError> {
        let (offset, size) = self.locate(entry)?;
        let read = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(size.min(DOCUMENT_LIMIT)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|source| ArchiveError::Read { path: self.path.clone(), source })
    }

    fn blob_document(&self, digest: &str) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.document(&blob_entry(digest))?;
        if manifest::sha256(&bytes) != digest {
            return Err(ArchiveError::Lacks { path: self.path.clone(), entry: format!("an unchanged {digest}") });
        }
        Ok(bytes)
    }

    fn broken(&self, source: ManifestError) -> ArchiveError {
        ArchiveError::Broken { path: self.path.clone(), source }
    }

    /// Digest of the wanted image's manifest.
    fn manifest_of(&self, wanted: &Reference) -> Result<Option<String>, ArchiveError> {
        let index = self.document("index.json")?;
        let index = ImageIndex::from_reader(index.as_slice())
            .map_err(|source| self.broken(ManifestError::Read { document: "index.json", source }))?;
        let Some(found) = index.manifests().iter().find(|entry| is_wanted(entry, wanted)) else { return Ok(None) };
        let digest = found.digest().to_string();
        let document = self.blob_document(&digest)?;
        let chosen = manifest::choose(&document).map_err(|source| self.broken(source))?;
        Ok(Some(chosen.unwrap_or(digest)))
    }

    fn prepare(&self, manifest: &str) -> Result<PreparedImage, ArchiveError> {
        let manifest = self.blob_document(manifest)?;
        let config = manifest::config_digest(&manifest).map_err(|source| self.broken(source))?;
        let config = self.blob_document(&config)?;
        PreparedImage::read(&manifest, &config).map_err(|source| self.broken(source))
    }
}

fn is_wanted(entry: &Descriptor, wanted: &Reference) -> bool {
    if let Some(digest) = wanted.digest() {
        return entry.digest().as_ref() == digest;
    }
    let annotations = entry.annotations().as_ref();
    let names = NAMES.iter().filter_map(|key| annotations?.get(*key));
    names.filter_map(|name| name.parse::<Reference>().ok()).any(|name| name.whole() == wanted.whole())
}

fn blob_entry(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

impl BlobSource for Archive {
    fn open<'a>(&'a self, blob: &'a Blob) -> BlobFuture<'a> {
        Box::pin(async move {
            let (offset, size) = self.locate(&blob_entry(&blob.digest))?;
            let mut file = tokio::fs::File::open(&self.path).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            Ok(Box::new(file.take(size)) as BlobReader)
        })
    }
}
