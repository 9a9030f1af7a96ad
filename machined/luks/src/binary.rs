//! The binary part of a header's copy: 4096 bytes before the JSON, with a check sum over both.

use crate::HEADER_BYTES;
use sha2::{Digest as _, Sha256};

/// Bytes before the JSON.
pub(crate) const BINARY_BYTES: usize = 4096;
const MAGIC_FIRST: &[u8; 6] = b"LUKS\xba\xbe";
const MAGIC_SECOND: &[u8; 6] = b"SKUL\xba\xbe";
const VERSION: u16 = 2;
const CHECK_SUM: &[u8] = b"sha256";

// Fields of the specification's struct luks2_hdr_disk; numbers are big-endian.
const AT_VERSION: usize = 6;
const AT_HEADER_BYTES: usize = 8;
const AT_SEQUENCE: usize = 16;
const AT_LABEL: usize = 24;
const LABEL_BYTES: usize = 48;
const AT_CHECK_SUM_KIND: usize = 72;
const CHECK_SUM_KIND_BYTES: usize = 32;
const AT_SALT: usize = 104;
pub(crate) const SALT_BYTES: usize = 64;
const AT_UUID: usize = 168;
const UUID_BYTES: usize = 40;
const AT_OFFSET: usize = 256;
const AT_CHECK_SUM: usize = 448;
const CHECK_SUM_BYTES: usize = 64;

/// Which copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    First,
    Second,
}

impl Copy {
    pub(crate) const fn offset(self) -> usize {
        match self {
            Copy::First => 0,
            Copy::Second => HEADER_BYTES,
        }
    }

    const fn magic(self) -> &'static [u8; 6] {
        match self {
            Copy::First => MAGIC_FIRST,
            Copy::Second => MAGIC_SECOND,
        }
    }
}

/// What a copy says beside its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) sequence: u64,
    pub(crate) label: String,
    pub(crate) uuid: String,
}

fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).ok()?;
    text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("because eight bytes were asked for"))
}

fn put_text(copy: &mut [u8], at: usize, bytes_max: usize, text: &str) {
    // One byte stays for the NUL that ends it.
    let length = text.len().min(bytes_max - 1);
    copy[at..at + length].copy_from_slice(&text.as_bytes()[..length]);
}

fn check_sum(copy: &[u8]) -> [u8; 32] {
    let (begin, rest) = copy.split_at(AT_CHECK_SUM);
    let sum = Sha256::new().chain_update(begin).chain_update([0; CHECK_SUM_BYTES]);
    sum.chain_update(&rest[CHECK_SUM_BYTES..]).finalize().into()
}

/// Whether these bytes begin as one of the copies does, damaged or not.
pub(crate) fn has_magic(front: &[u8]) -> bool {
    [Copy::First, Copy::Second].into_iter().any(|copy| {
        front.get(copy.offset()..).is_some_and(|rest| rest.starts_with(copy.magic()) && rest.get(6..8) == Some(&[0, 2]))
    })
}

impl Binary {
    /// Reads one copy; gives its JSON too, with the zeros behind it left out.
    pub(crate) fn parse(front: &[u8], which: Copy) -> Result<(Binary, &[u8]), &'static str> {
        let at = which.offset();
        let copy = front.get(at..at + HEADER_BYTES).ok_or("it is cut off")?;
        if !copy.starts_with(which.magic()) {
            return Err("it is none");
        }
        if copy[AT_VERSION..AT_VERSION + 2] != VERSION.to_be_bytes() {
            return Err("it is of another version");
        }
        if u64_at(copy, AT_HEADER_BYTES) != HEADER_BYTES as u64 || u64_at(copy, AT_OFFSET) != at as u64 {
            return Err("it has another size or place");
        }
        let kind = &copy[AT_CHECK_SUM_KIND..AT_CHECK_SUM_KIND + CHECK_SUM_KIND_BYTES];
        if text(kind).as_deref().map(str::as_bytes) != Some(CHECK_SUM) {
            return Err("its check sum is of another kind");
        }
        if copy[AT_CHECK_SUM..AT_CHECK_SUM + 32] != check_sum(copy) {
            return Err("its check sum is wrong");
        }
        let label = text(&copy[AT_LABEL..AT_LABEL + LABEL_BYTES]).ok_or("its label is no text")?;
        let uuid = text(&copy[AT_UUID..AT_UUID + UUID_BYTES]).ok_or("its UUID is no text")?;
        let json = &copy[BINARY_BYTES..];
        let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
        Ok((Binary { sequence: u64_at(copy, AT_SEQUENCE), label, uuid }, &json[..end]))
    }

    /// Writes one copy; the JSON fits. The salt only makes copies differ.
    pub(crate) fn encode(&self, which: Copy, json: &[u8], salt: &[u8; SALT_BYTES]) -> Vec<u8> {
        let mut copy = vec![0; HEADER_BYTES];
        copy[..6].copy_from_slice(which.magic());
        copy[AT_VERSION..AT_VERSION + 2].copy_from_slice(&VERSION.to_be_bytes());
        copy[AT_HEADER_BYTES..AT_HEADER_BYTES + 8].copy_from_slice(&(HEADER_BYTES as u64).to_be_bytes());
        copy[AT_SEQUENCE..AT_SEQUENCE + 8].copy_from_slice(&self.sequence.to_be_bytes());
        put_text(&mut copy, AT_LABEL, LABEL_BYTES, &self.label);
        copy[AT_CHECK_SUM_KIND..AT_CHECK_SUM_KIND + CHECK_SUM.len()].copy_from_slice(CHECK_SUM);
        copy[AT_SALT..AT_SALT + SALT_BYTES].copy_from_slice(salt);
        put_text(&mut copy, AT_UUID, UUID_BYTES, &self.uuid);
        copy[AT_OFFSET..AT_OFFSET + 8].copy_from_slice(&(which.offset() as u64).to_be_bytes());
        copy[BINARY_BYTES..BINARY_BYTES + json.len()].copy_from_slice(json);
        let sum = check_sum(&copy);
        copy[AT_CHECK_SUM..AT_CHECK_SUM + sum.len()].copy_from_slice(&sum);
        copy
    }
}
