//! Attestation from end to end: a TPM made of software signs, the asker checks, and somebody in between tries everything.

use super::*;
use init_boot::{AppliedEntry, AppliedLog, LogEntry};
use machined_access::{ATTESTED, AttestRefusal, Attested, Evidence, Expected, IdentityKey, binding, check_attestation};
use sha2::{Digest as _, Sha256};
use tests_support::tpm::SoftwareTpm;

const COMMIT: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// A machine that was measured into its TPM as by firmware, stub and machined.
struct Machine {
    _chip: SoftwareTpm,
    host: LinuxTpm,
    identity: IdentityKey,
    log: AppliedLog,
}

fn uki_part(image: &str) -> [u8; 32] {
    Sha256::digest(image).into()
}

fn image(name: &str) -> PcrValue {
    PcrValue::ZERO.extended(&uki_part(name))
}

fn entry(generation: u64, commit: &str) -> LogEntry {
    LogEntry::Applied(AppliedEntry { generation, step: "ab".repeat(32), commit: commit.to_owned() })
}

async fn machine() -> Machine {
    let chip = SoftwareTpm::start().await.expect("because swtpm is installed");
    let host = LinuxTpm::at(chip.socket());
    host.extend(Pcr::UKI, uki_part("image 1")).await.expect("because the TPM works");
    let mut log = AppliedLog::default();
    for (generation, commit) in [(1, "ab".repeat(20)), (2, COMMIT.to_owned())] {
        let entry = entry(generation, &commit);
        host.extend(Pcr::APPLIED, entry.digest()).await.expect("because the TPM works");
        log.push(entry);
    }
    let identity = IdentityKey::generate().expect("because there is randomness");
    Machine { _chip: chip, host, identity, log }
}

impl Machine {
    /// What machined answers.
    async fn answer(&self, nonce: &[u8]) -> Evidence {
        let evidence = self.host.quote(nonce.to_vec(), ATTESTED.to_vec()).await.expect("because the TPM works");
        let key = evidence.key.to_bytes();
        Evidence {
            identity: self.identity.public_key(),
            identity_signature: self.identity.sign(&binding(nonce, &key)).expect("because there is randomness"),
            key,
            attested: evidence.quote.attested,
            signature: evidence.quote.signature.0.to_vec(),
            values: evidence.values.iter().map(|(_, value)| *value).collect(),
            log: self.log.render(),
        }
    }

    fn expected(&self, nonce: &[u8]) -> Expected {
        Expected {
            nonce: nonce.to_vec(),
            machine: self.identity.fingerprint(),
            image: Some(image("image 1")),
            commit: Some(COMMIT.parse().expect("because it is an id")),
            pinned: vec![(Pcr::SECURE_BOOT, PcrValue::ZERO)],
        }
    }
}

fn reasons(checked: Result<Attested, Vec<AttestRefusal>>) -> Vec<&'static str> {
    checked.map_or_else(|refusals| refusals.iter().map(AttestRefusal::reason).collect(), |_| Vec::new())
}

const NONCE: [u8; 32] = [5; 32];

#[tokio::test]
async fn a_good_answer_shows_image_and_commit() {
    let machine = machine().await;
    let attested = check_attestation(&machine.answer(&NONCE).await, &machine.expected(&NONCE));
    let attested = attested.expect("because everything is as expected");
    assert_eq!(attested.log.last(), Some(&entry(2, COMMIT)));
    assert!(attested.values.contains(&(Pcr::UKI, image("image 1"))));
}

#[tokio::test]
async fn an_answer_to_another_question_is_refused() {
    let machine = machine().await;
    let old = machine.answer(&[4; 32]).await;
    assert_eq!(reasons(check_attestation(&old, &machine.expected(&NONCE))), ["Identity"]);
    // Whoever has the identity key binds anew, and still has only the old quote.
    let rebound = machine.identity.sign(&binding(&NONCE, &old.key)).expect("because there is randomness");
    let replayed = Evidence { identity_signature: rebound, ..old };
    assert_eq!(reasons(check_attestation(&replayed, &machine.expected(&NONCE))), ["Nonce"]);
}

