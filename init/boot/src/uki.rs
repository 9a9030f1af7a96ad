//! What a unified kernel image does to the TPM: the value of PCR 11 after systemd's stub has measured it.
//!
//! `cairn-image inspect` shows it and `cairnctl attest` expects it. Format of the file: Microsoft's PE specification. What is measured: the
//! UAPI group's specification of unified kernel images and systemd-stub(7), of systemd 257: for each section that there is, in a fixed
//! order, first its name with a zero byte, then its content as it lies in memory.

use crate::tpm::PcrValue;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Sections that the stub measures, in its order. `.pcrsig` is left out, because it is made from the result.
const MEASURED: [&str; 13] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids",
];

/// Where the DOS header says where the PE header is.
const PE_OFFSET_FIELD: usize = 0x3c;
/// Bytes of the PE signature and the COFF header.
const COFF_BYTES: usize = 24;
/// Bytes of one section header.
const SECTION_BYTES: usize = 40;
/// The most sections that are looked at; the stub with ours has a dozen.
const SECTIONS_MAX: usize = 96;
/// The largest difference between a section in memory and in the file, in bytes: zeros that are measured and lie nowhere.
const ZEROS_MAX: usize = 1 << 20;

/// Why a file is no unified kernel image.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("it is no unified kernel image: {what}")]
pub struct UkiError {
    what: &'static str,
}

const fn wrong(what: &'static str) -> UkiError {
    UkiError { what }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_le_bytes(field.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
}

/// A section: what the file holds of it, and how long it is in memory.
struct Section<'a> {
    name: &'a [u8],
    content: &'a [u8],
    length: usize,
}

fn section(image: &[u8], header: usize) -> Option<Section<'_>> {
    let entry = image.get(header..header.checked_add(SECTION_BYTES)?)?;
    let name = entry[..8].split(|byte| *byte == 0).next()?;
    let (length, raw, offset) = (u32_at(entry, 8)?, u32_at(entry, 16)?, u32_at(entry, 20)?);
    let content = image.get(offset..offset.checked_add(raw.min(length))?)?;
    Some(Section { name, content, length })
}

fn sections(image: &[u8]) -> Result<Vec<Section<'_>>, UkiError> {
    let cut = || wrong("its headers lead beyond its end");
    if !image.starts_with(b"MZ") {
        return Err(wrong("it has no DOS header"));
    }
    let pe = u32_at(image, PE_OFFSET_FIELD).ok_or_else(cut)?;
    if image.get(pe..).is_none_or(|rest| !rest.starts_with(b"PE\0\0")) {
        return Err(wrong("it has no PE header"));
    }
    let count = u16_at(image, pe + 6).ok_or_else(cut)?;
    if count > SECTIONS_MAX {
        return Err(wrong("it has too many sections"));
    }
    let first = pe + COFF_BYTES + u16_at(image, pe + 20).ok_or_else(cut)?;
    (0..count).map(|index| section(image, first + index * SECTION_BYTES).ok_or_else(cut)).collect()
}

/// What machined extends PCR 11 with once the volumes of a machine are open: SHA-256 of `cairn.volumes-open.v1` and a newline.
///
/// A policy is signed for the register before it, so whatever runs later in the same start gets no volume's key out of the TPM.
#[must_use]
pub fn volumes_opened() -> [u8; 32] {
    Sha256::digest("cairn.volumes-open.v1\n").into()
}

/// PCR 11 after this image was started by a firmware with a TPM.
///
/// # Errors
/// When it is no PE file, holds a section twice, or has none that counts.
pub fn expected_uki_pcr(image: &[u8]) -> Result<PcrValue, UkiError> {
    let sections = sections(image)?;
    let mut value = PcrValue::ZERO;
    for name in MEASURED {
        let mut found = sections.iter().filter(|section| section.name == name.as_bytes());
        let Some(section) = found.next() else { continue };
        if found.next().is_some() {
            return Err(wrong("it holds a section twice"));
        }
        let zeros = section.length - section.content.len();
        if zeros > ZEROS_MAX {
            return Err(wrong("a section is much longer in memory than in the file"));
        }
        let named = Sha256::new().chain_update(name).chain_update([0]).finalize();
        let content = Sha256::new().chain_update(section.content).chain_update(vec![0; zeros]).finalize();
        value = value.extended(&named.into()).extended(&content.into());
    }
    if value == PcrValue::ZERO { Err(wrong("it holds nothing that is measured")) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PE file with nothing but sections: name, content, length in memory.
    fn image(sections: &[(&str, &[u8], u32)]) -> Vec<u8> {
        let mut image = vec![0; 0x40];
        image[..2].copy_from_slice(b"MZ");
        image[PE_OFFSET_FIELD] = 0x40;
        image.extend(b"PE\0\0");
        image.extend([0x64, 0x86]);
        image.extend((sections.len() as u16).to_le_bytes());
        image.extend([0; 16]);
        let mut offset = image.len() + sections.len() * SECTION_BYTES;
        for (name, content, length) in sections {
            let mut entry = [0; SECTION_BYTES];
            entry[..name.len()].copy_from_slice(name.as_bytes());
            entry[8..12].copy_from_slice(&length.to_le_bytes());
            entry[16..20].copy_from_slice(&(content.len() as u32).to_le_bytes());
            entry[20..24].copy_from_slice(&(offset as u32).to_le_bytes());
            image.extend(entry);
            offset += content.len();
        }
        sections.iter().for_each(|(_, content, _)| image.extend(*content));
        image
    }

    fn digest(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    #[test]
    fn names_and_contents_are_measured_in_the_stubs_order_whatever_the_files() {
        // In the file: command line (padded), kernel, and code that is not measured.
        let built = image(&[(".cmdline", b"quiet\0\0\0", 6), (".text", b"code", 4), (".linux", b"kernel", 6)]);
        let expected = [&b".linux\0"[..], b"kernel", b".cmdline\0", b"quiet\0"];
        let expected = expected.iter().fold(PcrValue::ZERO, |value, part| value.extended(&digest(part)));
        assert_eq!(expected_uki_pcr(&built), Ok(expected));
        let other = image(&[(".cmdline", b"quief\0\0\0", 6), (".text", b"code", 4), (".linux", b"kernel", 6)]);
        assert_ne!(expected_uki_pcr(&other), Ok(expected), "a flipped bit in the command line is not seen");
    }

    #[test]
    fn a_section_longer_in_memory_is_measured_with_its_zeros() {
        let expected = PcrValue::ZERO.extended(&digest(b".osrel\0")).extended(&digest(b"ID=cairn\0\0"));
        assert_eq!(expected_uki_pcr(&image(&[(".osrel", b"ID=cairn", 10)])), Ok(expected));
        assert!(expected_uki_pcr(&image(&[(".osrel", b"ID=cairn", u32::MAX)])).is_err(), "4 GiB of zeros were hashed");
    }

    #[test]
    fn what_is_no_image_is_refused_and_nothing_panics() {
        let whole = image(&[(".linux", b"kernel", 6), (".linux", b"kernel", 6)]);
        assert_eq!(expected_uki_pcr(&whole), Err(wrong("it holds a section twice")));
        assert!(expected_uki_pcr(&image(&[(".text", b"code", 4)])).is_err(), "nothing is measured");
        let whole = image(&[(".linux", b"kernel", 6)]);
        for length in 0..whole.len() {
            assert!(expected_uki_pcr(&whole[..length]).is_err(), "{length} bytes were taken");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] = 0xff;
            let _refused_or_not = expected_uki_pcr(&changed);
        }
    }
}
