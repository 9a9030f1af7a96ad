//! A machine's identity key and the short-lived leaves that it signs for the services on the machine.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jiff::{SignedDuration, Timestamp};
use machined_ids::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::fmt;

/// Life of a leaf. Short, because a leaf cannot be revoked; services ask again at two thirds of it.
pub const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// How far before now a certificate begins to be valid: clocks of two machines differ.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// Keeps the seal's key apart from every other use of the identity key.
const SEAL_CONTEXT: &[u8] = b"cairn.seal.v1\0";

/// Stands before every mark that an identity key signs, so that the signature is worth nothing for anything else.
pub const MARK_PREFIX: &[u8] = b"cairn.mark.v1\n";

/// The machine's P-256 key, made at first boot. Its fingerprint is the machine.
pub struct IdentityKey {
    key: KeyPair,
}

/// A service's own key pair.
pub struct LeafKey {
    key: KeyPair,
}

/// A service's key with the chain that machined signed for it.
pub struct Leaf {
    /// DER certificates: the leaf, then the identity's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The service's private key.
    pub key: PrivateKeyDer<'static>,
}

/// A key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct IdentityError {
    doing: &'static str,
    #[source]
    source: rcgen::Error,
}

fn failed(doing: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |source| IdentityError { doing, source }
}

/// The fingerprint of a DER SubjectPublicKeyInfo.
pub(crate) fn spki_fingerprint(spki: &[u8]) -> Fingerprint {
    Fingerprint::from_sha256(&Sha256::digest(spki).into())
}

impl IdentityKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make an identity key"))?;
        Ok(IdentityKey { key })
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// [`IdentityError`] when it is not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(failed("read the identity key"))?;
        Ok(IdentityKey { key })
    }

    /// The key as PKCS#8 PEM. Secret: for the META partition and nowhere else.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The machine's fingerprint: SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        spki_fingerprint(&self.key.subject_public_key_info())
    }

    /// Signs a leaf for `service` with the public key `spki`, valid for `names` (DNS names and addresses) from now for
    /// [`LEAF_LIFETIME`].
    ///
    /// # Errors
    /// [`IdentityError`] when the key or a name cannot go into a certificate.
    pub fn issue_leaf(
        &self,
        spki: &[u8],
        service: &str,
        names: &[String],
        now: Timestamp,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let public = SubjectPublicKeyInfo::from_der(spki).map_err(failed("read a service's public key"))?;
        let mut params = CertificateParams::new(names).map_err(failed("put the names into a leaf"))?;
        params.distinguished_name.push(DnType::CommonName, service);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, LEAF_LIFETIME);
        let own = self.certificate_params(now);
        let own_certificate = own.self_signed(&self.key).map_err(failed("sign the identity certificate"))?;
        let leaf = params.signed_by(&public, &Issuer::from_params(&own, &self.key)).map_err(failed("sign a leaf"))?;
        Ok(vec![leaf.der().clone(), own_certificate.der().clone()])
    }

    /// The public key as DER SubjectPublicKeyInfo; its SHA-256 is the fingerprint.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// Signs what other machines shall believe: ECDSA with SHA-256, as DER. [`verify_identity`] checks it.
    ///
    /// The caller begins `message` with words that no other use of the key begins with.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.key.sign(message).map_err(failed("sign with the identity key"))
    }

    /// A seal over a state that only this machine keeps: HMAC-SHA-256 under a key derived from the identity key.
    #[must_use]
    pub fn seal(&self, state: &[u8]) -> Vec<u8> {
        hmac::sign(&self.seal_key(), state).as_ref().to_vec()
    }

    /// Whether `seal` was made by [`IdentityKey::seal`] over `state`. Takes the same time for every wrong seal.
    #[must_use]
    pub fn check_seal(&self, state: &[u8], seal: &[u8]) -> bool {
        hmac::verify(&self.seal_key(), state, seal).is_ok()
    }

    /// Signs a mark: what this machine accepted, for others to check. [`IdentityKey::sign`] over [`MARK_PREFIX`] and the lines.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give.
    pub fn sign_mark(&self, lines: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.sign(&[MARK_PREFIX, lines].concat())
    }

    fn seal_key(&self) -> hmac::Key {
        let mut hash = Sha256::new_with_prefix(SEAL_CONTEXT);
        hash.update(self.key.serialized_der());
        hmac::Key::new(hmac::HMAC_SHA256, &hash.finalize())
    }

    fn certificate_params(&self, now: Timestamp) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cairn machine identity");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, LEAF_LIFETIME);
        params
    }
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

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    params.not_before = offset_date_time(now - BACKDATE);
    params.not_after = offset_date_time(now + lifetime);
}

/// rcgen speaks the `time` crate; the way between is one line for each direction.
fn offset_date_time(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.as_second())
        .expect("because every jiff timestamp lies within the years of the time crate")
}

impl LeafKey {
    /// Makes a new P-256 key from the operating system's randomness.
    ///
    /// # Errors
    /// [`IdentityError`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a service key"))?;
        Ok(LeafKey { key })
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// [`IdentityError`] when it is not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map_err(failed("read the client key"))?;
        Ok(LeafKey { key })
    }

    /// The key as PKCS#8 PEM. Secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The SubjectPublicKeyInfo in DER, for [`IdentityKey::issue_leaf`].
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what a login statement binds.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        spki_fingerprint(&self.spki())
    }

    /// The key with a chain that was signed for it.
    #[must_use]
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Leaf {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Leaf { chain, key }
    }

    /// The key with a self-signed certificate: how a person's client key travels in TLS. It says nothing by itself.
    ///
    /// # Errors
    /// [`IdentityError`] when signing fails.
    pub fn self_signed(&self, now: Timestamp) -> Result<Leaf, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cairn client key");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now, LEAF_LIFETIME);
        let certificate = params.self_signed(&self.key).map_err(failed("sign the client certificate"))?;
        Ok(self.with_chain(vec![certificate.der().clone()]))
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdentityKey").field(&self.fingerprint()).finish()
    }
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeafKey").field(&self.fingerprint()).finish()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}
