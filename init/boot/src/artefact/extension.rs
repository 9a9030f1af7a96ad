//! The manifest of a host extension: what it is called, for what it was made, and which folders it fills. Its header is an artefact's.
//!
//! `cairn-image extension` writes it. Where an extension may put files is decided here, for whoever builds one and whoever takes one: it
//! adds programs that are run for set-up of networks and containers, drivers and firmware, and replaces nothing of the image's own.

use std::fmt;
use std::str::FromStr;

use super::manifest::{Lines, lower_hex, name};
use super::version::canonical_number;
use super::{ARTEFACT_MANIFEST_BYTES_MAX, ArtefactError, ImageDigest, Part};
use crate::root_hash::RootHash;
use crate::verity::VERITY_BLOCK_BYTES;

/// The namespace of the SSH signatures over an extension's manifest: one over an image says nothing about an extension.
pub const EXTENSION_NAMESPACE: &str = "cairn.extension.v1";

/// The largest image of an extension, in bytes. A machine keeps [`EXTENSIONS_MAX`] of them on the volume that containers share.
pub const EXTENSION_BYTES_MAX: u64 = 256 << 20;

/// The most extensions of one machine: each is a layer of an overlay, a loop device and a mapping.
pub const EXTENSIONS_MAX: usize = 8;

/// Where the list of modules to load lies in an extension's file system, in the format of [`crate::ModuleList`].
pub const EXTENSION_MODULE_LIST: &str = "/modules.load";

/// The longest version and kernel release, in bytes; Linux's own limit for a release is 64.
const TEXT_BYTES_MAX: usize = 64;

/// A folder that extensions may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtensionFolder {
    /// `/opt/cni/bin`: CNI plugins.
    CniPlugins,
    /// `/usr/lib/cairn/runtimes`: container runtimes and their shims.
    Runtimes,
    /// `/usr/lib/firmware`: what drivers load into devices.
    Firmware,
    /// `/usr/lib/modules`: kernel modules, below the one kernel release that the manifest names.
    Modules,
}

impl ExtensionFolder {
    /// All of them, in the order of their words.
    pub const ALL: [ExtensionFolder; 4] = [Self::CniPlugins, Self::Firmware, Self::Modules, Self::Runtimes];

    /// The word in the manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CniPlugins => "cni-plugins",
            Self::Firmware => "firmware",
            Self::Modules => "modules",
            Self::Runtimes => "runtimes",
        }
    }

    /// Where it is on a machine.
    pub const fn path(self) -> &'static str {
        match self {
            Self::CniPlugins => "/opt/cni/bin",
            Self::Firmware => "/usr/lib/firmware",
            Self::Modules => "/usr/lib/modules",
            Self::Runtimes => "/usr/lib/cairn/runtimes",
        }
    }

    /// The folder in which an absolute path lies; not the folder itself.
    pub fn of(path: &str) -> Option<Self> {
        let inside = |folder: &Self| path.strip_prefix(folder.path()).is_some_and(|rest| rest.starts_with('/'));
        Self::ALL.into_iter().find(inside)
    }
}

/// An extension's name: 1 to 32 lower-case letters, digits and hyphens, a hyphen never first. It is part of paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtensionName(String);

/// Why a text is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an extension's name is 1 to 32 lower-case letters, digits and hyphens, and begins with no hyphen")]
pub struct ExtensionNameError;

impl ExtensionName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExtensionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for ExtensionName {
    type Err = ExtensionNameError;

    fn from_str(text: &str) -> Result<Self, ExtensionNameError> {
        name(text).map(ExtensionName).ok_or(ExtensionNameError)
    }
}

/// SHA-256 of an extension's manifest text: its one name. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtensionDigest(ImageDigest);

/// Why a text is no extension digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an extension digest is sha256: and 64 hex digits in lower case; cairn-image extension inspect shows it")]
pub struct ExtensionDigestError;

impl fmt::Display for ExtensionDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl FromStr for ExtensionDigest {
    type Err = ExtensionDigestError;

    fn from_str(text: &str) -> Result<Self, ExtensionDigestError> {
        text.parse().map(ExtensionDigest).map_err(|_| ExtensionDigestError)
    }
}

