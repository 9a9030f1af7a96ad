//! A certificate authority for servers on loopback, as a machine's roots may hold one.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// An authority that signs for `127.0.0.1`.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().context("making a key")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).context("signing the authority's certificate")?.pem();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate as PEM: what a machine that trusts it has among its roots.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server on `127.0.0.1` with a certificate that this authority signed.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate().context("making a key")?;
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).context("naming the server")?;
        let leaf = params.signed_by(&key, &self.issuer).context("signing the server's certificate")?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)?;
        Ok(Arc::new(config))
    }
}
