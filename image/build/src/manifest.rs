//! What an image is made of: written beside it as manifest.json, for people, tests and benchmarks.
//!
//! Filled by `pipeline`, read by `cairn-image inspect` and whoever wants sizes and digests without opening the image.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

/// Name of the file beside the image.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the image.
    pub version: String,
    /// Its release number, which floors count.
    pub number: u64,
    /// SHA-256 of the artefact's manifest, as `sha256:` and hexadecimal: the one name of this image.
    pub image_digest: String,
    /// File of the artefact, beside this one.
    pub artefact: String,
    /// Name of the profile.
    pub profile: String,
    /// Kernel release.
    pub kernel: String,
    /// dm-verity root hash, hexadecimal.
    pub root_hash: String,
    /// Kernel command line.
    pub command_line: String,
    /// Bytes of the unified kernel image.
    pub uki_bytes: u64,
    /// Bytes of its initramfs, compressed.
    pub initramfs_bytes: u64,
    /// Bytes of the root image: file system and hash tree.
    pub root_bytes: u64,
    /// Bytes of all files of the root before compression.
    pub root_files_bytes: u64,
    /// SHA-256 of the unified kernel image.
    pub uki_sha256: String,
    /// SHA-256 of the root image.
    pub root_sha256: String,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Whether a seed is baked in.
    pub seed: bool,
    /// Whether boot loader and UKI are signed for Secure Boot.
    pub secure_boot: bool,
    /// Fingerprint of the policy key that signed it, when there is one: SHA-256 in hexadecimal.
    #[serde(default)]
    pub policy_key: Option<String>,
    /// Files of the root that the kernel would execute.
    pub executables: usize,
    /// Packages of which files may be in the image.
    pub packages: Vec<PackageLine>,
    /// The files of the root.
    pub files: Vec<FileLine>,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageLine {
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the .deb file.
    pub sha256: String,
}

/// One file of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// Absolute path.
    pub path: String,
    /// Bytes before compression.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Whether the kernel would execute it.
    pub executable: bool,
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is none.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is damaged, or of another version.
    #[error("{path} is not a manifest of this version; build the image again")]
    Json {
        /// Its path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Manifest {
    /// Reads the manifest beside an image.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(folder: &Path) -> Result<Manifest, ManifestError> {
        let path = folder.join(MANIFEST_FILE);
        let text = files::read_text(&path)?;
        serde_json::from_str(&text).map_err(|source| ManifestError::Json { path: path.display().to_string(), source })
    }

    /// Writes it beside an image.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), FileError> {
        let mut text = serde_json::to_string_pretty(self).expect("because a manifest holds strings and numbers only");
        text.push('\n');
        files::write(&folder.join(MANIFEST_FILE), text.as_bytes())
    }
}
