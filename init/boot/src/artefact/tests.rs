//! What a header must be, by the format's description: each rule broken once, and every byte once.

use super::*;

const MANIFEST: &str = "\
version 1.2.3-rc.1
number 1002003
level 1
profile cloud
architecture amd64
built 2026-11-01T00:00:00Z
uki-bytes 5
uki-sha256 0101010101010101010101010101010101010101010101010101010101010101
root-bytes 8192
root-sha256 0202020202020202020202020202020202020202020202020202020202020202
root-hash 0303030303030303030303030303030303030303030303030303030303030303
";

fn armour(letter: char) -> String {
    let line = letter.to_string().repeat(70);
    format!("{ARMOUR_BEGIN}{line}\n{line}\nAA==\n{ARMOUR_END}")
}

fn header(signatures: usize) -> ArtefactHeader {
    let manifest = ArtefactManifest::parse(MANIFEST).expect("because the text is canonical");
    let mut header = ArtefactHeader::new(manifest);
    for letter in ('A'..='Z').take(signatures) {
        header.add_signature(&armour(letter)).expect("because it is an armour");
    }
    header
}

fn encoded(signatures: usize) -> Vec<u8> {
    header(signatures).encode().expect("because its values are within the limits")
}

/// Writes what encode() would refuse to: any two texts, with a right digest.
fn forged(manifest: &str, signatures: &str, padding: u8) -> Vec<u8> {
    let mut bytes = ArtefactManifest::MAGIC.as_bytes().to_vec();
    for number in [FORMAT, manifest.len() as u32, signatures.len() as u32, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.resize(FIXED_BYTES, 0);
    bytes.extend_from_slice(manifest.as_bytes());
    bytes.extend_from_slice(signatures.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(ARTEFACT_ALIGN_BYTES), padding);
    let digest = header_digest(&bytes);
    bytes[DIGEST].copy_from_slice(&digest);
    bytes
}

#[test]
fn a_header_has_the_bytes_that_its_format_says() {
    let bytes = encoded(1);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(&bytes[..8], b"CAIRNART");
    // The armour: two lines of 70 letters and one of 4, and the lines around them.
    let signature = (30 + 2 * 71 + 5 + 28_u32).to_le_bytes();
    let manifest = (MANIFEST.len() as u32).to_le_bytes();
    assert_eq!(bytes[8..24], [[1, 0, 0, 0], manifest, signature, [0; 4]].concat());
    assert_eq!(&bytes[56..56 + MANIFEST.len()], MANIFEST.as_bytes());
    assert_eq!(bytes, forged(MANIFEST, &armour('A'), 0));
}

#[test]
fn the_image_digest_is_that_of_the_manifest_and_no_signature_changes_it() {
    // What sha256sum says of the text above.
    let expected = "cb1a7215970898ec51599e8a17cd682c4e34c61c26984c71f3cd13e4169591af".to_owned();
    assert_eq!(header(0).manifest.digest().to_string(), format!("sha256:{expected}"));
    assert_eq!(header(3).manifest.digest(), header(0).manifest.digest());
    let digest: ImageDigest = format!("sha256:{expected}").parse().expect("because it is written as it must be");
    assert_eq!(digest, header(0).manifest.digest());
    for wrong in [expected.clone(), format!("sha256:{}", expected.to_uppercase()), format!("sha256:{}", &expected[1..])]
    {
        assert!(wrong.parse::<ImageDigest>().is_err(), "{wrong} was taken");
    }
}

#[test]
fn uki_and_root_lie_behind_the_header_on_whole_pages() {
    let expected = ArtefactLayout { uki_offset: 4096, root_offset: 8192, file_bytes: 16384 };
    assert_eq!(header(0).layout(), expected);
    for signatures in 0..=ARTEFACT_SIGNATURES_MAX {
        let bytes = encoded(signatures);
        assert_eq!(header(signatures).layout().uki_offset, bytes.len() as u64);
        assert_eq!(ArtefactHeader::length(&bytes[..ARTEFACT_ALIGN_BYTES]), Ok(bytes.len()));
    }
}

#[test]
fn each_changed_byte_is_noticed() {
    let whole = encoded(2);
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 1;
        assert!(ArtefactHeader::parse(&damaged).is_err(), "byte {index} may change unnoticed");
    }
}

#[test]
fn a_header_cut_anywhere_is_refused() {
    let whole = encoded(2);
    for length in 0..whole.len() {
        assert!(matches!(ArtefactHeader::parse(&whole[..length]), Err(ArtefactError::CutOff { .. })), "{length}");
    }
}

