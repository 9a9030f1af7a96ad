//! Artefact files: written at the end of a build, checked whole, signed and verified.
//!
//! Extensions are files of the same form with one image in them.
//!
//! Called by `pipeline`, `extension`, `cairn-image inspect`, `sign` and `verify`. The header's format is `init_boot`'s; here are the file
//! and who signed it. Must never call an artefact good whose content was not hashed.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use init_boot::artefact::Manifest as Carried;
use init_boot::artefact::{
    ARTEFACT_ALIGN_BYTES, ArtefactError, ArtefactHeader, ArtefactManifest, ExtensionHeader, ExtensionManifest, Header,
    Part,
};
use machined_access::{SignatureError, is_weak_key, ssh_fingerprint, verify_signature};
use machined_ids::Fingerprint;
use sha2::{Digest as _, Sha256};

use crate::files::{self, FileError};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The most keys that may be allowed: a file with more is another kind of file.
const KEYS_MAX: usize = 64;

/// Why an artefact file cannot be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its header.
    #[error("{} cannot be used", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        #[source]
        source: ArtefactError,
    },
    /// Another length than the manifest says.
    #[error("{} has {found} bytes, its manifest says {wanted}; fetch or build it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What it should have.
        wanted: u64,
    },
    /// Other bytes than the manifest says.
    #[error("the {part} in {} is not the one that its manifest names; fetch or build it again", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Which part.
        part: &'static str,
    },
    /// A file of keys that holds something else.
    #[error("{}:{line}: expected a public key as in a .pub file: ed25519, ecdsa-p256 or sk-ed25519", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A file of keys without any, or with too many.
    #[error("{} holds {count} keys, expected 1 to {KEYS_MAX}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
}

/// Writes an artefact; the content must be what the header's manifest names.
///
/// # Errors
/// When the header is beyond its limits, or the file cannot be written.
pub fn write(path: &Path, header: &ArtefactHeader, uki: &[u8], root: &[u8]) -> Result<(), ArtefactFileError> {
    let encoded = encode(path, header)?;
    files::replace_with(path, |partial| {
        let because = || FileError::because("write", partial);
        let mut file = File::create(partial).map_err(because())?;
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(because());
        put(&encoded)?;
        put(uki)?;
        put(&vec![0; uki.len().next_multiple_of(ARTEFACT_ALIGN_BYTES) - uki.len()])?;
        put(root)?;
        Ok(())
    })
}

/// Writes an extension; the image must be what the header's manifest names.
///
/// # Errors
/// When the header is beyond its limits, or the file cannot be written.
pub fn write_extension(path: &Path, header: &ExtensionHeader, image: &[u8]) -> Result<(), ArtefactFileError> {
    let encoded = encode(path, header)?;
    files::replace_with(path, |partial| {
        let because = || FileError::because("write", partial);
        let mut file = File::create(partial).map_err(because())?;
        file.write_all(&encoded).map_err(because())?;
        file.write_all(image).map_err(because())?;
        Ok(())
    })
}

fn encode<M: Carried>(path: &Path, header: &Header<M>) -> Result<Vec<u8>, ArtefactFileError> {
    header.encode().map_err(|source| ArtefactFileError::Header { path: path.to_path_buf(), source })
}

/// Reads the header of a file and leaves the file behind it; the file is as long as its manifest says.
fn open<M: Carried>(path: &Path) -> Result<(File, Header<M>), ArtefactFileError> {
    let wrong = |source| ArtefactFileError::Header { path: path.to_path_buf(), source };
    let because = || FileError::because("read", path);
    let mut file = File::open(path).map_err(FileError::because("open", path))?;
    let mut bytes = Vec::with_capacity(ARTEFACT_ALIGN_BYTES);
    Read::by_ref(&mut file).take(ARTEFACT_ALIGN_BYTES as u64).read_to_end(&mut bytes).map_err(because())?;
    let length = Header::<M>::length(&bytes).map_err(wrong)?;
    let rest = length.saturating_sub(bytes.len()) as u64;
    Read::by_ref(&mut file).take(rest).read_to_end(&mut bytes).map_err(because())?;
    let header = Header::<M>::parse(&bytes).map_err(wrong)?;
    let found = file.metadata().map_err(FileError::because("look at", path))?.len();
    match header.file_bytes() {
        wanted if wanted == found => Ok((file, header)),
        wanted => Err(ArtefactFileError::Length { path: path.to_path_buf(), found, wanted }),
    }
}

/// The UKI of an artefact whose header was read.
///
/// # Errors
/// When the file cannot be read, or the UKI is not the one that the manifest names.
pub fn read_uki(path: &Path, header: &ArtefactHeader) -> Result<Vec<u8>, ArtefactFileError> {
    let because = || FileError::because("read", path);
    let mut file = File::open(path).map_err(FileError::because("open", path))?;
    file.seek(SeekFrom::Start(header.layout().uki_offset)).map_err(because())?;
    let mut uki = Vec::new();
    file.take(header.manifest.uki.bytes).read_to_end(&mut uki).map_err(because())?;
    let content = ArtefactFileError::Content { path: path.to_path_buf(), part: "UKI" };
    if Part::of(&uki) == header.manifest.uki { Ok(uki) } else { Err(content) }
}

