//! Packs written by hand, for what git would never write: bombs, lies about sizes, objects that are not what they should be.
//!
//! Format: <https://git-scm.com/docs/gitformat-pack>.

use anyhow::{Context, Result};
use flate2::{Compress, Compression, FlushCompress, write::ZlibEncoder};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// An object as a pack holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name in the repository that it is from.
    pub id: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Kinds of entries, with their number in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A commit.
    Commit = 1,
    /// A tree.
    Tree = 2,
    /// A blob.
    Blob = 3,
    /// An annotated tag.
    Tag = 4,
    /// A difference against an entry before it in the same pack.
    Delta = 6,
    /// A difference against an object that is named by its id.
    NamedDelta = 7,
}

/// Everything that is reachable from a revision, and the revision's own object.
///
/// # Errors
/// When git cannot list or read it.
pub fn objects(repository: &Path, revision: &str) -> Result<Vec<Object>> {
    let listed = crate::git::git(repository, &["rev-list", "--objects", "--no-object-names", revision])?;
    let mut names: Vec<&str> = listed.lines().collect();
    // An annotated tag is not among them.
    if !names.contains(&revision) && revision.bytes().all(|b| b.is_ascii_hexdigit()) {
        names.push(revision);
    }
    names.into_iter().map(|name| object(repository, name)).collect()
}

fn object(repository: &Path, name: &str) -> Result<Object> {
    let kind = match crate::git::git(repository, &["cat-file", "-t", name])?.as_str() {
        "commit" => Kind::Commit,
        "tree" => Kind::Tree,
        "blob" => Kind::Blob,
        "tag" => Kind::Tag,
        other => anyhow::bail!("{name} is a {other}"),
    };
    let word = format!("{kind:?}").to_lowercase();
    let output = Command::new("git").current_dir(repository).args(["cat-file", &word, name]).output()?;
    Ok(Object { kind, id: name.to_owned(), content: output.stdout })
}

/// A pack in the making.
#[derive(Debug, Default)]
pub struct Pack {
    entries: Vec<u8>,
    count: u32,
}

/// Bytes of a pack before its first entry.
const HEAD_BYTES: usize = 12;

impl Pack {
    /// A pack of these objects, each as it should be.
    #[must_use]
    pub fn of(objects: &[Object]) -> Self {
        let mut pack = Pack::default();
        for object in objects {
            pack.entry(object.kind, object.content.len() as u64, &[], &zlib(&object.content));
        }
        pack
    }

    /// Adds an entry that declares a size, with whatever compressed bytes; returns where it begins.
    pub fn entry(&mut self, kind: Kind, declared: u64, base: &[u8], compressed: &[u8]) -> usize {
        let at = HEAD_BYTES + self.entries.len();
        // Four bits of the size beside the kind, then seven in each byte, lowest first.
        let mut size = declared >> 4;
        let mut byte = (kind as u8) << 4 | u8::try_from(declared & 0xf).unwrap_or_default();
        while size > 0 {
            self.entries.push(byte | 0x80);
            byte = u8::try_from(size & 0x7f).unwrap_or_default();
            size >>= 7;
        }
        self.entries.push(byte);
        self.entries.extend_from_slice(base);
        self.entries.extend_from_slice(compressed);
        self.count += 1;
        at
    }

    /// Adds a difference against the entry that begins at `base`; returns where it begins.
    pub fn delta(&mut self, base: usize, delta: &[u8]) -> usize {
        let mut distance = HEAD_BYTES + self.entries.len() - base;
        let mut coded = vec![u8::try_from(distance & 0x7f).unwrap_or_default()];
        while distance >> 7 > 0 {
            distance = (distance >> 7) - 1;
            coded.insert(0, 0x80 | u8::try_from(distance & 0x7f).unwrap_or_default());
        }
        self.entry(Kind::Delta, delta.len() as u64, &coded, &zlib(delta))
    }

    /// The pack of a SHA-1 repository with its head and its checksum.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let count = self.count;
        self.seal(count, gix_hash::Kind::Sha1)
    }

    /// The pack of a SHA-256 repository with its head and its checksum.
    #[must_use]
    pub fn finish_sha256(self) -> Vec<u8> {
        let count = self.count;
        self.seal(count, gix_hash::Kind::Sha256)
    }

    /// The pack with a head that declares so many entries.
    #[must_use]
    pub fn finish_as(self, count: u32) -> Vec<u8> {
        self.seal(count, gix_hash::Kind::Sha1)
    }

    fn seal(self, count: u32, hash: gix_hash::Kind) -> Vec<u8> {
        let head = [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes()].concat();
        with_checksum([head, self.entries].concat(), hash)
    }
}

