//! What PID 1, the boot path and `cairnctl attest` read: command line, disks, images, records, messages.
//!
//! Checksums would stop any mutation at the door, so the readers behind one are also fed what the checksum vouches for.

use init_boot::artefact::{
    ArtefactHeader, ArtefactManifest, ExtensionFolder, ExtensionHeader, ExtensionManifest, ImageNumber, Part,
};
use init_boot::{
    ALIGN_SECTORS, AppliedEntry, AppliedLog, Attempt, BACKUP_SECTORS, BootRecord, CommandLine, CommandLineError, Guid,
    LogEntry, MetaKind, MetaRecord, ModuleList, PRIMARY_SECTORS, RootHash, SECTOR_BYTES, SUPERBLOCK_BYTES, Slot,
    Superblock, Table, ToInit, ToMachined, expected_uki_pcr, label, root_slots, type_guid,
};
use jiff::Timestamp;
use std::time::Duration;

/// Root hash of the seeds.
const ROOT: RootHash = RootHash::from_bytes([0x5a; 32]);
/// Size of the seeds' disk, in sectors: 64 MiB.
const SECTORS: u64 = 1 << 17;
/// Bytes of a table's first copy.
const PRIMARY: usize = (PRIMARY_SECTORS * SECTOR_BYTES) as usize;
/// Bytes of its second copy.
const BACKUP: usize = (BACKUP_SECTORS * SECTOR_BYTES) as usize;

pub(crate) fn command_line_seeds() -> Vec<Vec<u8>> {
    let ours = format!("cairn.root={ROOT} cairn.root.blocks=12000 console=tty0 console=ttyS0,115200n8 quiet");
    vec![ours.into_bytes(), b"a=\"b c\" init_on_alloc=1 slab_nomerge panic=-1 -- x\n".to_vec()]
}

pub(crate) fn command_lines(bytes: &[u8]) {
    let Ok(line) = CommandLine::parse(&String::from_utf8_lossy(bytes)) else { return };
    match line.render() {
        Ok(text) => assert_eq!(CommandLine::parse(&text), Ok(line), "a line has one meaning"),
        // What the kernel takes is more than what we write.
        Err(CommandLineError::Unwritable { .. } | CommandLineError::TooLong { .. }) => {}
        Err(other) => panic!("a line that was read cannot be written: {other}"),
    }
}

fn table() -> Table {
    let mut table = Table::new(Guid::from_text_order([1; 16]), SECTORS).expect("because 64 MiB hold a table");
    let parts = [
        (type_guid::ESP, label::ESP),
        (type_guid::ROOT_X86_64, label::ROOT_A),
        (type_guid::ROOT_X86_64, label::ROOT_B),
        (type_guid::META, label::META),
    ];
    for (number, (kind, label)) in (2_u8..).zip(parts) {
        let guid = if label == label::ROOT_A { ROOT.partition_guid() } else { Guid::from_text_order([number; 16]) };
        table.append(kind, guid, label, ALIGN_SECTORS).expect("because the disk has room");
    }
    table
}

pub(crate) fn table_seeds() -> Vec<Vec<u8>> {
    let encoded = table().encode();
    vec![[encoded.primary, encoded.backup].concat()]
}

/// Both copies of a table, one after the other; a short input is filled up with zeros.
pub(crate) fn tables(bytes: &[u8]) {
    let mut disk = bytes[..bytes.len().min(PRIMARY + BACKUP)].to_vec();
    disk.resize(PRIMARY + BACKUP, 0);
    for mended in [false, true] {
        if mended {
            let (primary, backup) = disk.split_at_mut(PRIMARY);
            let (head, entries) = primary[SECTOR_BYTES as usize..].split_at_mut(SECTOR_BYTES as usize);
            mend(head, entries);
            let (entries, head) = backup.split_at_mut(BACKUP - SECTOR_BYTES as usize);
            mend(head, entries);
        }
        let (primary, backup) = disk.split_at(PRIMARY);
        let copies = [Table::parse(primary, backup, SECTORS), Table::parse(&[], backup, SECTORS)];
        copies.into_iter().filter_map(Result::ok).for_each(|table| check_table(&table));
    }
}

fn check_table(table: &Table) {
    assert!(table.sectors() <= SECTORS, "a table reaches behind the disk's end");
    let usable = table.first_usable()..=table.last_usable();
    let all: Vec<_> = table.partitions().map(|(_, partition)| (partition.first, partition.last)).collect();
    for (number, (first, last)) in all.iter().enumerate() {
        assert!(first <= last && usable.contains(first) && usable.contains(last), "a partition lies outside the disk");
        let others = all[..number].iter().filter(|(from, to)| from <= last && first <= to);
        assert_eq!(others.count(), 0, "two partitions overlap");
    }
    assert!(root_slots(table).len() <= all.len());
    let encoded = table.encode();
    assert_eq!(Table::parse(&encoded.primary, &[], SECTORS).as_ref(), Ok(table), "a table is read as written");
}

