//! The place for obtained artefacts: one, whole, on EPHEMERAL. It comes by HTTP or over the machine API, and is only believed once its
//! header, and later all of it, was checked.

use crate::fetch;
use init_boot::artefact::{ARTEFACT_HEADER_BYTES_MAX, ArtefactError, ArtefactHeader};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Largest artefact in bytes: sixteen times what ours have.
pub const ARTEFACT_BYTES_MAX: u64 = 1 << 30;
/// Where it lies: gone with the EPHEMERAL volume, obtained again then.
const FOLDER: &str = "/var/lib/machined/upgrade";
/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Why an artefact cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// Another one is on its way.
    #[error("another artefact is being taken; try again when it is here")]
    Busy,
    /// Too large.
    #[error("the artefact is larger than {ARTEFACT_BYTES_MAX} bytes; it is none of ours")]
    Long,
    /// Cut off, or with something behind it.
    #[error("the artefact has {bytes} bytes, its header says {wanted}; send or fetch it again")]
    Length {
        /// What came.
        bytes: u64,
        /// What belongs there.
        wanted: u64,
    },
    /// Its header.
    #[error("the artefact's header cannot be read")]
    Header(#[source] ArtefactError),
    /// A part is not what the manifest says.
    #[error("its {part} does not have the SHA-256 that its manifest names")]
    Part {
        /// "UKI" or "root image".
        part: &'static str,
    },
    /// The server.
    #[error("the server did not send it")]
    Http(#[source] reqwest::Error),
    /// The volume.
    #[error("it could not be kept in {folder}")]
    File {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The place. Clones are the same.
#[derive(Debug, Clone)]
pub struct Staging {
    folder: PathBuf,
    taking: Arc<Mutex<()>>,
}

impl Default for Staging {
    fn default() -> Self {
        Staging::at(FOLDER)
    }
}

/// An artefact on its way. One that is dropped before it is whole leaves nothing that counts.
#[derive(Debug)]
pub struct Incoming {
    staging: Staging,
    file: File,
    bytes: u64,
    _alone: OwnedMutexGuard<()>,
}

impl Staging {
    /// A place in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Staging { folder: folder.into(), taking: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("artefact")
    }

    fn beside(&self) -> PathBuf {
        self.folder.join("artefact.new")
    }

    fn failed(&self) -> impl Fn(io::Error) -> StagingError {
        let folder = self.folder.clone();
        move |source| StagingError::File { folder: folder.clone(), source }
    }

    /// Begins to take one.
    ///
    /// # Errors
    /// When another one is on its way, or the volume takes none.
    pub fn begin(&self) -> Result<Incoming, StagingError> {
        let alone = Arc::clone(&self.taking).try_lock_owned().map_err(|_| StagingError::Busy)?;
        std::fs::create_dir_all(&self.folder).map_err(self.failed())?;
        let file = File::create(self.beside()).map_err(self.failed())?;
        Ok(Incoming { staging: self.clone(), file, bytes: 0, _alone: alone })
    }

    /// Fetches one by HTTP or HTTPS. What was there before is replaced once the new one is whole.
    ///
    /// # Errors
    /// When the server does not send it in time, or it is too large or not whole.
    pub async fn fetch(&self, url: &str) -> Result<(), StagingError> {
        let mut answer = fetch::get(url).await.map_err(StagingError::Http)?;
        let mut incoming = self.begin()?;
        while let Some(chunk) = answer.chunk().await.map_err(StagingError::Http)? {
            incoming.take(chunk.as_ref())?;
        }
        let finished = tokio::task::spawn_blocking(move || incoming.finish()).await;
        finished.unwrap_or_else(|panic| Err(self.failed()(io::Error::other(panic))))
    }

    /// The obtained artefact's file.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }

    /// The header of the obtained artefact; `None` when there is none, or what is there is damaged and has to be obtained again.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub fn header(&self) -> Result<Option<ArtefactHeader>, StagingError> {
        let file = match self.open() {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed()(error)),
        };
        Ok(header_of(&file).map_err(self.failed())?.ok())
    }

    /// Bytes of the obtained artefact.
    ///
    /// # Errors
    /// When they are not there.
    pub fn part(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(bytes.min(ARTEFACT_BYTES_MAX)).map_err(io::Error::other)?;
        let mut part = vec![0; length];
        self.open()?.read_exact_at(&mut part, offset)?;
        Ok(part)
    }

    /// Compares both parts with the manifest.
    ///
    /// # Errors
    /// Which one is damaged.
    pub fn verify(&self, header: &ArtefactHeader) -> Result<(), StagingError> {
        let (layout, manifest) = (header.layout(), &header.manifest);
        let parts = [("UKI", layout.uki_offset, manifest.uki), ("root image", layout.root_offset, manifest.root)];
        for (part, offset, wanted) in parts {
            if self.hash(offset, wanted.bytes).map_err(self.failed())? != wanted.sha256 {
                return Err(StagingError::Part { part });
            }
        }
        Ok(())
    }

    fn hash(&self, offset: u64, bytes: u64) -> io::Result<[u8; 32]> {
        let (file, mut hash, mut chunk) = (self.open()?, Sha256::new(), vec![0; CHUNK_BYTES]);
        let mut at = 0;
        while at < bytes {
            let length = usize::try_from((bytes - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
            file.read_exact_at(&mut chunk[..length], offset + at)?;
            hash.update(&chunk[..length]);
            at += length as u64;
        }
        Ok(hash.finalize().into())
    }

    /// Forgets the obtained artefact.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(&self) -> Result<(), StagingError> {
        match std::fs::remove_file(self.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed()(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there are too many, or the volume is full.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), StagingError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > ARTEFACT_BYTES_MAX {
            return Err(StagingError::Long);
        }
        self.file.write_all(chunk).map_err(self.staging.failed())
    }

    /// Keeps what came as the obtained artefact, when it is as long as its header says.
    ///
    /// # Errors
    /// When it is no artefact, is not whole, or cannot be kept.
    pub fn finish(self) -> Result<(), StagingError> {
        let failed = self.staging.failed();
        let beside = self.staging.beside();
        let file = File::open(&beside).map_err(&failed)?;
        let header = header_of(&file).map_err(&failed)?.map_err(StagingError::Header)?;
        let wanted = header.layout().file_bytes;
        if self.bytes != wanted {
            return Err(StagingError::Length { bytes: self.bytes, wanted });
        }
        let kept = || -> io::Result<()> {
            self.file.sync_all()?;
            std::fs::rename(&beside, self.staging.path())?;
            File::open(&self.staging.folder)?.sync_all()
        };
        kept().map_err(failed)
    }
}

fn header_of(file: &File) -> io::Result<Result<ArtefactHeader, ArtefactError>> {
    let mut bytes = Vec::new();
    let mut begin: &File = file;
    (&mut begin).take(ARTEFACT_HEADER_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(ArtefactHeader::parse(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::RootHash;
    use init_boot::artefact::{ArtefactManifest, Part};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A small artefact as it would be built.
    fn artefact() -> Vec<u8> {
        let (uki, root) = (b"a kernel".to_vec(), vec![7; 8192]);
        let (u, r, hash) = (Part::of(&uki), Part::of(&root), RootHash::from_bytes([3; 32]));
        let text = format!(
            "version 0.2.0\nnumber 2000\nlevel 1\nprofile cloud\narchitecture amd64\nbuilt 2026-11-01T00:00:00Z\nuki-bytes {}\n\
             uki-sha256 {}\nroot-bytes {}\nroot-sha256 {}\nroot-hash {hash}\n",
            u.bytes,
            u.hex(),
            r.bytes,
            r.hex()
        );
        let header = ArtefactHeader::new(ArtefactManifest::parse(&text).expect("because the text is canonical"));
        let mut bytes = header.encode().expect("because its values are within the limits");
        bytes.extend_from_slice(&uki);
        bytes.resize(usize::try_from(header.layout().root_offset).expect("because it is small"), 0);
        [bytes, root].concat()
    }

    fn staging() -> (tempfile::TempDir, Staging) {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let staging = Staging::at(folder.path().join("upgrade"));
        (folder, staging)
    }

    fn keep(staging: &Staging, bytes: &[u8]) -> Result<(), StagingError> {
        let mut incoming = staging.begin()?;
        for chunk in bytes.chunks(1000) {
            incoming.take(chunk)?;
        }
        incoming.finish()
    }

    #[test]
    fn a_whole_artefact_is_kept_and_each_damaged_part_is_noticed() {
        let (_folder, staging) = staging();
        assert_eq!(staging.header().expect("because the volume can be read"), None);
        keep(&staging, &artefact()).expect("because it is whole");
        let header = staging.header().expect("because the volume can be read").expect("because it was kept");
        staging.verify(&header).expect("because it is whole");
        let layout = header.layout();
        for (offset, part) in [(layout.uki_offset, "UKI"), (layout.root_offset + 5000, "root image")] {
            let mut bytes = artefact();
            bytes[usize::try_from(offset).expect("because it is small")] ^= 1;
            keep(&staging, &bytes).expect("because only its header is looked at first");
            let error = staging.verify(&header).expect_err("because one bit is another");
            assert!(matches!(error, StagingError::Part { part: found } if found == part), "{error}");
        }
        staging.discard().expect("because it is there");
        staging.discard().expect("because it is gone already");
        assert_eq!(staging.header().expect("because the volume can be read"), None);
    }

    #[test]
    fn half_an_artefact_or_none_takes_nobodys_place() {
        let (_folder, staging) = staging();
        keep(&staging, &artefact()).expect("because it is whole");
        let all = artefact();
        for wrong in [&all[..all.len() - 1], &[&all[..], b"x"].concat(), &b"something else"[..], &[]] {
            assert!(keep(&staging, wrong).is_err());
        }
        let first = staging.begin().expect("because nothing is on its way");
        assert!(matches!(staging.begin(), Err(StagingError::Busy)));
        drop(first);
        assert!(staging.header().expect("because the volume can be read").is_some());
    }

    #[tokio::test]
    async fn an_artefact_is_fetched_and_a_server_that_breaks_off_is_told() {
        let (_folder, staging) = staging();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("because loopback has ports");
        let address = listener.local_addr().expect("because it is bound");
        let server = tokio::spawn(async move {
            for sent in [artefact().len(), 5000] {
                let (mut stream, _) = listener.accept().await.expect("because somebody asks");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.expect("because somebody asks");
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", artefact().len());
                stream.write_all(head.as_bytes()).await.expect("because somebody listens");
                stream.write_all(&artefact()[..sent]).await.expect("because somebody listens");
            }
        });
        let url = format!("http://{address}/a.artefact");
        staging.fetch(&url).await.expect("because all of it is sent");
        assert!(matches!(staging.fetch(&url).await, Err(StagingError::Http(_))));
        assert!(staging.header().expect("because the volume can be read").is_some(), "the first one is still there");
        server.await.expect("because the server does not panic");
    }
}
