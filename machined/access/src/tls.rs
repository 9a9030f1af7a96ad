//! TLS for both APIs: every peer proves possession of a key, and fingerprints decide; no certificate authority is believed.
//!
//! Servers ask for a client certificate and take any; [`peer`] says what it proved. Clients of a machine pin the fingerprint of
//! its identity. The API server has two faces: machines ask for [`MACHINE_NAME`] and get the machine's leaf, everybody
//! else gets the certificate that its own authority signed.

use crate::authenticate::Peer;
use crate::identity::spki_fingerprint;
use crate::leaf::Leaf;
use machined_ids::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The server name by which machines ask each other for the machine's leaf.
pub const MACHINE_NAME: &str = "machine.cairn.internal";

/// Certificates looked at in a chain: a leaf, its identity, and room for one that people's tools may add.
const CHAIN_MAX: usize = 3;

/// The crypto provider of every Cairn program.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Certificate and key that a server shows; may be replaced while it serves.
#[derive(Debug)]
pub struct ServerKeys {
    /// The machine's leaf, for [`MACHINE_NAME`] and wherever there is no other.
    machine: RwLock<Arc<CertifiedKey>>,
    /// What everybody else gets.
    public: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ServerKeys {
    /// Serves `leaf` to everybody.
    ///
    /// # Errors
    /// [`Error`] when the key cannot sign.
    pub fn new(leaf: Leaf) -> Result<Arc<Self>, Error> {
        let machine = RwLock::new(certified(leaf)?);
        Ok(Arc::new(ServerKeys { machine, public: RwLock::new(None) }))
    }

    /// Replaces the machine's leaf; connections that stand keep the old one.
    ///
    /// # Errors
    /// [`Error`] when the key cannot sign.
    pub fn set_machine(&self, leaf: Leaf) -> Result<(), Error> {
        *self.machine.write().unwrap_or_else(PoisonError::into_inner) = certified(leaf)?;
        Ok(())
    }

    /// Sets what clients get that ask for another name than [`MACHINE_NAME`].
    ///
    /// # Errors
    /// [`Error`] when the key cannot sign.
    pub fn set_public(&self, leaf: Leaf) -> Result<(), Error> {
        *self.public.write().unwrap_or_else(PoisonError::into_inner) = Some(certified(leaf)?);
        Ok(())
    }
}

impl ResolvesServerCert for ServerKeys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let public = self.public.read().unwrap_or_else(PoisonError::into_inner);
        match public.as_ref() {
            Some(public) if hello.server_name() != Some(MACHINE_NAME) => Some(Arc::clone(public)),
            Some(_) | None => Some(Arc::clone(&self.machine.read().unwrap_or_else(PoisonError::into_inner))),
        }
    }
}

fn certified(leaf: Leaf) -> Result<Arc<CertifiedKey>, Error> {
    CertifiedKey::from_der(leaf.chain, leaf.key, &provider()).map(Arc::new)
}

/// A server that asks for a client certificate, requires none and takes any whose key the client has.
///
/// # Errors
/// [`Error`] when the provider lacks a protocol version, which would be a build mistake.
pub fn server_config(keys: Arc<ServerKeys>, alpn: &[&str]) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyClientKey { provider: provider() }))
        .with_cert_resolver(keys);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client that talks only to machines whose identity is in `expected`, and shows `own` when asked.
///
/// # Errors
/// [`Error`] when the provider lacks a protocol version or the own key cannot sign.
pub fn client_config(
    expected: impl Fn(&Fingerprint) -> bool + Send + Sync + 'static,
    own: Option<Leaf>,
    alpn: &[&str],
) -> Result<ClientConfig, Error> {
    let verifier = PinnedIdentity { provider: provider(), expected: Box::new(expected) };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain, leaf.key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A client that pins a fixed set of identities; see [`client_config`].
///
/// # Errors
/// As [`client_config`].
pub fn pinned_client_config(
    expected: BTreeSet<Fingerprint>,
    own: Option<Leaf>,
    alpn: &[&str],
) -> Result<ClientConfig, Error> {
    client_config(move |found| expected.contains(found), own, alpn)
}

/// Says what a chain that came through the handshake proves, at `now`.
///
/// A chain of a leaf and the identity that signed it is a machine; anything else that has a key is that key.
#[must_use]
pub fn peer(chain: Option<&[CertificateDer<'_>]>, now: UnixTime) -> Peer {
    let Some((first, rest)) = chain.and_then(<[_]>::split_first) else {
        return Peer::Anonymous;
    };
    match machine_of(first, rest, now, KeyUsage::client_auth()) {
        Some((identity, service)) => Peer::Machine { identity, service },
        None => certificate_key(first).map_or(Peer::Anonymous, Peer::Key),
    }
}

/// The identity and service of a valid leaf, or nothing.
fn machine_of(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Option<(Fingerprint, String)> {
    let identity = rest.first().filter(|_| rest.len() < CHAIN_MAX)?;
    // The identity certificate is its own anchor: whether it is one of ours is asked by fingerprint, afterwards.
    let anchor = anchor_from_trusted_cert(identity).ok()?;
    let algorithms = provider().signature_verification_algorithms.all;
    let end_entity = EndEntityCert::try_from(leaf).ok()?;
    end_entity.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None).ok()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let service = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    Some((certificate_key(identity)?, service))
}

fn certificate_key(certificate: &CertificateDer<'_>) -> Option<Fingerprint> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(spki_fingerprint(parsed.public_key().raw))
}

/// The half of both verifiers that is the same: the peer must have the key of the certificate that it shows.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Takes any client certificate: the handshake proves its key, and [`peer`] decides what that is worth.
#[derive(Debug)]
struct AnyClientKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClientKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match certificate_key(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    handshake_signatures!();
}

/// Believes a server whose leaf is signed by an identity that is expected.
struct PinnedIdentity {
    provider: Arc<CryptoProvider>,
    expected: Box<dyn Fn(&Fingerprint) -> bool + Send + Sync>,
}

impl fmt::Debug for PinnedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedIdentity").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = machine_of(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|(identity, _)| identity)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        if (self.expected)(&identity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General(format!("the machine's identity is {identity}, which was not expected here")))
        }
    }

    handshake_signatures!();
}