/// Puts both checksums of a copy right, as far as its header says what they cover (UEFI 2.10, 5.3.2).
fn mend(head: &mut [u8], entries: &[u8]) {
    let number = |head: &[u8], at: usize| {
        u32::from_le_bytes(head[at..at + 4].try_into().expect("because four bytes are four bytes"))
    };
    let covered = (number(head, 80) as usize).saturating_mul(128).min(entries.len());
    head[88..92].copy_from_slice(&crc32fast::hash(&entries[..covered]).to_le_bytes());
    let size = (number(head, 12) as usize).min(head.len());
    head[16..20].fill(0);
    let sum = crc32fast::hash(&head[..size]);
    head[16..20].copy_from_slice(&sum.to_le_bytes());
}

pub(crate) fn superblock_seeds() -> Vec<Vec<u8>> {
    let superblock = Superblock { uuid: [3; 16], data_blocks: 12_000, salt: vec![7; 32] };
    vec![superblock.encode().expect("because it is well formed").to_vec()]
}

pub(crate) fn superblocks(bytes: &[u8]) {
    let Ok(superblock) = Superblock::parse(bytes) else { return };
    let encoded = superblock.encode().expect("because what was read can be written");
    assert_eq!(encoded.len(), SUPERBLOCK_BYTES);
    assert_eq!(Superblock::parse(&encoded).as_ref(), Ok(&superblock));
    let words = |blocks| superblock.table("254:0", &ROOT, blocks).map(|table| table.parameters.split(' ').count());
    assert_eq!(words(superblock.data_blocks), Ok(10), "the kernel reads ten words");
    assert!(words(superblock.data_blocks + 1).is_err(), "the command line has the last word on the size");
}

fn manifest() -> ArtefactManifest {
    ArtefactManifest {
        version: "1.2.3-rc.1".parse().expect("because it is a version"),
        number: ImageNumber(1_002_003),
        level: 1,
        profile: "cloud".to_owned(),
        architecture: "x86-64".to_owned(),
        built: Timestamp::UNIX_EPOCH,
        uki: Part::of(b"MZ"),
        root: Part { bytes: 4096, sha256: [9; 32] },
        root_hash: ROOT,
    }
}

pub(crate) fn artefact_seeds() -> Vec<Vec<u8>> {
    let mut header = ArtefactHeader::new(manifest());
    let armour = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", "A".repeat(70));
    header.add_signature(&armour).expect("because it is an armour");
    vec![header.encode().expect("because it is within its limits"), manifest().render().into_bytes()]
}

