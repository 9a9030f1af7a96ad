//! A secret sealed in a TPM made of software, to policies that aws-lc signs: which start of which image gets it back.

use super::*;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use init_boot::tpm::{PolicyKey, pcr_policy};
use machined_luks::{PolicySignature, Secret, SignedPolicy, key_pem, signatures_json};
use tests_support::tpm::SoftwareTpm;

/// Whoever signs policies.
struct Signer(RsaKeyPair);

impl Signer {
    fn new() -> Self {
        Signer(RsaKeyPair::generate(KeySize::Rsa2048).expect("because there is randomness"))
    }

    fn key(&self) -> PolicyKey {
        let der = self.0.public_key().as_der().expect("because it is a key");
        PolicyKey::from_der(der.as_ref()).expect("because it is RSA with 2048 bits")
    }

    /// What an image that measures to these values brings along.
    fn policy(&self, images: &[PcrValue]) -> SignedPolicy {
        let sign = |image: &PcrValue| {
            let policy = pcr_policy(Pcr::UKI, *image);
            let mut signature = [0; 256];
            let signed = self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &policy, &mut signature);
            signed.expect("because the key signs");
            PolicySignature { policy, signature }
        };
        let signatures: Vec<PolicySignature> = images.iter().map(sign).collect();
        let (pem, json) = (key_pem(&self.key()), signatures_json(&self.key(), &signatures));
        SignedPolicy::parse(pem.as_bytes(), json.as_bytes()).expect("because it is well formed")
    }
}

const IMAGE: [u8; 32] = [1; 32];
const NEXT: [u8; 32] = [2; 32];

fn value(digest: [u8; 32]) -> PcrValue {
    PcrValue::ZERO.extended(&digest)
}

/// A machine that has started this image.
async fn started(image: [u8; 32]) -> (SoftwareTpm, LinuxTpm) {
    let chip = SoftwareTpm::start().await.expect("because swtpm is installed");
    let host = LinuxTpm::at(chip.socket());
    host.extend(Pcr::UKI, image).await.expect("because the TPM works");
    (chip, host)
}

fn secret() -> Secret {
    Secret::new([7; 32])
}

#[tokio::test]
async fn what_was_sealed_comes_back_while_the_start_is_one_that_was_signed() {
    let (mut chip, host) = started(IMAGE).await;
    let signer = Signer::new();
    let policy = signer.policy(&[value(IMAGE)]);
    let sealed = host.seal(secret(), signer.key()).await.expect("because the TPM works");
    // More often than a TPM has room for what is loaded and for sessions.
    for _ in 0..5 {
        assert_eq!(host.unseal(sealed.clone(), policy.clone()).await.expect("because it is signed"), secret());
    }
    // The machine starts again, with the next image of the same maker: nothing is sealed anew.
    drop(host);
    chip.restart().await.expect("because swtpm keeps its state");
    let host = LinuxTpm::at(chip.socket());
    host.extend(Pcr::UKI, NEXT).await.expect("because the TPM works");
    let refused = host.unseal(sealed.clone(), policy).await.expect_err("because this start was not signed by it");
    assert!(matches!(refused, TpmAccessError::Unsigned { .. }), "{refused:?}");
    let next = signer.policy(&[value(NEXT)]);
    assert_eq!(host.unseal(sealed, next).await.expect("because it is signed"), secret());
}

#[tokio::test]
async fn once_the_register_moved_on_nothing_is_unsealed_any_more() {
    let (_chip, host) = started(IMAGE).await;
    let signer = Signer::new();
    let policy = signer.policy(&[value(IMAGE)]);
    let sealed = host.seal(secret(), signer.key()).await.expect("because the TPM works");
    host.extend(Pcr::UKI, [9; 32]).await.expect("because the TPM works");
    let refused = host.unseal(sealed, policy).await.expect_err("because the register moved on");
    assert!(matches!(refused, TpmAccessError::Unsigned { .. }), "{refused:?}");
}

#[tokio::test]
async fn the_signature_of_another_key_opens_nothing() {
    let (_chip, host) = started(IMAGE).await;
    let (signer, other) = (Signer::new(), Signer::new());
    let sealed = host.seal(secret(), signer.key()).await.expect("because the TPM works");
    let refused =
        host.unseal(sealed.clone(), other.policy(&[value(IMAGE)])).await.expect_err("because it is another key");
    assert!(matches!(refused, TpmAccessError::Unsigned { .. }), "{refused:?}");
    // Somebody puts the right key before signatures that it did not make: the TPM itself refuses.
    let forged: Vec<PolicySignature> =
        [PolicySignature { policy: pcr_policy(Pcr::UKI, value(IMAGE)), signature: [3; 256] }].into();
    let (pem, json) = (key_pem(&signer.key()), signatures_json(&signer.key(), &forged));
    let forged = SignedPolicy::parse(pem.as_bytes(), json.as_bytes()).expect("because it is well formed");
    assert!(host.unseal(sealed.clone(), forged).await.is_err());
    // Nothing of all that stays loaded in the TPM.
    let policy = signer.policy(&[value(IMAGE)]);
    assert_eq!(host.unseal(sealed, policy).await.expect("because it is signed"), secret());
}

#[tokio::test]
async fn another_tpm_does_not_unseal() {
    let (_chip, host) = started(IMAGE).await;
    let (_other, thief) = started(IMAGE).await;
    let signer = Signer::new();
    let sealed = host.seal(secret(), signer.key()).await.expect("because the TPM works");
    let refused = thief.unseal(sealed, signer.policy(&[value(IMAGE)])).await.expect_err("because it is another TPM");
    assert!(matches!(refused, TpmAccessError::OtherTpm { .. }), "{refused:?}");
}
