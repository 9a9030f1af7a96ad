//! Against a real TPM made of software (swtpm), through its socket.

use super::*;
use init_boot::tpm::{Quote, pcr_digest};
use tests_support::tpm::SoftwareTpm;

async fn tpm() -> (SoftwareTpm, LinuxTpm) {
    let chip = SoftwareTpm::start().await.expect("because swtpm is installed");
    let host = LinuxTpm::at(chip.socket());
    (chip, host)
}

#[tokio::test]
async fn a_counter_begins_when_it_is_first_incremented_and_survives_a_restart() {
    let (mut chip, host) = tpm().await;
    assert!(host.is_present());
    assert_eq!(host.counter().await.expect("because a missing counter is no error"), None);
    let first = host.increment().await.expect("because the TPM is empty");
    assert_eq!(host.increment().await.expect("because it is there"), first + 1);
    chip.restart().await.expect("because swtpm keeps its state");
    drop(host);
    let host = LinuxTpm::at(chip.socket());
    assert_eq!(host.counter().await.expect("because it is there"), Some(first + 1));
}

#[tokio::test]
async fn a_counter_that_was_removed_comes_back_above_every_value_it_had() {
    let (_chip, host) = tpm().await;
    for _ in 0..5 {
        host.increment().await.expect("because the TPM works");
    }
    let before = host.counter().await.expect("because it is there").expect("because it was incremented");
    host.forget_counter().await.expect("because the owner may");
    host.forget_counter().await.expect("because there is nothing to do");
    assert_eq!(host.counter().await.expect("because a missing counter is no error"), None);
    let again = host.increment().await.expect("because it is made again");
    assert!(again > before, "{again} after {before}: an old record would look new");
}

#[tokio::test]
async fn a_counter_that_was_made_and_not_incremented_is_used() {
    let (_chip, host) = tpm().await;
    host.talk(|talk| talk.run(&nv_define_counter(COUNTER_INDEX))).await.expect("because the TPM is empty");
    assert_eq!(host.counter().await.expect("because it has no value yet"), None);
    assert_eq!(host.increment().await.ok(), host.counter().await.expect("because it is there"));
}

#[tokio::test]
async fn a_quote_is_signed_over_the_nonce_and_the_extended_registers() {
    let (_chip, host) = tpm().await;
    let pcrs = vec![Pcr::UKI, Pcr::APPLIED];
    host.extend(Pcr::APPLIED, [7; 32]).await.expect("because the register is there");
    let evidence = host.quote(vec![1, 2, 3], pcrs.clone()).await.expect("because the TPM works");
    let expected = [(Pcr::UKI, PcrValue::ZERO), (Pcr::APPLIED, PcrValue::ZERO.extended(&[7; 32]))];
    assert_eq!(evidence.values, expected);
    let quote = Quote::parse(&evidence.quote.attested).expect("because the TPM made it");
    assert_eq!((quote.nonce, quote.pcrs), (vec![1, 2, 3], pcrs.clone()));
    assert_eq!(quote.digest, pcr_digest(&expected.map(|(_, value)| value)));
    // The key is the same each time, so nothing is stored; more quotes than a TPM has room for keys.
    for _ in 0..5 {
        assert_eq!(host.quote(vec![9], pcrs.clone()).await.expect("because nothing is left behind").key, evidence.key);
    }
}

#[tokio::test]
async fn a_machine_without_a_tpm_says_so() {
    let host = LinuxTpm::at(Path::new("/dev/there-is-no-tpm"));
    assert!(!host.is_present());
    assert!(matches!(host.counter().await, Err(TpmAccessError::Access { .. })));
}
