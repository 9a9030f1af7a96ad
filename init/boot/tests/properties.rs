//! Properties of everything that is read from disks, sockets and the command line: what is written is read back, and no
//! bytes panic.

use init_boot::artefact::{ArtefactHeader, ArtefactManifest, ImageDigest, ImageNumber, ImageVersion, Part};
use init_boot::{
    COMMAND_LINE_BYTES_MAX, CommandLine, Guid, MetaKind, MetaRecord, ModuleList, Parameter, RootHash, Superblock,
    Table, ToInit, ToMachined, tpm,
};
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

/// A disk of 256 MiB, in sectors.
const SECTORS: u64 = 1 << 19;

fn guid() -> impl Strategy<Value = Guid> {
    any::<[u8; 16]>().prop_map(|mut bytes| {
        // All zeros would mean an unused entry.
        bytes[0] |= 1;
        Guid::from_text_order(bytes)
    })
}

fn parameter() -> impl Strategy<Value = Parameter> {
    // Names that are ours would be read as ours.
    let value = proptest::option::of("[ -!#-~]{0,20}");
    ("[a-z][a-z0-9_.-]{0,8}", value)
        .prop_filter("a name of ours", |(name, _)| name != "console")
        .prop_map(|(name, value)| Parameter { name, value })
}

fn version() -> impl Strategy<Value = ImageVersion> {
    let text = "(0|[1-9][0-9]{0,4})\\.(0|[1-9][0-9]{0,4})\\.(0|[1-9][0-9]{0,4})(-[a-z][a-z0-9.-]{0,6}[a-z0-9])?";
    text.prop_filter_map("an empty identifier", |text| text.parse().ok())
}

fn part(bytes: impl Strategy<Value = u64>) -> impl Strategy<Value = Part> {
    (bytes, any::<[u8; 32]>()).prop_map(|(bytes, sha256)| Part { bytes, sha256 })
}

fn manifest() -> impl Strategy<Value = ArtefactManifest> {
    let numbers = (any::<u64>(), any::<u32>(), 0..253_402_300_799_i64);
    let names = ("[a-z0-9][a-z0-9-]{0,31}", "[a-z0-9]{1,32}");
    let parts = (part(1..=512_u64 << 20), part((1..=2_u64 << 20).prop_map(|blocks| blocks * 4096)));
    (version(), numbers, names, parts, any::<[u8; 32]>()).prop_map(|(version, numbers, names, parts, root_hash)| {
        ArtefactManifest {
            version,
            number: ImageNumber(numbers.0),
            level: numbers.1,
            profile: names.0,
            architecture: names.1,
            built: Timestamp::from_second(numbers.2).expect("because the year has four digits"),
            uki: parts.0,
            root: parts.1,
            root_hash: RootHash::from_bytes(root_hash),
        }
    })
}

