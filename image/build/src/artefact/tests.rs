//! Artefact files against real ssh-keygen, and against every way to damage one.

use std::process::{Command, Stdio};

use init_boot::RootHash;
use init_boot::artefact::{ArtefactManifest, CLUSTER_LEVEL, IMAGE_NAMESPACE, ImageNumber};
use tempfile::TempDir;

use super::*;

const UKI: &[u8] = b"MZ, as if it were a kernel";

struct Bench {
    folder: TempDir,
    root: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("because temporary folders can be made");
        Bench { folder, root: vec![7; 8192] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn artefact(&self) -> PathBuf {
        let manifest = ArtefactManifest {
            version: "0.2.0".parse().expect("because it is a version"),
            number: ImageNumber(2000),
            level: CLUSTER_LEVEL,
            profile: "cloud".to_owned(),
            architecture: "amd64".to_owned(),
            built: "2026-11-21T20:00:00Z".parse().expect("because it is a time"),
            uki: Part::of(UKI),
            root: Part::of(&self.root),
            root_hash: RootHash::from_bytes([3; 32]),
        };
        let path = self.path(&manifest.file_name());
        write(&path, &ArtefactHeader::new(manifest), UKI, &self.root).expect("because the folder is ours");
        path
    }

    /// A key made by ssh-keygen; returns its private file.
    fn key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
        assert!(command.status().expect("because OpenSSH is installed").success());
        path
    }

    fn public(&self, name: &str) -> String {
        files::read_text(&self.path(&format!("{name}.pub"))).expect("because ssh-keygen wrote it")
    }

    fn allowed(&self, text: &str) -> Result<Vec<Fingerprint>, ArtefactFileError> {
        let path = self.path("allowed");
        files::write(&path, text.as_bytes()).expect("because the folder is ours");
        allowed_keys(&path)
    }
}

fn ssh_sign(key: &Path, namespace: &str, message: &str) -> Result<String, ArtefactFileError> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "sign", "-q", "-n", namespace, "-f"]).arg(key);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("because OpenSSH is installed");
    let mut input = child.stdin.take().expect("because it was piped");
    input.write_all(message.as_bytes()).expect("because ssh-keygen reads its input");
    drop(input);
    let output = child.wait_with_output().expect("because it was started");
    assert!(output.status.success());
    Ok(String::from_utf8(output.stdout).expect("because an armour is text"))
}

#[test]
fn a_signature_by_ssh_keygen_is_judged_by_its_key() {
    let bench = Bench::new();
    let (artefact, key) = (bench.artefact(), bench.key("ada"));
    bench.key("eve");
    let unsigned = read(&artefact).expect("because it was just written");
    let signed =
        sign(&artefact, read, |manifest| ssh_sign(&key, IMAGE_NAMESPACE, manifest)).expect("because it is whole");
    assert_eq!(read(&artefact).expect("because it was just signed"), signed);
    assert_eq!(signed.manifest.digest(), unsigned.manifest.digest());

    let ada = bench.allowed(&format!("# image keys\n\n{}", bench.public("ada"))).expect("because it is a key");
    let eve = bench.allowed(&bench.public("eve")).expect("because it is a key");
    assert!(matches!(judge(&signed, &ada).as_slice(), [Judged::Allowed(found)] if *found == ada[0]));
    assert!(matches!(judge(&signed, &eve).as_slice(), [Judged::Stranger(found)] if *found == ada[0]));
    assert!(judge(&unsigned, &ada).is_empty());
}

#[test]
fn a_signature_for_another_purpose_or_manifest_is_worth_nothing() {
    let bench = Bench::new();
    let (artefact, key) = (bench.artefact(), bench.key("ada"));
    let ada = bench.allowed(&bench.public("ada")).expect("because it is a key");
    sign(&artefact, read, |manifest| ssh_sign(&key, "git", manifest)).expect("because it is an armour");
    let signed = sign(&artefact, read, |manifest| ssh_sign(&key, IMAGE_NAMESPACE, &format!("{manifest}\n")));
    let judged = judge(&signed.expect("because it is an armour"), &ada);
    let [Judged::Worthless(purpose), Judged::Worthless(other)] = judged.as_slice() else {
        panic!("judged as {judged:?}");
    };
    assert!(purpose.to_string().contains("\"git\""), "{purpose}");
    assert!(matches!(other, SignatureError::Mismatch(_)), "{other}");
}

