//! A machine's identity key and what it signs: leaves for the services on the machine, marks, seals.
//!
//! The key lies on the disk or in the TPM, and who signs need not know where: it is one type. A key in the TPM is slow (a tenth of a second
//! and more) and blocks, so `machined/controllers` lends it out only on threads that may block.

use crate::leaf::{Chain, LEAF_LIFETIME, set_validity};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jiff::Timestamp;
use machined_ids::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Keeps the seal apart from every other use of the identity key.
const SEAL_CONTEXT: &[u8] = b"cairn.seal.v1\0";
/// Keeps the machine's part of its disk secrets apart from every other use of the identity key.
const DISK_CONTEXT: &[u8] = b"cairn.disk-part.v1\0";

/// Stands before every mark that an identity key signs, so that the signature is worth nothing for anything else.
pub const MARK_PREFIX: &[u8] = b"cairn.mark.v1\n";

/// Bytes of an uncompressed point of P-256.
const POINT_BYTES: usize = 65;

/// Why a TPM did not sign.
pub type ChipError = Box<dyn Error + Send + Sync>;

/// A P-256 key inside a TPM.
pub trait ChipKey: Send + Sync {
    /// Signs by ECDSA with SHA-256; r, then s, 32 bytes each. Blocks until the TPM answers.
    ///
    /// # Errors
    /// When the TPM does not sign.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], ChipError>;
}

/// Where an identity key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// On the META partition, in the clear.
    Disk,
    /// In the TPM, which never gives it away.
    Tpm,
}

impl KeyPlace {
    /// Its word in the machine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyPlace::Disk => "disk",
            KeyPlace::Tpm => "tpm",
        }
    }
}

/// The machine's P-256 key, made at first boot. Its fingerprint is the machine.
pub struct IdentityKey {
    kind: Kind,
}

enum Kind {
    Disk(KeyPair),
    Tpm { point: [u8; POINT_BYTES], chip: Arc<dyn ChipKey> },
}

/// A key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key or a certificate's content.
    #[error("cannot {doing}")]
    Form {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The TPM that holds the key.
    #[error("the TPM did not sign with the machine's identity key; if this goes on, restart the machine")]
    Chip(#[source] ChipError),
    /// The TPM's signature is none.
    #[error("the TPM's signature does not hold for the machine's identity key; the TPM or the way to it is broken")]
    NotSigned,
}

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |source| IdentityError::Form { doing, source }
}

/// The fingerprint of a DER SubjectPublicKeyInfo.
pub(crate) fn spki_fingerprint(spki: &[u8]) -> Fingerprint {
    Fingerprint::from_sha256(&Sha256::digest(spki).into())
}

/// The key while rcgen signs with it, which cannot carry a TPM's error.
struct Signing<'a> {
    key: &'a IdentityKey,
    refused: RefCell<Option<IdentityError>>,
}

impl PublicKeyData for Signing<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Signing<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).map_err(|error| {
            self.refused.replace(Some(error));
            rcgen::Error::RemoteKeyError
        })
    }
}

impl Signing<'_> {
    /// The TPM's own error in the place of rcgen's.
    fn failed(&self, doing: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
        move |source| self.refused.take().unwrap_or(IdentityError::Form { doing, source })
    }
}

/// A TPM's signature in the form that certificates and marks have: ASN.1 DER, when the key made it over `message`.
fn checked(point: &[u8; POINT_BYTES], message: &[u8], both: &[u8; 64]) -> Option<Vec<u8>> {
    let der = p256::ecdsa::Signature::from_slice(both).ok()?.to_der().as_bytes().to_vec();
    // A TPM on a bus that somebody holds, or that is broken, must not have the machine say what others refuse.
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, &der).ok().map(|()| der)
}

