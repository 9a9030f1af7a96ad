//! A TPM in memory whose power can be cut, for tests.

use super::{TpmAccessError, TpmEvidence, TpmHost};
use init_boot::tpm::{Pcr, PcrValue, PolicyKey, Sealed, SigningPublic, WrappedKey, pcr_policy};
use machined_access::{ChipError, ChipKey};
use machined_luks::{Secret, SignedPolicy};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// The power of one machine: whoever changes something lasting asks it first.
#[derive(Default)]
pub(crate) struct Power(Mutex<Supply>);

#[derive(Default)]
struct Supply {
    done: u32,
    /// The operation during which it goes, and whether that one still takes effect.
    cut: Option<(u32, bool)>,
}

/// What becomes of one operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// It took effect, and nobody heard of it.
    DoneUnheard,
    Lost,
}

impl Power {
    fn supply(&self) -> MutexGuard<'_, Supply> {
        self.0.lock().expect("because no test panics with it")
    }
    pub(crate) fn cut(&self, operation: u32, takes_effect: bool) {
        self.supply().cut = Some((operation, takes_effect));
    }
    pub(crate) fn is_cut(&self) -> bool {
        let supply = self.supply();
        supply.cut.is_some_and(|(operation, _)| supply.done > operation)
    }
    pub(crate) fn back(&self) {
        self.supply().cut = None;
    }
    pub(crate) fn operate(&self) -> Fate {
        let mut supply = self.supply();
        let number = supply.done;
        supply.done += 1;
        match supply.cut {
            Some((operation, true)) if number == operation => Fate::DoneUnheard,
            Some((operation, _)) if number >= operation => Fate::Lost,
            Some(_) | None => Fate::Done,
        }
    }
}

/// What the chip keeps.
#[derive(Default)]
struct Chip {
    counter: Option<u64>,
    /// The highest value that any counter ever had.
    highest: u64,
    registers: Vec<(Pcr, PcrValue)>,
    /// The owner's seed: another one after each clear.
    seed: u8,
    /// Keys that were made.
    keys: u8,
    /// It does not answer.
    failing: bool,
}

/// A key of the chip, while it is loaded.
struct LoadedKey {
    key: SigningKey,
    chip: Arc<Mutex<Chip>>,
}

impl ChipKey for LoadedKey {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], ChipError> {
        if self.chip.lock().expect("because no test panics with it").failing {
            return Err(failed().into());
        }
        let signature: Signature = self.key.sign(message);
        Ok(signature.to_bytes().into())
    }
}

/// The TPM.
pub(crate) struct FakeTpm {
    present: bool,
    chip: Arc<Mutex<Chip>>,
    power: Mutex<Arc<Power>>,
}

fn failed() -> TpmAccessError {
    TpmAccessError::Access { device: PathBuf::from("/dev/tpmrm0"), source: std::io::Error::other("no power") }
}

impl FakeTpm {
    pub(crate) fn new() -> Self {
        FakeTpm { present: true, chip: Arc::default(), power: Mutex::default() }
    }
    pub(crate) fn absent() -> Self {
        FakeTpm { present: false, ..FakeTpm::new() }
    }
    fn chip(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().expect("because no test panics with it")
    }
    pub(crate) fn value(&self) -> Option<u64> {
        self.chip().counter
    }
    /// As in the firmware's setup.
    pub(crate) fn clear(&self) {
        let mut chip = self.chip();
        chip.counter = None;
        chip.seed += 1;
    }
    /// As with the machine: registers begin at zero.
    pub(crate) fn restart(&self) {
        self.chip().registers.clear();
    }
    pub(crate) fn power(&self) -> Arc<Power> {
        Arc::clone(&self.power.lock().expect("because no test panics with it"))
    }
    /// Counts what is done from now on afresh.
    pub(crate) fn powered_by(&self, power: &Arc<Power>) {
        *self.power.lock().expect("because no test panics with it") = Arc::clone(power);
    }
    /// Another chip, whose keys are others.
    pub(crate) fn other() -> Self {
        let other = FakeTpm::new();
        (other.chip().seed, other.chip().keys) = (100, 100);
        other
    }
    pub(crate) fn fail(&self, failing: bool) {
        self.chip().failing = failing;
    }
    fn change<T>(&self, change: impl FnOnce(&mut Chip) -> T) -> Result<T, TpmAccessError> {
        match self.power().operate() {
            Fate::Done => Ok(change(&mut self.chip())),
            Fate::DoneUnheard => {
                change(&mut self.chip());
                Err(failed())
            }
            Fate::Lost => Err(failed()),
        }
    }
}

