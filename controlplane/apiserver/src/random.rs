//! Randomness of the API server: uids, name suffixes, spreading. Nothing secret is made here.

/// Characters of generated names: no vowels and nothing that looks like another, as upstream.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Random bytes of the operating system.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("because Linux always has random bytes once it has booted");
    bytes
}

/// A random UUID (RFC 9562 version 4).
pub(crate) fn uid() -> String {
    let mut b = bytes::<16>();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let n = u128::from_be_bytes(b);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        n >> 96,
        n >> 80 & 0xffff,
        n >> 64 & 0xffff,
        n >> 48 & 0xffff,
        n & 0xffff_ffff_ffff
    )
}

/// The five characters that follow `generateName`.
pub(crate) fn name_suffix() -> String {
    bytes::<5>().iter().map(|b| char::from(NAME_ALPHABET[usize::from(*b) % NAME_ALPHABET.len()])).collect()
}

/// A number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_be_bytes(bytes::<4>())) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn uids_are_version_four() {
        let uid = super::uid();
        assert_eq!((uid.len(), &uid[14..15], uid.matches('-').count()), (36, "4", 4));
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }
}
