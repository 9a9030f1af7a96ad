//! A key slot: the volume's key, split and encrypted with what a secret derives.

use crate::Random;
use crate::antiforensic::{self, STRIPES};
use crate::metadata::{Derivation, KEY_BYTES, SLOT_BYTES};
use aes::Aes256;
use aes::cipher::KeyInit as _;
use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

/// Bytes of a sector in a key slot, whatever the data has.
const SLOT_SECTOR_BYTES: usize = 512;

fn cipher(secret: &[u8], kdf: &Derivation) -> Xts128<Aes256> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    pbkdf2_hmac::<Sha256>(secret, &kdf.salt.0, kdf.iterations, &mut *key);
    let (data, tweak) = key.split_at(KEY_BYTES / 2);
    Xts128::new(Aes256::new(data.into()), Aes256::new(tweak.into()))
}

/// The content of a key slot's area: the key for whoever knows the secret.
pub(crate) fn close(key: &[u8; KEY_BYTES], secret: &[u8], kdf: &Derivation, random: Random<'_>) -> Vec<u8> {
    let mut area = antiforensic::split(key, random).to_vec();
    cipher(secret, kdf).encrypt_area(&mut area, SLOT_SECTOR_BYTES, 0, get_tweak_default);
    area.resize(SLOT_BYTES, 0);
    area
}

/// What the secret makes of the area: the key, or bytes that say nothing.
pub(crate) fn open(area: &[u8], secret: &[u8], kdf: &Derivation) -> Zeroizing<Vec<u8>> {
    let mut split = Zeroizing::new(area[..KEY_BYTES * STRIPES].to_vec());
    cipher(secret, kdf).decrypt_area(&mut split, SLOT_SECTOR_BYTES, 0, get_tweak_default);
    antiforensic::merge(&split)
}
