//! Digests and the ids that are digests.

use crate::{IdError, textual};
use std::fmt;

pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Reads exactly `N` bytes of lower-case hex.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes();
    if pairs.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

macro_rules! sha256 {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes of a SHA-256.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }

            /// Reads 64 lower-case hex digits.
            ///
            /// # Errors
            /// [`IdError`] when the text is anything else.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                from_hex::<32>(text)
                    .map($name)
                    .ok_or_else(|| IdError::new($kind, text, "64 lower-case hex digits"))
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        textual!($name);
    };
}

sha256! {
    /// SHA-256 of some bytes; 64 hex digits in text.
    Digest, "digest"
}
sha256! {
    /// Our own recursive SHA-256 over (mode, name, content) of a git tree.
    TreeHash, "tree hash"
}
sha256! {
    /// A step of the release chain: `SHA-256(parent's step, tree hash)`.
    StepId, "step"
}

/// A git commit's name: 40 hex digits (SHA-1) or 64 (SHA-256). It names, and proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// Reads 40 or 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`IdError`] when the text is anything else.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if from_hex::<20>(text).is_some() || from_hex::<32>(text).is_some() {
            Ok(CommitId(text.to_owned()))
        } else {
            Err(IdError::new("commit id", text, "40 or 64 lower-case hex digits"))
        }
    }

    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people read them.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

textual!(CommitId);

/// A public key's fingerprint: `SHA256:` and 43 base64 characters without padding, as OpenSSH prints it.
///
/// For a machine it is over the key's SubjectPublicKeyInfo (DER), for an SSH key over its public key blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    const PREFIX: &'static str = "SHA256:";
    const ALPHABET: &'static [u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// Writes a SHA-256 as a fingerprint.
    #[must_use]
    pub fn from_sha256(digest: &[u8; 32]) -> Self {
        let mut text = String::with_capacity(50);
        text.push_str(Self::PREFIX);
        for chunk in digest.chunks(3) {
            let group = chunk.iter().chain([0, 0].iter()).take(3).fold(0_u32, |acc, b| acc << 8 | u32::from(*b));
            for place in 0..=chunk.len() {
                let index = (group >> (18 - 6 * place)) & 63;
                text.push(char::from(Self::ALPHABET[index as usize]));
            }
        }
        Fingerprint(text)
    }

    /// Reads `SHA256:` and 43 base64 characters.
    ///
    /// # Errors
    /// [`IdError`] when the text is anything else, or not the one way to write those 32 bytes.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let expected = "SHA256: and 43 base64 characters without =";
        let body = text.strip_prefix(Self::PREFIX).unwrap_or_default().as_bytes();
        let place = |b: &u8| Self::ALPHABET.iter().position(|a| a == b);
        // 43 characters hold 258 bits: the last two must be zero, or two texts would name one key.
        let canonical = body.last().and_then(place).is_some_and(|last| last % 4 == 0);
        if body.len() == 43 && canonical && body.iter().all(|b| place(b).is_some()) {
            Ok(Fingerprint(text.to_owned()))
        } else {
            Err(IdError::new("fingerprint", text, expected))
        }
    }

    /// The whole text, `SHA256:` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

textual!(Fingerprint);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_written_as_openssh_writes_them() {
        // SHA-256 of the empty string; expected text from `printf '' | openssl dgst -sha256 -binary | base64`.
        let empty = from_hex::<32>("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let print = Fingerprint::from_sha256(&empty.expect("because it is hex"));
        assert_eq!(print.as_str(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(Fingerprint::parse(print.as_str()), Ok(print));
    }

    #[test]
    fn a_fingerprint_has_one_text() {
        let other_last_bits = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV";
        assert!(Fingerprint::parse(other_last_bits).is_err());
        assert!(Fingerprint::parse("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU").is_err());
        assert!(Fingerprint::parse("SHA256:").is_err());
    }

    #[test]
    fn commit_ids_have_the_length_of_a_git_hash() {
        assert!(CommitId::parse(&"a".repeat(40)).is_ok());
        assert!(CommitId::parse(&"a".repeat(64)).is_ok());
        assert!(CommitId::parse(&"a".repeat(41)).is_err());
        assert!(CommitId::parse(&"A".repeat(40)).is_err());
    }
}
