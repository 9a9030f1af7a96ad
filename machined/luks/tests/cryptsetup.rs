//! Against cryptsetup itself: it reads and opens what is made here, and what it makes is opened here.

use machined_luks::{FRONT_BYTES, Header, SECTOR_BYTES, Token, VolumeKey};
use serde_json::{Map, Value};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};

const UUID: &str = "0d1e2f30-4152-4363-8475-8697a8b9cadb";
/// Bytes of the data of the volumes here.
const DATA_BYTES: u64 = 8 << 20;

fn run(arguments: &[&str]) -> Output {
    // On Debian in a folder that not everybody's PATH has.
    let program = ["/usr/sbin/cryptsetup", "/sbin/cryptsetup"].into_iter().find(|path| Path::new(path).exists());
    let program = program.expect("because cryptsetup is installed; else: apt-get install cryptsetup-bin");
    Command::new(program).args(arguments).output().expect("because cryptsetup starts")
}

fn cryptsetup(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "cryptsetup {arguments:?}: {said}");
    said
}

fn random(bytes: &mut [u8]) {
    let mut source = std::fs::File::open("/dev/urandom").expect("because every Linux has it");
    source.read_exact(bytes).expect("because it never ends");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("because temporary folders have simple names")
}

fn digits(hex: &str) -> String {
    hex.chars().filter(char::is_ascii_hexdigit).collect()
}

/// The volume's key as cryptsetup has it.
fn dumped_key(volume: &Path, secret: &Path) -> String {
    let said = cryptsetup(&["luksDump", "--batch-mode", "--dump-volume-key", "--key-file", text(secret), text(volume)]);
    let (_, key) = said
        .split_once("MK dump:")
        .or(said.split_once("Volume key dump:"))
        .or(said.split_once(" dump:"))
        .unwrap_or_else(|| panic!("because the key is shown in {said}"));
    digits(key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn cryptsetup_reads_and_opens_what_is_made_here() {
    let folder = tempfile::tempdir().expect("because there is room");
    let [volume, first, second, wrong] = ["volume", "first", "second", "wrong"].map(|name| folder.path().join(name));
    let secrets = [(&first, [7_u8; 32]), (&second, [8; 32]), (&wrong, [9; 32])];
    secrets.iter().for_each(|(path, secret)| std::fs::write(path, secret).expect("because there is room"));

    let key = VolumeKey::generate(&mut random);
    let mut header = Header::new("cairn-state", UUID, DATA_BYTES, SECTOR_BYTES, &key, &mut random);
    let token = Token::new("cairn-test", Map::from_iter([("note".to_owned(), Value::from("text"))]));
    let change = header.add(&key, &[7; 32], token.clone(), &[], &mut random).expect("because there is room");
    let mut front = Header::front(&change);
    let change = header.add(&key, &[8; 32], token, &[], &mut random).expect("because there is room");
    for write in change {
        let at = write.offset as usize;
        front[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    std::fs::write(&volume, &front).expect("because there is room");
    let file = std::fs::File::options().write(true).open(&volume).expect("because it was just made");
    file.set_len(FRONT_BYTES as u64 + DATA_BYTES).expect("because there is room");

    cryptsetup(&["isLuks", "--type", "luks2", text(&volume)]);
    let dump = cryptsetup(&["luksDump", text(&volume)]);
    for part in [UUID, "cairn-state", "aes-xts-plain64", "sector: 4096", "cairn-test", "1048576"] {
        assert!(dump.contains(part), "{part} is missing in {dump}");
    }
    for secret in [&first, &second] {
        cryptsetup(&["open", "--test-passphrase", "--key-file", text(secret), text(&volume)]);
        assert_eq!(dumped_key(&volume, secret), hex(key.bytes()));
    }
    let refused = run(&["open", "--test-passphrase", "--key-file", text(&wrong), text(&volume)]);
    assert!(!refused.status.success(), "a wrong secret opens");
    // cryptsetup changes it, and it is still understood here.
    cryptsetup(&["luksKillSlot", "--batch-mode", text(&volume), "0", "--key-file", text(&second)]);
    let front = std::fs::read(&volume).expect("because it is there");
    let header = Header::parse(&front).expect("because cryptsetup wrote it");
    assert!(header.open(&front, &[7; 32]).is_err(), "the slot was removed");
    assert_eq!(header.open(&front, &[8; 32]).expect("because it is the other secret"), key);
}

#[test]
fn what_cryptsetup_makes_is_opened_here() {
    let folder = tempfile::tempdir().expect("because there is room");
    let (volume, secret) = (folder.path().join("volume"), folder.path().join("secret"));
    std::fs::write(&secret, b"a secret of thirty-two bytes....").expect("because there is room");
    let file = std::fs::File::create(&volume).expect("because there is room");
    file.set_len(32 << 20).expect("because it is sparse");
    let derivation = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256"];
    let cipher = ["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096"];
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", text(&secret), text(&volume)];
    cryptsetup(&[&format[..], &derivation, &cipher].concat());

    let front = std::fs::read(&volume).expect("because it is there");
    let header = Header::parse(&front).expect("because cryptsetup wrote it");
    let key = header.open(&front, b"a secret of thirty-two bytes....").expect("because it is the secret");
    assert_eq!(hex(key.bytes()), dumped_key(&volume, &secret));
    assert_eq!((header.data_bytes(), header.sector_size()), (None, 4096));
    assert!(header.open(&front, b"another").is_err());
}

#[test]
fn a_key_derivation_that_is_not_for_machines_is_refused_by_its_name() {
    let folder = tempfile::tempdir().expect("because there is room");
    let (volume, secret) = (folder.path().join("volume"), folder.path().join("secret"));
    std::fs::write(&secret, b"password").expect("because there is room");
    let file = std::fs::File::create(&volume).expect("because there is room");
    file.set_len(32 << 20).expect("because it is sparse");
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", text(&secret), text(&volume)];
    let cost =
        ["--pbkdf", "argon2id", "--pbkdf-memory", "32", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"];
    cryptsetup(&[&format[..], &cost].concat());
    let front = std::fs::read(&volume).expect("because it is there");
    let refused = Header::parse(&front).expect_err("because machines do not spend memory on random keys").to_string();
    assert!(refused.contains("another key derivation than pbkdf2"), "{refused}");
}
