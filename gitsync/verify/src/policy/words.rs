//! Words of a policy file, each read by its own type.

use super::{Binding, Use};
use machined_access::{Access, is_weak_key, ssh_fingerprint};
use machined_ids::Fingerprint;
use ssh_key::{Algorithm, EcdsaCurve, PublicKey};
use std::str::FromStr;

/// A word is none of those that may stand here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct WordError(&'static str);

impl WordError {
    pub(super) const fn expected(what: &'static str) -> Self {
        WordError(what)
    }
}

impl FromStr for Binding {
    type Err = WordError;
    fn from_str(word: &str) -> Result<Self, WordError> {
        match word {
            "trailer" => Ok(Binding::Trailer),
            "plain" => Ok(Binding::Plain),
            _ => Err(WordError("\"trailer\" or \"plain\"")),
        }
    }
}

impl FromStr for Use {
    type Err = WordError;
    fn from_str(word: &str) -> Result<Self, WordError> {
        let known = Use::ALL.into_iter().find(|known| known.as_str() == word);
        known.ok_or(WordError("commit, statement, login, fresh, image or recovery"))
    }
}

/// A right on the APIs.
pub(super) struct AccessWord(pub(super) Access);

impl FromStr for AccessWord {
    type Err = WordError;
    fn from_str(word: &str) -> Result<Self, WordError> {
        match word {
            "reader" => Ok(AccessWord(Access::Reader)),
            "operator" => Ok(AccessWord(Access::Operator)),
            "admin" => Ok(AccessWord(Access::Admin)),
            _ => Err(WordError("reader, operator or admin")),
        }
    }
}

/// An SSH public key of a kind that is taken, by its fingerprint.
pub(super) struct Key(pub(super) Fingerprint);

impl FromStr for Key {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let expected = "an ssh-ed25519, sk-ssh-ed25519@openssh.com or ecdsa-sha2-nistp256 public key";
        let key = PublicKey::from_openssh(text).map_err(|_| WordError(expected))?;
        if is_weak_key(key.key_data()) {
            return Err(WordError("a key that somebody made; this one is a point of small order"));
        }
        match key.algorithm() {
            Algorithm::Ed25519 | Algorithm::SkEd25519 | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => {
                Ok(Key(ssh_fingerprint(key.key_data())))
            }
            // The list of algorithms grows with the crate; only these three are taken.
            _ => Err(WordError(expected)),
        }
    }
}
