//! A volume's header as a value, and what has to be written when it changes.

use crate::binary::{Binary, Copy, SALT_BYTES, has_magic};
use crate::metadata::{Decimal, KEY_BYTES, Keyslot, Metadata, SLOT_BYTES, SLOTS_MAX, Token};
use crate::{FRONT_BYTES, LuksError, Random, keyslot};
use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of the salts that are drawn.
const KEY_SALT_BYTES: usize = 32;

/// The key that the data is encrypted with. It is forgotten with its value and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey(Zeroizing<[u8; KEY_BYTES]>);

impl VolumeKey {
    /// A new key.
    #[must_use]
    pub fn generate(random: Random<'_>) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        random(&mut *key);
        VolumeKey(key)
    }

    /// Its bytes, for the kernel.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn digest(&self, salt: &[u8], iterations: u32) -> [u8; 32] {
        let mut digest = [0; 32];
        pbkdf2_hmac::<Sha256>(&*self.0, salt, iterations, &mut digest);
        digest
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("VolumeKey")
    }
}

/// The number of a key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    fn id(self) -> Decimal {
        Decimal(u64::from(self.0))
    }
}

/// Bytes for a place of the partition.
#[derive(Clone, PartialEq, Eq)]
pub struct Write {
    /// Where, in bytes from the partition's begin.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Write {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Write({} bytes at {})", self.bytes.len(), self.offset)
    }
}

/// What has to be written, in this order and each synchronised before the next one.
pub type Change = Vec<Write>;

/// A volume's header. After a change it is what stands on the disk once all of the change is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    binary: Binary,
    metadata: Metadata,
}

impl Header {
    /// The header of a new volume with `bytes` of data and no key slots yet.
    #[must_use]
    pub fn new(label: &str, uuid: &str, bytes: u64, sector_size: u32, key: &VolumeKey, random: Random<'_>) -> Self {
        let mut salt = vec![0; KEY_SALT_BYTES];
        random(&mut salt);
        let digest = key.digest(&salt, crate::metadata::ITERATIONS).to_vec();
        let binary = Binary { sequence: 0, label: label.to_owned(), uuid: uuid.to_owned() };
        Header { binary, metadata: Metadata::new(bytes, sector_size, salt, digest) }
    }

    /// Whether a partition that begins with these bytes holds a LUKS2 volume, damaged ones included.
    #[must_use]
    pub fn is_there(front: &[u8]) -> bool {
        has_magic(front)
    }

    /// Reads the header from a partition's first [`FRONT_BYTES`]: the newest copy that is whole.
    ///
    /// # Errors
    /// When no copy is whole, or the newest one is not supported.
    pub fn parse(front: &[u8]) -> Result<Self, LuksError> {
        let (first, second) = (Binary::parse(front, Copy::First), Binary::parse(front, Copy::Second));
        let (binary, json) = match (first, second) {
            (Ok(first), Ok(second)) if second.0.sequence > first.0.sequence => second,
            (Ok(first), _) => first,
            (Err(_), Ok(second)) => second,
            (Err(first), Err(second)) => return Err(LuksError::Damaged { first, second }),
        };
        Ok(Header { binary, metadata: Metadata::parse(json)? })
    }

