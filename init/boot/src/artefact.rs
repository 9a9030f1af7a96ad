//! The image artefact: one file that carries a UKI and its root image, and a manifest that names both by digest.
//!
//! `cairn-image build` encodes the header, machined parses it before it writes a slot, `cairn-image` verifies and describes
//! it. A parsed header is well formed and nothing more: whoever installs must also find the image digest or a signature
//! acceptable, hash what follows the header, and compare it with the manifest.
//!
//! ```text
//! magic 8 | format u32 | manifest length u32 | signatures length u32 | zero u32 | SHA-256 of all of the header but this field 32
//! manifest text | signatures text | zeros up to a multiple of 4096
//! UKI | zeros up to a multiple of 4096 | root image                                      (integers little-endian)
//! ```
//!
//! An extension ([`ExtensionManifest`]) has the same header with a magic of its own, and one image behind it.
//!
//! Signatures are over the manifest text alone, so one can be added without changing what the others signed.

mod error;
mod extension;
mod manifest;
mod version;

use sha2::{Digest as _, Sha256};

pub use error::ArtefactError;
pub use extension::{
    EXTENSION_BYTES_MAX, EXTENSION_MODULE_LIST, EXTENSION_NAMESPACE, EXTENSIONS_MAX, ExtensionDigest,
    ExtensionDigestError, ExtensionFolder, ExtensionManifest, ExtensionName, ExtensionNameError,
};
pub use manifest::{ArtefactManifest, ImageDigest, ImageNumber, Part};
pub use version::{ImageVersion, ImageVersionError};

/// The longest header, in bytes: what a reader must be ready to keep before anything is proven.
pub const ARTEFACT_HEADER_BYTES_MAX: usize = 64 * 1024;
/// The alignment of UKI and root image in the file, in bytes.
pub const ARTEFACT_ALIGN_BYTES: usize = 4096;
/// The longest manifest text, in bytes: ten lines take a tenth of it.
pub const ARTEFACT_MANIFEST_BYTES_MAX: usize = 4096;
/// The most signatures that an artefact carries; a release has a handful of signers.
pub const ARTEFACT_SIGNATURES_MAX: usize = 16;
/// The longest armoured signature, in bytes: an ed25519 one has 300, a hardware key's 450.
pub const ARTEFACT_SIGNATURE_BYTES_MAX: usize = 2048;
/// The newest level of the cluster's formats and protocols that this release speaks; mixed releases share a cluster at the lower one.
/// 2 has leases of the store.
pub const CLUSTER_LEVEL: u32 = 2;
/// The namespace of the SSH signatures over the manifest text.
pub const IMAGE_NAMESPACE: &str = "cairn.image.v1";

const FORMAT: u32 = 1;
/// Where the digest stands; it covers all other bytes of the header.
const DIGEST: std::ops::Range<usize> = 24..56;
/// What stands before the manifest text.
const FIXED_BYTES: usize = DIGEST.end;
const ARMOUR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const ARMOUR_END: &str = "-----END SSH SIGNATURE-----\n";
/// The longest line of base64 inside of an armour.
const ARMOUR_LINE_BYTES_MAX: usize = 76;

/// A manifest that a header may carry.
pub trait Manifest: Sized {
    /// What the file begins with.
    const MAGIC: &'static str;
    /// The namespace of the signatures over it.
    const NAMESPACE: &'static str;
    /// The text: what is hashed and signed.
    fn text(&self) -> String;
    /// Reads a text.
    ///
    /// # Errors
    /// When it is anything but the one way to write a manifest.
    fn read(text: &str) -> Result<Self, ArtefactError>;
    /// How many bytes follow a header of this length.
    fn content_bytes(&self, header_bytes: u64) -> u64;
}

impl Manifest for ArtefactManifest {
    const MAGIC: &'static str = "CAIRNART";
    const NAMESPACE: &'static str = IMAGE_NAMESPACE;

    fn text(&self) -> String {
        self.render()
    }

    fn read(text: &str) -> Result<Self, ArtefactError> {
        Self::parse(text)
    }

    fn content_bytes(&self, header_bytes: u64) -> u64 {
        // Both sizes are limited to a few gigabytes by the manifest's parser.
        (header_bytes + self.uki.bytes).next_multiple_of(ARTEFACT_ALIGN_BYTES as u64) - header_bytes + self.root.bytes
    }
}