#[test]
fn a_manifest_has_one_way_to_be_written() {
    for (from, to) in [
        ("version 1.2.3-rc.1\nnumber 1002003\n", "number 1002003\nversion 1.2.3-rc.1\n"),
        ("number 1002003", "number 01002003"),
        ("number 1002003", "number +1002003"),
        ("number 1002003", "number 18446744073709551616"),
        ("level 1\n", "level 4294967296\n"),
        ("level 1\n", "level 1 \n"),
        ("level 1\n", "level  1\n"),
        ("level 1\n", "level 1\r\n"),
        ("level 1\n", "level 1\nlevel 1\n"),
        ("level 1\n", ""),
        ("profile cloud", "profile Cloud"),
        ("profile cloud", "profile ../cloud"),
        ("profile cloud", "profile "),
        ("profile cloud", "profile abcdefghijklmnopqrstuvwxyzabcdefg"),
        ("built 2026-11-01T00:00:00Z", "built 2026-11-01T00:00:00+00:00"),
        ("built 2026-11-01T00:00:00Z", "built 2026-11-01T00:00:00.5Z"),
        ("built 2026-11-01T00:00:00Z", "built 2026-11-01 00:00:00Z"),
        ("uki-bytes 5", "uki-bytes 0"),
        ("uki-bytes 5", "uki-bytes 536870913"),
        ("root-bytes 8192", "root-bytes 8191"),
        ("root-bytes 8192", "root-bytes 8589938688"),
        ("uki-sha256 01", "uki-sha256 1"),
        ("root-hash 03", "root-hash AA"),
        ("03030303\n", "03030303"),
        ("03030303\n", "03030303\n\n"),
        ("03030303\n", "03030303\nsigned yes\n"),
    ] {
        assert!(MANIFEST.contains(from), "{from} is not in the manifest");
        let changed = MANIFEST.replacen(from, to, 1);
        assert!(ArtefactManifest::parse(&changed).is_err(), "{to:?} was taken");
        assert!(ArtefactHeader::parse(&forged(&changed, "", 0)).is_err(), "{to:?} was taken in a header");
    }
}

#[test]
fn a_mistake_is_named_with_its_line() {
    let error = ArtefactManifest::parse(&MANIFEST.replace("level 1", "level one"));
    let expected = ArtefactError::Line { line: 3, key: "level", expected: "a number of 32 bits" };
    assert_eq!(error, Err(expected));
}

#[test]
fn only_whole_armours_are_signatures() {
    let one = armour('A');
    let wrong = [
        "text\n".to_owned(),
        format!("\n{one}"),
        format!("{one}\n"),
        format!("{one}{}", &one[..one.len() - 1]),
        one.clone(), // the control
        one.replace("AA==", "A A="),
        one.replace("AA==\n", "\n"),
        one.replace("AA==", &"A".repeat(ARMOUR_LINE_BYTES_MAX + 1)),
        one.replace("AA==\n", &format!("{}\n", "A".repeat(70)).repeat(30)),
        one.replace('\n', "\r\n"),
        format!("{one}{one}"),
    ];
    for (index, text) in wrong.iter().enumerate() {
        let parsed = ArtefactHeader::parse(&forged(MANIFEST, text, 0));
        assert_eq!(parsed.is_ok(), index == 4, "case {index}: {parsed:?}");
    }
}

#[test]
fn at_most_sixteen_signatures_are_carried_and_each_once() {
    let mut full = header(ARTEFACT_SIGNATURES_MAX);
    assert_eq!(full.add_signature(&armour('z')), Err(ArtefactError::TooManySignatures));
    assert_eq!(full.add_signature(&armour('A')), Ok(()));
    assert_eq!(full.signatures().len(), ARTEFACT_SIGNATURES_MAX);
    let texts: String = ('A'..='Q').map(armour).collect();
    assert_eq!(ArtefactHeader::parse(&forged(MANIFEST, &texts, 0)), Err(ArtefactError::TooManySignatures));
    assert!(header(0).add_signature("").is_err());
    assert!(header(0).add_signature(&format!("{}{}", armour('A'), armour('B'))).is_err());
}

#[test]
fn padding_and_lengths_are_looked_at() {
    assert_eq!(ArtefactHeader::parse(&forged(MANIFEST, "", 1)), Err(ArtefactError::Padding));
    for at in [12, 16] {
        let mut long = encoded(0);
        long[at..at + 4].fill(0xff);
        assert!(matches!(ArtefactHeader::length(&long), Err(ArtefactError::TooLong { .. })));
    }
    let mut newer = encoded(0);
    newer[8] = 2;
    assert_eq!(ArtefactHeader::length(&newer), Err(ArtefactError::Format { format: 2 }));
    assert_eq!(ArtefactHeader::length(&[0; 4096]), Err(ArtefactError::Magic { wanted: "CAIRNART" }));
}

#[test]
fn what_cannot_be_read_is_never_written() {
    let mut wrong = header(0);
    wrong.manifest.profile = "a b".to_owned();
    assert!(wrong.encode().is_err());
}
