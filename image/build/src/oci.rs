//! Container images without a registry: one static program as an OCI image layout in a tar file.
//!
//! Called by `cairn-image oci`. The archive names its image in the annotations that containerd and others read, so an importer
//! needs no further word. Layers are not compressed: the root file system that carries them is. Format: OCI image-spec, image-layout.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::digest::sha256_hex;
use crate::tree::{Conflict, Content, Node, Tree};

/// Registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Folder of that registry for names of one part.
const DEFAULT_FOLDER: &str = "library";
/// Tag of names that have none.
const DEFAULT_TAG: &str = "latest";

/// The full name of an image: registry, repository and tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    repository: String,
    tag: String,
}

/// Not the name of an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not the name of an image; expected something like demo/hello:1, in lower case")]
pub struct ImageNameError(String);

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<ImageName, ImageNameError> {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            Some(_) | None => (text, DEFAULT_TAG),
        };
        let allowed = |part: &str, more: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
        };
        let sound = path.split('/').all(|part| allowed(part, ".-_:")) && allowed(&tag.to_ascii_lowercase(), ".-_");
        if !sound {
            return Err(ImageNameError(text.to_owned()));
        }
        let first = path.split('/').next().unwrap_or_default();
        let has_registry = path.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let repository = match (has_registry, path.contains('/')) {
            (true, _) => path.to_owned(),
            (false, true) => format!("{DEFAULT_REGISTRY}/{path}"),
            (false, false) => format!("{DEFAULT_REGISTRY}/{DEFAULT_FOLDER}/{path}"),
        };
        Ok(ImageName { repository, tag: tag.to_owned() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.repository, self.tag)
    }
}

/// A program to pack.
#[derive(Debug)]
pub struct Program {
    /// The ELF file; static, because nothing else is in the image.
    pub bytes: Vec<u8>,
    /// Its absolute path in the image.
    pub entrypoint: String,
    /// Name of the image.
    pub name: ImageName,
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The program would not start.
    #[error(
        "the program is linked dynamically and would find no libraries; build it with -C target-feature=+crt-static"
    )]
    Dynamic,
    /// Not an ELF file at all.
    #[error("the program is not a sound ELF file")]
    Damaged(#[source] object::Error),
    /// The path cannot be used.
    #[error("{0} is not an absolute path of a file")]
    Entrypoint(String),
    /// Two things for one path.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Writing into memory failed.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

/// Packs a program; the same program gives the same bytes.
///
/// # Errors
/// See [`OciError`].
pub fn archive(program: &Program) -> Result<Vec<u8>, OciError> {
    let needs = crate::elf::needs(&program.bytes).map_err(OciError::Damaged)?;
    if needs.interpreter.is_some() || !needs.libraries.is_empty() {
        return Err(OciError::Dynamic);
    }
    if !program.entrypoint.starts_with('/') || program.entrypoint.ends_with('/') {
        return Err(OciError::Entrypoint(program.entrypoint.clone()));
    }
    let mut files = Tree::default();
    files.insert(&program.entrypoint, Node::File { content: Content::Bytes(program.bytes.clone()), mode: 0o755 })?;
    let layer = tar(&files)?;
    let layer_digest = sha256_hex(&layer);
    let config = bytes(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": [program.entrypoint], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
    }));
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }));
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    entry["annotations"] = json!({
        "io.containerd.image.name": program.name.to_string(),
        "org.opencontainers.image.ref.name": program.name.tag,
    });
    let index = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }));

    let mut layout = Tree::default();
    let mut put = |path: String, content: Vec<u8>| {
        layout.insert(&path, Node::File { content: Content::Bytes(content), mode: 0o644 })
    };
    put("/oci-layout".to_owned(), bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    put("/index.json".to_owned(), index)?;
    for blob in [config, manifest, layer] {
        put(format!("/blobs/sha256/{}", sha256_hex(&blob)), blob)?;
    }
    Ok(tar(&layout)?)
}

fn tar(tree: &Tree) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tree.write_tar(&mut bytes)?;
    Ok(bytes)
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", sha256_hex(content)), "size": content.len() })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn program() -> Program {
        Program {
            bytes: b"a static program".to_vec(),
            entrypoint: "/hello".to_owned(),
            name: "demo/hello:1".parse().expect("because the name is sound"),
        }
    }

    fn file(archive: &[u8], path: &str) -> Vec<u8> {
        let mut tar = tar::Archive::new(archive);
        for entry in tar.entries().expect("because the archive is whole") {
            let mut entry = entry.expect("because the archive is whole");
            if entry.path().expect("because names are text").to_string_lossy() == path {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("because the archive is whole");
                return bytes;
            }
        }
        panic!("because the archive has {path}");
    }

    fn parsed(archive: &[u8], path: &str) -> Value {
        serde_json::from_slice(&file(archive, path)).expect("because the file is JSON")
    }

    fn blob(archive: &[u8], descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().expect("because a descriptor has a digest");
        let hexadecimal = digest.strip_prefix("sha256:").expect("because it is SHA-256");
        let bytes = file(archive, &format!("blobs/sha256/{hexadecimal}"));
        assert_eq!(sha256_hex(&bytes), hexadecimal);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn the_index_leads_to_the_program() {
        let archive = archive(&program()).expect("because the program is static");
        let index = parsed(&archive, "index.json");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/demo/hello:1");
        let manifest: Value =
            serde_json::from_slice(&blob(&archive, &index["manifests"][0])).expect("because a manifest is JSON");
        let config: Value =
            serde_json::from_slice(&blob(&archive, &manifest["config"])).expect("because a config is JSON");
        assert_eq!(config["config"]["Entrypoint"], json!(["/hello"]));
        let layer = blob(&archive, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256_hex(&layer)));
        assert_eq!(file(&layer, "hello"), b"a static program");
    }

    #[test]
    fn names_are_completed_as_everywhere() {
        let full = |text: &str| text.parse::<ImageName>().expect("because the name is sound").to_string();
        assert_eq!(full("hello"), "docker.io/library/hello:latest");
        assert_eq!(full("demo/hello:1"), "docker.io/demo/hello:1");
        assert_eq!(full("registry.test:5000/hello"), "registry.test:5000/hello:latest");
        assert_eq!(full("localhost/hello:V2"), "localhost/hello:V2");
        assert!("Demo/hello".parse::<ImageName>().is_err());
        assert!("".parse::<ImageName>().is_err());
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let shell = std::fs::read("/bin/sh").expect("because every Debian host has a shell");
        let error = archive(&Program { bytes: shell, ..program() }).expect_err("because the shell is dynamic");
        assert!(matches!(error, OciError::Dynamic));
    }
}
