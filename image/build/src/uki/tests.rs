//! Tests of the unified kernel image on a stub made by hand, read back with the object crate.

use object::{Object as _, ObjectSection as _};

use super::*;

const FILE_ALIGNMENT: u32 = 512;
const SECTION_ALIGNMENT: u32 = 4096;

/// The smallest PE file with one section and room for `room` more.
fn stub(room: usize) -> Vec<u8> {
    let (pe, optional_bytes) = (0x40, 112);
    let header_bytes = (pe + 4 + COFF_BYTES + optional_bytes + (1 + room) * SECTION_BYTES).next_multiple_of(8);
    let mut bytes = vec![0; header_bytes];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(PE_OFFSET_FIELD, &(pe as u32).to_le_bytes());
    put(pe, b"PE\0\0");
    let coff = pe + 4;
    put(coff, &0x8664u16.to_le_bytes());
    put(coff + 2, &1u16.to_le_bytes());
    put(coff + 16, &(optional_bytes as u16).to_le_bytes());
    let optional = coff + COFF_BYTES;
    put(optional, &PE32_PLUS.to_le_bytes());
    put(optional + 32, &SECTION_ALIGNMENT.to_le_bytes());
    put(optional + 36, &FILE_ALIGNMENT.to_le_bytes());
    put(optional + 60, &(header_bytes as u32).to_le_bytes());
    put(optional + 64, &[0xff; 4]);
    let section = optional + optional_bytes;
    put(section, b".text\0\0\0");
    put(section + 8, &0x1234u32.to_le_bytes());
    put(section + 12, &SECTION_ALIGNMENT.to_le_bytes());
    bytes
}

fn image() -> Vec<u8> {
    signed(None, None)
}

fn signed(policy_key: Option<&str>, policy_signatures: Option<&str>) -> Vec<u8> {
    build(&Parts {
        stub: &stub(7),
        os_release: "ID=cairn\n",
        command_line: "quiet",
        release: "6.12",
        initramfs: &[9; 5000],
        kernel: b"kernel",
        policy_key,
        policy_signatures,
    })
    .expect("because the stub has room")
}

#[test]
fn every_part_is_found_again() {
    let image = image();
    let file = object::File::parse(image.as_slice()).expect("because the image is a PE file");
    let content = |name: &str| {
        let found = file.section_by_name(name).unwrap_or_else(|| panic!("because {name} was added"));
        found.data().expect("because its bytes are in the file").to_vec()
    };
    assert_eq!(content(".osrel"), b"ID=cairn\n");
    assert_eq!(content(".cmdline"), b"quiet\0");
    assert_eq!(content(".initrd"), [9; 5000]);
    assert_eq!(section(&image, ".linux"), Some(&b"kernel"[..]));
    assert_eq!(section(&image, ".nothing"), None);
}

#[test]
fn sections_are_aligned_and_do_not_overlap() {
    let image = image();
    let file = object::File::parse(image.as_slice()).expect("because the image is a PE file");
    let mut end = 0;
    for section in file.sections() {
        assert_eq!(section.address() % u64::from(SECTION_ALIGNMENT), 0);
        assert!(section.address() >= end, "{:?} overlaps", section.name());
        end = section.address() + section.size();
    }
    let header = Header::parse(&image).expect("because the image is a PE file");
    let size = u32_at(&image, header.optional + 56).expect("because the header is whole");
    assert_eq!(u64::from(size), end.next_multiple_of(u64::from(SECTION_ALIGNMENT)));
    assert_eq!(u32_at(&image, header.optional + 64), Ok(0), "an outdated check sum stays");
}

#[test]
fn a_stub_without_room_is_refused() {
    let parts = Parts {
        stub: &stub(3),
        os_release: "",
        command_line: "",
        release: "",
        initramfs: &[],
        kernel: &[],
        policy_key: None,
        policy_signatures: None,
    };
    assert_eq!(build(&parts), Err(UkiError::NoRoom { room: 3, wanted: 5 }));
}

#[test]
fn the_policy_key_is_measured_and_what_it_signed_is_not() {
    let measured = |image: &[u8]| init_boot::expected_uki_pcr(image).expect("because it is an image");
    let (key, other) = (signed(Some("key"), None), signed(Some("other"), None));
    let whole = signed(Some("key"), Some("signatures"));
    assert_eq!(section(&whole, ".pcrsig"), Some(&b"signatures"[..]));
    assert_eq!(measured(&whole), measured(&key));
    assert_ne!(measured(&key), measured(&other));
    assert_ne!(measured(&key), measured(&image()));
}

#[test]
fn what_is_no_stub_is_refused() {
    for bad in [&b""[..], b"MZ", b"\x7fELF", &stub(5)[..100]] {
        assert!(matches!(append_sections(bad, &[]), Err(UkiError::Stub(_))));
    }
}

#[test]
fn the_image_for_the_network_has_the_same_parts_and_more_behind_the_initramfs() {
    let whole =
        with_more_initramfs(&stub(7), &signed(Some("key"), Some("{}")), b"medium").expect("because all is there");
    for name in [".osrel", ".cmdline", ".uname", ".linux"] {
        assert_eq!(section(&whole, name), section(&image(), name), "{name}");
    }
    assert_eq!(section(&whole, ".initrd"), Some(&[&[9; 5000][..], b"medium"].concat()[..]));
    assert_eq!((section(&whole, ".pcrpkey"), section(&whole, ".pcrsig")), (None, None), "it opens no volume");

    let odd = build(&Parts {
        stub: &stub(7),
        os_release: "ID=cairn\n",
        command_line: "quiet",
        release: "6.12",
        initramfs: &[9; 5],
        kernel: b"kernel",
        policy_key: None,
        policy_signatures: None,
    });
    let odd = with_more_initramfs(&stub(7), &odd.expect("because the stub has room"), b"070701");
    let odd = odd.expect("because all is there");
    assert_eq!(
        section(&odd, ".initrd"),
        Some(&[&[9; 5][..], &[0; 3], b"070701"].concat()[..]),
        "an archive begins at a multiple of four"
    );
    assert!(with_more_initramfs(&stub(7), &stub(7), b"medium").is_err(), "a stub alone is no image");
}
