//! The key that a person keeps: 160 random bits, shown as `7K4M-9Q2P-...` and typed at a console.
//!
//! What opens the key slot is the text as it is shown, so that `cryptsetup open` on another computer takes it as it stands on paper.

use crate::Random;
use std::fmt;
use zeroize::Zeroizing;

/// Crockford's base 32: no I, L, O (which are read as 1, 1 and 0) and no U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters without dashes, five bits each.
const LENGTH: usize = 32;
/// Characters between two dashes.
const GROUP: usize = 4;

/// A recovery key. It is forgotten with its value, and never shown but by [`RecoveryKey::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(Zeroizing<[u8; LENGTH]>);

impl RecoveryKey {
    /// A new key.
    #[must_use]
    pub fn generate(random: Random<'_>) -> Self {
        let mut digits = Zeroizing::new([0; LENGTH]);
        random(&mut *digits);
        // 256 is a multiple of 32: each digit is as likely as any other.
        digits.iter_mut().for_each(|byte| *byte = DIGITS[usize::from(*byte % 32)]);
        RecoveryKey(digits)
    }

    /// Reads what a person typed: small letters, letters that look like digits, spaces and missing dashes are right as well. None when it is
    /// no recovery key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain =
            text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')).map(|byte| match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                other => other,
            });
        let mut digits = Zeroizing::new([0; LENGTH]);
        let mut count = 0;
        for byte in plain {
            *digits.get_mut(count)? = byte;
            count += 1;
        }
        (count == LENGTH && digits.iter().all(|digit| DIGITS.contains(digit))).then_some(RecoveryKey(digits))
    }

    /// The text: what a person is shown once, and what opens the key slot.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let groups = self.0.chunks(GROUP).map(|group| std::str::from_utf8(group).expect("because digits are ASCII"));
        Zeroizing::new(groups.collect::<Vec<_>>().join("-"))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RecoveryKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_shown_and_as_people_type_it() {
        let key = RecoveryKey::generate(&mut |bytes| bytes.iter_mut().zip(0_u8..).for_each(|(byte, n)| *byte = n));
        assert_eq!(*key.reveal(), "0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV-WXYZ");
        for typed in [
            "0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV-WXYZ",
            "ol23456789abcdefghjkmnpqrstvwxyz",
            " 0123 4567 89AB CDEF GHJK MNPQ RSTV WXYZ",
        ] {
            assert_eq!(RecoveryKey::parse(typed), Some(key.clone()), "{typed}");
        }
        assert_eq!(format!("{key:?}"), "RecoveryKey");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let whole = "0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV-WXYZ";
        for length in 0..whole.len() {
            assert!(RecoveryKey::parse(&whole[..length]).is_none(), "{length} characters were taken");
        }
        for typed in [format!("{whole}0"), whole.replace('Z', "U"), "7K4M-9Q2P".to_owned(), "\u{fe}".repeat(16)] {
            assert!(RecoveryKey::parse(&typed).is_none(), "{typed} was taken");
        }
    }
}
