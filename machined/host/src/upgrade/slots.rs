//! The disk with the slots: partition table, root images, boot entries, boot record, and the request to the boot loader.

use super::esp::{self, Phase, SECTOR, Sectors};
use super::failed;
use super::staging::Staging;
use crate::block::find_partition;
use init_boot::artefact::ArtefactHeader;
use init_boot::{
    BACKUP_SECTORS, BootRecord, CommandLine, EMPTY_SLOT_GUID, Guid, LOADER_CONFIGURATION, LOADER_ENTRY_ONE_SHOT,
    MetaKind, PRIMARY_SECTORS, RootHash, SECTOR_BYTES, Slot, Table, UKI_FOLDER, label, root_slots,
};
use init_linux::efi::EFI_VARIABLES;
use init_linux::{Kernel, Linux};
use machined_controllers::upgrade::{Slots, UpgradeHostError};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read, written and hashed at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Longest configuration of the boot loader that is looked at, in bytes; ours has a tenth of it.
const CONFIGURATION_BYTES_MAX: u64 = 4096;
/// Sectors of a phase that are written in one call.
const RUN_SECTORS_MAX: u64 = (CHUNK_BYTES / SECTOR) as u64;

type Done<T> = Result<T, UpgradeHostError>;

/// The root hash of the running image.
fn running_root() -> Done<RootHash> {
    let text = std::fs::read_to_string("/proc/cmdline").map_err(failed("read the kernel command line"))?;
    let line = CommandLine::parse(text.trim_end()).map_err(failed("read the kernel command line"))?;
    line.root.ok_or_else(|| failed("find the slots")("this machine does not run from a slot"))
}

fn partition(label: &str) -> Done<PathBuf> {
    let found = find_partition(label).map_err(failed(format!("find partition {label}")))?;
    found.ok_or_else(|| failed(format!("find partition {label}"))("the disk has none"))
}

/// The disk that the root slots lie on.
fn disk() -> Done<PathBuf> {
    let slot = partition(label::ROOT_A)?;
    let name = slot.file_name().unwrap_or_default();
    let class = Path::new("/sys/class/block").join(name);
    // A partition's folder lies in its disk's.
    let real = std::fs::canonicalize(&class).map_err(failed(format!("find the disk of {}", slot.display())))?;
    let disk = real.parent().and_then(Path::file_name).map(|name| Path::new("/dev").join(name));
    disk.ok_or_else(|| failed("find the disk of the slots")("the kernel does not say where they lie"))
}

fn read_table(disk: &Path) -> Done<Table> {
    let doing = || format!("read the partition table of {}", disk.display());
    let read = || -> io::Result<(Vec<u8>, Vec<u8>, u64)> {
        let mut file = File::open(disk)?;
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR_BYTES;
        let backup_at = sectors.checked_sub(BACKUP_SECTORS).ok_or(ErrorKind::InvalidData)?;
        let mut primary = vec![0; (PRIMARY_SECTORS * SECTOR_BYTES) as usize];
        let mut backup = vec![0; (BACKUP_SECTORS * SECTOR_BYTES) as usize];
        file.read_exact_at(&mut primary, 0)?;
        file.read_exact_at(&mut backup, backup_at * SECTOR_BYTES)?;
        Ok((primary, backup, sectors))
    };
    let (primary, backup, sectors) = read().map_err(failed(doing()))?;
    Table::parse(&primary, &backup, sectors).map_err(failed(doing()))
}

/// Looks at table, boot record and boot loader.
pub(super) fn look() -> Done<Slots> {
    let (root, table) = (running_root()?, read_table(&disk()?)?);
    let slots = root_slots(&table);
    let running = slots.iter().find(|slot| slot.holds(&root)).map(|slot| slot.slot);
    let running = running.ok_or_else(|| failed("find the running slot")("no slot is named by the running root"))?;
    let other = slots.iter().find(|slot| slot.slot == running.other()).map(|slot| slot.partition.guid);
    let other = other.ok_or_else(|| failed("find the other slot")("the disk has one slot only"))?;
    let configuration = read_entry(LOADER_CONFIGURATION, CONFIGURATION_BYTES_MAX)?.unwrap_or_default();
    let default = Slot::ALL.into_iter().find(|slot| slot.loader_configuration().as_bytes() == configuration);
    Ok(Slots { running, root, other, default, record: read_record()? })
}

