//! The manifest of an artefact: `key value` lines in a fixed order, with exactly one way to write each.
//!
//! Its SHA-256 is the image digest: what a repository names and what image keys sign.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::version::canonical_number;
use super::{ARTEFACT_MANIFEST_BYTES_MAX, ArtefactError, ImageVersion};
use crate::root_hash::{RootHash, decode_hex};
use crate::verity::VERITY_BLOCK_BYTES;

/// The largest UKI, in bytes: both slots' must fit on the EFI system partition.
const UKI_BYTES_MAX: u64 = 512 << 20;
/// The largest root image, in bytes.
const ROOT_BYTES_MAX: u64 = 8 << 30;
/// The longest name of a profile or an architecture, in bytes: they are part of file names.
const NAME_BYTES_MAX: usize = 32;

/// The release number of an image: what `floor image=N` counts. Higher is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageNumber(pub u64);

impl fmt::Display for ImageNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// SHA-256 of a manifest text: the one name of an image. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest([u8; 32]);

/// Why a text is no image digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an image digest is sha256: and 64 hex digits in lower case; cairn-image inspect shows it")]
pub struct ImageDigestError;

impl ImageDigest {
    /// The digest of a manifest text.
    pub fn of(manifest: &str) -> Self {
        Self(Sha256::digest(manifest).into())
    }

    /// Takes the digest's bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("sha256:")?;
        write_hex(formatter, &self.0)
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ImageDigest {
    type Err = ImageDigestError;

    fn from_str(text: &str) -> Result<Self, ImageDigestError> {
        text.strip_prefix("sha256:").and_then(lower_hex).map(Self).ok_or(ImageDigestError)
    }
}

/// One of the two files that an artefact carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

impl Part {
    /// Measures a whole file in memory.
    pub fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: Sha256::digest(content).into() }
    }

    /// The SHA-256 in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        Hex(&self.sha256).to_string()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Part({} bytes, {})", self.bytes, self.hex())
    }
}

/// What an artefact carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactManifest {
    /// Version of the image.
    pub version: ImageVersion,
    /// Its release number.
    pub number: ImageNumber,
    /// The level of the cluster's formats and protocols that it speaks.
    pub level: u32,
    /// Name of the profile that it was built from.
    pub profile: String,
    /// Debian architecture, such as `amd64`.
    pub architecture: String,
    /// The lock file's time, whole seconds: the same whenever it is built.
    pub built: Timestamp,
    /// The unified kernel image.
    pub uki: Part,
    /// The root image: file system and hash tree.
    pub root: Part,
    /// dm-verity root hash of the root image; the UKI's command line names it too.
    pub root_hash: RootHash,
}

impl ArtefactManifest {
    /// The text: what is hashed and signed.
    pub fn render(&self) -> String {
        let Self { version, number, level, profile, architecture, built, uki, root, root_hash } = self;
        let (uki_bytes, uki_sha256, root_bytes, root_sha256) = (uki.bytes, uki.hex(), root.bytes, root.hex());
        format!(
            "version {version}\nnumber {number}\nlevel {level}\nprofile {profile}\narchitecture {architecture}\nbuilt {built}\n\
             uki-bytes {uki_bytes}\nuki-sha256 {uki_sha256}\nroot-bytes {root_bytes}\nroot-sha256 {root_sha256}\n\
             root-hash {root_hash}\n"
        )
    }

    /// The one name of this image.
    pub fn digest(&self) -> ImageDigest {
        ImageDigest::of(&self.render())
    }

    /// The name of the artefact's file: `cairn-<version>-<profile>.artefact`.
    pub fn file_name(&self) -> String {
        format!("cairn-{}-{}.artefact", self.version, self.profile)
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
        let size = |max: u64| move |value: &str| canonical_number(value).filter(|bytes| (1..=max).contains(bytes));
        let block = u64::from(VERITY_BLOCK_BYTES);
        let whole_blocks = |value: &str| size(ROOT_BYTES_MAX)(value).filter(|bytes| bytes.is_multiple_of(block));
        let mut lines = Lines::of(text);
        let manifest = Self {
            version: lines.read("version", "a version such as 1.2.3", |value| value.parse().ok())?,
            number: ImageNumber(lines.read("number", "a number", canonical_number)?),
            level: lines.read("level", "a number of 32 bits", |value| canonical_number(value)?.try_into().ok())?,
            profile: lines.read("profile", "lower-case letters, digits and hyphens", name)?,
            architecture: lines.read("architecture", "lower-case letters, digits and hyphens", name)?,
            built: lines.read("built", "a time such as 2026-11-21T20:00:00Z", whole_seconds)?,
            uki: Part {
                bytes: lines.read("uki-bytes", "a length within the limits", size(UKI_BYTES_MAX))?,
                sha256: lines.read("uki-sha256", "64 hex digits in lower case", lower_hex)?,
            },
            root: Part {
                bytes: lines.read("root-bytes", "a length within the limits, in whole blocks", whole_blocks)?,
                sha256: lines.read("root-sha256", "64 hex digits in lower case", lower_hex)?,
            },
            root_hash: lines.read("root-hash", "64 hex digits in lower case", lower_hex).map(RootHash::from_bytes)?,
        };
        lines.end()?;
        Ok(manifest)
    }
}

/// What is left of a text.
pub(super) struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    pub(super) const fn of(text: &'a str) -> Self {
        Lines { rest: text, line: 0 }
    }

    /// Refuses what follows the last line.
    pub(super) const fn end(&self) -> Result<(), ArtefactError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ArtefactError::Trailing) }
    }

    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, ArtefactError> {
        self.line += 1;
        let value = self.rest.split_once('\n').and_then(|(line, rest)| {
            let value = line.strip_prefix(key)?.strip_prefix(' ')?;
            self.rest = rest;
            parse(value)
        });
        value.ok_or(ArtefactError::Line { line: self.line, key, expected })
    }
}

pub(super) fn name(value: &str) -> Option<String> {
    let letters = value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let sound = (1..=NAME_BYTES_MAX).contains(&value.len()) && letters && !value.starts_with('-');
    sound.then(|| value.to_owned())
}

fn whole_seconds(value: &str) -> Option<Timestamp> {
    let at: Timestamp = value.parse().ok()?;
    (at.subsec_nanosecond() == 0 && at.to_string() == value).then_some(at)
}

pub(super) fn lower_hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let lower = !digits.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && decode_hex(digits.as_bytes(), &mut bytes).is_some()).then_some(bytes)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, self.0)
    }
}

fn write_hex(formatter: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
}
