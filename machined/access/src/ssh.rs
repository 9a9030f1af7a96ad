//! SSH signatures (the `SSHSIG` format of `ssh-keygen -Y sign`), the only kind of signature that people make.
//!
//! Format: <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig>

use machined_ids::Fingerprint;
use ssh_key::{Algorithm, EcdsaCurve, PublicKey, SshSig, public::KeyData};

/// A signature that verified: who signed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The key that signed.
    pub key: Fingerprint,
    /// For a hardware key, whether the signature says that its holder touched it; `None` for keys without such a flag.
    pub touched: Option<bool>,
}

/// Why a signature is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The armour or what it holds is not an SSH signature.
    #[error("not an SSH signature")]
    Malformed(#[source] ssh_key::Error),
    /// It was made for another purpose.
    #[error("the signature is for namespace {found:?}, not {wanted:?}")]
    Namespace {
        /// What it was made for.
        found: String,
        /// What it is used for.
        wanted: String,
    },
    /// A kind of key that is not accepted.
    #[error("{algorithm} keys are not accepted; use ed25519, ecdsa-p256 or sk-ed25519")]
    Algorithm {
        /// The key's algorithm as SSH names it.
        algorithm: String,
    },
    /// The signature does not belong to this message and key.
    #[error("the signature does not match the message")]
    Mismatch(#[source] ssh_key::Error),
}

/// Flag of a hardware key's signature: its holder was present
/// (<https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.u2f>).
const USER_PRESENT: u8 = 0x01;

/// Bytes that a hardware key appends to its signature: one of flags, four of a counter.
const HARDWARE_TRAILER_BYTES: usize = 5;

/// Checks an armoured signature over `message`. Whether its key may do what it does is the caller's question.
///
/// # Errors
/// [`SignatureError`] when it is malformed, for another namespace, of another algorithm, or does not match.
pub fn verify_signature(namespace: &str, message: &[u8], armored: &str) -> Result<Signed, SignatureError> {
    let signature = SshSig::from_pem(armored).map_err(SignatureError::Malformed)?;
    if signature.namespace() != namespace {
        return Err(SignatureError::Namespace {
            found: signature.namespace().to_owned(),
            wanted: namespace.to_owned(),
        });
    }
    let key = PublicKey::from(signature.public_key().clone());
    let hardware = match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => false,
        Algorithm::SkEd25519 => true,
        other => return Err(SignatureError::Algorithm { algorithm: other.to_string() }),
    };
    key.verify(namespace, message, &signature).map_err(SignatureError::Mismatch)?;
    let flags = signature.signature_bytes().iter().rev().nth(HARDWARE_TRAILER_BYTES - 1);
    let touched = hardware.then(|| flags.is_some_and(|flags| flags & USER_PRESENT != 0));
    Ok(Signed { key: ssh_fingerprint(key.key_data()), touched })
}

/// The fingerprint of an SSH public key as OpenSSH prints it.
#[must_use]
pub fn ssh_fingerprint(key: &KeyData) -> Fingerprint {
    let print = key.fingerprint(ssh_key::HashAlg::Sha256);
    let digest = print.sha256().expect("because SHA-256 was just asked for");
    Fingerprint::from_sha256(&digest)
}