impl Manifest for ExtensionManifest {
    const MAGIC: &'static str = "CAIRNEXT";
    const NAMESPACE: &'static str = EXTENSION_NAMESPACE;

    fn text(&self) -> String {
        self.render()
    }

    fn read(text: &str) -> Result<Self, ArtefactError> {
        Self::parse(text)
    }

    fn content_bytes(&self, _header_bytes: u64) -> u64 {
        self.image.bytes
    }
}

/// What a file begins with: the manifest and the signatures over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<M> {
    /// What the file carries.
    pub manifest: M,
    signatures: Vec<String>,
}

/// The header of an image artefact.
pub type ArtefactHeader = Header<ArtefactManifest>;
/// The header of an extension; its image begins where the header ends.
pub type ExtensionHeader = Header<ExtensionManifest>;

impl<M: Manifest> Header<M> {
    /// A header without signatures.
    pub const fn new(manifest: M) -> Self {
        Self { manifest, signatures: Vec::new() }
    }

    /// The armoured signatures, in the order in which they were added. Nothing about them is verified.
    pub fn signatures(&self) -> &[String] {
        &self.signatures
    }

    /// Adds an armoured signature as `ssh-keygen -Y sign` writes it; one that is there already is not added again.
    ///
    /// # Errors
    /// When it is not exactly one armour, or there are [`ARTEFACT_SIGNATURES_MAX`] already.
    pub fn add_signature(&mut self, armour: &str) -> Result<(), ArtefactError> {
        match split_armours(armour)?.as_slice() {
            [one] if self.signatures.contains(one) => return Ok(()),
            [one] if self.signatures.len() < ARTEFACT_SIGNATURES_MAX => self.signatures.push(one.clone()),
            [_] => return Err(ArtefactError::TooManySignatures),
            _ => return Err(ArtefactError::Armour { index: 0 }),
        }
        Ok(())
    }

    /// The header's bytes: a multiple of [`ARTEFACT_ALIGN_BYTES`].
    ///
    /// # Errors
    /// When a value of the manifest is beyond its limits.
    pub fn encode(&self) -> Result<Vec<u8>, ArtefactError> {
        let manifest = self.manifest.text();
        // What cannot be read must never be written.
        M::read(&manifest)?;
        let signatures = self.signatures.concat();
        let mut bytes = Vec::with_capacity(ARTEFACT_ALIGN_BYTES);
        bytes.extend_from_slice(M::MAGIC.as_bytes());
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        for text in [&manifest, &signatures] {
            let length = u32::try_from(text.len()).expect("because both texts are limited to some kilobytes");
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.resize(FIXED_BYTES, 0);
        bytes.extend_from_slice(manifest.as_bytes());
        bytes.extend_from_slice(signatures.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(ARTEFACT_ALIGN_BYTES), 0);
        let digest = header_digest(&bytes);
        bytes[DIGEST].copy_from_slice(&digest);
        Ok(bytes)
    }

    /// How many bytes the header has, told by the file's first [`ARTEFACT_ALIGN_BYTES`] or more: what to read before [`Self::parse`].
    ///
    /// # Errors
    /// When it is no artefact of this format, or its lengths are beyond the limits.
    pub fn length(first_page: &[u8]) -> Result<usize, ArtefactError> {
        Lengths::parse(first_page, M::MAGIC).map(Lengths::header_bytes)
    }

    /// Parses a header; bytes behind it are not looked at.
    ///
    /// # Errors
    /// When it is cut off, damaged, or anything but the one way to write this header.
    pub fn parse(bytes: &[u8]) -> Result<Self, ArtefactError> {
        let lengths = Lengths::parse(bytes, M::MAGIC)?;
        let wanted = lengths.header_bytes();
        let header = bytes.get(..wanted).ok_or(ArtefactError::CutOff { bytes: bytes.len(), wanted })?;
        if header[DIGEST] != header_digest(header) {
            return Err(ArtefactError::Digest);
        }
        let (manifest, rest) = header[FIXED_BYTES..].split_at(lengths.manifest);
        let (signatures, padding) = rest.split_at(lengths.signatures);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(ArtefactError::Padding);
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| ArtefactError::NotText);
        let manifest = M::read(text(manifest)?)?;
        let signatures = split_armours(text(signatures)?)?;
        if signatures.len() > ARTEFACT_SIGNATURES_MAX {
            return Err(ArtefactError::TooManySignatures);
        }
        let repeated = (1..signatures.len()).find(|index| signatures[..*index].contains(&signatures[*index]));
        match repeated {
            Some(index) => Err(ArtefactError::RepeatedSignature { index }),
            None => Ok(Self { manifest, signatures }),
        }
    }

