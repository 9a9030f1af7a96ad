//! What an installer medium says of itself, and how it is told from the disks beside it.
//!
//! The image builder writes the description as a file on the medium's ESP, machined reads it there before it installs. Stage one
//! compares the partition that firmware started the boot loader from with the partition tables that it finds.
//!
//! ```text
//! esp 272629760
//! root 268435456
//! state 1073741824
//! version 0.1.0          (from here on the artefact's manifest)
//! ...
//! ```

use thiserror::Error;

use crate::artefact::{ARTEFACT_MANIFEST_BYTES_MAX, ArtefactError, ArtefactManifest};
use crate::guid::Guid;
use crate::layout::PartitionSizes;

/// Where the description lies on the medium's ESP.
pub const MEDIUM_DESCRIPTION: &str = "/cairn/medium";

/// Where stage one finds a whole medium that came with the initramfs: a machine that started from the network.
pub const MEDIUM_IN_INITRAMFS: &str = "/medium.iso";

/// The longest description, in bytes: the manifest's limit and three lines.
pub const MEDIUM_DESCRIPTION_BYTES_MAX: usize = ARTEFACT_MANIFEST_BYTES_MAX + 128;

/// The variable by which systemd-boot and its stub say which partition they were started from (Boot Loader Interface,
/// systemd.io/BOOT_LOADER_INTERFACE). A CD has none: it has no partitions for firmware.
pub const LOADER_DEVICE_PART_UUID: &str = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The length of that variable in efivarfs, in bytes: attributes, 36 characters of UTF-16 and their NUL.
pub const LOADER_DEVICE_PART_UUID_BYTES: usize = 4 + 37 * 2;

/// What a medium carries and how the disk is to be divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Sizes of the partitions to make.
    pub sizes: PartitionSizes,
    /// What UKI and root of the medium must be.
    pub manifest: ArtefactManifest,
}

/// Why a text is no description of a medium.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MediumError {
    /// A line of its own.
    #[error("the description of the medium has no line `{key} <bytes>` where one belongs")]
    Size {
        /// The line's first word.
        key: &'static str,
    },
    /// The manifest behind them.
    #[error("the description of the medium holds no manifest")]
    Manifest(#[from] ArtefactError),
}

impl Medium {
    /// The text.
    pub fn render(&self) -> String {
        let PartitionSizes { esp, root, state } = self.sizes;
        format!("esp {esp}\nroot {root}\nstate {state}\n{}", self.manifest.render())
    }

    /// Parses a text.
    ///
    /// # Errors
    /// When it is anything else than what [`Medium::render`] writes.
    pub fn parse(text: &str) -> Result<Self, MediumError> {
        let (esp, rest) = size("esp", text)?;
        let (root, rest) = size("root", rest)?;
        let (state, rest) = size("state", rest)?;
        Ok(Self { sizes: PartitionSizes { esp, root, state }, manifest: ArtefactManifest::parse(rest)? })
    }
}

/// Sizes are whole MiB, and small enough that a sum of them cannot overflow.
fn size<'a>(key: &'static str, text: &'a str) -> Result<(u64, &'a str), MediumError> {
    let found = text.split_once('\n').and_then(|(line, rest)| {
        let bytes: u64 = line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok()?;
        let sound = bytes > 0 && bytes.is_multiple_of(1 << 20) && bytes <= 1 << 40;
        sound.then_some((bytes, rest))
    });
    found.ok_or(MediumError::Size { key })
}

/// The partition that firmware started the boot loader from, from the variable's bytes in efivarfs.
pub fn loader_partition(variable: &[u8]) -> Option<Guid> {
    let text = variable.get(4..LOADER_DEVICE_PART_UUID_BYTES)?;
    let units: Vec<u16> = text.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).ok()?.strip_suffix('\0')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "version 0.1.0\nnumber 1000\nlevel 1\nprofile metal\narchitecture amd64\nbuilt 2026-11-21T21:11:10Z\n\
        uki-bytes 4096\nuki-sha256 1111111111111111111111111111111111111111111111111111111111111111\n\
        root-bytes 8192\nroot-sha256 2222222222222222222222222222222222222222222222222222222222222222\n\
        root-hash 3333333333333333333333333333333333333333333333333333333333333333\n";

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let text = format!("esp 272629760\nroot 268435456\nstate 1073741824\n{MANIFEST}");
        let medium = Medium::parse(&text).expect("because it is well formed");
        assert_eq!((medium.sizes.esp, medium.manifest.root.bytes), (260 << 20, 8192));
        assert_eq!(medium.render(), text);
    }

    #[test]
    fn anything_else_is_refused() {
        for (lines, key) in [
            ("", "esp"),
            ("esp 0\nroot 1048576\nstate 1048576\n", "esp"),
            ("esp 1048577\nroot 1048576\nstate 1048576\n", "esp"),
            ("esp 1048576\nroot 18446744073708503040\nstate 1048576\n", "root"),
            ("esp 1048576\nstate 1048576\nroot 1048576\n", "root"),
            ("esp 1048576\nroot 1048576\nstate -1\n", "state"),
        ] {
            assert_eq!(Medium::parse(&format!("{lines}{MANIFEST}")), Err(MediumError::Size { key }), "{lines}");
        }
        let cut = Medium::parse("esp 1048576\nroot 1048576\nstate 1048576\nversion 0.1.0\n");
        assert!(matches!(cut, Err(MediumError::Manifest(_))));
    }

    #[test]
    fn the_loaders_partition_is_read_as_systemd_boot_writes_it() {
        let text = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B\0";
        let mut variable = vec![6, 0, 0, 0];
        variable.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(variable.len(), LOADER_DEVICE_PART_UUID_BYTES);
        let expected: Guid = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b".parse().expect("because it is a GUID");
        assert_eq!(loader_partition(&variable), Some(expected));
        for length in 0..variable.len() {
            assert_eq!(loader_partition(&variable[..length]), None, "{length} bytes");
        }
        variable[4] = b'x';
        assert_eq!(loader_partition(&variable), None);
    }
}
