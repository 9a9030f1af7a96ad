//! Names that people give, and the cluster's random id.

use crate::{IdError, textual};
use std::fmt;

/// Whether `text` is a DNS label: 1 to 63 of `a-z`, `0-9` and `-`, not beginning or ending with `-` (RFC 1123).
fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Reads a DNS label.
            ///
            /// # Errors
            /// [`IdError`] when the text is not 1 to 63 of `a-z`, `0-9` and inner `-`.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if is_dns_label(text) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(IdError::new($kind, text, "1 to 63 of a-z, 0-9 and -, neither first nor last a -"))
                }
            }

            /// The text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        textual!($name);
    };
}

label! {
    /// A machine's name: its file in `machines/` and its host name.
    MachineName, "machine name"
}
label! {
    /// The name of a class of machines in `machines/`.
    ClassName, "class name"
}
label! {
    /// The name of a person or robot in `trust/`, and of a role.
    PrincipalName, "principal name"
}

/// 128 random bits that `cairnctl init` makes once; 32 lower-case hex digits in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// Makes an id from random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        ClusterId(bytes)
    }

    /// Reads 32 hex digits.
    ///
    /// # Errors
    /// [`IdError`] when the text is anything else.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        crate::digest::from_hex::<16>(text)
            .map(ClusterId)
            .ok_or_else(|| IdError::new("cluster id", text, "32 lower-case hex digits"))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::write_hex(&self.0, f)
    }
}

textual!(ClusterId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_are_dns_labels() {
        for good in ["a", "cp1", "rack-7-b", &"x".repeat(63)] {
            assert_eq!(MachineName::parse(good).expect("because it is a label").as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64), "ü"] {
            assert!(MachineName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_cluster_id_keeps_its_text() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(ClusterId::parse(text).expect("because it is hex").to_string(), text);
        assert!(ClusterId::parse(&text.to_uppercase()).is_err());
        assert!(ClusterId::parse(&text[1..]).is_err());
    }

    #[test]
    fn serde_refuses_what_parse_refuses() {
        assert!(serde_json::from_str::<MachineName>("\"Not A Name\"").is_err());
        let name: MachineName = serde_json::from_str("\"cp1\"").expect("because it is a label");
        assert_eq!(serde_json::to_string(&name).expect("because names serialise"), "\"cp1\"");
    }
}
