//! LUKS's anti-forensic splitter: a key spread over so many bytes that losing any part of them loses the key.
//!
//! A disk may keep an old copy of an overwritten sector somewhere; it is unlikely to keep all of a quarter of a megabyte.

use crate::Random;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Into how many parts a key is split; LUKS2 knows this number only.
pub(crate) const STRIPES: usize = 4000;
/// Bytes of one hash.
const HASH_BYTES: usize = 32;

/// Each piece of a hash's length is replaced by the hash of its number and itself.
fn diffuse(block: &mut [u8]) {
    for (number, piece) in block.chunks_mut(HASH_BYTES).enumerate() {
        let number = u32::try_from(number).expect("because keys are short");
        let hash = Sha256::new().chain_update(number.to_be_bytes()).chain_update(&*piece).finalize();
        piece.copy_from_slice(&hash[..piece.len()]);
    }
}

fn add(sum: &mut [u8], stripe: &[u8]) {
    sum.iter_mut().zip(stripe).for_each(|(sum, byte)| *sum ^= byte);
}

/// Splits a key.
pub(crate) fn split(key: &[u8], random: Random<'_>) -> Zeroizing<Vec<u8>> {
    let mut stripes = Zeroizing::new(vec![0; key.len() * STRIPES]);
    let last = key.len() * (STRIPES - 1);
    random(&mut stripes[..last]);
    let mut sum = Zeroizing::new(vec![0; key.len()]);
    for stripe in stripes[..last].chunks(key.len()) {
        add(&mut sum, stripe);
        diffuse(&mut sum);
    }
    add(&mut sum, key);
    stripes[last..].copy_from_slice(&sum);
    stripes
}

/// Puts a key together again; `stripes` is [`STRIPES`] times as long as the key.
pub(crate) fn merge(stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = stripes.len() / STRIPES;
    let (begin, last) = stripes.split_at(length * (STRIPES - 1));
    let mut sum = Zeroizing::new(vec![0; length]);
    for stripe in begin.chunks(length) {
        add(&mut sum, stripe);
        diffuse(&mut sum);
    }
    add(&mut sum, last);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_key_is_put_together_again_and_a_flipped_bit_loses_its_half() {
        let mut next = 7_u8;
        let mut random = |bytes: &mut [u8]| {
            bytes.iter_mut().for_each(|byte| {
                next = next.wrapping_mul(13).wrapping_add(11);
                *byte = next;
            });
        };
        let key: Vec<u8> = (0..64).collect();
        let mut stripes = split(&key, &mut random);
        assert_eq!(stripes.len(), 64 * STRIPES);
        assert_eq!(*merge(&stripes), key);
        stripes[1000] ^= 1;
        // The bit lies in the second half of its stripe, and each hash covers one half.
        let other = merge(&stripes);
        assert_eq!(other[..32], key[..32]);
        let same = other[32..].iter().zip(&key[32..]).filter(|(one, other)| one == other).count();
        assert!(same < 8, "{same} of 32 bytes survived");
    }
}