    /// The header's length.
    pub fn bytes(&self) -> u64 {
        let texts = self.manifest.text().len() + self.signatures.iter().map(String::len).sum::<usize>();
        ((FIXED_BYTES + texts) as u64).next_multiple_of(ARTEFACT_ALIGN_BYTES as u64)
    }

    /// The length of the whole file that begins with this header.
    pub fn file_bytes(&self) -> u64 {
        self.bytes() + self.manifest.content_bytes(self.bytes())
    }
}

impl ArtefactHeader {
    /// Where things lie in the file that begins with this header.
    pub fn layout(&self) -> ArtefactLayout {
        let (uki_offset, file_bytes) = (self.bytes(), self.file_bytes());
        ArtefactLayout { uki_offset, root_offset: file_bytes - self.manifest.root.bytes, file_bytes }
    }
}

/// Byte offsets in an artefact file. Between UKI and root lie zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtefactLayout {
    /// Where the UKI begins; the header's length too.
    pub uki_offset: u64,
    /// Where the root image begins.
    pub root_offset: u64,
    /// The length of the whole file.
    pub file_bytes: u64,
}

/// The two lengths in the fixed part, within their limits.
#[derive(Clone, Copy)]
struct Lengths {
    manifest: usize,
    signatures: usize,
}

impl Lengths {
    fn parse(bytes: &[u8], magic: &'static str) -> Result<Self, ArtefactError> {
        let fixed = bytes.get(..FIXED_BYTES);
        let fixed = fixed.ok_or(ArtefactError::CutOff { bytes: bytes.len(), wanted: FIXED_BYTES })?;
        if fixed[..8] != *magic.as_bytes() {
            return Err(ArtefactError::Magic { wanted: magic });
        }
        let format = u32_at(fixed, 8);
        if format != FORMAT {
            return Err(ArtefactError::Format { format });
        }
        if u32_at(fixed, 20) != 0 {
            return Err(ArtefactError::Padding);
        }
        let within = |what, length: u32, max: usize| match length as usize {
            length if length <= max => Ok(length),
            length => Err(ArtefactError::TooLong { what, bytes: length, max }),
        };
        Ok(Self {
            manifest: within("manifest", u32_at(fixed, 12), ARTEFACT_MANIFEST_BYTES_MAX)?,
            signatures: within("signatures", u32_at(fixed, 16), SIGNATURES_BYTES_MAX)?,
        })
    }

    const fn header_bytes(self) -> usize {
        (FIXED_BYTES + self.manifest + self.signatures).next_multiple_of(ARTEFACT_ALIGN_BYTES)
    }
}

/// All signatures together.
const SIGNATURES_BYTES_MAX: usize = ARTEFACT_SIGNATURES_MAX * ARTEFACT_SIGNATURE_BYTES_MAX;
const _: () = assert!(FIXED_BYTES + ARTEFACT_MANIFEST_BYTES_MAX + SIGNATURES_BYTES_MAX <= ARTEFACT_HEADER_BYTES_MAX);

fn header_digest(header: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(&header[..DIGEST.start]).chain_update(&header[DIGEST.end..]).finalize().into()
}

/// Cuts a text into armours; each must be exactly what ssh-keygen writes, with nothing between.
fn split_armours(text: &str) -> Result<Vec<String>, ArtefactError> {
    let mut armours = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let wrong = || ArtefactError::Armour { index: armours.len() };
        let end = rest.find(ARMOUR_END).ok_or_else(wrong)? + ARMOUR_END.len();
        let (armour, behind) = rest.split_at(end);
        let body = armour.strip_prefix(ARMOUR_BEGIN).and_then(|body| body.strip_suffix(ARMOUR_END));
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        let whole = |line: &str| (1..=ARMOUR_LINE_BYTES_MAX).contains(&line.len()) && line.bytes().all(base64);
        let sound = body.is_some_and(|body| {
            body.ends_with('\n')
                && armour.len() <= ARTEFACT_SIGNATURE_BYTES_MAX
                && body[..body.len() - 1].split('\n').all(whole)
        });
        if !sound {
            return Err(wrong());
        }
        armours.push(armour.to_owned());
        rest = behind;
    }
    Ok(armours)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests;
