//! SSH signatures (the `SSHSIG` format of `ssh-keygen -Y sign`), the only kind of signature that people make.
//!
//! Format: <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig>

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
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
    /// A key or signature that would match more than one message.
    #[error("the {what} is a point of small order, which matches messages that nobody signed")]
    SmallOrder {
        /// "public key" or "signature".
        what: &'static str,
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
    if !signature.reserved().is_empty() {
        return Err(SignatureError::Malformed(ssh_key::Error::FormatEncoding));
    }
    let key = PublicKey::from(signature.public_key().clone());
    check_point(key.key_data(), signature.signature_bytes())?;
    let touched = match key.algorithm() {
        Algorithm::Ed25519 => {
            verify_ed25519(&key, namespace, message, &signature)?;
            None
        }
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => {
            key.verify(namespace, message, &signature).map_err(SignatureError::Mismatch)?;
            None
        }
        Algorithm::SkEd25519 => {
            key.verify(namespace, message, &signature).map_err(SignatureError::Mismatch)?;
            let flags = signature.signature_bytes().iter().rev().nth(HARDWARE_TRAILER_BYTES - 1);
            Some(flags.is_some_and(|flags| flags & USER_PRESENT != 0))
        }
        other => return Err(SignatureError::Algorithm { algorithm: other.to_string() }),
    };
    Ok(Signed { key: ssh_fingerprint(key.key_data()), touched })
}

/// The kind of key that signs commits by the thousand: the same check as ssh-key's, by a faster implementation. Both refuse an S
/// that is not the one way to write it.
fn verify_ed25519(key: &PublicKey, namespace: &str, message: &[u8], signature: &SshSig) -> Result<(), SignatureError> {
    let public = key.key_data().ed25519().filter(|_| signature.algorithm() == Algorithm::Ed25519);
    let public = public.ok_or(SignatureError::Mismatch(ssh_key::Error::AlgorithmUnknown))?;
    let signed = SshSig::signed_data(namespace, signature.hash_alg(), message).map_err(SignatureError::Malformed)?;
    UnparsedPublicKey::new(&ED25519, public.as_ref() as &[u8])
        .verify(&signed, signature.signature_bytes())
        .map_err(|_| SignatureError::Mismatch(ssh_key::Error::Crypto))
}

/// The points of small order on edwards25519, in every way to write them, without the sign bit
/// (<https://eprint.iacr.org/2020/1244>, table 1). Under such a key, one signature matches any message.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    head_and_tail([0x01], 0x00, 0x00),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    head_and_tail([0xec], 0xff, 0x7f),
    head_and_tail([0xed], 0xff, 0x7f),
    head_and_tail([0xee], 0xff, 0x7f),
];

const fn head_and_tail(head: [u8; 1], between: u8, tail: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    (bytes[0], bytes[31]) = (head[0], tail);
    bytes
}

fn has_small_order(point: &[u8]) -> bool {
    let Ok(mut point) = <[u8; 32]>::try_from(point) else { return false };
    point[31] &= 0x7f;
    SMALL_ORDER.contains(&point)
}

/// Whether a key of the Edwards curve is one that no honest signer has: such a key is nobody's.
#[must_use]
pub fn is_weak_key(key: &KeyData) -> bool {
    let ed25519 = key.ed25519().map(|key| key.as_ref());
    let point = ed25519.or_else(|| key.sk_ed25519().map(|key| key.public_key().as_ref()));
    point.is_some_and(|point: &[u8; 32]| has_small_order(point))
}

fn check_point(key: &KeyData, signature: &[u8]) -> Result<(), SignatureError> {
    if is_weak_key(key) {
        return Err(SignatureError::SmallOrder { what: "public key" });
    }
    let edwards = key.ed25519().is_some() || key.sk_ed25519().is_some();
    if edwards && signature.get(..32).is_some_and(has_small_order) {
        return Err(SignatureError::SmallOrder { what: "signature" });
    }
    Ok(())
}

/// The fingerprint of an SSH public key as OpenSSH prints it.
#[must_use]
pub fn ssh_fingerprint(key: &KeyData) -> Fingerprint {
    let print = key.fingerprint(ssh_key::HashAlg::Sha256);
    let digest = print.sha256().expect("because SHA-256 was just asked for");
    Fingerprint::from_sha256(&digest)
}
