//! A machine that is told to forget, cut off at every single write: afterwards it is the old one or a new one, never half of each.

use super::*;
use init_boot::{MetaError, MetaRecord};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Sectors of a volume that say that something is on it.
const HEADER_SECTORS: usize = 8;

/// A disk whose power can be cut before any write of a sector.
struct FakeDisk {
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    /// META, a sector at a time: kind and sector.
    meta: BTreeMap<(u64, usize), Vec<u8>>,
    /// Sectors of each volume that still hold something.
    volumes: BTreeMap<&'static str, Vec<bool>>,
    /// Writes until the power is cut.
    left: Option<usize>,
}

fn cut() -> MetaAccessError {
    MetaAccessError::Access { device: "META".into(), source: std::io::Error::other("the power is cut") }
}

impl State {
    fn spend(&mut self) -> Result<(), MetaAccessError> {
        match &mut self.left {
            Some(0) => Err(cut()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Sectors of a record that the fake keeps; a wrapped key has three.
const RECORD_SECTORS: usize = 3;

impl FakeDisk {
    /// A machine that has an identity and data.
    fn old() -> Self {
        let volumes = VOLUMES.map(|label| (label, vec![true; HEADER_SECTORS])).into_iter().collect();
        let disk = FakeDisk { state: Mutex::new(State { meta: BTreeMap::new(), volumes, left: None }) };
        disk.put(MetaKind::IdentityKey, vec![7; 1200]);
        disk.put(MetaKind::Reach, b"network".to_vec());
        disk.put(MetaKind::Seed, b"seed { }".to_vec());
        disk
    }

    fn put(&self, kind: MetaKind, bytes: Vec<u8>) {
        let encoded = MetaRecord { kind, bytes }.encode().expect("because it is short");
        let mut state = self.lock();
        for (sector, bytes) in encoded.chunks(512).enumerate() {
            state.meta.insert((kind.offset(), sector), bytes.to_vec());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("because no holder of this lock panics")
    }

    fn place(&self, kind: MetaKind) -> Vec<u8> {
        let state = self.lock();
        let sector = |number| state.meta.get(&(kind.offset(), number)).cloned().unwrap_or_default();
        let padded = (0..RECORD_SECTORS).flat_map(|number| {
            let mut bytes = sector(number);
            bytes.resize(512, 0);
            bytes
        });
        padded.collect()
    }

    fn has(&self, kind: MetaKind) -> Result<bool, MetaError> {
        MetaRecord::parse(kind, &self.place(kind)).map(|record| record.is_some())
    }

    fn holds_data(&self) -> bool {
        self.lock().volumes.values().flatten().any(|sector| *sector)
    }

    fn cut_after(&self, writes: Option<usize>) {
        self.lock().left = writes;
    }

    fn is_untouched(&self) -> bool {
        let all = self.lock().volumes.values().flatten().all(|sector| *sector);
        all && self.has(MetaKind::IdentityKey) == Ok(true)
    }

    fn is_new(&self) -> bool {
        let nothing = MetaKind::OF_THE_MACHINE.into_iter().all(|kind| self.has(kind) == Ok(false));
        nothing && !self.holds_data() && self.has(MetaKind::Reset) == Ok(false)
    }
}

impl ResetHost for FakeDisk {
    async fn read(&self, kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
        let record = MetaRecord::parse(kind, &self.place(kind));
        let record = record.map_err(|source| MetaAccessError::Record { device: "META".into(), source })?;
        Ok(record.map(|record| record.bytes))
    }

    async fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
        self.lock().spend()?;
        self.put(kind, bytes);
        Ok(())
    }

    async fn erase(&self, kind: MetaKind) -> Result<(), MetaAccessError> {
        for sector in 0..RECORD_SECTORS {
            let mut state = self.lock();
            state.spend()?;
            state.meta.remove(&(kind.offset(), sector));
        }
        Ok(())
    }

    async fn empty(&self, label: &'static str) -> Result<(), BlockError> {
        for sector in 0..HEADER_SECTORS {
            let mut state = self.lock();
            state
                .spend()
                .map_err(|error| BlockError::Access { device: label.into(), source: std::io::Error::other(error) })?;
            let volume = state.volumes.get_mut(label).expect("because both volumes are there");
            volume[sector] = false;
        }
        Ok(())
    }
}

fn order() -> ResetOrder {
    ResetOrder { by: "ada".to_owned(), reason: String::new() }
}

#[tokio::test]
async fn whenever_the_power_is_cut_the_next_start_finds_the_old_machine_or_makes_a_new_one() {
    // The wish, both volumes, each of the machine's records, the wish again.
    let all = 1 + 2 * HEADER_SECTORS + (MetaKind::OF_THE_MACHINE.len() + 1) * RECORD_SECTORS;
    for writes in 0..=all {
        let disk = FakeDisk::old();
        disk.cut_after(Some(writes));
        let asked = ask(&disk, &order()).await;
        let done = match asked {
            Ok(()) => carry_out(&disk).await,
            Err(error) => Err(error),
        };
        assert_eq!(done.is_ok(), writes == all, "a cut is an error, after {writes} writes");
        // The power is back.
        disk.cut_after(None);
        let again = carry_out(&disk).await.unwrap_or_else(|error| panic!("after {writes} writes: {error}"));
        if writes == 0 {
            assert!(again.is_none() && disk.is_untouched(), "nobody wrote down that it should");
        } else {
            assert!(disk.is_new(), "after {writes} writes it is neither old nor new");
        }
        assert_eq!(disk.has(MetaKind::Seed), Ok(true), "it comes up with its seed");
    }
}

#[tokio::test]
async fn power_that_is_cut_again_and_again_only_delays_it() {
    let disk = FakeDisk::old();
    ask(&disk, &order()).await.expect("because the power is there");
    for writes in 0..=2 * HEADER_SECTORS + RECORD_SECTORS {
        disk.cut_after(Some(writes));
        assert!(carry_out(&disk).await.is_err(), "it was cut off after {writes} writes");
    }
    disk.cut_after(None);
    assert_eq!(carry_out(&disk).await.expect("because the power is there"), Some(order()));
    assert!(disk.is_new());
    assert_eq!(carry_out(&disk).await.expect("because the power is there"), None, "it happens once");
}

#[tokio::test]
async fn nothing_is_erased_without_a_whole_wish() {
    let disk = FakeDisk::old();
    assert!(carry_out(&disk).await.expect("because nothing was asked").is_none() && disk.is_untouched());
    for text in ["reset 2\nby ada\nreason x\n", "", "reset 1\n"] {
        disk.put(MetaKind::Reset, text.as_bytes().to_vec());
        assert!(carry_out(&disk).await.expect("because it is no wish").is_none() && disk.is_untouched(), "{text:?}");
    }
    disk.put(MetaKind::Reset, order().encode());
    disk.lock().meta.get_mut(&(MetaKind::Reset.offset(), 0)).expect("because it was put there")[60] ^= 1;
    assert!(carry_out(&disk).await.expect("because it is damaged").is_none() && disk.is_untouched());
}