/// Says what a slot holds. The backup first and both synchronised, so that one copy is always whole.
pub(super) fn set_guid(slot: Slot, guid: Guid) -> Done<()> {
    let disk = disk()?;
    let mut table = read_table(&disk)?;
    table.set_guid(slot.label(), guid).map_err(failed(format!("name slot {}", slot.letter())))?;
    let encoded = table.encode();
    let write = || -> io::Result<()> {
        let file = File::options().write(true).open(&disk)?;
        file.write_all_at(&encoded.backup, encoded.backup_offset)?;
        file.sync_all()?;
        file.write_all_at(&encoded.primary, 0)?;
        file.sync_all()
    };
    write().map_err(failed(format!("write the partition table of {}", disk.display())))
}

fn read_record() -> Done<Option<BootRecord>> {
    let meta = partition(label::META)?;
    let place = |kind: MetaKind| {
        let mut bytes = vec![0; kind.place_bytes()];
        let read = File::open(&meta).and_then(|file| file.read_exact_at(&mut bytes, kind.offset()));
        read.map(|()| bytes).map_err(failed(format!("read the boot record on {}", meta.display())))
    };
    Ok(BootRecord::newest(&place(MetaKind::BootFirst)?, &place(MetaKind::BootSecond)?))
}

/// Writes a boot record over the older copy.
pub(super) fn write_record(record: &BootRecord) -> Done<()> {
    let (meta, (kind, bytes)) = (partition(label::META)?, record.encode());
    let written = File::options().write(true).open(&meta).and_then(|file| {
        file.write_all_at(&bytes, kind.offset())?;
        file.sync_all()
    });
    written.map_err(failed(format!("write the boot record on {}", meta.display())))
}

/// A partition as sectors; writes go to the disk phase by phase.
struct Esp {
    file: File,
    sectors: u64,
}

impl Sectors for Esp {
    fn read(&self, sector: u64) -> io::Result<[u8; SECTOR]> {
        let mut bytes = [0; SECTOR];
        self.file.read_exact_at(&mut bytes, sector * SECTOR as u64)?;
        Ok(bytes)
    }

    fn count(&self) -> u64 {
        self.sectors
    }
}

impl Esp {
    fn open() -> Done<Self> {
        let device = partition(label::ESP)?;
        let open = || -> io::Result<Self> {
            let mut file = File::options().read(true).write(true).open(&device)?;
            let sectors = file.seek(SeekFrom::End(0))? / SECTOR as u64;
            Ok(Esp { file, sectors })
        };
        open().map_err(failed(format!("open the EFI system partition {}", device.display())))
    }

    fn apply(&self, phases: &[Phase]) -> io::Result<()> {
        for phase in phases {
            let mut run: Option<(u64, Vec<u8>)> = None;
            for (sector, bytes) in phase {
                match &mut run {
                    Some((begin, all))
                        if *begin + (all.len() / SECTOR) as u64 == *sector
                            && ((all.len() / SECTOR) as u64) < RUN_SECTORS_MAX =>
                    {
                        all.extend_from_slice(bytes);
                    }
                    Some((begin, all)) => {
                        self.file.write_all_at(all, *begin * SECTOR as u64)?;
                        run = Some((*sector, bytes.to_vec()));
                    }
                    None => run = Some((*sector, bytes.to_vec())),
                }
            }
            if let Some((begin, all)) = run {
                self.file.write_all_at(&all, begin * SECTOR as u64)?;
            }
            self.file.sync_all()?;
        }
        Ok(())
    }
}

fn read_entry(path: &str, bytes_max: u64) -> Done<Option<Vec<u8>>> {
    esp::read(&Esp::open()?, path, bytes_max).map_err(failed(format!("read {path} on the EFI system partition")))
}

fn entry_path(slot: Slot) -> String {
    format!("{UKI_FOLDER}/{}", slot.entry_name())
}

/// Makes a slot hold nothing: first nobody finds its root, then its boot entry goes.
pub(super) fn empty(slot: Slot) -> Done<()> {
    set_guid(slot, EMPTY_SLOT_GUID)?;
    let (volume, path) = (Esp::open()?, entry_path(slot));
    let removed = esp::remove(&volume, &path).and_then(|phases| volume.apply(&phases));
    removed.map_err(failed(format!("remove {path} from the EFI system partition")))?;
    let reclaimed = esp::reclaim(&volume).and_then(|phases| volume.apply(&phases));
    if let Err(error) = reclaimed {
        // Somebody else's file system errors cost room, not the upgrade.
        tracing::warn!(%error, "what power cuts left on the EFI system partition cannot be freed");
    }
    Ok(())
}