/// What an extension is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionManifest {
    /// Its name; the same as in the document that names it.
    pub name: ExtensionName,
    /// Its version, as whoever made it counts.
    pub version: String,
    /// Debian architecture, such as `amd64`.
    pub architecture: String,
    /// The kernel release that its modules are for; `None` when it has none.
    pub kernel: Option<String>,
    /// The folders that it fills, in order, each once; at least one.
    pub folders: Vec<ExtensionFolder>,
    /// The image: file system and hash tree.
    pub image: Part,
    /// Blocks of the file system, before the dm-verity superblock.
    pub data_blocks: u64,
    /// dm-verity root hash of the image.
    pub root_hash: RootHash,
}

impl ExtensionManifest {
    /// The text: what is hashed and signed.
    pub fn render(&self) -> String {
        let Self { name, version, architecture, kernel, folders, image, data_blocks, root_hash } = self;
        let (kernel, bytes, sha256) = (kernel.as_deref().unwrap_or(ANY), image.bytes, image.hex());
        let folders: Vec<&str> = folders.iter().map(|folder| folder.as_str()).collect();
        let folders = folders.join(",");
        format!(
            "name {name}\nversion {version}\narchitecture {architecture}\nkernel {kernel}\nfolders {folders}\n\
             image-bytes {bytes}\nimage-sha256 {sha256}\ndata-blocks {data_blocks}\nroot-hash {root_hash}\n"
        )
    }

    /// The one name of this extension.
    pub fn digest(&self) -> ExtensionDigest {
        ExtensionDigest(ImageDigest::of(&self.render()))
    }

    /// The name of its file: `<name>-<version>.extension`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.extension", self.name, self.version)
    }

    /// Parses a text.
    ///
    /// # Errors
    /// When it is anything but the one way to write a manifest, or a value is beyond its limits.
    pub fn parse(text: &str) -> Result<Self, ArtefactError> {
        if text.len() > ARTEFACT_MANIFEST_BYTES_MAX {
            let (bytes, max) = (text.len(), ARTEFACT_MANIFEST_BYTES_MAX);
            return Err(ArtefactError::TooLong { what: "manifest", bytes, max });
        }
        let block = u64::from(VERITY_BLOCK_BYTES);
        let size = |value: &str| {
            canonical_number(value)
                .filter(|bytes| (1..=EXTENSION_BYTES_MAX).contains(bytes) && bytes.is_multiple_of(block))
        };
        let mut lines = Lines::of(text);
        let read_folders = "some of cni-plugins,firmware,modules,runtimes in this order";
        let manifest = Self {
            name: lines.read("name", "lower-case letters, digits and hyphens", |value| value.parse().ok())?,
            version: lines.read("version", "letters, digits and . + ~ -, 1 to 64", release)?,
            architecture: lines.read("architecture", "lower-case letters, digits and hyphens", name)?,
            kernel: lines.read("kernel", "`any` or a kernel's release", |value| match value {
                ANY => Some(None),
                release_of => release(release_of).map(Some),
            })?,
            folders: lines.read("folders", read_folders, folders)?,
            image: Part {
                bytes: lines.read("image-bytes", "a length within the limits, in whole blocks", size)?,
                sha256: lines.read("image-sha256", "64 hex digits in lower case", lower_hex)?,
            },
            data_blocks: lines
                .read("data-blocks", "a number from 1", |value| canonical_number(value).filter(|blocks| *blocks > 0))?,
            root_hash: lines.read("root-hash", "64 hex digits in lower case", lower_hex).map(RootHash::from_bytes)?,
        };
        lines.end()?;
        // Modules are for one kernel, and who has none is for any.
        if manifest.kernel.is_some() != manifest.folders.contains(&ExtensionFolder::Modules) {
            return Err(ArtefactError::Line {
                line: 4,
                key: "kernel",
                expected: "a kernel's release with modules, else `any`",
            });
        }
        // The superblock lies behind the data, and inside of the image.
        if manifest.data_blocks >= manifest.image.bytes / block {
            return Err(ArtefactError::Line {
                line: 8,
                key: "data-blocks",
                expected: "fewer blocks than the image has",
            });
        }
        Ok(manifest)
    }
}

/// The kernel of an extension without modules.
const ANY: &str = "any";

fn folders(value: &str) -> Option<Vec<ExtensionFolder>> {
    let folder = |word| ExtensionFolder::ALL.into_iter().find(|folder| folder.as_str() == word);
    let found: Vec<ExtensionFolder> = value.split(',').map(folder).collect::<Option<_>>()?;
    found.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()).then_some(found)
}