impl TpmHost for FakeTpm {
    fn is_present(&self) -> bool {
        self.present
    }
    async fn counter(&self) -> Result<Option<u64>, TpmAccessError> {
        // Reading changes nothing, so it is no place for a cut; without power it fails like everything.
        if self.power().is_cut() || self.chip().failing { Err(failed()) } else { Ok(self.value()) }
    }
    async fn increment(&self) -> Result<u64, TpmAccessError> {
        self.change(|chip| {
            let value = chip.counter.unwrap_or(chip.highest) + 1;
            (chip.counter, chip.highest) = (Some(value), value);
            value
        })
    }
    async fn extend(&self, pcr: Pcr, digest: [u8; 32]) -> Result<(), TpmAccessError> {
        self.change(|chip| match chip.registers.iter_mut().find(|(known, _)| *known == pcr) {
            Some((_, value)) => *value = value.extended(&digest),
            None => chip.registers.push((pcr, PcrValue::ZERO.extended(&digest))),
        })
    }
    async fn registers(&self, pcrs: Vec<Pcr>) -> Result<Vec<(Pcr, PcrValue)>, TpmAccessError> {
        let chip = self.chip();
        let value =
            |pcr: Pcr| chip.registers.iter().find(|(known, _)| *known == pcr).map_or(PcrValue::ZERO, |(_, v)| *v);
        Ok(pcrs.into_iter().map(|pcr| (pcr, value(pcr))).collect())
    }
    async fn quote(&self, _nonce: Vec<u8>, _pcrs: Vec<Pcr>) -> Result<TpmEvidence, TpmAccessError> {
        Err(failed())
    }
    async fn forget_counter(&self) -> Result<(), TpmAccessError> {
        self.change(|chip| chip.counter = None)
    }
    async fn make_key(&self) -> Result<WrappedKey, TpmAccessError> {
        self.change(|chip| {
            chip.keys += 1;
            let scalar = [chip.keys; 32];
            let key = SigningKey::from_slice(&scalar).expect("because it is less than the order");
            let point = key.verifying_key().to_encoded_point(false);
            let point = point.as_bytes().try_into().expect("because it is uncompressed");
            let public = SigningPublic::from_point(point).expect("because it is uncompressed");
            WrappedKey::new(public, [&[chip.seed][..], &scalar].concat()).expect("because it is short")
        })
    }
    async fn load_key(&self, key: WrappedKey) -> Result<Arc<dyn ChipKey>, TpmAccessError> {
        let chip = self.chip();
        if chip.failing || self.power().is_cut() {
            return Err(failed());
        }
        match key.private().split_first() {
            Some((seed, scalar)) if *seed == chip.seed => {
                let key = SigningKey::from_slice(scalar).expect("because this chip made it");
                Ok(Arc::new(LoadedKey { key, chip: Arc::clone(&self.chip) }))
            }
            Some(_) | None => Err(TpmAccessError::OtherTpm { device: PathBuf::from("/dev/tpmrm0") }),
        }
    }
    async fn seal(&self, secret: Secret, key: PolicyKey) -> Result<Sealed, TpmAccessError> {
        self.change(|chip| sealed(&key, chip.seed, &secret))
    }
    async fn unseal(&self, object: Sealed, policy: SignedPolicy) -> Result<Secret, TpmAccessError> {
        let chip = self.chip();
        if chip.failing || self.power().is_cut() {
            return Err(failed());
        }
        let device = PathBuf::from("/dev/tpmrm0");
        let (seed, secret) = object.private().split_first().expect("because this chip made it");
        if *seed != chip.seed {
            return Err(TpmAccessError::OtherTpm { device });
        }
        let value = chip.registers.iter().find(|(known, _)| *known == Pcr::UKI).map_or(PcrValue::ZERO, |(_, v)| *v);
        let secret: [u8; 32] = secret.try_into().expect("because this chip made it");
        let own = sealed(&policy.key, *seed, &secret) == object;
        match policy.signature(&pcr_policy(Pcr::UKI, value)) {
            Some(_) if own => Ok(Secret::new(secret)),
            Some(_) | None => Err(TpmAccessError::Unsigned { device }),
        }
    }
}

/// A sealed object as the specification lays it out: its policy is "what this key signs".
fn sealed(key: &PolicyKey, seed: u8, secret: &[u8; 32]) -> Sealed {
    Sealed::made(key, &[9; 32], [&[seed][..], secret].concat())
}