/// Writes root image and boot entry of an empty slot, and reads both back from the disk.
pub(super) fn write(slot: Slot, staging: &Staging, header: &ArtefactHeader) -> Done<()> {
    let device = partition(slot.label())?;
    let (layout, root) = (header.layout(), header.manifest.root);
    let doing = format!("write the root image to {}", device.display());
    let source = staging.open().map_err(failed("open the obtained artefact"))?;
    let found = copy(&source, layout.root_offset, root.bytes, &device).map_err(failed(doing.as_str()))?;
    if found != root.sha256 {
        return Err(failed(doing)("what was read back is not what was written; the disk is damaged"));
    }
    let path = entry_path(slot);
    let doing = format!("write {path} to the EFI system partition");
    let uki =
        staging.part(layout.uki_offset, header.manifest.uki.bytes).map_err(failed("read the obtained artefact"))?;
    if <[u8; 32]>::from(Sha256::digest(&uki)) != header.manifest.uki.sha256 {
        return Err(failed(doing)("the obtained artefact changed since it was checked; obtain it again"));
    }
    let volume = Esp::open()?;
    esp::add(&volume, &path, &uki).and_then(|phases| volume.apply(&phases)).map_err(failed(doing.as_str()))?;
    forget(&volume.file).map_err(failed(doing.as_str()))?;
    match read_entry(&path, header.manifest.uki.bytes)? {
        Some(read) if read == uki => Ok(()),
        Some(_) | None => Err(failed(doing)("what was read back is not what was written; the disk is damaged")),
    }
}

/// Copies to the start of a partition, and gives the SHA-256 of what the disk says it holds then.
fn copy(source: &File, from: u64, bytes: u64, device: &Path) -> io::Result<[u8; 32]> {
    let mut target = File::options().read(true).write(true).open(device)?;
    let room = target.seek(SeekFrom::End(0))?;
    if bytes > room {
        let text = format!("the image has {bytes} bytes, the slot {room}; use an image for disks of this size");
        return Err(io::Error::new(ErrorKind::StorageFull, text));
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    let pieces = |at: u64| usize::try_from((bytes - at).min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
    let mut at = 0;
    while at < bytes {
        let piece = &mut chunk[..pieces(at)];
        source.read_exact_at(piece, from + at)?;
        target.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    target.sync_all()?;
    forget(&target)?;
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < bytes {
        let piece = &mut chunk[..pieces(at)];
        target.read_exact_at(piece, at)?;
        hash.update(&*piece);
        at += piece.len() as u64;
    }
    Ok(hash.finalize().into())
}

/// Makes the next read ask the disk and not memory.
fn forget(file: &File) -> io::Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(Into::into)
}

/// Moves the boot loader's default: one sector.
pub(super) fn set_default(slot: Slot) -> Done<()> {
    let (volume, content) = (Esp::open()?, slot.loader_configuration());
    let path = LOADER_CONFIGURATION;
    let changed = esp::overwrite(&volume, path, content.as_bytes()).and_then(|phases| volume.apply(&phases));
    changed.map_err(failed(format!("write {path} on the EFI system partition")))
}

/// Asks the boot loader to start a slot once, and looks whether the firmware kept it.
pub(super) fn ask_once(slot: Slot) -> Done<()> {
    let value = slot.one_shot_variable();
    Linux::new().write_efi_variable(LOADER_ENTRY_ONE_SHOT, &value).map_err(failed("ask the boot loader"))?;
    let path = Path::new(EFI_VARIABLES).join(LOADER_ENTRY_ONE_SHOT);
    match std::fs::read(&path) {
        Ok(kept) if kept == value => Ok(()),
        Ok(_) => Err(failed("ask the boot loader")("the firmware kept another value than it was given")),
        Err(error) => Err(failed(format!("read {}", path.display()))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_image_is_read_back_from_where_it_was_written() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let (source, device) = (folder.path().join("artefact"), folder.path().join("slot"));
        let image: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(&source, [&[9; 4096][..], &image].concat()).expect("because the folder is there");
        std::fs::write(&device, vec![0; 4 << 20]).expect("because the folder is there");
        let file = File::open(&source).expect("because it was written");
        let found = copy(&file, 4096, image.len() as u64, &device).expect("because it fits");
        assert_eq!(found, <[u8; 32]>::from(Sha256::digest(&image)));
        assert_eq!(std::fs::read(&device).expect("because it is there")[..image.len()], image);
        let error = copy(&file, 0, 5 << 20, &device).expect_err("because the slot has 4 MiB");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