/// Bytes and their checksum, as a pack ends.
#[must_use]
pub fn with_checksum(mut bytes: Vec<u8>, hash: gix_hash::Kind) -> Vec<u8> {
    let mut hasher = gix_hash::hasher(hash);
    hasher.update(&bytes);
    let sum = hasher.try_finalize().map(|sum| sum.as_slice().to_vec()).unwrap_or_default();
    bytes.extend(sum);
    bytes
}

/// Bytes as zlib compresses them.
#[must_use]
pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("because memory takes it");
    encoder.finish().expect("because memory takes it")
}

/// So many mebibytes of zeros, compressed about a thousandfold: one block that was compressed once, repeated.
#[must_use]
pub fn zlib_of_zeros(mebibytes: u32) -> Vec<u8> {
    const MEBIBYTE: usize = 1 << 20;
    let mut block = Vec::with_capacity(MEBIBYTE);
    Compress::new(Compression::best(), false)
        .compress_vec(&vec![0; MEBIBYTE], &mut block, FlushCompress::Full)
        .expect("because zeros can be compressed");
    let mut bytes = vec![0x78, 0x9c];
    (0..mebibytes).for_each(|_| bytes.extend_from_slice(&block));
    // An empty last block, then Adler-32: for n zeros the low half is 1 and the high half n modulo 65521.
    bytes.extend_from_slice(&[0x03, 0x00]);
    let sum = (u64::from(mebibytes) * MEBIBYTE as u64) % 65_521;
    bytes.extend_from_slice(&u32::try_from(sum << 16 | 1).unwrap_or_default().to_be_bytes());
    bytes
}

/// A difference that makes `copies` times the first 16 MiB - 1 bytes of its base out of `base` bytes.
#[must_use]
pub fn copies(base: u64, copies: u64) -> Vec<u8> {
    const COPY: u64 = 0xff_ffff;
    let mut delta = size(base);
    delta.extend(size(COPY * copies));
    (0..copies).for_each(|_| delta.extend_from_slice(&[0xf0, 0xff, 0xff, 0xff]));
    delta
}

/// A difference that copies all of a small base and adds one byte.
#[must_use]
pub fn one_more(base: u64) -> Vec<u8> {
    let mut delta = size(base);
    delta.extend(size(base + 1));
    let [low, high, ..] = base.to_le_bytes();
    delta.extend_from_slice(&[0xb0, low, high, 1, b'x']);
    delta
}

/// A size in seven bits a byte, lowest first.
fn size(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Whether git itself takes a pack: what it says of it otherwise.
///
/// # Errors
/// git's own words.
pub fn check(repository: &Path, pack: &[u8]) -> Result<()> {
    let mut child = Command::new("git")
        .current_dir(repository)
        .args(["index-pack", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("it was piped")?;
    // git may stop reading when it has seen enough; what it says then counts.
    let _written = stdin.write_all(pack);
    drop(stdin);
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_takes_the_packs_that_are_written_here() {
        let folder = tempfile::tempdir().expect("because /tmp can be written");
        crate::git::git(folder.path(), &["init", "-q", "--bare"]).expect("because git works");
        let blob = Object { kind: Kind::Blob, id: String::new(), content: vec![b'a'; 300] };
        let mut pack = Pack::of(std::slice::from_ref(&blob));
        let mut at = HEAD_BYTES;
        for depth in 0..40 {
            at = pack.delta(at, &one_more(300 + depth));
        }
        pack.entry(Kind::Blob, 3 << 20, &[], &zlib_of_zeros(3));
        check(folder.path(), &pack.finish()).expect("because it is a good pack");
        let mut pack = Pack::default();
        let base = pack.entry(Kind::Blob, 16 << 20, &[], &zlib_of_zeros(16));
        pack.delta(base, &copies(16 << 20, 2));
        check(folder.path(), &pack.finish()).expect("because it is a good pack");
        assert!(check(folder.path(), &Pack::of(&[blob]).finish_as(2)).is_err());
    }
}
