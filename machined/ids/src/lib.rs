//! Newtypes for everybody above `init`: names, identities, positions and digests.
//!
//! A value of one of these types is valid by construction: it comes from `parse` (or a constructor that cannot be wrong),
//! and serde goes through the same door. Mixing two of them does not compile.

mod digest;
mod names;
mod positions;
mod recovery_code;

pub use digest::{CommitId, Digest, Fingerprint, StepId, TreeHash};
pub use names::{ClassName, ClusterId, MachineName, PrincipalName};
pub use positions::{ClusterLevel, Epoch, Generation, Revision, Seq};
pub use recovery_code::RecoveryCode;

/// What was wrong with the text of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?}: {expected}")]
pub struct IdError {
    /// Which id was being read, in words: "machine name".
    pub kind: &'static str,
    /// The text, cut to [`IdError::TEXT_LIMIT`] characters.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl IdError {
    /// Characters of the bad text that an error repeats; enough to recognise it, too few to flood a log.
    pub const TEXT_LIMIT: usize = 80;

    pub(crate) fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        IdError { kind, text: text.chars().take(Self::TEXT_LIMIT).collect(), expected }
    }
}

/// Gives a validated text or byte newtype its `Display`, `FromStr` and serde by way of `parse` and `Display`.
macro_rules! textual {
    ($name:ident) => {
        impl std::str::FromStr for $name {
            type Err = $crate::IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $name::parse(text)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                $name::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use textual;
