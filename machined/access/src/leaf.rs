//! A service's or a person's own key, and the short-lived certificates that travel with it.

use crate::identity::{IdentityError, failed, spki_fingerprint};
use jiff::{SignedDuration, Timestamp};
use machined_ids::Fingerprint;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;

/// Life of a leaf. Short, because a leaf cannot be revoked; services ask again at two thirds of it.
pub const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// How far before now a certificate begins to be valid: clocks of two machines differ.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// DER certificates: the leaf, then the identity's.
pub type Chain = Vec<CertificateDer<'static>>;

/// A service's own key pair.
pub struct LeafKey {
    key: KeyPair,
}

/// A service's key with the chain that machined signed for it.
pub struct Leaf {
    /// The certificates.
    pub chain: Chain,
    /// The service's private key.
    pub key: PrivateKeyDer<'static>,
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

    /// The SubjectPublicKeyInfo in DER, for [`crate::IdentityKey::issue_leaf`].
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
    pub fn with_chain(&self, chain: Chain) -> Leaf {
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

pub(crate) fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    params.not_before = offset_date_time(now - BACKDATE);
    params.not_after = offset_date_time(now + lifetime);
}

/// rcgen speaks the `time` crate; the way between is one line for each direction.
fn offset_date_time(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.as_second())
        .expect("because every jiff timestamp lies within the years of the time crate")
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
