//! The place for extensions on EPHEMERAL: one file each, called like its digest, and one beside them that was fetched and not judged yet.
//!
//! A file gets its name only once it is whole and synchronised, so a power cut leaves a whole one or none. Must never call a file whole
//! that was not hashed.

use crate::fetch;
use init_boot::artefact::{
    ARTEFACT_HEADER_BYTES_MAX, ArtefactError, EXTENSION_BYTES_MAX, ExtensionDigest, ExtensionHeader,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Ends the name of a file that is kept.
const ENDING: &str = ".extension";
/// What was fetched and not judged yet.
const INCOMING: &str = "incoming";
/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = EXTENSION_BYTES_MAX + ARTEFACT_HEADER_BYTES_MAX as u64;
/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Why a file is no extension that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// Too large.
    #[error("it is larger than {FILE_BYTES_MAX} bytes; pack less into it")]
    Long,
    /// Cut off, or with something behind it.
    #[error("it has {bytes} bytes, its header says {wanted}; build or upload it again")]
    Length {
        /// What is there.
        bytes: u64,
        /// What belongs there.
        wanted: u64,
    },
    /// Its header.
    #[error("its header cannot be read")]
    Header(#[source] ArtefactError),
    /// Another extension than its name says.
    #[error("it is extension {found}")]
    OtherDigest {
        /// What it is.
        found: ExtensionDigest,
    },
    /// Changed bytes.
    #[error("its content does not have the SHA-256 that its manifest names")]
    Content,
    /// The server.
    #[error("the server did not send it")]
    Http(#[from] reqwest::Error),
    /// The volume.
    #[error("the folder {folder} cannot be used")]
    File {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    pub(super) fn at(folder: impl Into<PathBuf>) -> Self {
        Place { folder: folder.into() }
    }

    fn failed(&self) -> impl Fn(io::Error) -> PlaceError {
        let folder = self.folder.clone();
        move |source| PlaceError::File { folder: folder.clone(), source }
    }

    fn path(&self, digest: ExtensionDigest) -> PathBuf {
        let digest = digest.to_string();
        let hex = digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex);
        self.folder.join(format!("{hex}{ENDING}"))
    }

    pub(super) fn kept(&self) -> Result<BTreeSet<ExtensionDigest>, PlaceError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(self.failed()(error)),
        };
        let mut kept = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(self.failed())?.file_name();
            let hex = name.to_str().and_then(|name| name.strip_suffix(ENDING));
            kept.extend(hex.and_then(|hex| format!("sha256:{hex}").parse::<ExtensionDigest>().ok()));
        }
        Ok(kept)
    }

    /// Fetches one, writes it down through a power cut, and compares it with its manifest.
    pub(super) async fn fetch(&self, url: &str) -> Result<ExtensionHeader, PlaceError> {
        let mut answer = fetch::get(url).await?;
        fs::create_dir_all(&self.folder).map_err(self.failed())?;
        let path = self.folder.join(INCOMING);
        let mut file = File::create(&path).map_err(self.failed())?;
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await? {
            bytes += chunk.as_ref().len() as u64;
            if bytes > FILE_BYTES_MAX {
                return Err(PlaceError::Long);
            }
            file.write_all(chunk.as_ref()).map_err(self.failed())?;
        }
        let place = self.clone();
        let checked = tokio::task::spawn_blocking(move || {
            file.sync_all().map_err(place.failed())?;
            place.check(&File::open(&path).map_err(place.failed())?)
        });
        checked.await.unwrap_or_else(|panic| Err(self.failed()(io::Error::other(panic))))
    }

    pub(super) fn keep(&self, digest: ExtensionDigest) -> Result<(), PlaceError> {
        fs::rename(self.folder.join(INCOMING), self.path(digest)).map_err(self.failed())?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(self.failed())
    }

    pub(super) fn open(&self, digest: ExtensionDigest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    pub(super) fn header(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, PlaceError> {
        self.header_of(&self.open(digest).map_err(self.failed())?)
    }

    fn header_of(&self, file: &File) -> Result<ExtensionHeader, PlaceError> {
        let mut bytes = Vec::new();
        file.take(ARTEFACT_HEADER_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(self.failed())?;
        ExtensionHeader::parse(&bytes).map_err(PlaceError::Header)
    }

    pub(super) fn verify(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, PlaceError> {
        let header = self.check(&self.open(digest).map_err(self.failed())?)?;
        match header.manifest.digest() {
            found if found == digest => Ok(header),
            found => Err(PlaceError::OtherDigest { found }),
        }
    }

    /// Compares all of a file with its own manifest.
    fn check(&self, file: &File) -> Result<ExtensionHeader, PlaceError> {
        let header = self.header_of(file)?;
        let (bytes, wanted) = (file.metadata().map_err(self.failed())?.len(), header.file_bytes());
        if bytes != wanted {
            return Err(PlaceError::Length { bytes, wanted });
        }
        let (mut hash, mut chunk, mut at) = (Sha256::new(), vec![0; CHUNK_BYTES], header.bytes());
        while at < bytes {
            let length = usize::try_from((bytes - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
            file.read_exact_at(&mut chunk[..length], at).map_err(self.failed())?;
            hash.update(&chunk[..length]);
            at += length as u64;
        }
        match <[u8; 32]>::from(hash.finalize()) == header.manifest.image.sha256 {
            true => Ok(header),
            false => Err(PlaceError::Content),
        }
    }

    pub(super) fn forget(&self, digest: ExtensionDigest) -> Result<(), PlaceError> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed()(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::RootHash;
    use init_boot::artefact::{ExtensionFolder, ExtensionManifest, Part};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn extension() -> (ExtensionDigest, Vec<u8>) {
        let image = vec![7; 8192];
        let header = ExtensionHeader::new(ExtensionManifest {
            name: "cni".parse().expect("because it is a name"),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            kernel: None,
            folders: vec![ExtensionFolder::CniPlugins],
            image: Part::of(&image),
            data_blocks: 1,
            root_hash: RootHash::from_bytes([2; 32]),
        });
        let bytes = [header.encode().expect("because it is within its limits"), image].concat();
        (header.manifest.digest(), bytes)
    }

    /// Serves each answer once, in order.
    async fn serve(answers: Vec<Vec<u8>>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("because loopback has ports");
        let address = listener.local_addr().expect("because it is bound");
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("because somebody asks");
                let _ = stream.read(&mut [0; 1024]).await.expect("because somebody asks");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
                stream.write_all(&[head.as_bytes(), &answer].concat()).await.expect("because somebody listens");
            }
        });
        format!("http://{address}/cni.extension")
    }

    #[tokio::test]
    async fn what_was_fetched_is_kept_whole_and_a_changed_byte_is_noticed_later() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let place = Place::at(folder.path().join("extensions"));
        assert!(place.kept().expect("because a missing folder is empty").is_empty());
        let (digest, bytes) = extension();
        let url = serve(vec![bytes.clone()]).await;
        let header = place.fetch(&url).await.expect("because all of it is sent");
        assert!(place.kept().expect("because the folder is there").is_empty(), "it was not judged yet");
        place.keep(header.manifest.digest()).expect("because it was fetched");
        assert_eq!(place.kept().expect("because the folder is there"), BTreeSet::from([digest]));
        assert_eq!(place.verify(digest).expect("because it is whole"), header);
        let file = File::options().write(true).open(place.path(digest)).expect("because it is kept");
        file.write_all_at(&[8], bytes.len() as u64 - 1).expect("because the file is ours");
        assert!(matches!(place.verify(digest), Err(PlaceError::Content)));
        place.forget(digest).expect("because the folder is ours");
        place.forget(digest).expect("because it is gone already");
        assert!(place.kept().expect("because the folder is there").is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_cut_off_changed_or_no_extension_is_refused_when_it_comes() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let place = Place::at(folder.path());
        let (_, good) = extension();
        let mut changed = good.clone();
        *changed.last_mut().expect("because it has bytes") ^= 1;
        let url = serve(vec![good[..good.len() - 1].to_vec(), changed, b"<html>".to_vec()]).await;
        assert!(matches!(place.fetch(&url).await, Err(PlaceError::Length { .. })));
        assert!(matches!(place.fetch(&url).await, Err(PlaceError::Content)));
        assert!(matches!(place.fetch(&url).await, Err(PlaceError::Header(_))));
        assert!(place.kept().expect("because the folder is there").is_empty());
    }
}
