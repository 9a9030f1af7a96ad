//! META and a TPM in memory: where the key is made, and when a machine has none.

use super::*;
use crate::tpm::fake::{FakeTpm, Fate, Power};
use machined_access::{KeyPlace, verify_identity};
use machined_ids::Fingerprint;
use machined_reconcile::story;
use machined_runtime::{Controller, Ports, Store};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct FakeMeta {
    record: Mutex<Option<Vec<u8>>>,
    power: Mutex<Option<Arc<Power>>>,
}

impl FakeMeta {
    fn holding(bytes: &[u8]) -> Arc<Self> {
        Arc::new(FakeMeta { record: Mutex::new(Some(bytes.to_vec())), ..FakeMeta::default() })
    }
    fn record(&self) -> Option<Vec<u8>> {
        self.record.lock().expect("because no test panics with it").clone()
    }
}

impl MetaHost for FakeMeta {
    async fn read(&self, _kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
        Ok(self.record())
    }
    async fn write(&self, _kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
        let power = self.power.lock().expect("because no test panics with it").clone();
        let fate = power.map_or(Fate::Done, |power| power.operate());
        if fate != Fate::Lost {
            *self.record.lock().expect("because no test panics with it") = Some(bytes);
        }
        if fate == Fate::Done { Ok(()) } else { Err(MetaAccessError::Missing) }
    }
}

async fn boot(meta: &Arc<FakeMeta>, tpm: &Arc<FakeTpm>) -> Result<MachineKey, IdentityLoadError> {
    let store = Store::new();
    let mut controller =
        IdentityController::new(&mut Ports::new(&store, "identity"), Arc::clone(meta), Arc::clone(tpm));
    controller.reconcile().await?;
    Ok(store.reader::<MachineKey>().get(MachineKey::ID).expect("because reconciling made one"))
}

async fn fingerprint(meta: &Arc<FakeMeta>, tpm: &Arc<FakeTpm>) -> Fingerprint {
    boot(meta, tpm).await.expect("because META and the TPM work").fingerprint
}

fn absent() -> Arc<FakeTpm> {
    Arc::new(FakeTpm::absent())
}

#[tokio::test]
async fn the_key_of_the_first_boot_is_the_key_of_every_boot() {
    for (tpm, place) in [(absent(), KeyPlace::Disk), (Arc::new(FakeTpm::new()), KeyPlace::Tpm)] {
        let meta = Arc::new(FakeMeta::default());
        let first = boot(&meta, &tpm).await.expect("because META can be written");
        assert_eq!(first.place(), place);
        assert_eq!(fingerprint(&meta, &tpm).await, first.fingerprint);
    }
}

#[tokio::test]
async fn a_key_in_the_tpm_signs_as_one_on_the_disk_does() {
    for tpm in [absent(), Arc::new(FakeTpm::new())] {
        let key = boot(&Arc::new(FakeMeta::default()), &tpm).await.expect("because META can be written");
        let signature = key.sign(b"message".to_vec()).await.expect("because the key signs");
        assert_eq!(verify_identity(&key.public_key(), b"message", &signature), Some(key.fingerprint.clone()));
        let seal = key.seal(b"state".to_vec()).await.expect("because the key signs");
        assert!(key.check_seal(b"state", &seal) && !key.check_seal(b"other", &seal));
    }
}

#[tokio::test]
async fn the_disk_of_a_machine_with_a_tpm_does_not_hold_its_key() {
    let (meta, tpm) = (Arc::new(FakeMeta::default()), Arc::new(FakeTpm::new()));
    let key = boot(&meta, &tpm).await.expect("because META can be written");
    let kept = meta.record().expect("because the key was made");
    assert!(!String::from_utf8_lossy(&kept).contains("PRIVATE KEY"));
    // The same disk in a machine with another TPM, and in one without.
    let copy = FakeMeta::holding(&kept);
    let other = Arc::new(FakeTpm::new());
    other.clear();
    let refused = boot(&copy, &other).await.expect_err("because it is another machine");
    assert!(matches!(refused, IdentityLoadError::OtherTpm(_)), "{}", story(&refused));
    assert!(matches!(boot(&copy, &absent()).await, Err(IdentityLoadError::NoTpm)));
    assert_eq!(copy.record(), Some(kept), "what peers know is not replaced");
    assert_eq!(fingerprint(&copy, &tpm).await, key.fingerprint, "and works again where it belongs");
}

#[tokio::test]
async fn a_cleared_tpm_is_no_new_identity() {
    let (meta, tpm) = (Arc::new(FakeMeta::default()), Arc::new(FakeTpm::new()));
    boot(&meta, &tpm).await.expect("because META can be written");
    let kept = meta.record();
    tpm.clear();
    for _ in 0..2 {
        let refused = boot(&meta, &tpm).await.expect_err("because the key is lost");
        assert!(story(&refused).contains("install the machine again"), "{}", story(&refused));
    }
    assert_eq!(meta.record(), kept);
}

#[tokio::test]
async fn a_tpm_that_fails_for_a_while_is_asked_again() {
    let (meta, tpm) = (Arc::new(FakeMeta::default()), Arc::new(FakeTpm::new()));
    let first = fingerprint(&meta, &tpm).await;
    tpm.fail(true);
    assert!(matches!(boot(&meta, &tpm).await, Err(IdentityLoadError::Load(_))));
    tpm.fail(false);
    assert_eq!(fingerprint(&meta, &tpm).await, first);
}

#[tokio::test]
async fn a_machine_that_has_a_key_on_its_disk_keeps_it() {
    let meta = Arc::new(FakeMeta::default());
    let first = fingerprint(&meta, &absent()).await;
    let kept = meta.record();
    let later = boot(&meta, &Arc::new(FakeTpm::new())).await.expect("because the key is on the disk");
    assert_eq!((later.fingerprint.clone(), later.place()), (first, KeyPlace::Disk));
    assert_eq!(meta.record(), kept);
}

#[tokio::test]
async fn a_power_cut_while_the_key_is_made_leaves_none_or_a_whole_one() {
    // Forgetting the counter is operation 0, making the key in the TPM 1, writing META 2.
    for (operation, heard) in (0..3).flat_map(|operation| [(operation, false), (operation, true)]) {
        let (meta, tpm) = (Arc::new(FakeMeta::default()), Arc::new(FakeTpm::new()));
        *meta.power.lock().expect("because no test panics with it") = Some(tpm.power());
        tpm.power().cut(operation, heard);
        assert!(boot(&meta, &tpm).await.is_err(), "nobody sees a key that may not be kept");
        assert_eq!(meta.record().is_some(), (operation, heard) == (2, true));
        tpm.power().back();
        let key = boot(&meta, &tpm).await.expect("because the power is back");
        assert_eq!(key.place(), KeyPlace::Tpm);
        assert_eq!(fingerprint(&meta, &tpm).await, key.fingerprint);
    }
}

#[tokio::test]
async fn a_damaged_key_is_not_replaced() {
    let cut = [&b"CAIRN-TPM-KEY 1\n"[..], &[1; 70]].concat();
    for damaged in [&b"not a key"[..], &[0xff; 9], &cut] {
        let meta = FakeMeta::holding(damaged);
        let refused = boot(&meta, &Arc::new(FakeTpm::new())).await.expect_err("because it is no key");
        assert!(story(&refused).contains("installed again"), "{}", story(&refused));
        assert_eq!(meta.record().as_deref(), Some(damaged));
    }
}
