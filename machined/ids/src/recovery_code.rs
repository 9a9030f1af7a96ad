//! The short code by which people tell one recovery from another: what `cairnctl recover` prints, and what a machine's console asks for.

use crate::{Digest, IdError};
use std::fmt;

/// Crockford's base 32: no I, L, O (which are read as 1, 1 and 0) and no U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters without the dash between its halves; 40 bits, which nobody types by chance.
const LENGTH: usize = 8;

/// The first 40 bits of the SHA-256 of a recovery statement's body, as `7K4M-9Q2P`. It names a recovery to a person who compares it with
/// what was signed; it is no secret and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecoveryCode([u8; LENGTH]);

impl RecoveryCode {
    /// The code of the recovery whose body has this digest.
    #[must_use]
    pub fn of(body: &Digest) -> Self {
        let [first, second, third, fourth, fifth, ..] = *body.as_bytes();
        let bits = u64::from_be_bytes([0, 0, 0, first, second, third, fourth, fifth]);
        let mut code = [0; LENGTH];
        for (place, digit) in code.iter_mut().rev().enumerate() {
            *digit = DIGITS[usize::try_from(bits >> (5 * place) & 31).expect("because five bits fit")];
        }
        RecoveryCode(code)
    }

    /// Reads what a person typed: small letters, letters that look like digits, and a missing dash are right as well.
    ///
    /// # Errors
    /// [`IdError`] when it is no code.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("recovery code", text, "eight letters and digits like 7K4M-9Q2P");
        let plain = match text.split_once('-') {
            Some((first, second)) if first.len() == LENGTH / 2 => format!("{first}{second}"),
            Some(_) => return Err(wrong()),
            None => text.to_owned(),
        };
        let plain = plain.to_ascii_uppercase().replace(['I', 'L'], "1").replace('O', "0");
        let code: [u8; LENGTH] = plain.into_bytes().try_into().map_err(|_| wrong())?;
        code.iter().all(|digit| DIGITS.contains(digit)).then_some(RecoveryCode(code)).ok_or_else(wrong)
    }
}

impl fmt::Display for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::str::from_utf8(&self.0).expect("because its digits are ASCII");
        write!(f, "{}-{}", &text[..LENGTH / 2], &text[LENGTH / 2..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_shown_and_as_people_type_it() {
        let mut bytes = [0xff; 32];
        assert_eq!(RecoveryCode::of(&Digest::from_bytes(bytes)).to_string(), "ZZZZ-ZZZZ");
        bytes[..5].copy_from_slice(&[0b0000_0000, 0b0100_0100, 0b0011_0010, 0b0001_0100, 0b1100_0111]);
        // Five bits each: 0, 1, 2, 3, 4, 5, 6, 7.
        let code = RecoveryCode::of(&Digest::from_bytes(bytes));
        assert_eq!(code.to_string(), "0123-4567");
        for typed in ["0123-4567", "01234567", "o123-4567", "OI23-4567", "0l234567"] {
            assert_eq!(RecoveryCode::parse(typed), Ok(code), "{typed}");
        }
        let letters = RecoveryCode::parse("abcd-efgh").expect("because small letters are right");
        assert_eq!(letters.to_string(), "ABCD-EFGH");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for typed in
            ["", "2345", "2345-678", "2345-67890", "234-56789", "2345-678U", "2345--678", "2345 6789", "\u{fe}2345-67"]
        {
            assert!(RecoveryCode::parse(typed).is_err(), "{typed:?} was taken");
        }
    }
}