    /// The volume's UUID.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.binary.uuid
    }

    /// The label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.binary.label
    }

    /// Where the data begins, in bytes.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.metadata.segment().offset.0
    }

    /// How many bytes of data there are; none for as many as the partition has.
    #[must_use]
    pub fn data_bytes(&self) -> Option<u64> {
        self.metadata.segment().size.parse().ok()
    }

    /// Bytes of one sector of the data.
    #[must_use]
    pub fn sector_size(&self) -> u32 {
        self.metadata.segment().sector_size
    }

    /// Tokens of this kind.
    pub fn tokens<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Token> {
        self.metadata.tokens.values().filter(move |token| token.r#type == kind)
    }

    /// The key slots that tokens of this kind belong to.
    #[must_use]
    pub fn slots_of(&self, kind: &str) -> Vec<Slot> {
        let ids = self.tokens(kind).flat_map(|token| &token.keyslots);
        ids.filter_map(|id| u8::try_from(id.0).ok()).map(Slot).collect()
    }

    /// Tokens of this kind, each with its first key slot.
    pub fn slot_tokens<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (Slot, &'a Token)> {
        let slot = |token: &'a Token| Some((Slot(u8::try_from(token.keyslots.first()?.0).ok()?), token));
        self.tokens(kind).filter_map(slot)
    }

    /// Whether another key slot fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.metadata.keyslots.len() < usize::from(SLOTS_MAX)
    }

    /// Takes key slots out of the header; what they held stays until they are erased, see [`Header::erase`].
    ///
    /// # Errors
    /// When no slot would be left, or the rest does not fit.
    pub fn remove(&mut self, slots: &[Slot], random: Random<'_>) -> Result<Change, LuksError> {
        let mut changed = self.clone();
        changed.forget(slots);
        if changed.metadata.keyslots.is_empty() {
            return Err(LuksError::Contradiction("a volume without key slots opens never again"));
        }
        let copies = changed.copies(random)?;
        *self = changed;
        Ok(copies.into())
    }

    /// The volume's key, from the partition's first [`FRONT_BYTES`] and a secret.
    ///
    /// # Errors
    /// When no key slot opens with it.
    pub fn open(&self, front: &[u8], secret: &[u8]) -> Result<VolumeKey, LuksError> {
        self.metadata
            .keyslots
            .values()
            .find_map(|slot| self.try_slot(slot, front, secret))
            .ok_or(LuksError::WrongSecret)
    }

    fn try_slot(&self, slot: &Keyslot, front: &[u8], secret: &[u8]) -> Option<VolumeKey> {
        let offset = usize::try_from(slot.area.offset.0).ok()?;
        let area = front.get(offset..offset.checked_add(SLOT_BYTES)?)?;
        let opened = keyslot::open(area, secret, &slot.kdf);
        let mut key = VolumeKey(Zeroizing::new([0; KEY_BYTES]));
        key.0.copy_from_slice(&opened);
        let expected = self.metadata.digest();
        // What a wrong secret opens is noise, so nothing is learnt from how long the comparison takes.
        let known = key.digest(&expected.salt.0, expected.iterations);
        (known.as_slice() == expected.digest.0).then_some(key)
    }

    /// Adds a key slot with its token; what replaced slots held stays where it is until they are erased, see [`Header::erase`].
    ///
    /// The slots in `replaced` are left out of the header in the same step, so that at no moment neither of both opens.
    ///
    /// # Errors
    /// When all slots are taken, or the token does not fit.
    pub fn add(
        &mut self,
        key: &VolumeKey,
        secret: &[u8],
        mut token: Token,
        replaced: &[Slot],
        random: Random<'_>,
    ) -> Result<Change, LuksError> {
        let free = (0..SLOTS_MAX).map(Slot).find(|slot| !self.metadata.keyslots.contains_key(&slot.id()));
        let slot = free.ok_or(LuksError::Full)?;
        let mut salt = vec![0; KEY_SALT_BYTES];
        random(&mut salt);
        let entry = Keyslot::new(slot.0, salt);
        let area = Write { offset: entry.area.offset.0, bytes: keyslot::close(&key.0, secret, &entry.kdf, random) };

        let mut changed = self.clone();
        changed.forget(replaced);
        changed.metadata.keyslots.insert(slot.id(), entry);
        changed.metadata.digest_mut().keyslots.push(slot.id());
        let free = (0..).map(Decimal).find(|id| !changed.metadata.tokens.contains_key(id));
        token.keyslots = vec![slot.id()];
        changed.metadata.tokens.insert(free.expect("because there are more numbers than tokens"), token);
        let [first, second] = changed.copies(random)?;
        *self = changed;
        Ok(vec![area, first, second])
    }

    /// What makes both copies the same again after a power cut or damage, the worse one first; none when they are. Until then a copy of before
    /// a change may still hold what the change was to take away.
    ///
    /// # Errors
    /// When the header does not fit, as it did before.
    pub fn settle(&mut self, front: &[u8], random: Random<'_>) -> Result<Option<Change>, LuksError> {
        let sequence = |copy| Binary::parse(front, copy).ok().map(|(binary, _)| binary.sequence);
        let (first, second) = (sequence(Copy::First), sequence(Copy::Second));
        if first == second {
            return Ok(None);
        }
        let mut changed = self.clone();
        let [one, other] = changed.copies(random)?;
        *self = changed;
        // `None` is less than any number.
        Ok(Some(if first < second { vec![one, other] } else { vec![other, one] }))
    }

    fn forget(&mut self, slots: &[Slot]) {
        let gone = |id: &Decimal| slots.iter().any(|slot| slot.id() == *id);
        self.metadata.keyslots.retain(|id, _| !gone(id));
        self.metadata.digest_mut().keyslots.retain(|id| !gone(id));
        self.metadata.tokens.values_mut().for_each(|token| token.keyslots.retain(|id| !gone(id)));
        self.metadata.tokens.retain(|_, token| !token.keyslots.is_empty());
    }

    /// What overwrites the area of a slot that the header no longer has.
    #[must_use]
    pub fn erase(slot: Slot, random: Random<'_>) -> Write {
        let mut bytes = vec![0; SLOT_BYTES];
        random(&mut bytes);
        Write { offset: Keyslot::new(slot.0, Vec::new()).area.offset.0, bytes }
    }

    /// Both copies, one number later.
    fn copies(&mut self, random: Random<'_>) -> Result<[Write; 2], LuksError> {
        self.binary.sequence += 1;
        let json = self.metadata.render()?;
        let mut copy = |which: Copy| {
            let mut salt = [0; SALT_BYTES];
            random(&mut salt);
            Write { offset: which.offset() as u64, bytes: self.binary.encode(which, &json, &salt) }
        };
        Ok([copy(Copy::First), copy(Copy::Second)])
    }

    /// The first [`FRONT_BYTES`] of a new volume after a change: what was there before does not matter.
    #[must_use]
    pub fn front(change: &Change) -> Vec<u8> {
        let mut front = vec![0; FRONT_BYTES];
        for write in change {
            let at = usize::try_from(write.offset).expect("because all of a header lies in the front");
            front[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        front
    }
}

#[cfg(test)]
mod tests;
