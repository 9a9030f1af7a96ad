//! Tests of the root tree on packages made by hand.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::lock::Pin;
use crate::packages::Unpacked;
use crate::progress::Silent;

const PROFILE: &str = r#"
profile "small" {
    suite "trixie"
    architecture "amd64"
    kernel "linux-image-cloud-amd64"
    packages "runc" "ca-certificates"
    root {
        files "/usr/sbin/runc" "/etc/runc.conf"
        binary "machined" path="/usr/bin/machined"
        binary "pause" path="/usr/libexec/cairn/pause" optional=#true
        link "/sbin" to="usr/sbin"
        directories "/proc"
        overlay "root"
        certificates "/etc/ssl/certs/ca-certificates.crt"
    }
    modules { stage-one "ext4"; }
    compression "zstd" block="128KiB"
    disk total="1GiB" esp="64MiB" root="64MiB" state="64MiB"
}
"#;

/// Packages, a kernel, a folder of binaries and a profile in a temporary folder.
struct Bench {
    folder: TempDir,
    packages: UnpackedSet,
    catalogue: Catalogue,
    profile: Profile,
}

impl Bench {
    fn new(profile: &str) -> Bench {
        let folder = tempfile::tempdir().expect("because temporary folders can be made");
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("because every path has a folder"))
                .expect("because the folder is ours");
            fs::write(path, text).expect("because the folder is ours");
        };
        put("trees/runc/usr/sbin/runc", "#!runc");
        put("trees/runc/usr/sbin/not-wanted", "#!");
        put("trees/runc/etc/runc.conf", "a = 1\n");
        put("trees/certificates/usr/share/ca-certificates/mozilla/B.crt", "second");
        put("trees/certificates/usr/share/ca-certificates/mozilla/A.crt", "first\n");
        put("kernel/usr/lib/modules/6.12/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
        put("kernel/usr/lib/modules/6.12/kernel/README", "");
        put("binaries/machined", "static");
        put("profiles/root/etc/passwd", "root:x:0:0:root:/:/usr/bin/false\n");
        put("images/hello.tar", "archive");
        let unpacked = |name: &str| Unpacked {
            pin: Pin { package: name.to_owned(), version: "1".to_owned(), sha256: "a".repeat(64), size: 1 },
            folder: folder.path().join("trees").join(name),
        };
        let packages = UnpackedSet::new(vec![unpacked("runc"), unpacked("certificates")]);
        let catalogue = Catalogue::read(&folder.path().join("kernel")).expect("because the kernel was just made");
        let profile = Profile::parse("small.kdl", profile).expect("because the profile is sound");
        Bench { folder, packages, catalogue, profile }
    }

    fn assemble(&self) -> Result<Tree, RootError> {
        let path = |name: &str| self.folder.path().join(name);
        let request = Request {
            profile: &self.profile,
            profiles: &path("profiles"),
            packages: &self.packages,
            catalogue: &self.catalogue,
            binaries: &path("binaries"),
            preload: &[path("images/hello.tar")],
            os_release: "ID=cairn\n",
        };
        assemble(&request, &Silent)
    }
}

#[test]
fn exactly_what_the_profile_names_is_in_the_image() {
    let tree = Bench::new(PROFILE).assemble().expect("because everything is there");
    let files: Vec<&str> =
        tree.iter().filter(|(_, node)| !matches!(node, Node::Folder)).map(|(path, _)| path).collect();
    assert_eq!(
        files,
        [
            "/etc/os-release",
            "/etc/passwd",
            "/etc/runc.conf",
            "/etc/ssl/certs/ca-certificates.crt",
            "/sbin",
            "/usr/bin/machined",
            "/usr/lib/cairn/encryption.load",
            "/usr/lib/cairn/extension.load",
            "/usr/lib/cairn/modules.load",
            "/usr/sbin/runc",
            "/usr/share/cairn/images/hello.tar",
        ]
    );
    assert_eq!(tree.get("/proc"), Some(&Node::Folder));
}

#[test]
fn programs_may_be_executed_and_other_files_not() {
    let tree = Bench::new(PROFILE).assemble().expect("because everything is there");
    let mode = |path: &str| match tree.get(path) {
        Some(Node::File { mode, .. }) => *mode,
        other => panic!("because {path} is a file, not {other:?}"),
    };
    assert_eq!(mode("/usr/sbin/runc"), 0o755);
    assert_eq!(mode("/etc/runc.conf"), 0o644);
}

#[test]
fn certificates_are_one_bundle_in_order() {
    let tree = Bench::new(PROFILE).assemble().expect("because everything is there");
    let Some(Node::File { content, .. }) = tree.get("/etc/ssl/certs/ca-certificates.crt") else {
        panic!("because the profile asks for certificates");
    };
    assert_eq!(content.read().expect("because it was made here"), b"first\nsecond\n");
}

#[test]
fn a_file_that_no_package_has_is_named() {
    let profile = PROFILE.replace("/etc/runc.conf", "/etc/crun.conf");
    let error = Bench::new(&profile).assemble().expect_err("because there is no crun.conf");
    assert!(error.to_string().contains("/etc/crun.conf"), "{error}");
}

#[test]
fn a_program_that_was_not_built_says_how_to_build_it() {
    let profile = PROFILE.replace("binary \"machined\"", "binary \"gitsync\"");
    let error = Bench::new(&profile).assemble().expect_err("because gitsync was not built");
    assert!(error.to_string().contains("cargo build --release"), "{error}");
}

#[test]
fn a_module_that_the_kernel_lacks_is_named() {
    let profile = PROFILE.replace("stage-one \"ext4\"", "stage-one \"ext5\"");
    let error = Bench::new(&profile).assemble().expect_err("because there is no ext5");
    assert!(error.to_string().contains("no module ext5"), "{error}");
}

#[test]
fn an_image_holds_no_interpreter_script_or_set_user_id_program() {
    let file = |bytes: &[u8], mode| Node::File { content: Content::Bytes(bytes.to_vec()), mode };
    let one = |path: &str, node: Node| {
        let mut tree = Tree::default();
        tree.insert(path, node).expect("because nothing else is there");
        harden(&tree).map_err(|error| error.to_string())
    };
    assert_eq!(one("/usr/bin/runc", file(b"\x7fELF", 0o755)), Ok(()));
    for (path, node, what) in [
        ("/usr/bin/sh", file(b"\x7fELF", 0o755), "an interpreter"),
        ("/bin/sh", Node::Link("busybox-static".to_owned()), "an interpreter"),
        ("/usr/bin/setup", file(b"#!/bin/true\n", 0o755), "a script"),
        ("/usr/bin/runc", file(b"\x7fELF", 0o4755), "somebody else"),
        ("/usr/bin/runc", file(b"\x7fELF", 0o757), "writable"),
    ] {
        let said = one(path, node).expect_err("because no image may hold it");
        assert!(said.contains(what), "{path}: {said}");
    }
    let mut tree = Tree::default();
    for index in 0..=EXECUTABLES_MAX {
        assert!(harden(&tree).is_ok(), "{index} executables are refused");
        tree.insert(&format!("/usr/bin/{index}"), file(b"", 0o755)).expect("because nothing else is there");
    }
    assert!(harden(&tree).is_err());
}
