//! Power cuts after every sector of every change, on a volume in memory.

use super::*;
use fatfs::{FatType, FormatVolumeOptions};
use std::cell::RefCell;
use std::io::Cursor;

const LOADER: &str = "/EFI/BOOT/BOOTX64.EFI";
const OLD: &str = "/EFI/Linux/cairn-a.efi";
const NEW: &str = "/EFI/Linux/cairn-b.efi";
const CONFIGURATION: &str = "/loader/loader.conf";
/// The least with which a volume is FAT32, in bytes.
const SIZE: usize = 34 << 20;

#[derive(Clone)]
struct Volume(RefCell<Vec<u8>>);

impl Sectors for Volume {
    fn read(&self, sector: u64) -> io::Result<[u8; SECTOR]> {
        let bytes = self.0.borrow();
        Ok(bytes[sector as usize * SECTOR..][..SECTOR].try_into().expect("because a sector has 512 bytes"))
    }
    fn count(&self) -> u64 {
        (SIZE / SECTOR) as u64
    }
}

impl Volume {
    fn new() -> Self {
        let mut bytes = vec![0; SIZE];
        let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(512);
        fatfs::format_volume(Cursor::new(&mut bytes[..]), options).expect("because it is large enough");
        let volume = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new()).expect("because it was just made");
        for folder in ["EFI", "EFI/BOOT", "EFI/Linux", "loader"] {
            volume.root_dir().create_dir(folder).expect("because there is room");
        }
        for (path, content) in [(LOADER, b"loader".to_vec()), (OLD, image(1)), (CONFIGURATION, configuration("a"))] {
            let mut file = volume.root_dir().create_file(relative(path)).expect("because there is room");
            file.write_all(&content).expect("because there is room");
        }
        volume.unmount().expect("because memory does not fail");
        Volume(RefCell::new(bytes))
    }

    fn apply(&self, sectors: &[(u64, [u8; SECTOR])]) {
        for (sector, bytes) in sectors {
            self.0.borrow_mut()[*sector as usize * SECTOR..][..SECTOR].copy_from_slice(bytes);
        }
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        read(self, path, 1 << 20).expect("because the volume is whole")
    }

    fn free(&self) -> u32 {
        let entries = Layout::read(self).and_then(|layout| layout.entries(self)).expect("because the volume is whole");
        entries.iter().filter(|entry| **entry == 0).count() as u32
    }
}

fn image(number: u8) -> Vec<u8> {
    vec![number; 20_000]
}

fn configuration(slot: &str) -> Vec<u8> {
    format!("default cairn-{slot}.efi\ntimeout 0\n").into_bytes()
}

/// Applies the first sectors of a change, one more each time, and looks at what a power cut leaves.
fn cut_everywhere(volume: &Volume, phases: &[Phase], check: impl Fn(&Volume)) {
    let all: Vec<_> = phases.iter().flatten().map(|(sector, bytes)| (*sector, *bytes)).collect();
    let cut = volume.clone();
    check(&cut);
    for one in all {
        cut.apply(&[one]);
        assert_eq!(cut.get(LOADER).as_deref(), Some(&b"loader"[..]));
        assert_eq!(cut.get(OLD), Some(image(1)));
        check(&cut);
    }
    volume.0.replace(cut.0.into_inner());
}

#[test]
fn a_boot_entry_is_absent_or_whole_whenever_power_is_cut() {
    let volume = Volume::new();
    for number in [2, 3] {
        let phases = remove(&volume, NEW).expect("because the volume is whole");
        cut_everywhere(&volume, &phases, |cut| {
            assert!(cut.get(NEW).is_none_or(|content| content == image(number - 1)))
        });
        assert_eq!(volume.get(NEW), None);
        let phases = add(&volume, NEW, &image(number)).expect("because there is room");
        cut_everywhere(&volume, &phases, |cut| assert!(cut.get(NEW).is_none_or(|content| content == image(number))));
        assert_eq!(volume.get(NEW), Some(image(number)));
    }
    assert_eq!(volume.get(CONFIGURATION), Some(configuration("a")));
}

#[test]
fn changing_the_default_is_one_sector() {
    let volume = Volume::new();
    let phases = overwrite(&volume, CONFIGURATION, &configuration("b")).expect("because it has the same length");
    assert_eq!(phases.iter().map(Phase::len).collect::<Vec<_>>(), [1]);
    cut_everywhere(&volume, &phases, |_| {});
    assert_eq!(volume.get(CONFIGURATION), Some(configuration("b")));
    assert!(overwrite(&volume, CONFIGURATION, b"longer than it was, so that it would take another sector").is_err());
}

#[test]
fn clusters_that_power_cuts_lost_are_found_again() {
    let volume = Volume::new();
    let free = volume.free();
    for _ in 0..3 {
        let phases = add(&volume, NEW, &image(2)).expect("because there is room");
        // Cut before the name.
        let lost: Vec<_> = phases[..2].iter().flatten().map(|(sector, bytes)| (*sector, *bytes)).collect();
        volume.apply(&lost);
    }
    assert!(volume.free() < free);
    let phases = reclaim(&volume).expect("because the volume is whole");
    cut_everywhere(&volume, &phases, |_| {});
    assert_eq!(volume.free(), free);
    assert_eq!(volume.get(CONFIGURATION), Some(configuration("a")));
}

#[test]
fn what_is_no_volume_of_ours_is_refused() {
    let zeros = Volume(RefCell::new(vec![0; SIZE]));
    assert!(add(&zeros, NEW, b"x").is_err());
    assert!(read(&zeros, OLD, 10).is_err());
    let volume = Volume::new();
    assert!(read(&volume, OLD, 10).is_err(), "it is longer than the limit");
    let full = add(&volume, NEW, &vec![1; SIZE]);
    assert!(full.is_err(), "there is no room for it");
}
