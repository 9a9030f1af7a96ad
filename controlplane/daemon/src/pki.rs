//! Kubernetes' own keys: the certificate authority and the service-account key. Made once, on the machine that bootstraps.
//!
//! They lie in a folder that only this program reads (files 0600). They vouch for the Kubernetes API's server certificate and for
//! service-account tokens, and for nobody on the machine API.

use controlplane_apiserver::ServiceAccountKeys;
use machined_access::Leaf;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Years that the authority is valid: longer than any machine lives, because replacing it means touching every client.
const AUTHORITY_YEARS: i16 = 10;

/// Years that the server certificate is valid. It is made anew at each start and lies on no disk.
const SERVER_YEARS: i16 = 1;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A key or certificate cannot be made or read.
    #[error("cannot {doing}")]
    Certificate {
        doing: &'static str,
        #[source]
        source: rcgen::Error,
    },
    /// The stored certificate is no PEM.
    #[error("{} is no certificate in PEM", path.display())]
    Pem { path: PathBuf },
    /// The service-account key cannot be used.
    #[error("cannot use the service-account key")]
    ServiceAccount(#[source] controlplane_apiserver::KeyError),
    /// The keys belong to the bootstrap machine, and this is another.
    #[error("{} has no keys, and this machine may not make them; only the bootstrap machine does", folder.display())]
    Missing { folder: PathBuf },
}

/// The keys of a cluster.
pub(crate) struct Pki {
    authority_pem: String,
    authority_key: KeyPair,
    service_accounts_pem: String,
}

/// The files in the folder.
const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVICE_ACCOUNTS_KEY: &str = "sa.key";

/// The keys of a cluster on their way from one control-plane machine to another. Secret; never logged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bundle {
    authority: String,
    authority_key: String,
    service_accounts_key: String,
}

impl Bundle {
    /// Writes the keys into `folder`, where [`Pki::open`] finds them.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), PkiError> {
        make_folder(folder)?;
        write_secret(&folder.join(AUTHORITY_KEY), &self.authority_key)?;
        write_secret(&folder.join(SERVICE_ACCOUNTS_KEY), &self.service_accounts_key)?;
        // The last file written is the sign that all are there.
        write_secret(&folder.join(AUTHORITY), &self.authority)
    }
}

fn certificate(doing: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { doing, source }
}

impl Pki {
    /// Reads the keys in `folder`, or makes them where there are none and `bootstrap` allows it.
    pub(crate) fn open(folder: &Path, bootstrap: bool) -> Result<Pki, PkiError> {
        let (certificate_file, key_file) = (folder.join(AUTHORITY), folder.join(AUTHORITY_KEY));
        let accounts_file = folder.join(SERVICE_ACCOUNTS_KEY);
        if !certificate_file.exists() {
            if !bootstrap {
                return Err(PkiError::Missing { folder: folder.to_owned() });
            }
            let (key, own) = make_authority()?;
            let accounts = ServiceAccountKeys::generate_pem().map_err(PkiError::ServiceAccount)?;
            let made =
                Bundle { authority: own.pem(), authority_key: key.serialize_pem(), service_accounts_key: accounts };
            made.keep(folder)?;
            tracing::info!(folder = %folder.display(), "made the Kubernetes certificate authority");
        }
        let authority_key = KeyPair::from_pem(&read(&key_file)?).map_err(certificate("read the authority's key"))?;
        Ok(Pki { authority_pem: read(&certificate_file)?, authority_key, service_accounts_pem: read(&accounts_file)? })
    }

    /// Everything that another control-plane machine needs to have the same keys. Secret.
    pub(crate) fn bundle(&self) -> Bundle {
        Bundle {
            authority: self.authority_pem.clone(),
            authority_key: self.authority_key.serialize_pem(),
            service_accounts_key: self.service_accounts_pem.clone(),
        }
    }

    /// The authority's certificate, for clients.
    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The keys of service-account tokens.
    pub(crate) fn service_accounts(&self) -> Result<ServiceAccountKeys, PkiError> {
        ServiceAccountKeys::from_pem(&self.service_accounts_pem).map_err(PkiError::ServiceAccount)
    }

    /// A server certificate for the API under these names, signed by the authority.
    pub(crate) fn server_leaf(&self, names: &[String]) -> Result<Leaf, PkiError> {
        let failed = certificate("sign the API server's certificate");
        let mut params = CertificateParams::new(names).map_err(certificate("put the names into a certificate"))?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, SERVER_YEARS);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make a server key"))?;
        let issuer = Issuer::from_ca_cert_pem(&self.authority_pem, &self.authority_key)
            .map_err(certificate("read the authority's certificate"))?;
        let leaf = params.signed_by(&key, &issuer).map_err(failed)?;
        let authority = CertificateDer::from_pem_slice(self.authority_pem.as_bytes())
            .map_err(|_| PkiError::Pem { path: PathBuf::from("ca.crt") })?;
        Ok(Leaf {
            chain: vec![leaf.der().clone(), authority],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }
}

fn make_authority() -> Result<(KeyPair, Certificate), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate("make the authority's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, AUTHORITY_YEARS);
    let own = params.self_signed(&key).map_err(certificate("sign the authority's certificate"))?;
    Ok((key, own))
}

/// From yesterday, because clocks differ, for some years.
fn set_validity(params: &mut CertificateParams, years: i16) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let from = today.yesterday().unwrap_or(today);
    let month = |date: jiff::civil::Date| date.month().unsigned_abs();
    // The 28th exists in every month of every year.
    let day = |date: jiff::civil::Date| date.day().unsigned_abs().min(28);
    params.not_before = date_time_ymd(i32::from(from.year()), month(from), day(from));
    params.not_after = date_time_ymd(i32::from(today.year().saturating_add(years)), month(today), day(today));
}

fn make_folder(folder: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { doing: "make the folder", path: folder.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { doing: "read", path: path.to_owned(), source })
}

/// Writes a file that is either whole or not there, also after a power cut.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { doing: "write", path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_keys_are_made_once_and_for_nobody_else_to_read() {
        let folder = tempfile::tempdir().expect("because the system has a temporary folder");
        let pki = folder.path().join("pki");
        assert!(matches!(Pki::open(&pki, false), Err(PkiError::Missing { .. })));
        let first = Pki::open(&pki, true).expect("because the bootstrap machine makes them");
        let second = Pki::open(&pki, false).expect("because they are there now");
        assert_eq!(first.authority_pem(), second.authority_pem());
        for file in ["ca.key", "sa.key", "ca.crt"] {
            let mode = fs::metadata(pki.join(file)).expect("because it was written").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn the_serving_chain_ends_in_the_authority() {
        let folder = tempfile::tempdir().expect("because the system has a temporary folder");
        let pki = Pki::open(folder.path(), true).expect("because the folder is writable");
        let names = ["localhost".to_owned(), "10.96.0.1".to_owned()];
        let leaf = pki.server_leaf(&names).expect("because the names are names");
        let authority = CertificateDer::from_pem_slice(pki.authority_pem().as_bytes()).expect("because it is PEM");
        assert_eq!(leaf.chain.last(), Some(&authority));
    }
}
