//! The root hash of a dm-verity tree: what the kernel command line names and what a slot's partition GUID is made from.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::guid::Guid;

/// A SHA-256 root hash of a dm-verity tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash([u8; 32]);

/// Why a text is no root hash.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a verity root hash is 64 hex digits, this text has {characters} characters or others than hex digits")]
pub struct RootHashError {
    characters: usize,
}

impl RootHash {
    /// Takes the digest's bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The partition GUID of the slot that holds this root: the first sixteen bytes, in text order.
    pub fn partition_guid(&self) -> Guid {
        let mut first = [0; 16];
        first.copy_from_slice(&self.0[..16]);
        Guid::from_text_order(first)
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for RootHash {
    type Err = RootHashError;

    fn from_str(text: &str) -> Result<Self, RootHashError> {
        let mut bytes = [0; 32];
        decode_hex(text.as_bytes(), &mut bytes).ok_or(RootHashError { characters: text.chars().count() })?;
        Ok(Self(bytes))
    }
}

/// Fills `bytes` from exactly twice as many hex digits.
pub(crate) fn decode_hex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(())
}

fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_guid_is_the_first_half_as_written() {
        let hash: RootHash = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
            .parse()
            .expect("because the text is 64 hex digits");
        assert_eq!(hash.partition_guid().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn other_lengths_and_letters_are_refused() {
        assert!("".parse::<RootHash>().is_err());
        assert!("0".repeat(63).parse::<RootHash>().is_err());
        assert!("g".repeat(64).parse::<RootHash>().is_err());
        assert!("\u{e9}".repeat(32).parse::<RootHash>().is_err());
    }
}