impl IdentityKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make an identity key"))?;
        Ok(IdentityKey { kind: Kind::Disk(key) })
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// [`IdentityError`] when it is not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(failed("read the identity key"))?;
        Ok(IdentityKey { kind: Kind::Disk(key) })
    }

    /// The key of a TPM, whose public point (uncompressed) is `point`.
    #[must_use]
    pub fn in_tpm(point: [u8; POINT_BYTES], chip: Arc<dyn ChipKey>) -> Self {
        IdentityKey { kind: Kind::Tpm { point, chip } }
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> KeyPlace {
        match &self.kind {
            Kind::Disk(_) => KeyPlace::Disk,
            Kind::Tpm { .. } => KeyPlace::Tpm,
        }
    }

    /// The key as PKCS#8 PEM; none when it lies in a TPM. Secret: for the META partition and nowhere else.
    #[must_use]
    pub fn to_pem(&self) -> Option<String> {
        match &self.kind {
            Kind::Disk(key) => Some(key.serialize_pem()),
            Kind::Tpm { .. } => None,
        }
    }

    /// The public point, uncompressed.
    fn point(&self) -> &[u8] {
        match &self.kind {
            Kind::Disk(key) => key.der_bytes(),
            Kind::Tpm { point, .. } => point,
        }
    }

    /// The machine's fingerprint: SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        spki_fingerprint(&self.public_key())
    }

    /// Signs a leaf for `service` with the public key `spki`, valid for `names` (DNS names and addresses) from now for
    /// [`LEAF_LIFETIME`].
    ///
    /// # Errors
    /// [`IdentityError`] when the key or a name cannot go into a certificate, or the TPM does not sign.
    pub fn issue_leaf(
        &self,
        spki: &[u8],
        service: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<Chain, IdentityError> {
        let public = SubjectPublicKeyInfo::from_der(spki).map_err(failed("read a service's public key"))?;
        let mut params = CertificateParams::new(names).map_err(failed("put the names into a leaf"))?;
        params.distinguished_name.push(DnType::CommonName, service);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, LEAF_LIFETIME);
        let own = certificate_params(now);
        let signing = Signing { key: self, refused: RefCell::default() };
        let own_certificate = own.self_signed(&signing).map_err(signing.failed("sign the identity certificate"))?;
        let issuer = Issuer::from_params(&own, &signing);
        let leaf = params.signed_by(&public, &issuer).map_err(signing.failed("sign a leaf"))?;
        Ok(vec![leaf.der().clone(), own_certificate.der().clone()])
    }

    /// The public key as DER SubjectPublicKeyInfo; its SHA-256 is the fingerprint.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        [&P256_SPKI_HEAD[..], self.point()].concat()
    }

    /// Signs what other machines shall believe: ECDSA with SHA-256, as DER. [`verify_identity`] checks it.
    ///
    /// The caller begins `message` with words that no other use of the key begins with.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give, or the TPM does not sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        match &self.kind {
            Kind::Disk(key) => key.sign(message).map_err(failed("sign with the identity key")),
            Kind::Tpm { point, chip } => {
                let both = chip.sign(message).map_err(IdentityError::Chip)?;
                checked(point, message, &both).ok_or(IdentityError::NotSigned)
            }
        }
    }

    /// A seal over a state that only this machine keeps. Of a key on the disk: HMAC-SHA-256 under a key derived from it. Of a key in a TPM: a
    /// signature, as [`IdentityKey::sign`] makes it.
    ///
    /// # Errors
    /// [`IdentityError`] when the TPM does not sign.
    pub fn seal(&self, state: &[u8]) -> Result<Vec<u8>, IdentityError> {
        match &self.kind {
            Kind::Disk(key) => Ok(hmac::sign(&seal_key(key), state).as_ref().to_vec()),
            Kind::Tpm { .. } => self.sign(&[SEAL_CONTEXT, state].concat()),
        }
    }

    /// Whether `seal` was made by [`IdentityKey::seal`] over `state`; the TPM is not asked. Takes the same time for every wrong seal.
    #[must_use]
    pub fn check_seal(&self, state: &[u8], seal: &[u8]) -> bool {
        match &self.kind {
            Kind::Disk(key) => hmac::verify(&seal_key(key), state, seal).is_ok(),
            Kind::Tpm { point, .. } => {
                let sealed = [SEAL_CONTEXT, state].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&sealed, seal).is_ok()
            }
        }
    }

    /// A secret that only this key gives, for the one purpose of encrypting this machine's disk with what others keep. None for a key in a
    /// TPM, which nothing can be derived from. The caller forgets it when it is used.
    #[must_use]
    pub fn disk_part(&self) -> Option<[u8; 32]> {
        match &self.kind {
            Kind::Disk(key) => {
                let mut hash = Sha256::new_with_prefix(DISK_CONTEXT);
                hash.update(key.serialized_der());
                Some(hash.finalize().into())
            }
            Kind::Tpm { .. } => None,
        }
    }

    /// Signs a mark: what this machine accepted, for others to check. [`IdentityKey::sign`] over [`MARK_PREFIX`] and the lines.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give, or the TPM does not sign.
    pub fn sign_mark(&self, lines: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.sign(&[MARK_PREFIX, lines].concat())
    }
}

