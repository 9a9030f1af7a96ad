//! A disk that loses power: what was not kept is there or not, sector by sector, as a seed decides. Whatever the moment, firmware starts
//! nothing that is not whole, and a second run makes of it what the first would have made.

use super::super::*;
use init_boot::{
    BACKUP_SECTORS, MetaKind, MetaRecord, PRIMARY_SECTORS, RootHash, SECTOR_BYTES, Table, label, root_slots,
};
use sha2::{Digest as _, Sha256};
use std::io;

const SECTOR: usize = SECTOR_BYTES as usize;
const DISK_BYTES: u64 = 16 << 20;
/// What the disk held before, wherever nobody wrote since.
const OLD: u8 = 0xd7;

/// A small disk: what it keeps, and what it only said that it wrote.
#[derive(Clone)]
struct Model {
    kept: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
    /// Writes and keeps until the power goes.
    left: Option<u32>,
    /// Decides which pending sectors reached the disk.
    seed: u64,
}

impl Default for Model {
    fn default() -> Self {
        Model { kept: vec![OLD; DISK_BYTES as usize], pending: Vec::new(), left: None, seed: 1 }
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Model {
    fn with_cut(&self, after: u32, seed: u64) -> Self {
        Model { left: Some(after), seed, ..self.clone() }
    }

    /// One more event; `false` when the power goes before it.
    fn lives(&mut self) -> bool {
        match &mut self.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn bytes(&self, offset: u64, length: usize) -> &[u8] {
        &self.kept[offset as usize..][..length]
    }

    /// Power comes back: some of what was pending is there.
    fn restarted(&self) -> Self {
        let mut found = Model { kept: self.kept.clone(), ..Model::default() };
        let mut state = self.seed;
        for (offset, bytes) in &self.pending {
            for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
                // An xorshift: any sequence does.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if state & 1 == 0 {
                    found.kept[*offset as usize + index * SECTOR..][..SECTOR].copy_from_slice(sector);
                }
            }
        }
        found
    }

    fn table(&self) -> Option<Table> {
        let primary = self.bytes(0, PRIMARY_SECTORS as usize * SECTOR);
        let at = DISK_BYTES - BACKUP_SECTORS * SECTOR_BYTES;
        let backup = self.bytes(at, BACKUP_SECTORS as usize * SECTOR);
        Table::parse(primary, backup, DISK_BYTES / SECTOR_BYTES).ok()
    }

    /// Whether firmware finds partitions: a protective MBR (UEFI specification 2.10, 5.2.3) and a whole table.
    fn boots(&self) -> bool {
        let mbr = self.bytes(0, SECTOR);
        let protects = mbr[510..] == [0x55, 0xaa] && mbr[450] == 0xee && mbr[454..458] == [1, 0, 0, 0];
        protects && self.table().is_some()
    }
}

impl Disk for Model {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(SECTOR_BYTES) && bytes.len().is_multiple_of(SECTOR), "whole sectors only");
        assert!(offset + bytes.len() as u64 <= DISK_BYTES, "behind the end of the disk");
        let alive = self.lives();
        self.pending.push((offset, bytes.to_vec()));
        if alive { Ok(()) } else { Err(gone()) }
    }

    fn keep(&mut self) -> io::Result<()> {
        if !self.lives() {
            return Err(gone());
        }
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            self.kept[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        assert!(self.pending.is_empty(), "what is read back must come from the disk");
        bytes.copy_from_slice(self.bytes(offset, bytes.len()));
        Ok(())
    }
}

/// The medium's root image.
struct Image(Vec<u8>);

