//! The identity key inside a real TPM made of software (swtpm): it signs, the software verifier checks.

use super::*;
use jiff::Timestamp;
use machined_access::{IdentityKey, KeyPlace, LeafKey, Peer, tls, verify_identity};
use rustls::pki_types::UnixTime;
use tests_support::tpm::SoftwareTpm;

async fn tpm() -> (SoftwareTpm, LinuxTpm) {
    let chip = SoftwareTpm::start().await.expect("because swtpm is installed");
    let host = LinuxTpm::at(chip.socket());
    (chip, host)
}

async fn load(host: &LinuxTpm, wrapped: &WrappedKey) -> Result<IdentityKey, TpmAccessError> {
    let chip = host.load_key(wrapped.clone()).await?;
    Ok(IdentityKey::in_tpm(wrapped.public().point(), chip))
}

/// As machined does: on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("because it does not panic")
}

#[tokio::test]
async fn what_the_tpm_signs_the_software_verifier_takes() {
    let (_chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let key = load(&host, &wrapped).await.expect("because this TPM made it");
    assert_eq!(key.place(), KeyPlace::Tpm);
    blocking(move || {
        for number in 0..64_u32 {
            let message = number.to_be_bytes();
            let signature = key.sign(&message).expect("because the TPM signs");
            assert_eq!(verify_identity(&key.public_key(), &message, &signature), Some(key.fingerprint()));
            assert_eq!(verify_identity(&key.public_key(), b"other", &signature), None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_leaf_that_the_tpm_signed_verifies_in_tls() {
    let (_chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let key = load(&host, &wrapped).await.expect("because this TPM made it");
    blocking(move || {
        let leaf = LeafKey::generate().expect("because there is randomness");
        let names = ["machine.cairn.internal".to_owned()];
        let chain = key.issue_leaf(&leaf.spki(), "machined", &names, Timestamp::now());
        let chain = chain.expect("because the TPM signs");
        let service = Peer::Machine { identity: key.fingerprint(), service: "machined".to_owned() };
        assert_eq!(tls::peer(Some(&chain), UnixTime::now()), service);
    })
    .await;
}

#[tokio::test]
async fn another_tpm_does_not_load_the_key_and_a_restarted_one_does() {
    let (mut chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let key = load(&host, &wrapped).await.expect("because this TPM made it");
    let (_other_chip, other) = tpm().await;
    let refused = load(&other, &wrapped).await.expect_err("because another TPM made it");
    assert!(matches!(refused, TpmAccessError::OtherTpm { .. }), "{refused:?}");
    chip.restart().await.expect("because swtpm keeps its state");
    // machined that ran on meanwhile, and one that was started anew.
    let signature = blocking(move || key.sign(b"message")).await.expect("because it is loaded again");
    // swtpm talks to one at a time.
    drop(host);
    let again = load(&LinuxTpm::at(chip.socket()), &wrapped).await.expect("because this TPM made it");
    assert!(verify_identity(&again.public_key(), b"message", &signature).is_some());
}

#[tokio::test]
async fn a_cleared_tpm_does_not_load_the_key() {
    let (_chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let key = load(&host, &wrapped).await.expect("because this TPM made it");
    // TPM2_Clear by the lockout hierarchy, whose password is empty: what "clear" in a firmware's setup comes to.
    let clear = [0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x26, 0x40, 0, 0, 0x0a, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let cleared = host.talk(move |talk| Ok(talk.exchange(&clear).expect("because the TPM answers"))).await;
    assert_eq!(cleared.expect("because the TPM answers")[6..10], [0; 4], "the TPM was not cleared");
    assert!(blocking(move || key.sign(b"message")).await.is_err(), "the loaded key is gone too");
    let refused = load(&host, &wrapped).await.expect_err("because its owner's seed is another one");
    assert!(matches!(refused, TpmAccessError::OtherTpm { .. }), "{refused:?}");
    host.make_key().await.expect("because a cleared TPM is an empty one");
}

#[tokio::test]
async fn a_damaged_key_is_not_loaded() {
    let (_chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let bytes = wrapped.to_bytes();
    // One byte in each part: the point, and the wrapped private part.
    for at in [20, 60, bytes.len() - 1, bytes.len() - 60] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let damaged = WrappedKey::parse(&damaged).expect("because its form is whole");
        assert!(host.load_key(damaged).await.is_err(), "byte {at}");
    }
    load(&host, &wrapped).await.expect("because it is whole");
}

#[tokio::test]
async fn a_machine_signs_counts_and_attests_side_by_side() {
    let (_chip, host) = tpm().await;
    let wrapped = host.make_key().await.expect("because the TPM works");
    let key = Arc::new(load(&host, &wrapped).await.expect("because this TPM made it"));
    // More keys than a TPM has room for, were any left behind.
    for _ in 0..5 {
        let signing = Arc::clone(&key);
        let (signed, counted, quoted, made) = tokio::join!(
            blocking(move || signing.sign(b"message")),
            host.increment(),
            host.quote(vec![1], vec![Pcr::APPLIED]),
            host.make_key(),
        );
        let signature = signed.expect("because the TPM signs");
        assert!(verify_identity(&key.public_key(), b"message", &signature).is_some());
        counted.expect("because the TPM counts");
        quoted.expect("because the TPM quotes");
        assert_ne!(made.expect("because the TPM makes keys").public(), wrapped.public(), "each key is another one");
    }
}