/// A header, and the manifest by itself: the header's digest stops whatever is changed in it.
pub(crate) fn artefacts(bytes: &[u8]) {
    if let Ok(length) = ArtefactHeader::length(bytes) {
        assert!(length > 0);
    }
    if let Ok(header) = ArtefactHeader::parse(bytes) {
        let encoded = header.encode().expect("because what was read can be written");
        assert_eq!(ArtefactHeader::parse(&encoded), Ok(header));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(manifest) = ArtefactManifest::parse(text) {
        assert_eq!(manifest.render(), text, "a manifest has one text, because its digest is its name");
    }
}

fn extension() -> ExtensionManifest {
    ExtensionManifest {
        name: "network-card".parse().expect("because it is a name"),
        version: "1.2.3+deb13".to_owned(),
        architecture: "amd64".to_owned(),
        kernel: Some("6.12.117+deb13-cloud-amd64".to_owned()),
        folders: vec![ExtensionFolder::Firmware, ExtensionFolder::Modules],
        image: Part { bytes: 8192, sha256: [9; 32] },
        data_blocks: 1,
        root_hash: ROOT,
    }
}

pub(crate) fn extension_seeds() -> Vec<Vec<u8>> {
    let mut header = ExtensionHeader::new(extension());
    let armour = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", "A".repeat(70));
    header.add_signature(&armour).expect("because it is an armour");
    vec![header.encode().expect("because it is within its limits"), extension().render().into_bytes()]
}

/// A header, and the manifest by itself: names and folders become paths on a machine.
pub(crate) fn extensions(bytes: &[u8]) {
    if let Ok(header) = ExtensionHeader::parse(bytes) {
        let encoded = header.encode().expect("because what was read can be written");
        assert_eq!(ExtensionHeader::parse(&encoded), Ok(header));
        assert!(ArtefactHeader::parse(bytes).is_err(), "one file is an image and an extension");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(manifest) = ExtensionManifest::parse(text) else { return };
    assert_eq!(manifest.render(), text, "a manifest has one text, because its digest is its name");
    let words = [Some(manifest.name.as_str()), Some(manifest.version.as_str()), manifest.kernel.as_deref()];
    for word in words.into_iter().flatten() {
        assert!(!word.is_empty() && !word.starts_with('.') && !word.contains(['/', '\0']), "{word:?} is part of paths");
    }
    assert!(manifest.folders.is_sorted_by(|one, other| one.as_str() < other.as_str()), "a folder is merged once");
    assert_eq!(manifest.kernel.is_some(), manifest.folders.contains(&ExtensionFolder::Modules));
}

fn boot_record() -> BootRecord {
    let deadline = Duration::from_secs(300);
    let ended = Some("machined failed 8 times in a row".to_owned());
    BootRecord {
        sequence: 7,
        good: Slot::A,
        attempt: Some(Attempt { slot: Slot::B, root: ROOT, starts: 2, deadline, ended }),
    }
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let (kind, bytes) = boot_record().encode();
    let read = MetaRecord::parse(kind, &bytes).expect("because it was just written");
    let text = read.expect("because there is one").bytes;
    let seed = MetaRecord { kind: MetaKind::Seed, bytes: b"introduction \"x\"\n".to_vec() };
    vec![bytes, text, seed.encode().expect("because it is short")]
}

/// A place on META as it lies there, and the text of a boot record behind a digest that fits.
pub(crate) fn records(bytes: &[u8]) {
    for kind in [MetaKind::Seed, MetaKind::IdentityKey, MetaKind::BootFirst, MetaKind::BootSecond] {
        if let Ok(Some(record)) = MetaRecord::parse(kind, bytes) {
            let encoded = record.encode().expect("because what was read can be written");
            assert!(bytes.starts_with(&encoded), "a record has one form");
        }
    }
    let Ok(place) = (MetaRecord { kind: MetaKind::BootFirst, bytes: bytes.to_vec() }).encode() else { return };
    let Ok(Some(record)) = BootRecord::parse(MetaKind::BootFirst, &place) else { return };
    assert_eq!(BootRecord::newest(&place, bytes).map(|newest| newest.sequence >= record.sequence), Some(true));
    let (kind, again) = record.encode();
    assert!(again.len() <= SECTOR_BYTES as usize, "a boot record is one sector, which is written whole or not");
    let again = BootRecord::parse(kind, &again).expect("because it was just written").expect("because there is one");
    assert_eq!((again.sequence, again.good), (record.sequence, record.good));
    let counted =
        |record: &BootRecord| record.attempt.as_ref().map(|one| (one.slot, one.root, one.starts, one.deadline));
    assert_eq!(counted(&again), counted(&record), "a start that was counted stays counted");
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    ["exited 4711 code 0", "exited 1 signal 9", "reboot", "poweroff", "healthy", "good"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

pub(crate) fn messages(bytes: &[u8]) {
    if let Ok(message) = ToMachined::parse(bytes) {
        assert_eq!(ToMachined::parse(message.to_string().as_bytes()), Ok(message));
    }
    if let Ok(message) = ToInit::parse(bytes) {
        assert_eq!(ToInit::parse(message.to_string().as_bytes()), Ok(message));
    }
}

pub(crate) fn module_list_seeds() -> Vec<Vec<u8>> {
    vec![b"# in order\n/lib/modules/dm-mod.ko\n\n/lib/modules/dm-verity.ko\n".to_vec()]
}

pub(crate) fn module_lists(bytes: &[u8]) {
    let Ok(list) = ModuleList::parse(&String::from_utf8_lossy(bytes)) else { return };
    assert!(list.paths().iter().all(|path| path.starts_with('/')), "PID 1 has no folder of its own");
    assert_eq!(ModuleList::parse(&list.render()), Ok(list));
}

/// The smallest file of two measured sections and one that is not (PE format, sections 3 and 4).
pub(crate) fn unified_image_seeds() -> Vec<Vec<u8>> {
    let sections: [(&[u8; 8], &[u8]); 3] =
        [(b".linux\0\0", b"kernel"), (b".text\0\0\0", b"code"), (b".cmdline", b"quiet")];
    let mut image =
        [&b"MZ"[..], &[0; 0x3a], &0x40_u32.to_le_bytes(), b"PE\0\0\x64\x86", &3_u16.to_le_bytes(), &[0; 16]].concat();
    let mut offset = image.len() + sections.len() * 40;
    for (name, content) in sections {
        let length = u32::try_from(content.len()).expect("because it is short").to_le_bytes();
        let place = u32::try_from(offset).expect("because it is short").to_le_bytes();
        image.extend([&name[..], &length, &[0; 4], &length, &place, &[0; 16]].concat());
        offset += content.len();
    }
    sections.iter().for_each(|(_, content)| image.extend(*content));
    vec![image]
}

pub(crate) fn unified_images(bytes: &[u8]) {
    if let Ok(value) = expected_uki_pcr(bytes) {
        // What no section covers may follow, as a signature does.
        let longer = [bytes, b"signature"].concat();
        assert_eq!(expected_uki_pcr(&longer), Ok(value), "what is not measured counts");
    }
}

pub(crate) fn applied_log_seeds() -> Vec<Vec<u8>> {
    let mut log = AppliedLog::default();
    for generation in [1, 2] {
        log.push(LogEntry::Applied(AppliedEntry { generation, step: "ab".repeat(32), commit: "cd".repeat(20) }));
    }
    log.push(LogEntry::Extension(extension().digest()));
    vec![log.render().into_bytes()]
}

pub(crate) fn applied_logs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(log) = AppliedLog::parse(text) {
        assert_eq!(log.render(), text, "a log has one text");
        assert_eq!(log.last().is_none(), log.entries().is_empty());
    }
}