impl Source for Image {
    fn read_root(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
}

fn image() -> Image {
    Image((0..(3_u32 << 16)).map(|number| (number % 253) as u8).collect())
}

fn root_hash() -> RootHash {
    RootHash::from_bytes([7; 32])
}

fn the_plan() -> Plan {
    let sizes = init_boot::PartitionSizes { esp: 2 << 20, root: 2 << 20, state: 3 << 20 };
    let root_image = image().0;
    let esp = [(0, vec![0xe1; 4096]), (1 << 20, vec![0xe2; 8192])];
    let parts = Parts {
        sizes,
        esp: &esp,
        root_hash: root_hash(),
        root: Content::Root { bytes: root_image.len() as u64, sha256: Sha256::digest(&root_image).into() },
        seed: Some(b"seed { }"),
        identity: [9; 32],
    };
    // A small disk, so that the model is quick: how large a machine's must be is `choose`'s matter.
    plan(DISK_BYTES, &parts).expect("because all fits")
}

fn install(disk: &mut Model) -> Result<(), ExecuteError> {
    execute(&the_plan(), disk, &mut image(), |_| {})
}

/// All that a bootable disk must hold.
fn assert_whole(disk: &Model) {
    let plan = the_plan();
    assert_eq!(disk.table().as_ref(), Some(&plan.table));
    let slots = root_slots(&plan.table);
    assert!(slots[0].holds(&root_hash()) && slots[1].is_empty());
    let image = image().0;
    assert_eq!(disk.bytes(slots[0].partition.offset_bytes(), image.len()), image);
    let place = |label| plan.table.find_label(label).map(|(_, part)| part.offset_bytes()).expect("because it has one");
    assert_eq!(disk.bytes(place(label::ESP), 4096), [0xe1; 4096]);
    assert_eq!(disk.bytes(place(label::ESP) + (1 << 20), 8192), [0xe2; 8192]);
    let meta = disk.bytes(place(label::META), 1 << 20);
    let record = |kind: MetaKind| MetaRecord::parse(kind, &meta[kind.offset() as usize..][..kind.place_bytes()]);
    assert_eq!(record(MetaKind::Seed).map(|found| found.map(|record| record.bytes)), Ok(Some(b"seed { }".to_vec())));
    for kind in [MetaKind::IdentityKey, MetaKind::BootFirst, MetaKind::BootSecond, MetaKind::Install] {
        assert_eq!(record(kind), Ok(None), "{kind:?} of whoever had the disk before");
    }
    // machined takes a partition whose first MiB and mark are zeros for an empty one, and formats it.
    for label in [label::STATE, label::EPHEMERAL] {
        let (_, partition) = plan.table.find_label(label).expect("because it has one");
        let (begin, size) = (partition.offset_bytes(), partition.size_bytes());
        assert!(disk.bytes(begin, 1 << 20) == vec![0; 1 << 20], "{label} does not begin empty");
        assert!(disk.bytes(begin + size - (64 << 10), 512) == vec![0; 512], "{label} has a mark");
    }
}

#[test]
fn an_installation_makes_a_disk_that_boots_and_whose_data_partitions_are_empty() {
    let mut disk = Model::default();
    assert!(!disk.boots());
    install(&mut disk).expect("because nothing fails");
    assert!(disk.boots());
    assert_whole(&disk);
}

/// Cuts the power at every event of an installation on `before`.
fn cut_everywhere(before: &Model) {
    let mut whole = before.clone();
    install(&mut whole).expect("because nothing fails");
    let mut after = 0;
    loop {
        let mut cut = before.with_cut(after, 0x9e37_79b9_7f4a_7c15 ^ (u64::from(after) << 32) | 1);
        if install(&mut cut).is_ok() {
            break;
        }
        let found = cut.restarted();
        if found.boots() && !before.boots() {
            assert_whole(&found);
        }
        let begun = found.bytes(0, SECTOR) != before.bytes(0, SECTOR);
        assert!(!begun || !found.boots() || found.kept == whole.kept, "cut {after}: a disk boots that is not whole");
        assert!(begun || after <= 1, "cut {after}: the disk was changed before it was marked");
        let mut again = found;
        install(&mut again).expect("because nothing fails");
        assert!(again.kept == whole.kept, "cut {after}: a second run makes another disk");
        after += 1;
    }
    assert!(after > 20, "an installation has more than {after} events");
}

#[test]
fn a_power_cut_at_any_write_leaves_a_disk_that_firmware_does_not_boot_and_that_can_be_installed_on_again() {
    cut_everywhere(&Model::default());
}

#[test]
fn a_power_cut_while_an_old_machine_is_replaced_never_starts_half_of_it() {
    let mut old = Model::default();
    install(&mut old).expect("because nothing fails");
    let meta =
        the_plan().table.find_label(label::META).map(|(_, part)| part.offset_bytes()).expect("because it has one");
    old.kept[meta as usize + (64 << 10)..][..SECTOR].fill(0x11);
    assert!(old.boots());
    cut_everywhere(&old);
}

#[test]
fn of_a_large_partition_the_places_of_headers_are_cleared() {
    let sizes = init_boot::PartitionSizes { esp: 2 << 20, root: 2 << 20, state: 64 << 20 };
    let root = Content::Root { bytes: 4096, sha256: [0; 32] };
    let parts = Parts { sizes, esp: &[], root_hash: root_hash(), root, seed: None, identity: [9; 32] };
    let plan = plan(1 << 30, &parts).expect("because all fits");
    let (_, state) = plan.table.find_label(label::STATE).expect("because it has one");
    let cleared: Vec<(u64, u64)> = plan.phases[2]
        .writes
        .iter()
        .filter(|write| (state.offset_bytes()..state.offset_bytes() + state.size_bytes()).contains(&write.offset))
        .map(|write| (write.offset - state.offset_bytes(), write.content.bytes()))
        .collect();
    assert_eq!(cleared, [(0, 16 << 20), (63 << 20, 1 << 20)]);
}

#[test]
fn an_unfinished_installation_is_known_by_its_first_sector_until_the_last_write() {
    let plan = the_plan();
    let [first, .., last] = plan.phases.as_slice() else { panic!("there are several phases") };
    for phase in [first, last] {
        assert_eq!(
            phase.writes.iter().map(|write| (write.offset, write.content.bytes())).collect::<Vec<_>>(),
            [(0, 512)]
        );
    }
    assert!(matches!(&first.writes[0].content, Content::Bytes(bytes) if bytes.starts_with(INSTALLING)));
    let between = &plan.phases[1..plan.phases.len() - 1];
    assert!(between.iter().flat_map(|phase| &phase.writes).all(|write| write.offset > 0));
}

/// A disk that says that it wrote, and did not.
struct Liar(Model, u64);

impl Disk for Liar {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if (offset..offset + bytes.len() as u64).contains(&self.1) {
            bytes[(self.1 - offset) as usize] ^= 1;
        }
        self.0.write(offset, &bytes)
    }
    fn keep(&mut self) -> io::Result<()> {
        self.0.keep()
    }
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, bytes)
    }
}

#[test]
fn one_wrong_byte_anywhere_is_found_before_the_disk_can_boot() {
    let plan = the_plan();
    let before_last = &plan.phases[..plan.phases.len() - 1];
    for write in before_last.iter().flat_map(|phase| &phase.writes) {
        for at in [write.offset, write.offset + write.content.bytes() - 1] {
            let mut disk = Liar(Model::default(), at);
            let error = execute(&plan, &mut disk, &mut image(), |_| {}).expect_err("because a byte is wrong");
            assert!(matches!(error, ExecuteError::Differs { .. }), "{error}");
            assert!(!disk.0.boots(), "a wrong byte at {at} boots");
        }
    }
}