/// Reads a whole artefact: header well formed, length right, UKI and root as the manifest names them. Says nothing about who made it.
///
/// # Errors
/// See [`ArtefactFileError`].
pub fn read(path: &Path) -> Result<ArtefactHeader, ArtefactFileError> {
    let (mut file, header) = open::<ArtefactManifest>(path)?;
    let layout = header.layout();
    let content = |part| ArtefactFileError::Content { path: path.to_path_buf(), part };
    let because = || FileError::because("read", path);
    let uki = hash(&mut file, header.manifest.uki.bytes).map_err(because())?;
    if uki != header.manifest.uki {
        return Err(content("UKI"));
    }
    let mut padding = Vec::new();
    let length = layout.root_offset - layout.uki_offset - uki.bytes;
    Read::by_ref(&mut file).take(length).read_to_end(&mut padding).map_err(because())?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(content("space between UKI and root image"));
    }
    let root = hash(&mut file, header.manifest.root.bytes).map_err(because())?;
    if root == header.manifest.root { Ok(header) } else { Err(content("root image")) }
}

/// Reads a whole extension: header well formed, length right, image as the manifest names it. Says nothing about who made it.
///
/// # Errors
/// See [`ArtefactFileError`].
pub fn read_extension(path: &Path) -> Result<ExtensionHeader, ArtefactFileError> {
    let (mut file, header) = open::<ExtensionManifest>(path)?;
    let image = hash(&mut file, header.manifest.image.bytes).map_err(FileError::because("read", path))?;
    let content = ArtefactFileError::Content { path: path.to_path_buf(), part: "image" };
    if image == header.manifest.image { Ok(header) } else { Err(content) }
}

fn hash(file: &mut File, length: u64) -> io::Result<Part> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = length;
    while left > 0 {
        let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = file.read(&mut chunk[..most])?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        left -= count as u64;
    }
    Ok(Part { bytes: length - left, sha256: hash.finalize().into() })
}

/// Adds a signature that `make` makes over the manifest text; the file is read whole by `read` before and replaced in one go.
///
/// # Errors
/// The maker's own, or when the artefact is damaged or cannot take one more.
pub fn sign<M: Carried + Clone, E: From<ArtefactFileError>>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<Header<M>, ArtefactFileError>,
    make: impl FnOnce(&str) -> Result<String, E>,
) -> Result<Header<M>, E> {
    let before = read(path)?;
    let mut header = before.clone();
    let armour = make(&header.manifest.text())?;
    let wrong = |source| ArtefactFileError::Header { path: path.to_path_buf(), source };
    header.add_signature(&armour).map_err(wrong)?;
    let encoded = encode(path, &header)?;
    let replaced: Result<(), ArtefactFileError> = files::replace_with(path, |partial| {
        let copy = || -> io::Result<()> {
            let mut from = File::open(path)?;
            from.seek(SeekFrom::Start(before.bytes()))?;
            let mut to = File::create(partial)?;
            to.write_all(&encoded)?;
            io::copy(&mut from, &mut to)?;
            to.sync_all()
        };
        Ok(copy().map_err(FileError::because("write", partial))?)
    });
    replaced?;
    Ok(header)
}

/// What one signature of an artefact is worth.
#[derive(Debug)]
pub enum Judged {
    /// Made by an allowed key.
    Allowed(Fingerprint),
    /// Sound, by a key that is not allowed.
    Stranger(Fingerprint),
    /// By a hardware key whose holder did not touch it.
    Untouched(Fingerprint),
    /// Not sound.
    Worthless(SignatureError),
}

/// Judges each signature of an artefact by the allowed keys, in order.
pub fn judge<M: Carried>(header: &Header<M>, allowed: &[Fingerprint]) -> Vec<Judged> {
    let manifest = header.manifest.text();
    let judge = |armour: &String| match verify_signature(M::NAMESPACE, manifest.as_bytes(), armour) {
        Err(error) => Judged::Worthless(error),
        Ok(signed) if !allowed.contains(&signed.key) => Judged::Stranger(signed.key),
        Ok(signed) if signed.touched == Some(false) => Judged::Untouched(signed.key),
        Ok(signed) => Judged::Allowed(signed.key),
    };
    header.signatures().iter().map(judge).collect()
}

/// Reads a file of public keys, one a line as in a `.pub` file; empty lines and lines that begin with `#` are skipped.
///
/// # Errors
/// When a line is something else, or there is no key at all.
pub fn allowed_keys(path: &Path) -> Result<Vec<Fingerprint>, ArtefactFileError> {
    let text = files::read_text(path)?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let key = ssh_key::PublicKey::from_openssh(line.trim()).ok().filter(|key| !is_weak_key(key.key_data()));
        let key = key.ok_or_else(|| ArtefactFileError::Key { path: path.to_path_buf(), line: index + 1 })?;
        keys.push(ssh_fingerprint(key.key_data()));
    }
    match keys.len() {
        1..=KEYS_MAX => Ok(keys),
        count => Err(ArtefactFileError::Keys { path: path.to_path_buf(), count }),
    }
}

#[cfg(test)]
mod tests;
