//! Secure Boot with the user's own keys: the folder of keys, signed boot files, and what systemd-boot enrols.
//!
//! `cairn-image keys generate --secure-boot` makes the folder, `pipeline` signs with it. Three keys, as UEFI has them: PK owns the
//! machine, KEK may change db, db says what may boot. Must never sign anything that `pipeline` did not make or take from a pinned
//! package.
//!
//! Signing is deterministic (RSA with PKCS#1 v1.5, no time in it), so that a signed image is byte-identical too.

mod authenticode;
mod der;
mod signed_data;
mod variables;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize};

use crate::files::{self, FileError};

pub use authenticode::{PeError, sign_pe};
pub use variables::EnrolmentFile;

/// The three variables that a machine's firmware keeps, in the order in which their keys are made.
const NAMES: [&str; 3] = ["PK", "KEK", "db"];

/// A private key and its certificate.
pub struct SigningKey {
    key: RsaKeyPair,
    certificate: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

/// What signs boot files, and what is enrolled so that firmware takes them.
pub struct SecureBoot {
    /// The key that signs boot files.
    pub db: SigningKey,
    /// The files for systemd-boot to enrol: PK, KEK and db.
    pub enrolment: Vec<EnrolmentFile>,
}

/// Why keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SecureBootError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Keys are there already.
    #[error("{} exists already; keys are never replaced, because enrolled machines would refuse what new ones sign", .0.display())]
    Exists(PathBuf),
    /// A key could not be made.
    #[error("cannot make an RSA key and its certificate")]
    Generate(#[from] rcgen::Error),
    /// A file holds something else than it should.
    #[error("{} is not {expected} as cairn-image keys generate --secure-boot makes it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// RSA failed.
    #[error("cannot sign with the key of {0}")]
    Sign(String),
}

impl SigningKey {
    /// Reads `<name>.key` and `<name>.crt` of a folder.
    ///
    /// # Errors
    /// When one of them is missing or damaged.
    pub fn load(folder: &Path, name: &str) -> Result<SigningKey, SecureBootError> {
        let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.crt")));
        let damaged = |path: &Path, expected| SecureBootError::Damaged { path: path.to_path_buf(), expected };
        let pkcs8 = pem(&key)?.ok_or_else(|| damaged(&key, "an RSA key in PKCS#8"))?;
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).map_err(|_| damaged(&key, "an RSA key in PKCS#8"))?;
        let bytes = pem(&certificate)?.ok_or_else(|| damaged(&certificate, "a certificate"))?;
        let parsed = x509_parser::parse_x509_certificate(&bytes).map_err(|_| damaged(&certificate, "a certificate"))?;
        let (issuer, serial) = (parsed.1.issuer().as_raw().to_vec(), parsed.1.raw_serial().to_vec());
        Ok(SigningKey { key: pair, certificate: bytes, issuer, serial })
    }

    /// An RSA signature with SHA-256 in PKCS#1 v1.5: the one kind that all firmware takes.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SecureBootError> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
        signed.map_err(|_| SecureBootError::Sign(hex::encode(&self.serial)))?;
        Ok(signature)
    }
}

impl SecureBoot {
    /// Reads a folder of keys; the private halves of PK and KEK need not be there.
    ///
    /// # Errors
    /// When the db key or one of the enrolment files is missing or damaged.
    pub fn load(folder: &Path) -> Result<SecureBoot, SecureBootError> {
        let mut enrolment = Vec::new();
        for name in NAMES {
            let bytes = files::read(&folder.join(EnrolmentFile::file_name(name)))?;
            enrolment.push(EnrolmentFile { variable: name, bytes });
        }
        Ok(SecureBoot { db: SigningKey::load(folder, "db")?, enrolment })
    }
}

/// Makes PK, KEK and db in a folder: `.key`, `.crt` and `.auth` of each. `owner` goes into the certificates' names.
///
/// # Errors
/// When one of the files is there already, or cannot be written.
pub fn generate(folder: &Path, owner: &str) -> Result<Vec<PathBuf>, SecureBootError> {
    files::create_dir(folder)?;
    let path = |name: &str, kind: &str| folder.join(format!("{name}.{kind}"));
    let taken = NAMES.iter().flat_map(|name| ["key", "crt", "auth"].map(|kind| path(name, kind)));
    if let Some(taken) = taken.into_iter().find(|path| path.exists()) {
        return Err(SecureBootError::Exists(taken));
    }
    for name in NAMES {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, format!("{owner} {name}"));
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = parameters.self_signed(&key)?;
        write_private(&path(name, "key"), key.serialize_pem().as_bytes())?;
        files::write(&path(name, "crt"), certificate.pem().as_bytes())?;
    }
    let mut written = Vec::new();
    for (name, signer) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
        let (subject, signer) = (SigningKey::load(folder, name)?, SigningKey::load(folder, signer)?);
        let file = folder.join(EnrolmentFile::file_name(name));
        files::write(&file, &variables::encode(name, &subject.certificate, &signer)?)?;
        written.push(path(name, "crt"));
    }
    Ok(written)
}

/// A file that only its owner may read, from its first byte on.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    files::replace_with(path, |partial| {
        let because = || FileError::because("write", partial);
        fs::write(partial, b"").map_err(because())?;
        fs::set_permissions(partial, fs::Permissions::from_mode(0o600)).map_err(because())?;
        fs::write(partial, bytes).map_err(because())
    })
}

/// The content of a PEM file.
pub(crate) fn pem(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = files::read(path)?;
    Ok(x509_parser::pem::parse_x509_pem(&bytes).ok().map(|(_, pem)| pem.contents))
}

#[cfg(test)]
mod tests;
