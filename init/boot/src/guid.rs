//! Globally unique identifiers in the order in which people write them; GPT's mixed byte order stays at the rim of
//! `gpt`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A GUID, kept as the sixteen bytes of its text from left to right.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

/// Why a text is no GUID.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not a GUID: expected hex digits in groups of 8-4-4-4-12")]
pub struct GuidError {
    text: String,
}

impl Guid {
    /// The GUID of an unused partition entry.
    pub const ZERO: Self = Self([0; 16]);

    /// Takes the bytes as the text shows them.
    pub const fn from_text_order(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as the text shows them.
    pub const fn text_order(&self) -> [u8; 16] {
        self.0
    }

    /// Takes the bytes as GPT stores them: the first three groups little-endian, the last two as written.
    pub fn from_disk(bytes: [u8; 16]) -> Self {
        Self(swap(bytes))
    }

    /// The bytes as GPT stores them.
    pub fn to_disk(self) -> [u8; 16] {
        swap(self.0)
    }
}

/// Turns text order into disk order and back: the exchange is its own inverse.
fn swap(bytes: [u8; 16]) -> [u8; 16] {
    let mut swapped = bytes;
    swapped[0..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();
    swapped
}

impl fmt::Display for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                formatter.write_str("-")?;
            }
            write!(formatter, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let refused = || GuidError { text: text.chars().take(64).collect() };
        let characters = text.as_bytes();
        if characters.len() != 36 {
            return Err(refused());
        }
        let mut digits = Vec::with_capacity(32);
        for (index, character) in characters.iter().enumerate() {
            if matches!(index, 8 | 13 | 18 | 23) {
                if *character != b'-' {
                    return Err(refused());
                }
            } else {
                digits.push(*character);
            }
        }
        let mut bytes = [0; 16];
        crate::root_hash::decode_hex(&digits, &mut bytes).ok_or_else(refused)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn esp_type_has_the_disk_bytes_of_the_specification() {
        let esp: Guid = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".parse().expect("because the text is a GUID");
        assert_eq!(
            esp.to_disk(),
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]
        );
        assert_eq!(Guid::from_disk(esp.to_disk()), esp);
        assert_eq!(esp.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "c12a7328", "c12a7328-f81f-11d2-ba4b-00a0c93ec93g", "c12a7328+f81f-11d2-ba4b-00a0c93ec93b"] {
            assert!(text.parse::<Guid>().is_err(), "{text} was accepted");
        }
        assert!("\u{e9}".repeat(18).parse::<Guid>().is_err());
    }
}
