//! The policy key: its holder says which images may open the disks of the machines that were first started with one of them.
//!
//! `cairn-image keys generate --policy` makes the folder, `pipeline` signs with it: what PCR 11 is once systemd's stub has measured the image,
//! and before machined has opened the volumes. Must never sign anything that `pipeline` did not make.
//!
//! RSA with 2048 bits, PKCS#1 v1.5 and SHA-256: what every TPM checks and systemd's form of `.pcrsig` holds; and deterministic.

use crate::files::{self, FileError};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use init_boot::expected_uki_pcr;
use init_boot::tpm::{MODULUS_BYTES, Pcr, PolicyKey, pcr_policy};
use machined_luks::{PolicySignature, key_pem, signatures_json};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use std::path::{Path, PathBuf};

use crate::secure_boot::{pem, write_private};

/// The private half, in its folder.
const PRIVATE: &str = "policy.key";
/// The public half beside it.
const PUBLIC: &str = "policy.pub";

/// Why there is no policy key, or it does not sign.
#[derive(Debug, thiserror::Error)]
pub enum PolicyKeyError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key is there already.
    #[error("{} exists already; keys are never replaced, because machines could not open their disks with images that a new one signs", .0.display())]
    Exists(PathBuf),
    /// No key could be made.
    #[error("cannot make an RSA key")]
    Generate(#[from] rcgen::Error),
    /// It is none.
    #[error("{} is not an RSA key of 2048 bits as cairn-image keys generate --policy makes it", .0.display())]
    Damaged(PathBuf),
    /// The image to be signed is none.
    #[error("cannot tell what the image measures to")]
    Image(#[from] init_boot::UkiError),
}

/// Whoever signs policies.
pub struct PolicySigner {
    key: RsaKeyPair,
    public: PolicyKey,
}

impl PolicySigner {
    /// Reads the key of a folder.
    ///
    /// # Errors
    /// When there is none, or it is of another kind.
    pub fn load(folder: &Path) -> Result<Self, PolicyKeyError> {
        let path = folder.join(PRIVATE);
        let damaged = || PolicyKeyError::Damaged(path.clone());
        let pkcs8 = pem(&path)?.ok_or_else(damaged)?;
        let key = RsaKeyPair::from_pkcs8(&pkcs8).map_err(|_| damaged())?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| damaged())?;
        let public = PolicyKey::from_der(der.as_ref()).ok_or_else(damaged)?;
        Ok(PolicySigner { key, public })
    }

    /// The public half as PEM: the section `.pcrpkey`.
    #[must_use]
    pub fn key_pem(&self) -> String {
        key_pem(&self.public)
    }

    /// SHA-256 of the public half, in hexadecimal: what people compare.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(self.public.fingerprint())
    }

    /// The section `.pcrsig` for an image that has all other sections already.
    ///
    /// # Errors
    /// When it is no image.
    pub fn signatures(&self, image: &[u8]) -> Result<String, PolicyKeyError> {
        let policy = pcr_policy(Pcr::UKI, expected_uki_pcr(image)?);
        let mut signature = [0; MODULUS_BYTES];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &policy, &mut signature);
        signed.expect("because an RSA key of 2048 bits signs 32 bytes");
        Ok(signatures_json(&self.public, &[PolicySignature { policy, signature }]))
    }
}

/// Makes a policy key in a folder.
///
/// # Errors
/// When one is there already, or the files cannot be written.
pub fn generate(folder: &Path) -> Result<Vec<PathBuf>, PolicyKeyError> {
    files::create_dir(folder)?;
    let (private, public) = (folder.join(PRIVATE), folder.join(PUBLIC));
    if let Some(taken) = [&private, &public].into_iter().find(|path| path.exists()) {
        return Err(PolicyKeyError::Exists(taken.clone()));
    }
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    write_private(&private, key.serialize_pem().as_bytes())?;
    files::write(&public, PolicySigner::load(folder)?.key_pem().as_bytes())?;
    Ok(vec![private, public])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("because there is room");
        let made = generate(folder.path()).expect("because the folder is empty");
        let mode = made[0].metadata().expect("because it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read(&made[1]).expect("because it was made");
        let public = machined_luks::parse_key_pem(&text).expect("because it is PEM");
        let signer = PolicySigner::load(folder.path()).expect("because it was made");
        assert_eq!((signer.fingerprint(), signer.public), (hex::encode(public.fingerprint()), public));
        assert!(matches!(generate(folder.path()), Err(PolicyKeyError::Exists(_))));
    }

    #[test]
    fn what_is_no_policy_key_is_refused() {
        let folder = tempfile::tempdir().expect("because there is room");
        assert!(matches!(PolicySigner::load(folder.path()), Err(PolicyKeyError::File(_))));
        std::fs::write(folder.path().join(PRIVATE), "no key").expect("because there is room");
        assert!(matches!(PolicySigner::load(folder.path()), Err(PolicyKeyError::Damaged(_))));
    }
}
