//! The few shapes of DER that a signature is made of (X.690): a tag, a length, a content.
//!
//! Called by the modules beside it. Must never be used for reading.

/// Universal tags.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// Context tag 0, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// Object identifiers, whole.
pub(super) const OID_SHA256: &[u8] = &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
pub(super) const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
pub(super) const OID_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
pub(super) const OID_SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
pub(super) const OID_CONTENT_TYPE: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
pub(super) const OID_MESSAGE_DIGEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const NULL: &[u8] = &[0x05, 0x00];

/// One element.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![tag];
    bytes.extend(length_bytes(length));
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// An algorithm without parameters, which RSA and its digests write as NULL.
pub(super) fn algorithm(oid: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[oid, NULL])
}

fn length_bytes(length: usize) -> Vec<u8> {
    if length < 0x80 {
        return vec![length as u8];
    }
    let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![0x80 | digits.len() as u8];
    bytes.extend(digits);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_few_bytes_as_they_can() {
        assert_eq!(element(SET, &[]), [0x31, 0]);
        assert_eq!(length_bytes(0x7f), [0x7f]);
        assert_eq!(length_bytes(0x80), [0x81, 0x80]);
        assert_eq!(length_bytes(0x1234), [0x82, 0x12, 0x34]);
        assert_eq!(length_bytes(0x01_0000), [0x83, 1, 0, 0]);
    }
}