#[test]
fn ssh_keygen_verifies_what_an_artefact_carries() {
    let bench = Bench::new();
    let (artefact, key) = (bench.artefact(), bench.key("ada"));
    let signed =
        sign(&artefact, read, |manifest| ssh_sign(&key, IMAGE_NAMESPACE, manifest)).expect("because it is whole");
    let (signers, signature) = (bench.path("signers"), bench.path("signature"));
    let line = format!("ada namespaces=\"{IMAGE_NAMESPACE}\" {}", bench.public("ada"));
    files::write(&signers, line.as_bytes()).expect("because the folder is ours");
    files::write(&signature, signed.signatures()[0].as_bytes()).expect("because the folder is ours");
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-Y", "verify", "-q", "-I", "ada", "-n", IMAGE_NAMESPACE, "-f"])
        .arg(signers)
        .arg("-s")
        .arg(signature);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("because OpenSSH is installed");
    let mut input = child.stdin.take().expect("because it was piped");
    input.write_all(signed.manifest.render().as_bytes()).expect("because ssh-keygen reads its input");
    drop(input);
    assert!(child.wait().expect("because it was started").success());
}

#[test]
fn so_many_signatures_that_the_header_grows_leave_the_content_as_it_was() {
    let bench = Bench::new();
    let artefact = bench.artefact();
    for index in 0..ARTEFACT_SIGNATURES {
        let key = bench.key(&format!("key{index}"));
        sign(&artefact, read, |manifest| ssh_sign(&key, IMAGE_NAMESPACE, manifest)).expect("because there is room");
    }
    let header = read(&artefact).expect("because only signatures were added");
    assert_eq!(header.signatures().len(), ARTEFACT_SIGNATURES);
    assert!(header.layout().uki_offset > ARTEFACT_ALIGN_BYTES as u64);
}

/// Enough for a second page: an ed25519 armour has some 300 bytes.
const ARTEFACT_SIGNATURES: usize = 13;

#[test]
fn each_damaged_place_of_the_content_is_named() {
    let bench = Bench::new();
    let artefact = bench.artefact();
    let whole = files::read(&artefact).expect("because it was just written");
    for (at, expected) in [
        (4096, "UKI"),
        (4096 + UKI.len(), "space between"),
        (8191, "space between"),
        (8192, "root image"),
        (whole.len() - 1, "root image"),
    ] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        files::write(&artefact, &damaged).expect("because the folder is ours");
        let error = read(&artefact).expect_err("because a byte is another");
        assert!(error.to_string().contains(expected), "byte {at}: {error}");
        assert!(sign(&artefact, read, |_| Err::<String, _>(never())).is_err());
    }
}

/// A damaged artefact is refused before anybody is asked to sign.
fn never() -> ArtefactFileError {
    panic!("a damaged artefact was handed to the signer")
}

#[test]
fn a_longer_or_shorter_file_is_refused() {
    let bench = Bench::new();
    let artefact = bench.artefact();
    let whole = files::read(&artefact).expect("because it was just written");
    for bytes in [[&whole[..], &[0]].concat(), whole[..whole.len() - 1].to_vec()] {
        files::write(&artefact, &bytes).expect("because the folder is ours");
        assert!(matches!(read(&artefact), Err(ArtefactFileError::Length { .. })));
    }
    for length in [0, 7, 4095] {
        files::write(&artefact, &whole[..length]).expect("because the folder is ours");
        assert!(matches!(read(&artefact), Err(ArtefactFileError::Header { .. })));
    }
}

#[test]
fn a_file_of_keys_holds_keys() {
    let bench = Bench::new();
    bench.key("ada");
    let error = bench.allowed(&format!("{}nobody\n", bench.public("ada"))).expect_err("because one line is no key");
    assert!(error.to_string().contains("allowed:2:"), "{error}");
    assert!(matches!(bench.allowed("# none\n"), Err(ArtefactFileError::Keys { count: 0, .. })));
}