#[tokio::test]
async fn another_machine_cannot_answer_for_this_one() {
    let (machine, other) = (machine().await, machine().await);
    let foreign = other.answer(&NONCE).await;
    assert_eq!(reasons(check_attestation(&foreign, &machine.expected(&NONCE))), ["Identity"]);
    // Its quote below this machine's own binding: the key is not the one that was bound.
    let own = machine.answer(&NONCE).await;
    let mixed = Evidence { attested: foreign.attested.clone(), signature: foreign.signature.clone(), ..own.clone() };
    assert_eq!(reasons(check_attestation(&mixed, &machine.expected(&NONCE))), ["Signature"]);
    let mixed = Evidence { key: foreign.key, ..own };
    assert_eq!(reasons(check_attestation(&mixed, &machine.expected(&NONCE))), ["Identity"]);
}

#[tokio::test]
async fn what_was_not_signed_is_not_believed() {
    let machine = machine().await;
    let (good, expected) = (machine.answer(&NONCE).await, machine.expected(&NONCE));
    let mut values = good.clone();
    values.values[0] = PcrValue::from_bytes([1; 32]);
    assert_eq!(reasons(check_attestation(&values, &expected)), ["Values"]);
    values.values.pop();
    assert_eq!(reasons(check_attestation(&values, &expected)), ["Registers"]);
    for at in 0..good.attested.len() {
        let mut changed = good.clone();
        changed.attested[at] ^= 1;
        assert_eq!(reasons(check_attestation(&changed, &expected)), ["Signature"], "byte {at}");
    }
}

#[tokio::test]
async fn a_log_that_was_changed_does_not_lead_to_the_register() {
    let machine = machine().await;
    let (good, expected) = (machine.answer(&NONCE).await, machine.expected(&NONCE));
    let with = |log: &AppliedLog| Evidence { log: log.render(), ..good.clone() };
    let (mut fewer, mut more, mut swapped) = (AppliedLog::default(), machine.log.clone(), AppliedLog::default());
    fewer.push(entry(2, COMMIT));
    more.push(entry(3, COMMIT));
    for entry in machine.log.entries().iter().rev() {
        swapped.push(entry.clone());
    }
    assert_eq!(reasons(check_attestation(&with(&fewer), &expected)), ["LogValue"]);
    assert_eq!(reasons(check_attestation(&with(&more), &expected)), ["LogValue"]);
    assert_eq!(reasons(check_attestation(&with(&swapped), &expected)), ["LogValue", "Commit"]);
    let text = Evidence { log: good.log.replace("base", "Base"), ..good.clone() };
    assert_eq!(reasons(check_attestation(&text, &expected)), ["Log"]);
    // The first entry hidden in the base leads to the register, and says that something is hidden.
    let mut hidden = AppliedLog::after(PcrValue::ZERO.extended(&machine.log.entries()[0].digest()));
    hidden.push(entry(2, COMMIT));
    assert_eq!(reasons(check_attestation(&with(&hidden), &expected)), ["LogBase"]);
}

#[tokio::test]
async fn every_difference_is_told_at_once() {
    let machine = machine().await;
    machine.host.extend(Pcr::OVERRIDES, [9; 32]).await.expect("because the TPM works");
    machine.host.extend(Pcr::SECURE_BOOT, [9; 32]).await.expect("because the TPM works");
    let answer = machine.answer(&NONCE).await;
    let expected = Expected {
        image: Some(image("image 2")),
        commit: Some("ef".repeat(20).parse().expect("because it is an id")),
        ..machine.expected(&NONCE)
    };
    assert_eq!(reasons(check_attestation(&answer, &expected)), ["Image", "Overrides", "Commit", "Pinned"]);
}
