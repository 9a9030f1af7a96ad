//! Git objects that were hashed again: the only bytes that the verifier reads.
//!
//! Filled by whoever got the bytes (the fetch child's stream, `cairnctl` from a checkout). Nothing enters without having the
//! name it came under, so neither a pack index nor a server nor a replace ref is ever believed.

use crate::limits::{MAX_OBJECT_BYTES, MAX_OBJECTS, MAX_TOTAL_BYTES};
use crate::refusal::{Reason, Refusal};
use machined_ids::CommitId;
use std::collections::HashMap;
use std::fmt;

/// An object's name in a SHA-1 or a SHA-256 repository. It names, and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// 20 bytes.
    Sha1([u8; 20]),
    /// 32 bytes.
    Sha256([u8; 32]),
}

/// Which hash names a repository's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectFormat {
    /// SHA-1, with collision detection.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl ObjectId {
    /// Takes 20 or 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let sha1 = <[u8; 20]>::try_from(bytes).ok().map(ObjectId::Sha1);
        sha1.or_else(|| <[u8; 32]>::try_from(bytes).ok().map(ObjectId::Sha256))
    }

    /// Reads 40 or 64 lower-case hex digits.
    #[must_use]
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        if text.len() != 40 && text.len() != 64 {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
        ObjectId::from_slice(&bytes?)
    }

    /// The id of a commit that was named elsewhere.
    #[must_use]
    pub fn of_commit(commit: &CommitId) -> Self {
        ObjectId::from_hex(commit.as_str().as_bytes()).expect("because a commit id is 40 or 64 hex digits")
    }

    /// The name as a commit's id.
    #[must_use]
    pub fn to_commit_id(self) -> CommitId {
        CommitId::parse(&self.to_string()).expect("because an object id prints as 40 or 64 hex digits")
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            ObjectId::Sha1(bytes) => bytes,
            ObjectId::Sha256(bytes) => bytes,
        }
    }

    /// Which hash made it.
    #[must_use]
    pub const fn format(&self) -> ObjectFormat {
        match self {
            ObjectId::Sha1(_) => ObjectFormat::Sha1,
            ObjectId::Sha256(_) => ObjectFormat::Sha256,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.as_bytes().iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
        // In one piece: formatting byte by byte took a tenth of a commit's time.
        f.write_str(&digits.map(char::from).collect::<String>())
    }
}

impl ObjectFormat {
    /// Bytes of an id.
    #[must_use]
    pub const fn id_bytes(self) -> usize {
        match self {
            ObjectFormat::Sha1 => 20,
            ObjectFormat::Sha256 => 32,
        }
    }

    const fn git_kind(self) -> gix_hash::Kind {
        match self {
            ObjectFormat::Sha1 => gix_hash::Kind::Sha1,
            ObjectFormat::Sha256 => gix_hash::Kind::Sha256,
        }
    }
}

/// What an object is. Annotated tags are never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A commit.
    Commit,
    /// A directory.
    Tree,
    /// A file's content.
    Blob,
}

impl ObjectKind {
    /// The word that git hashes and prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Commit => "commit",
            ObjectKind::Tree => "tree",
            ObjectKind::Blob => "blob",
        }
    }
}

