//! Responses as the specification lays them out, written by hand here and not by the code under test.

use super::*;
use sha2::{Digest as _, Sha256};

/// A response without sessions.
fn plain(code: u32, body: &[u8]) -> Vec<u8> {
    [&0x8001_u16.to_be_bytes()[..], &(10 + body.len() as u32).to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// A response with a password session.
fn with_session(parameters: &[u8]) -> Vec<u8> {
    let length = (10 + 4 + parameters.len() + 5) as u32;
    let session = [0, 0, 1, 0, 0];
    [
        &0x8002_u16.to_be_bytes()[..],
        &length.to_be_bytes(),
        &[0; 4],
        &(parameters.len() as u32).to_be_bytes(),
        parameters,
        &session,
    ]
    .concat()
}

fn counter(value: u64) -> Vec<u8> {
    with_session(&[&[0, 8], &value.to_be_bytes()[..]].concat())
}

#[test]
fn a_command_is_laid_out_as_the_specification_says() {
    let increment = nv_increment(NvIndex(0x0180_0001));
    let expected = [
        0x80, 0x02, 0, 0, 0, 31, 0, 0, 0x01, 0x34, 0x01, 0x80, 0, 1, 0x01, 0x80, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0,
        0, 0, 0,
    ];
    assert_eq!(increment.bytes(), expected);
    assert_eq!(pcr_read(&[Pcr::UKI]).bytes()[10..], [0, 0, 0, 1, 0, 0x0b, 3, 0, 8, 0]);
}

#[test]
fn a_response_that_is_cut_off_or_longer_is_refused() {
    let whole = counter(7);
    let read = nv_read_counter(COUNTER_INDEX);
    assert_eq!(read.decode(&whole), Ok(7));
    for length in 0..whole.len() {
        assert!(read.decode(&whole[..length]).is_err(), "{length} bytes were taken");
        let mut cut = whole[..length].to_vec();
        if length >= RESPONSE_HEADER_BYTES {
            cut[2..6].copy_from_slice(&(length as u32).to_be_bytes());
        }
        assert!(read.decode(&cut).is_err(), "{length} bytes that say so were taken");
    }
    let longer = [with_session(&[0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0]), [&whole[..], &[0]].concat()];
    assert!(longer.iter().all(|response| read.decode(response).is_err()));
    let huge = vec![0; TPM_MESSAGE_BYTES_MAX + 1];
    assert!(matches!(read.decode(&huge), Err(TpmError::Malformed { .. })));
}

#[test]
fn a_refusal_is_told_with_its_code_and_a_missing_index_is_known() {
    let read = nv_read_public(COUNTER_INDEX);
    let refused = |code| read.decode(&plain(code, &[])).expect_err("because the TPM refused");
    assert_eq!(refused(0x922), TpmError::Refused { command: "TPM2_NV_ReadPublic", code: 0x922 });
    // TPM_RC_HANDLE for the first handle; TPM_RC_NV_DEFINED and TPM_RC_VALUE are something else.
    assert!(refused(0x18b).is_missing());
    assert!(![0x14c, 0x184, 0x922].into_iter().any(|code| refused(code).is_missing()));
}

#[test]
fn only_a_counter_as_we_make_it_is_ours() {
    let read = nv_read_public(COUNTER_INDEX);
    let public = |attributes: u32, bytes: u16| {
        let area = [&[0x01, 0x80, 0xca, 0x10, 0, 0x0b][..], &attributes.to_be_bytes(), &[0, 0], &bytes.to_be_bytes()];
        let area = area.concat();
        plain(0, &[&(area.len() as u16).to_be_bytes()[..], &area, &[0, 2, 0, 0x0b]].concat())
    };
    // Owner and password write and read, counter, not under dictionary attack protection; then the same, written.
    let fresh = read.decode(&public(0x0206_0016, 8)).expect("because it is well formed");
    assert!(fresh.is_our_counter() && !fresh.is_written());
    let used = read.decode(&public(0x2206_0016, 8)).expect("because it is well formed");
    assert!(used.is_our_counter() && used.is_written());
    // An ordinary index of the same length, and a counter that a policy writes.
    for attributes in [0x0206_0006, 0x0206_001e] {
        assert!(!read.decode(&public(attributes, 8)).expect("because it is well formed").is_our_counter());
    }
}

#[test]
fn registers_are_extended_as_the_specification_says() {
    let digest = [1; 32];
    let expected: [u8; 32] = Sha256::digest([[0; 32], [1; 32]].concat()).into();
    assert_eq!(PcrValue::ZERO.extended(&digest).as_bytes(), &expected);
    let both: [u8; 32] = Sha256::digest([[0; 32], expected].concat()).into();
    assert_eq!(pcr_digest(&[PcrValue::ZERO, PcrValue::from_bytes(expected)]), both);
    assert_eq!(Pcr::new(PCR_COUNT), None);
}

#[test]
fn values_are_given_to_the_registers_that_the_tpm_selected() {
    let read = pcr_read(&[Pcr::UKI, Pcr::APPLIED]);
    let answer = |count: u8, bits: [u8; 3], values: &[[u8; 32]]| {
        let list: Vec<u8> = values.iter().flat_map(|value| [&[0, 32][..], value].concat()).collect();
        plain(
            0,
            &[&[0, 0, 0, 9, 0, 0, 0, count, 0, 0x0b, 3][..], &bits, &(values.len() as u32).to_be_bytes(), &list]
                .concat(),
        )
    };
    let found = read.decode(&answer(1, [0, 0x88, 0], &[[1; 32], [2; 32]])).expect("because it is well formed");
    assert_eq!(found, [(Pcr::UKI, PcrValue::from_bytes([1; 32])), (Pcr::APPLIED, PcrValue::from_bytes([2; 32]))]);
    assert!(read.decode(&answer(1, [0, 0x88, 0], &[[1; 32]])).is_err(), "a value is missing");
    assert!(read.decode(&answer(2, [0, 0x88, 0], &[[1; 32], [2; 32]])).is_err(), "another number of banks");
}

#[test]
fn a_quote_is_taken_only_from_a_tpm_and_only_whole() {
    let quote = |magic: u32, kind: u16| {
        let begin = [&magic.to_be_bytes()[..], &kind.to_be_bytes(), &[0, 1, 9], &[0, 2, 5, 6]].concat();
        let clock = [&[0; 8][..], &3_u32.to_be_bytes(), &[0; 4], &[1], &[0; 8]].concat();
        [begin, clock, vec![0, 0, 0, 1, 0, 0x0b, 3, 0, 8, 0, 0, 32], vec![7; 32]].concat()
    };
    let whole = quote(0xff54_4347, 0x8018);
    let parsed = Quote::parse(&whole).expect("because it is well formed");
    assert_eq!((parsed.nonce, parsed.resets, parsed.pcrs), (vec![5, 6], 3, vec![Pcr::UKI]));
    assert_eq!(parsed.digest, [7; 32]);
    assert!(Quote::parse(&quote(0xff54_4348, 0x8018)).is_err(), "no TPM made it");
    assert!(Quote::parse(&quote(0xff54_4347, 0x8017)).is_err(), "a certification is no quote");
    assert!((0..whole.len()).all(|length| Quote::parse(&whole[..length]).is_err()), "a cut quote was taken");
    assert!(Quote::parse(&[&whole[..], &[0]].concat()).is_err());
}

#[test]
fn a_key_with_other_attributes_is_no_attestation_key() {
    let area = |attributes: u32| {
        let begin =
            [&[0, 0x23, 0, 0x0b][..], &attributes.to_be_bytes(), &[0, 0], &[0, 0x10, 0, 0x18, 0, 0x0b]].concat();
        [begin, vec![0, 3, 0, 0x10, 0, 1, 5, 0, 32], vec![6; 32]].concat()
    };
    let key = AttestationPublic::parse(&area(0x0005_0472)).expect("because it is of the right kind");
    let point = key.point();
    assert_eq!((point[0], &point[1..32], point[32], &point[33..]), (4, &[0; 31][..], 5, &[6; 32][..]));
    assert_eq!(AttestationPublic::parse(&key.to_bytes()), Ok(key));
    // Not restricted: it would sign whatever it is given, a made-up quote too. And one that may leave the TPM.
    for attributes in [0x0004_0472, 0x0005_0470] {
        assert!(AttestationPublic::parse(&area(attributes)).is_err(), "{attributes:#x} was taken");
    }
}
