//! What a TPM answers, and what is kept of its keys: another chip on the same bus, or whoever writes META, chooses these bytes.

use init_boot::tpm::{self, AttestationPublic, KeyHandle, Pcr, Quote, SigningPublic, WrappedKey};

/// Bytes before an answer's parameters: tag, length, code.
const HEADER_BYTES: usize = 10;
/// Tag of an answer without and with sessions (TPM 2.0 library, part 2, 6.9).
const TAGS: [u16; 2] = [0x8001, 0x8002];

/// A wrapped key as it is kept; the point is any sixty-four bytes, as nothing here computes with it.
fn wrapped() -> WrappedKey {
    let mut point = [4; 65];
    point[1..].fill(7);
    let public = SigningPublic::from_point(&point).expect("because it is uncompressed");
    WrappedKey::new(public, vec![9; 126]).expect("because its private part fits")
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let counter = [&8_u32.to_be_bytes()[..], &[0, 8], &7_u64.to_be_bytes(), &[0, 0, 1, 0, 0]].concat();
    let registers = [
        &1_u32.to_be_bytes()[..],         // update counter
        &[0, 0, 0, 1, 0, 11, 3, 0, 8, 0], // one selection: SHA-256, PCR 11
        &[0, 0, 0, 1, 0, 32],
        &[5; 32],
    ];
    vec![Vec::new(), counter, registers.concat(), wrapped().to_bytes()]
}

/// The parameters of an answer to each command that we send, behind a header that fits, and as they stand.
pub(crate) fn answers(bytes: &[u8]) {
    let body = &bytes[..bytes.len().min(4096)];
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("because it is short");
    for (tag, code) in [(TAGS[0], 0), (TAGS[1], 0), (TAGS[0], 0x18b)] {
        let answer = [&tag.to_be_bytes()[..], &length.to_be_bytes(), &u32::to_be_bytes(code), body].concat();
        assert_eq!(tpm::response_length(&answer), Some(answer.len()));
        decode_all(&answer, code != 0);
    }
    decode_all(bytes, false);
    let _refused_or_not = (Quote::parse(bytes), AttestationPublic::parse(bytes));
    if let Ok(key) = WrappedKey::parse(bytes) {
        assert!(WrappedKey::is_kept(bytes));
        assert_eq!(key.to_bytes(), bytes, "a kept key has one form");
    }
}

/// Every command's decoder; an answer that says that the TPM refused is never a success.
fn decode_all(answer: &[u8], refused: bool) {
    let key = KeyHandle(0x8000_0000);
    let taken = [
        tpm::nv_read_public(tpm::COUNTER_INDEX).decode(answer).is_ok(),
        tpm::nv_define_counter(tpm::COUNTER_INDEX).decode(answer).is_ok(),
        tpm::nv_read_counter(tpm::COUNTER_INDEX).decode(answer).is_ok(),
        tpm::nv_increment(tpm::COUNTER_INDEX).decode(answer).is_ok(),
        tpm::pcr_extend(Pcr::UKI, &[1; 32]).decode(answer).is_ok(),
        tpm::create_attestation_key().decode(answer).is_ok(),
        tpm::quote(key, &[1], &[Pcr::UKI]).decode(answer).is_ok(),
        tpm::create_storage_key().decode(answer).is_ok(),
        tpm::create_signing_key(key).decode(answer).is_ok(),
        tpm::load_key(key, &wrapped()).decode(answer).is_ok(),
        tpm::sign(key, &[1; 32]).decode(answer).is_ok(),
        tpm::flush(key).decode(answer).is_ok(),
    ];
    assert!(!refused || !taken.contains(&true), "a refusal was read as an answer");
    if let Ok(values) = tpm::pcr_read(&[Pcr::UKI]).decode(answer) {
        assert!(!refused && values.iter().all(|(pcr, _)| *pcr == Pcr::UKI), "a register that nobody asked for");
    }
}