/// Hashes bytes as git does and refuses what looks like a SHA-1 collision.
///
/// # Errors
/// `HashCollision`.
pub fn object_id(format: ObjectFormat, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, Refusal> {
    let head = format!("{} {}\0", kind.as_str(), bytes.len());
    hash(format, &[head.as_bytes(), bytes]).ok_or_else(|| {
        let kind = kind.as_str();
        let message =
            format!("a {kind} was made to collide under SHA-1; somebody with write access is attacking: git revert");
        Refusal::new(Reason::HashCollision, message)
    })
}

/// The hash over some bytes; `None` when they were made to collide.
fn hash(format: ObjectFormat, parts: &[&[u8]]) -> Option<ObjectId> {
    let mut hasher = gix_hash::hasher(format.git_kind());
    parts.iter().for_each(|part| hasher.update(part));
    let id = hasher.try_finalize().ok()?;
    Some(ObjectId::from_slice(id.as_slice()).expect("because git's hashes have 20 or 32 bytes"))
}

/// Objects by name, each hashed again on its way in.
#[derive(Debug)]
pub struct ObjectSet {
    format: ObjectFormat,
    objects: HashMap<ObjectId, (ObjectKind, Vec<u8>)>,
    bytes: u64,
}

impl ObjectSet {
    /// An empty set for a repository of this format.
    #[must_use]
    pub fn new(format: ObjectFormat) -> Self {
        ObjectSet { format, objects: HashMap::new(), bytes: 0 }
    }

    /// Takes an object in, if it has the name it came under.
    ///
    /// # Errors
    /// `IdMismatch`, `HashCollision`, `Limit`.
    pub fn insert(&mut self, id: ObjectId, kind: ObjectKind, bytes: Vec<u8>) -> Result<(), Refusal> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > MAX_OBJECT_BYTES {
            return Err(Refusal::new(
                Reason::Limit,
                format!("{} {id} has {size} bytes, more than {MAX_OBJECT_BYTES}; keep large files out", kind.as_str()),
            ));
        }
        if self.objects.len() >= MAX_OBJECTS || self.bytes.saturating_add(size) > MAX_TOTAL_BYTES {
            return Err(Refusal::new(
                Reason::Limit,
                format!(
                    "more than {MAX_OBJECTS} objects or {MAX_TOTAL_BYTES} bytes to judge at once; push less at a time"
                ),
            ));
        }
        if id.format() != self.format || object_id(self.format, kind, &bytes)? != id {
            return Err(Refusal::new(
                Reason::IdMismatch,
                format!("what came as {} {id} has another hash; the source is broken or lying", kind.as_str()),
            ));
        }
        if self.objects.insert(id, (kind, bytes)).is_none() {
            self.bytes += size;
        }
        Ok(())
    }

    /// The repository's format.
    #[must_use]
    pub const fn format(&self) -> ObjectFormat {
        self.format
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether the object came.
    #[must_use]
    pub fn contains(&self, id: &ObjectId) -> bool {
        self.objects.contains_key(id)
    }

    /// The bytes of an object of a kind.
    ///
    /// # Errors
    /// `MissingObject` when it did not come; `NonCanonical` when it is of another kind.
    pub fn get(&self, id: &ObjectId, kind: ObjectKind) -> Result<&[u8], Refusal> {
        match self.objects.get(id) {
            Some((found, bytes)) if *found == kind => Ok(bytes),
            Some((found, _)) => Err(Refusal::new(
                Reason::NonCanonical,
                format!("{id} is a {}, where a {} should be", found.as_str(), kind.as_str()),
            )),
            None => Err(Refusal::new(
                Reason::MissingObject,
                format!("{} {id} did not come; the source is shallow, partial or broken", kind.as_str()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tests_support::shattered::shattered;

    // `printf hello | git hash-object --stdin`, in a SHA-1 and in a SHA-256 repository.
    const HELLO_SHA1: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
    const HELLO_SHA256: &str = "8aec4e4876f854f688d0ebfc8f37598f38e5fd6903cccc850ca36591175aeb60";

    #[test]
    fn t31_an_object_must_have_its_name() {
        let id = ObjectId::from_hex(HELLO_SHA1.as_bytes()).expect("because it is hex");
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        assert_eq!(set.insert(id, ObjectKind::Blob, b"hello".to_vec()), Ok(()));
        assert_eq!(set.get(&id, ObjectKind::Blob), Ok(&b"hello"[..]));
        for (kind, bytes) in [(ObjectKind::Blob, b"hellp"), (ObjectKind::Tree, b"hello")] {
            let refusal = ObjectSet::new(ObjectFormat::Sha1).insert(id, kind, bytes.to_vec());
            assert_eq!(refusal.expect_err("because the hash differs").reason, Reason::IdMismatch);
        }
    }

    #[test]
    fn t44_the_other_hash_is_not_taken() {
        let id = ObjectId::from_hex(HELLO_SHA256.as_bytes()).expect("because it is hex");
        let refusal = ObjectSet::new(ObjectFormat::Sha1).insert(id, ObjectKind::Blob, b"hello".to_vec());
        assert_eq!(refusal.expect_err("because the format differs").reason, Reason::IdMismatch);
    }

    #[test]
    fn t30_bytes_that_were_made_to_collide_have_no_name() {
        let [one, other] = shattered();
        for whole in [&one, &other] {
            let (head, tail) = whole.split_at(192);
            assert_eq!(hash(ObjectFormat::Sha1, &[head, tail]), None);
            assert!(hash(ObjectFormat::Sha256, &[head, tail]).is_some());
        }
        assert!(hash(ObjectFormat::Sha1, &[&one[..192 + 64]]).is_some(), "the half of it is no attack");
    }

    #[test]
    fn what_did_not_come_is_missing() {
        let id = ObjectId::Sha1([7; 20]);
        let refusal = ObjectSet::new(ObjectFormat::Sha1).get(&id, ObjectKind::Tree).map(<[u8]>::len);
        assert_eq!(refusal.expect_err("because it never came").reason, Reason::MissingObject);
    }

    #[test]
    fn one_huge_object_is_refused_before_it_is_hashed() {
        let bytes = vec![0; usize::try_from(MAX_OBJECT_BYTES).expect("because it fits") + 1];
        let refusal = ObjectSet::new(ObjectFormat::Sha1).insert(ObjectId::Sha1([0; 20]), ObjectKind::Blob, bytes);
        assert_eq!(refusal.expect_err("because it is too large").reason, Reason::Limit);
    }
}
