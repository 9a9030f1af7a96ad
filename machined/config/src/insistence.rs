//! How a machine's volumes have to be encrypted, in the words of a seed.

use std::str::FromStr;

/// What a seed insists on before volumes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insistence {
    /// `required`: by the TPM, or without one by peers.
    Required,
    /// `tpm`: by the TPM and in no other way.
    Tpm,
}

impl Insistence {
    /// The word for it in a seed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Insistence::Required => "required",
            Insistence::Tpm => "tpm",
        }
    }
}

/// A text is no insistence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected \"required\" or \"tpm\"")]
pub struct InsistenceError;

impl FromStr for Insistence {
    type Err = InsistenceError;
    fn from_str(text: &str) -> Result<Self, InsistenceError> {
        [Insistence::Required, Insistence::Tpm].into_iter().find(|known| known.as_str() == text).ok_or(InsistenceError)
    }
}