/// A version or a kernel's release: it is part of file names and paths.
fn release(value: &str) -> Option<String> {
    let letters = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+~-_".contains(&byte));
    let sound = (1..=TEXT_BYTES_MAX).contains(&value.len())
        && letters
        && value.starts_with(|c: char| c.is_ascii_alphanumeric());
    sound.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{ExtensionHeader, Header};
    use super::*;

    const MANIFEST: &str = "\
name cni-plugins
version 1.5.1+deb13
architecture amd64
kernel any
folders cni-plugins,firmware
image-bytes 8192
image-sha256 0202020202020202020202020202020202020202020202020202020202020202
data-blocks 1
root-hash 0303030303030303030303030303030303030303030303030303030303030303
";

    #[test]
    fn a_manifest_is_read_as_it_is_written_and_in_no_other_way() {
        let manifest = ExtensionManifest::parse(MANIFEST).expect("because the text is canonical");
        assert_eq!(manifest.render(), MANIFEST);
        assert_eq!(manifest.file_name(), "cni-plugins-1.5.1+deb13.extension");
        assert_eq!(manifest.digest().to_string().parse(), Ok(manifest.digest()));
        for (from, to) in [
            ("name cni-plugins", "name CNI"),
            ("name cni-plugins", "name ../x"),
            ("version 1.5.1+deb13", "version ../1"),
            ("version 1.5.1+deb13", "version "),
            ("kernel any", "kernel 6.12/../x"),
            ("kernel any", "kernel 6.12.117+deb13-cloud-amd64"),
            ("folders cni-plugins,firmware", "folders firmware,cni-plugins"),
            ("folders cni-plugins,firmware", "folders cni-plugins,cni-plugins"),
            ("folders cni-plugins,firmware", "folders "),
            ("folders cni-plugins,firmware", "folders usr-bin"),
            ("folders cni-plugins,firmware", "folders modules"),
            ("image-bytes 8192", "image-bytes 8191"),
            ("image-bytes 8192", "image-bytes 08192"),
            ("image-bytes 8192", "image-bytes 1099511627776"),
            ("image-bytes 8192\n", ""),
            ("data-blocks 1", "data-blocks 0"),
            ("data-blocks 1", "data-blocks 2"),
            ("data-blocks 1", "data-blocks 18446744073709551616"),
            ("architecture amd64", "architecture amd64 "),
        ] {
            let text = MANIFEST.replace(from, to);
            assert_ne!(text, MANIFEST);
            assert!(ExtensionManifest::parse(&text).is_err(), "{to:?} was taken");
        }
        assert_eq!(ExtensionManifest::parse(&format!("{MANIFEST}x")), Err(ArtefactError::Trailing));
        let modules = MANIFEST.replace("kernel any", "kernel 6.12.117+deb13-cloud-amd64");
        let modules = modules.replace("cni-plugins,firmware", "firmware,modules");
        assert!(ExtensionManifest::parse(&modules).is_ok(), "modules name their kernel");
    }

    #[test]
    fn an_extension_is_no_image_and_an_image_no_extension() {
        let manifest = ExtensionManifest::parse(MANIFEST).expect("because the text is canonical");
        let bytes = Header::new(manifest).encode().expect("because its values are within the limits");
        assert_eq!(ExtensionHeader::parse(&bytes).map(|header| header.manifest.render()), Ok(MANIFEST.to_owned()));
        assert_eq!(super::super::ArtefactHeader::parse(&bytes), Err(ArtefactError::Magic { wanted: "CAIRNART" }));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(ExtensionHeader::parse(&damaged).is_err(), "byte {at} may be changed");
        }
    }

    #[test]
    fn a_path_lies_in_a_folder_and_not_beside_it() {
        assert_eq!(ExtensionFolder::of("/opt/cni/bin/bridge"), Some(ExtensionFolder::CniPlugins));
        assert_eq!(ExtensionFolder::of("/usr/lib/firmware/a/b.bin"), Some(ExtensionFolder::Firmware));
        for outside in
            ["/opt/cni/bin", "/opt/cni/bin2/x", "/usr/bin/runc", "/etc/passwd", "opt/cni/bin/x", "/usr/lib/cairn/x"]
        {
            assert_eq!(ExtensionFolder::of(outside), None, "{outside}");
        }
    }
}
