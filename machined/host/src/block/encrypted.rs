//! LUKS2 volumes on partitions: the header read and written, the data mapped by dm-crypt, the image's policy.

use init_boot::{ENCRYPTION_MODULES, ModuleList, POLICY_PART_BYTES_MAX};
use init_linux::device_mapper::{CryptTable, map_crypt};
use init_linux::modules::load_module;
use machined_luks::{CIPHER, FRONT_BYTES, Header, SignedPolicy, VolumeKey, Write};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes of the sectors that device-mapper counts in.
const MAPPED_SECTOR_BYTES: u64 = 512;
/// The longest list of modules, in bytes: a few paths.
const LIST_BYTES_MAX: u64 = 64 * 1024;

/// All that opens a volume.
pub(super) fn front(device: &Path) -> io::Result<Vec<u8>> {
    let mut front = vec![0; FRONT_BYTES];
    File::open(device)?.read_exact_at(&mut front, 0)?;
    Ok(front)
}

/// Writes each, and synchronises it before the next.
pub(super) fn write(device: &Path, writes: &[Write]) -> io::Result<()> {
    let file = File::options().write(true).open(device)?;
    for part in writes {
        file.write_all_at(&part.bytes, part.offset)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Maps a volume's data; gives the device.
pub(super) fn map(name: &str, device: &Path, header: &Header, key: &VolumeKey) -> io::Result<PathBuf> {
    load_modules()?;
    let whole = super::device_bytes(&File::open(device)?)?;
    let bytes = header.data_bytes().unwrap_or_else(|| whole.saturating_sub(header.data_offset()));
    if header.data_offset().checked_add(bytes).is_none_or(|end| end > whole) {
        return Err(io::Error::other("the volume is longer than its partition"));
    }
    let table = CryptTable {
        device: device.to_owned(),
        offset_sectors: header.data_offset() / MAPPED_SECTOR_BYTES,
        sectors: bytes / MAPPED_SECTOR_BYTES,
        cipher: CIPHER,
        sector_size: header.sector_size(),
    };
    map_crypt(name, &table, key.bytes()).map_err(io::Error::other)
}

/// Loads what dm-crypt needs. A module that does not load is told and passed over: the processor may lack what it is for, and a cipher that
/// is really missing fails by name.
fn load_modules() -> io::Result<()> {
    let list = match File::open(ENCRYPTION_MODULES) {
        Ok(file) => io::read_to_string(file.take(LIST_BYTES_MAX))?,
        // An image whose kernel has all of it built in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for module in ModuleList::parse(&list).map_err(io::Error::other)?.paths() {
        if let Err(error) = load_module(Path::new(module)) {
            tracing::warn!(module, error = error.story(), "a module for encrypted volumes does not load");
        }
    }
    Ok(())
}

fn part(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(POLICY_PART_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the running image brings of its policy. An image without one has no such files.
pub(super) fn policy(key: &Path, signatures: &Path) -> Option<SignedPolicy> {
    let (key, signatures) = (part(key).ok()?, part(signatures).ok()?);
    let policy = SignedPolicy::parse(&key, &signatures);
    policy.inspect_err(|error| tracing::warn!(%error, "the image's policy cannot be read, as if it had none")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_luks::{SECTOR_BYTES, SealedToken, recovery_token};

    #[test]
    fn a_header_is_written_and_recognised_and_a_damaged_one_is_not_empty() {
        let file = tempfile::NamedTempFile::new().expect("because there is a temporary folder");
        file.as_file().set_len(4 << 20).expect("because the file is new");
        let mut random = |bytes: &mut [u8]| bytes.fill(7);
        let key = VolumeKey::generate(&mut random);
        let mut header = Header::new("state", "uuid", 1 << 20, SECTOR_BYTES, &key, &mut random);
        let change = header.add(&key, b"secret", recovery_token(), &[], &mut random).expect("because there is room");
        write(file.path(), &change).expect("because it can be written");
        let read = front(file.path()).expect("because it can be read");
        assert_eq!(
            Header::parse(&read).expect("because it is whole").open(&read, b"secret").expect("because it is"),
            key
        );
        let look = || super::super::look(file.path()).expect("because it can be read");
        assert_eq!(look(), machined_controllers::block::Contents::Luks);
        file.as_file().write_all_at(&[0; 512], 0).expect("because it can be written");
        assert_eq!(look(), machined_controllers::block::Contents::Luks, "the second copy is still there");
        assert!(header.tokens("cairn-recovery").all(|token| SealedToken::from_token(token).is_none()));
    }

    #[test]
    fn an_image_without_a_policy_has_none_and_a_broken_one_counts_as_none() {
        let folder = tempfile::tempdir().expect("because there is room");
        let (key, signatures) = (folder.path().join("key"), folder.path().join("signatures"));
        assert_eq!(policy(&key, &signatures), None);
        std::fs::write(&key, "no key").expect("because there is room");
        std::fs::write(&signatures, "{}").expect("because there is room");
        assert_eq!(policy(&key, &signatures), None);
    }
}
