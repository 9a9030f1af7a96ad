//! What may be in an extension, that the same files give the same bytes, and that a changed byte or a stranger's signature is noticed.

use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::artefact::{Judged, judge, read_extension, sign};

const KERNEL: &str = "6.12.117+deb13-cloud-amd64";

struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        Bench(tempfile::tempdir().expect("because temporary folders can be made"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, path: &str, bytes: &[u8], mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("because it lies in a folder")).expect("because the folder is ours");
        fs::write(&path, bytes).expect("because the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("because the file is ours");
    }

    fn module(&self, path: &str, kernel: &str) {
        let mut bytes = b"\x7fELF and more\0vermagic=".to_vec();
        bytes.extend_from_slice(format!("{kernel} SMP preempt mod_unload \0").as_bytes());
        bytes.extend_from_slice(b"~Module signature appended~\n");
        self.file(path, &bytes, 0o644);
    }

    fn collect(&self, kernel: Option<&str>) -> Result<Collected, Vec<String>> {
        match collect(&self.path("root"), kernel) {
            Ok(collected) => Ok(collected),
            Err(ExtensionError::Content { mistakes, .. }) => Err(mistakes.iter().map(ToString::to_string).collect()),
            Err(error) => panic!("the folder can be read: {error}"),
        }
    }

    /// An extension with a file system that is none, since packing is mksquashfs' part.
    fn extension(&self) -> PathBuf {
        let name =
            Name { name: "cni".parse().expect("because it is a name"), version: "1.5.1".to_owned(), kernel: None };
        let path = self.path("cni.extension");
        write(&name, vec![ExtensionFolder::CniPlugins], vec![7; 10_000], &path).expect("because the folder is ours");
        path
    }

    fn key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
        assert!(command.status().expect("because OpenSSH is installed").success());
        path
    }
}

fn armour(key: &Path, namespace: &str, text: &str) -> String {
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    let path = folder.path().join("manifest");
    fs::write(&path, text).expect("because the folder is ours");
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "sign", "-q", "-n", namespace, "-f"]).arg(key).arg(&path);
    assert!(command.status().expect("because OpenSSH is installed").success());
    fs::read_to_string(folder.path().join("manifest.sig")).expect("because ssh-keygen wrote it")
}

#[test]
fn files_in_the_folders_of_extensions_are_taken() {
    let bench = Bench::new();
    bench.file("root/opt/cni/bin/bridge", b"\x7fELF", 0o755);
    bench.file("root/opt/cni/bin/README", b"text", 0o644);
    bench.file("root/usr/lib/firmware/card/a.bin", b"firmware", 0o600);
    bench.module(&format!("root/usr/lib/modules/{KERNEL}/extra/card.ko"), KERNEL);
    symlink("a.bin", bench.path("root/usr/lib/firmware/card/b.bin")).expect("because the folder is ours");
    let collected = bench.collect(Some(KERNEL)).expect("because all of it may be there");
    let folders = [ExtensionFolder::CniPlugins, ExtensionFolder::Firmware, ExtensionFolder::Modules];
    assert_eq!(collected.folders, folders);
    let list = collected.tree.get("/modules.load").expect("because there are modules");
    let Node::File { content, .. } = list else { panic!("the list is a file: {list:?}") };
    let list = content.read().expect("because it is in memory");
    assert_eq!(list, format!("/usr/lib/modules/{KERNEL}/extra/card.ko\n").as_bytes());
    let mode = |path: &str| match collected.tree.get(path) {
        Some(Node::File { mode, .. }) => *mode,
        other => panic!("{path} is a file: {other:?}"),
    };
    assert_eq!((mode("/opt/cni/bin/bridge"), mode("/usr/lib/firmware/card/a.bin")), (0o755, 0o644));
}