/// What `ssh-keygen` writes, with any content.
fn armour() -> impl Strategy<Value = String> {
    vec("[A-Za-z0-9+/]{70}", 1..8)
        .prop_map(|lines| format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n")))
}

proptest! {
    #[test]
    fn artefacts_are_read_as_written(manifest in manifest(), signatures in vec(armour(), 0..=16)) {
        let mut header = ArtefactHeader::new(manifest.clone());
        for signature in &signatures {
            header.add_signature(signature).expect("because it is an armour");
        }
        let mut file = header.encode().expect("because the values are within their limits");
        prop_assert_eq!(ArtefactHeader::length(&file), Ok(file.len()));
        prop_assert_eq!(header.layout().uki_offset, file.len() as u64);
        prop_assert_eq!(ArtefactManifest::parse(&manifest.render()), Ok(manifest));
        // What follows the header is none of the parser's business.
        file.extend_from_slice(b"MZ and so on");
        prop_assert_eq!(ArtefactHeader::parse(&file), Ok(header));
    }

    #[test]
    fn a_changed_bit_of_an_artefact_header_is_noticed(manifest in manifest(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut file = ArtefactHeader::new(manifest).encode().expect("because the values are within their limits");
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(ArtefactHeader::parse(&file).is_err());
    }

    #[test]
    fn a_manifest_that_is_read_is_written_the_same(manifest in manifest(), at in any::<prop::sample::Index>(), byte in 0_u8..128) {
        let mut text = manifest.render().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let text = String::from_utf8(text).expect("because all of it is ASCII");
        if let Ok(other) = ArtefactManifest::parse(&text) {
            prop_assert_eq!(other.render(), text);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..2048)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = CommandLine::parse(&text);
        let _ = ModuleList::parse(&text);
        let _ = text.parse::<Guid>();
        let _ = text.parse::<RootHash>();
        let _ = Superblock::parse(&bytes);
        let _ = ArtefactHeader::length(&bytes);
        let _ = ArtefactHeader::parse(&bytes);
        let _ = ArtefactManifest::parse(&text);
        let _ = text.parse::<ImageVersion>();
        let _ = text.parse::<ImageDigest>();
        let _ = ToMachined::parse(&bytes);
        let _ = ToInit::parse(&bytes);
        for kind in [MetaKind::Seed, MetaKind::IdentityKey] {
            let _ = MetaRecord::parse(kind, &bytes);
        }
        let _ = Table::parse(&bytes, &bytes, bytes.len() as u64);
    }

    #[test]
    fn no_answer_of_a_tpm_panics(body in vec(any::<u8>(), 0..512), sessions in any::<bool>(), code in 0_u32..3) {
        // A header that fits, so that what follows it is looked at; code 0 is success.
        let tag: u16 = if sessions { 0x8002 } else { 0x8001 };
        let length = u32::try_from(10 + body.len()).expect("because it is short");
        let head = [&tag.to_be_bytes()[..], &length.to_be_bytes(), &(code / 2 * 0x18b).to_be_bytes()].concat();
        for answer in [[head, body.clone()].concat(), body] {
            let _ = tpm::nv_read_public(tpm::COUNTER_INDEX).decode(&answer);
            let _ = tpm::nv_read_counter(tpm::COUNTER_INDEX).decode(&answer);
            let _ = tpm::nv_increment(tpm::COUNTER_INDEX).decode(&answer);
            let _ = tpm::pcr_read(&[tpm::Pcr::UKI]).decode(&answer);
            let _ = tpm::create_attestation_key().decode(&answer);
            let _ = tpm::quote(tpm::KeyHandle(1), &[1], &[tpm::Pcr::UKI]).decode(&answer);
            let _ = tpm::Quote::parse(&answer);
            let _ = tpm::AttestationPublic::parse(&answer);
        }
    }

    #[test]
    fn command_lines_are_read_as_written(
        root in proptest::option::of(any::<[u8; 32]>()),
        blocks in proptest::option::of(1_u64..),
        consoles in vec("[a-zA-Z0-9,]{1,12}", 0..3),
        extra in vec(parameter(), 0..8),
    ) {
        let line = CommandLine { root: root.map(RootHash::from_bytes), root_blocks: blocks, consoles, extra };
        let text = line.render().expect("because every parameter is writable");
        prop_assert!(text.len() <= COMMAND_LINE_BYTES_MAX);
        prop_assert_eq!(CommandLine::parse(&text), Ok(line));
    }

    #[test]
    fn tables_are_read_as_written_from_either_copy(
        disk in any::<[u8; 16]>(),
        partitions in vec((guid(), guid(), "[A-Za-z -]{0,36}", 1_u64..8192), 0..12),
    ) {
        let mut table = Table::new(Guid::from_text_order(disk), SECTORS).expect("because 256 MiB hold a table");
        for (kind, guid, label, sectors) in &partitions {
            table.append(*kind, *guid, label, *sectors).expect("because all together are smaller than the disk");
        }
        let encoded = table.encode();
        let primary = Table::parse(&encoded.primary, &[], SECTORS);
        prop_assert_eq!(primary.as_ref(), Ok(&table));
        let backup = Table::parse(&[], &encoded.backup, SECTORS);
        prop_assert_eq!(backup.as_ref(), Ok(&table));
    }

    #[test]
    fn a_changed_bit_never_gives_another_table(index in 512_usize..17408, bit in 0_u8..8) {
        let mut table = Table::new(Guid::from_text_order([7; 16]), SECTORS).expect("because 256 MiB hold a table");
        table
            .append(Guid::from_text_order([8; 16]), Guid::from_text_order([9; 16]), "STATE", 4096)
            .expect("because the disk has room");
        let mut primary = table.encode().primary;
        primary[index] ^= 1 << bit;
        // Behind the header's 92 bytes its sector is padding, which nothing reads.
        match Table::parse(&primary, &[], SECTORS) {
            Ok(parsed) => prop_assert!(parsed == table && (512 + 92..1024).contains(&index)),
            Err(_) => prop_assert!(!(512 + 92..1024).contains(&index)),
        }
    }

    #[test]
    fn records_and_superblocks_are_read_as_written(
        bytes in vec(any::<u8>(), 0..4096),
        salt in vec(any::<u8>(), 0..=256),
        data_blocks in 1_u64..1 << 50,
        uuid in any::<[u8; 16]>(),
    ) {
        let record = MetaRecord { kind: MetaKind::IdentityKey, bytes };
        let encoded = record.encode().expect("because it is short");
        prop_assert_eq!(MetaRecord::parse(MetaKind::IdentityKey, &encoded), Ok(Some(record)));
        let superblock = Superblock { uuid, data_blocks, salt };
        let encoded = superblock.encode().expect("because it is well formed");
        prop_assert_eq!(Superblock::parse(&encoded), Ok(superblock));
    }
}