fn seal_key(key: &KeyPair) -> hmac::Key {
    let mut hash = Sha256::new_with_prefix(SEAL_CONTEXT);
    hash.update(key.serialized_der());
    hmac::Key::new(hmac::HMAC_SHA256, &hash.finalize())
}

fn certificate_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cairn machine identity");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now, LEAF_LIFETIME);
    params
}

/// What the DER SubjectPublicKeyInfo of a P-256 key begins with; 65 bytes of the point follow
/// (<https://www.rfc-editor.org/rfc/rfc5480#section-2>).
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The machine whose key is `spki`, when that key made `signature` over `message`; `None` for everything else.
#[must_use]
pub fn verify_identity(spki: &[u8], message: &[u8], signature: &[u8]) -> Option<Fingerprint> {
    let point = spki.strip_prefix(&P256_SPKI_HEAD)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).ok()?;
    Some(spki_fingerprint(spki))
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdentityKey").field(&self.fingerprint()).field(&self.place()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::signature::Signer;

    /// A TPM that may be out of order.
    struct Chip {
        key: p256::ecdsa::SigningKey,
        state: State,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Good,
        Silent,
        /// It signs, and something else than it was given.
        Lying,
        Zeros,
    }

    impl ChipKey for Chip {
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], ChipError> {
            let signed = |message: &[u8]| -> [u8; 64] {
                let signature: p256::ecdsa::Signature = self.key.sign(message);
                signature.to_bytes().into()
            };
            match self.state {
                State::Good => Ok(signed(message)),
                State::Lying => Ok(signed(b"something else")),
                State::Zeros => Ok([0; 64]),
                State::Silent => Err("it does not answer".into()),
            }
        }
    }

    fn key(scalar: u8, state: State) -> IdentityKey {
        let key = p256::ecdsa::SigningKey::from_slice(&[scalar; 32]).expect("because it is less than the order");
        let point = key.verifying_key().to_encoded_point(false);
        let point = point.as_bytes().try_into().expect("because it is uncompressed");
        IdentityKey::in_tpm(point, Arc::new(Chip { key, state }))
    }

    #[test]
    fn what_a_tpm_signed_is_checked_like_any_signature() {
        let key = key(7, State::Good);
        assert_eq!(key.place(), KeyPlace::Tpm);
        assert_eq!(key.to_pem(), None);
        // Numbers that begin with zero bytes and numbers that need one in front are among so many.
        for message in 0..1024_u32 {
            let message = message.to_be_bytes();
            let signature = key.sign(&message).expect("because the TPM signs");
            assert_eq!(verify_identity(&key.public_key(), &message, &signature), Some(key.fingerprint()));
        }
    }

    #[test]
    fn a_signature_that_does_not_hold_never_leaves() {
        for state in [State::Lying, State::Zeros] {
            assert!(matches!(key(7, state).sign(b"message"), Err(IdentityError::NotSigned)));
            assert!(matches!(key(7, state).seal(b"state"), Err(IdentityError::NotSigned)));
        }
    }

    #[test]
    fn why_a_tpm_did_not_sign_a_leaf_is_told() {
        let spki = key(9, State::Good).public_key();
        for (state, words) in [(State::Silent, "did not sign"), (State::Lying, "does not hold")] {
            let refused = key(7, state).issue_leaf(&spki, "gitsync", &[], Timestamp::UNIX_EPOCH);
            let error = refused.expect_err("because the TPM did not sign").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_seal_of_a_key_in_a_tpm_holds_for_its_state_and_its_machine_only() {
        let (mine, other) = (key(7, State::Good), key(9, State::Good));
        let seal = mine.seal(b"step 7").expect("because the TPM signs");
        assert!(mine.check_seal(b"step 7", &seal));
        // Checking asks no TPM, so a state is read while it is silent.
        assert!(key(7, State::Silent).check_seal(b"step 7", &seal));
        assert!(!mine.check_seal(b"step 6", &seal) && !other.check_seal(b"step 7", &seal));
        // What the key signed for others is no seal.
        let mark = mine.sign_mark(b"step 7").expect("because the TPM signs");
        assert!(!mine.check_seal(b"step 7", &mark));
    }
}
