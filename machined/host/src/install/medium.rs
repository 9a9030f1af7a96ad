//! The installer's medium: found by what this machine runs from, read by its partition table, because the kernel shows no partitions of
//! a CD.

use crate::boot_disk::boot_disk;
use fatfs::{FileSystem, FsOptions};
use init_boot::esp::{BOOT_LOADER, ENROLMENT_KEYS};
use init_boot::{
    BACKUP_SECTORS, GptError, LOADER_CONFIGURATION, MEDIUM_DESCRIPTION, MEDIUM_DESCRIPTION_BYTES_MAX, Medium,
    MediumError, MetaError, MetaKind, MetaRecord, PRIMARY_SECTORS, Partition, SECTOR_BYTES, Slot, Table, UKI_FOLDER,
    label,
};
use machined_config::Problems;
use machined_controllers::install::{InstallRequest, Source};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The largest file that is taken from the medium's ESP beside the UKI, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the root image that are hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Why a medium cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MediumReadError {
    /// The device.
    #[error("the medium {device} cannot be read")]
    Read {
        /// Its device file.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its partition table.
    #[error("the medium's partition table cannot be read")]
    Table(#[from] GptError),
    /// A record.
    #[error("the medium's META is damaged")]
    Meta(#[from] MetaError),
    /// What to install on.
    #[error("what this medium says about the disk to install on cannot be read")]
    Request(#[from] Problems),
    /// Its description.
    #[error("the medium cannot be installed from")]
    Description(#[from] MediumError),
    /// A part that is missing.
    #[error("the medium has no {what}; make it anew with cairn-image build")]
    Missing {
        /// What.
        what: String,
    },
    /// A part that is not what its description says.
    #[error("the {what} on the medium is damaged; write the medium anew")]
    Damaged {
        /// What.
        what: &'static str,
    },
}

/// The medium, as far as it was read.
#[derive(Debug)]
pub struct InstallMedium {
    /// The kernel's name of its device.
    pub name: String,
    /// What to install on.
    pub request: InstallRequest,
    /// What the disk gets as its seed.
    pub seed: Option<Vec<u8>>,
    file: File,
    table: Table,
}

impl InstallMedium {
    /// What this machine runs from, when that is an installer's medium; `None` on an installed machine.
    ///
    /// # Errors
    /// When it is one and cannot be used.
    pub fn find() -> Result<Option<Self>, MediumReadError> {
        let Some(name) = boot_disk() else { return Ok(None) };
        let device = Path::new("/dev").join(&name);
        let opened = File::open(&device).map_err(|source| MediumReadError::Read { device: device.clone(), source })?;
        Self::of(name, &device, opened)
    }

    fn of(name: String, device: &Path, file: File) -> Result<Option<Self>, MediumReadError> {
        let read = |source| MediumReadError::Read { device: device.to_owned(), source };
        let table = read_table(&file).map_err(read)??;
        // A disk with a place for data is an installed one, whatever stands on its META.
        let Some((_, meta)) = table.find_label(label::META) else { return Ok(None) };
        if table.find_label(label::STATE).is_some() {
            return Ok(None);
        }
        let record = |kind: MetaKind| {
            let mut place = vec![0; kind.place_bytes()];
            file.read_exact_at(&mut place, meta.offset_bytes() + kind.offset()).map_err(read)?;
            Ok::<_, MediumReadError>(MetaRecord::parse(kind, &place)?.map(|record| record.bytes))
        };
        let Some(install) = record(MetaKind::Install)? else { return Ok(None) };
        let request = InstallRequest::parse(&String::from_utf8_lossy(&install))?;
        let seed = record(MetaKind::Seed)?;
        Ok(Some(InstallMedium { name, request, seed, file, table }))
    }

    fn partition(&self, label: &str) -> Result<&Partition, MediumReadError> {
        let found = self.table.find_label(label).map(|(_, partition)| partition);
        found.ok_or_else(|| MediumReadError::Missing { what: format!("partition {label}") })
    }

    /// What it carries, compared with its own description: nothing is written from a damaged medium.
    ///
    /// # Errors
    /// When something is missing or damaged.
    pub fn check(&self) -> Result<Medium, MediumReadError> {
        let text = self.file(MEDIUM_DESCRIPTION, MEDIUM_DESCRIPTION_BYTES_MAX as u64)?;
        let text = text.ok_or_else(|| MediumReadError::Missing { what: MEDIUM_DESCRIPTION.to_owned() })?;
        let medium = Medium::parse(&String::from_utf8_lossy(&text))?;
        let read = |source| MediumReadError::Read { device: Path::new("/dev").join(&self.name), source };
        let (begin, root) = (self.partition(label::ROOT_A)?.offset_bytes(), medium.manifest.root);
        let (mut hash, mut chunk, mut at) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
        while at < root.bytes {
            let size = usize::try_from(root.bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            self.file.read_exact_at(&mut chunk[..size], begin + at).map_err(read)?;
            hash.update(&chunk[..size]);
            at += size as u64;
        }
        if <[u8; 32]>::from(hash.finalize()) != root.sha256 {
            return Err(MediumReadError::Damaged { what: "root image" });
        }
        Ok(medium)
    }

    /// The files of the ESP that the disk gets: boot loader, its configuration, the UKI, keys to enrol.
    ///
    /// # Errors
    /// When one is missing or damaged.
    pub(super) fn boot_files(&self, medium: &Medium) -> Result<Vec<(String, Vec<u8>)>, MediumReadError> {
        let uki = format!("{UKI_FOLDER}/{}", Slot::A.entry_name());
        let mut files = Vec::new();
        for path in [BOOT_LOADER, LOADER_CONFIGURATION, &uki] {
            let limit = if path == uki { medium.manifest.uki.bytes } else { FILE_BYTES_MAX };
            let missing = || MediumReadError::Missing { what: path.to_owned() };
            files.push((path.to_owned(), self.file(path, limit)?.ok_or_else(missing)?));
        }
        if <[u8; 32]>::from(Sha256::digest(&files[2].1)) != medium.manifest.uki.sha256 {
            return Err(MediumReadError::Damaged { what: "kernel image" });
        }
        for variable in ["PK", "KEK", "db"] {
            let path = format!("{ENROLMENT_KEYS}/{variable}.auth");
            if let Some(content) = self.file(&path, FILE_BYTES_MAX)? {
                files.push((path, content));
            }
        }
        Ok(files)
    }

    /// A file of the ESP of at most `bytes_max` bytes; `None` when there is none.
    fn file(&self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, MediumReadError> {
        let failed = |source| MediumReadError::Read { device: Path::new("/dev").join(&self.name), source };
        let partition = self.partition(label::ESP)?;
        let mut view = View { file: &self.file, begin: partition.offset_bytes(), size: partition.size_bytes(), at: 0 };
        let volume = FileSystem::new(&mut view, FsOptions::new()).map_err(failed)?;
        let mut content = Vec::new();
        match volume.root_dir().open_file(path.trim_start_matches('/')) {
            Ok(file) => file.take(bytes_max).read_to_end(&mut content).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        Ok(Some(content))
    }

    /// Its root image, to be copied.
    pub(super) fn source(&self) -> Result<impl Source + '_, MediumReadError> {
        Ok(RootImage { file: &self.file, begin: self.partition(label::ROOT_A)?.offset_bytes() })
    }
}

/// Both copies of the table, as PID 1 reads them.
fn read_table(file: &File) -> io::Result<Result<Table, GptError>> {
    let mut end = file;
    let sectors = end.seek(SeekFrom::End(0))? / SECTOR_BYTES;
    let backup_at = sectors.checked_sub(BACKUP_SECTORS).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut primary = vec![0; (PRIMARY_SECTORS * SECTOR_BYTES) as usize];
    let mut backup = vec![0; (BACKUP_SECTORS * SECTOR_BYTES) as usize];
    file.read_exact_at(&mut primary, 0)?;
    file.read_exact_at(&mut backup, backup_at * SECTOR_BYTES)?;
    Ok(Table::parse(&primary, &backup, sectors))
}

struct RootImage<'a> {
    file: &'a File,
    begin: u64,
}

impl Source for RootImage<'_> {
    fn read_root(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.begin + offset)
    }
}

/// A partition of the medium, only to be read.
struct View<'a> {
    file: &'a File,
    begin: u64,
    size: u64,
    at: u64,
}

impl Read for View<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.begin + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for View<'_> {
    // The file system notes on its volume that it was opened; a medium is never written.
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for View<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = position.filter(|at| *at <= self.size).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