#[test]
fn every_mistake_of_a_folder_is_named_at_once() {
    let bench = Bench::new();
    bench.file("root/etc/passwd", b"root", 0o644);
    bench.file("root/usr/bin/runc", b"\x7fELF", 0o755);
    bench.file("root/opt/cni/bin/script", b"#!/bin/sh\n", 0o755);
    bench.file("root/opt/cni/bin/setuid", b"\x7fELF", 0o4755);
    bench.file("root/usr/lib/firmware/run.bin", b"x", 0o755);
    bench.module(&format!("root/usr/lib/modules/{KERNEL}/a.ko"), "6.1.0-9-amd64");
    bench.module("root/usr/lib/modules/6.1.0-9-amd64/b.ko", "6.1.0-9-amd64");
    bench.file(&format!("root/usr/lib/modules/{KERNEL}/modules.dep"), b"", 0o644);
    bench.file(&format!("root/usr/lib/modules/{KERNEL}/none.ko"), b"\x7fELF", 0o644);
    let unsigned = format!("\x7fELF\0vermagic={KERNEL} SMP\0");
    bench.file(&format!("root/usr/lib/modules/{KERNEL}/unsigned.ko"), unsigned.as_bytes(), 0o644);
    bench.file("root/opt/cni/bin/a name", b"text", 0o644);
    for (name, target) in [("out", "../../../etc/passwd"), ("absolute", "/etc/passwd")] {
        symlink(target, bench.path(&format!("root/opt/cni/bin/{name}"))).expect("because the folder is ours");
    }
    let found = bench.collect(Some(KERNEL)).expect_err("because of all that");
    for expected in [
        "/etc/passwd: extensions fill only /opt/cni/bin, /usr/lib/firmware, /usr/lib/modules, /usr/lib/cairn/runtimes"
            .to_owned(),
        "/usr/bin/runc: extensions fill only".to_owned(),
        "/opt/cni/bin/script: it is executable and no ELF program".to_owned(),
        "/opt/cni/bin/setuid: setuid and setgid programs are not taken".to_owned(),
        "/opt/cni/bin/out: the link leads to ../../../etc/passwd".to_owned(),
        "/opt/cni/bin/absolute: the link leads to /etc/passwd".to_owned(),
        "/usr/lib/firmware/run.bin: firmware is not executable".to_owned(),
        format!(
            "/usr/lib/modules/{KERNEL}/a.ko: the module is for kernel 6.1.0-9-amd64, and the extension for {KERNEL}"
        ),
        format!("/usr/lib/modules/6.1.0-9-amd64/b.ko: modules for this kernel lie below /usr/lib/modules/{KERNEL}/"),
        format!("/usr/lib/modules/{KERNEL}/modules.dep: only modules, *.ko or *.ko.xz"),
        format!("/usr/lib/modules/{KERNEL}/unsigned.ko: the module is not signed"),
        "/opt/cni/bin: the name ".to_owned(),
        format!("/usr/lib/modules/{KERNEL}/none.ko: this is no kernel module"),
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(&expected)), "missing {expected:?} in {found:#?}");
    }
    assert_eq!(found.len(), 13, "{found:#?}");
}

#[test]
fn modules_need_a_kernel_and_a_kernel_needs_modules() {
    let bench = Bench::new();
    bench.module(&format!("root/usr/lib/modules/{KERNEL}/a.ko"), KERNEL);
    assert!(bench.collect(None).expect_err("because no kernel is named")[0].contains("--kernel"));
    let bench = Bench::new();
    bench.file("root/opt/cni/bin/bridge", b"\x7fELF", 0o755);
    assert!(bench.collect(Some(KERNEL)).expect_err("because there are no modules")[0].contains("leave --kernel away"));
    let bench = Bench::new();
    fs::create_dir_all(bench.path("root/opt/cni/bin")).expect("because the folder is ours");
    assert!(bench.collect(None).expect_err("because it is empty")[0].contains("there is no file"));
}

#[test]
fn the_same_files_give_the_same_bytes_whatever_their_times_and_rights() {
    let stream = |mode| {
        let bench = Bench::new();
        bench.file("root/opt/cni/bin/bridge", b"\x7fELF", mode);
        bench.file("root/opt/cni/bin/LICENSE", b"text", mode & 0o666);
        let collected = bench.collect(None).expect("because both may be there");
        let mut bytes = Vec::new();
        collected.tree.write_tar(&mut bytes).expect("because a Vec takes all it is given");
        bytes
    };
    assert_eq!(stream(0o755), stream(0o700));
    let (one, other) = (Bench::new(), Bench::new());
    let read = |bench: &Bench| fs::read(bench.extension()).expect("because it was written");
    assert_eq!(read(&one), read(&other));
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_so_is_one_too_many() {
    let bench = Bench::new();
    let path = bench.extension();
    let good = fs::read(&path).expect("because it was written");
    read_extension(&path).expect("because nothing was changed");
    for at in (0..good.len()).step_by(97).chain([0, good.len() - 1]) {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("because the folder is ours");
        assert!(read_extension(&path).is_err(), "byte {at} may be changed");
    }
    for wrong in [&good[..good.len() - 1], &[good.as_slice(), &[0]].concat()] {
        fs::write(&path, wrong).expect("because the folder is ours");
        assert!(read_extension(&path).is_err(), "{} bytes were taken", wrong.len());
    }
}

#[test]
fn only_a_signature_for_extensions_by_an_allowed_key_counts() {
    let bench = Bench::new();
    let (path, key) = (bench.extension(), bench.key("key"));
    let allowed = crate::artefact::allowed_keys(&bench.path("key.pub")).expect("because ssh-keygen wrote it");
    let header = read_extension(&path).expect("because it is whole");
    assert!(judge(&header, &allowed).is_empty(), "nobody signed it");
    let make = |key: PathBuf, namespace: &'static str| {
        move |text: &str| Ok::<_, ArtefactFileError>(armour(&key, namespace, text))
    };
    let signed = sign(&path, read_extension, make(key.clone(), "cairn.image.v1")).expect("because it has room");
    assert!(matches!(judge(&signed, &allowed)[..], [Judged::Worthless(_)]), "a signature for images");
    sign(&path, read_extension, make(bench.key("other"), "cairn.extension.v1")).expect("because it has room");
    let signed = sign(&path, read_extension, make(key, "cairn.extension.v1")).expect("because it has room");
    assert!(matches!(judge(&signed, &allowed)[..], [Judged::Worthless(_), Judged::Stranger(_), Judged::Allowed(_)]));
    assert_eq!(read_extension(&path).expect("because it is whole").manifest, header.manifest, "its digest stays");
}
