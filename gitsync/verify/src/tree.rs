//! Trees: read strictly, hashed our own way, compared, and listed.
//!
//! The tree hash is what signatures and steps mean; SHA-1 only ever finds objects. Byte form, in git's order of entries:
//!
//! ```text
//! tree hash  = SHA-256( "cairn.tree.v1\n"  then for each entry:
//!              mode (4 bytes, big endian) | length of name (4 bytes, big endian) | name | 32 bytes )
//! 32 bytes   = tree hash of a directory, or plain SHA-256 of a file's content
//! mode       = 0o100644 | 0o100755 | 0o040000
//! ```

use crate::break_glass::FileState;
use crate::limits::{MAX_FILES, MAX_TREE_DEPTH};
use crate::objects::{ObjectFormat, ObjectId, ObjectKind, ObjectSet};
use crate::refusal::{Reason, Refusal};
use machined_ids::{Digest, TreeHash};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// What an entry may be. There is no fourth kind: submodules and symlinks are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// A file.
    File,
    /// A file with the execute bit, which means nothing to Cairn but is part of the content.
    Executable,
    /// A directory.
    Directory,
}

impl Mode {
    const fn bits(self) -> u32 {
        match self {
            Mode::File => 0o100_644,
            Mode::Executable => 0o100_755,
            Mode::Directory => 0o040_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    mode: Mode,
    name: &'a str,
    id: ObjectId,
}

impl Entry<'_> {
    /// Git sorts a directory as if its name ended in a slash.
    fn order(&self, other: &Entry<'_>) -> Ordering {
        let (one, two) = (self.name.as_bytes(), other.name.as_bytes());
        let common = one.len().min(two.len());
        let after = |entry: &Entry<'_>, name: &[u8]| {
            let slash = (entry.mode == Mode::Directory).then_some(b'/');
            name.get(common).copied().or(slash)
        };
        one[..common].cmp(&two[..common]).then_with(|| after(self, one).cmp(&after(other, two)))
    }
}

fn bad_entry(path: &str, message: &str) -> Refusal {
    Refusal::new(Reason::BadEntry, format!("{message}; rename or remove it")).at_path(path)
}

fn check_name(name: &[u8], folder: &str) -> Result<(), Refusal> {
    let shown = || join(folder, &String::from_utf8_lossy(name));
    let printable = name.iter().all(|b| (0x20..0x7f).contains(b) && !matches!(b, b'/' | b'\\'));
    if name.is_empty() || !printable {
        return Err(bad_entry(&shown(), "names are printable ASCII without slashes"));
    }
    if matches!(name, b"." | b"..") || name.eq_ignore_ascii_case(b".git") || name.eq_ignore_ascii_case(b"git~1") {
        return Err(bad_entry(&shown(), "this name leads out of the tree"));
    }
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Reads one tree object: sorted, without repetition, only modes and names that Cairn takes. The names of one that was read before
/// (`known`) are not looked at again.
fn entries<'a>(bytes: &'a [u8], format: ObjectFormat, folder: &str, known: bool) -> Result<Vec<Entry<'a>>, Refusal> {
    let broken = || Refusal::new(Reason::NonCanonical, "a tree object is malformed").at_path(folder);
    let (mut rest, mut entries) = (bytes, Vec::<Entry<'a>>::with_capacity(bytes.len() / MIN_ENTRY_BYTES));
    while !rest.is_empty() {
        let space = rest.iter().take(8).position(|b| *b == b' ').ok_or_else(broken)?;
        let (mode, after) = (&rest[..space], &rest[space + 1..]);
        let nul = after.iter().position(|b| *b == 0).ok_or_else(broken)?;
        let (name, after) = (&after[..nul], &after[nul + 1..]);
        let id = after.get(..format.id_bytes()).and_then(ObjectId::from_slice).ok_or_else(broken)?;
        rest = &after[format.id_bytes()..];
        if !known {
            check_name(name, folder)?;
        }
        let name = std::str::from_utf8(name).expect("because names are printable ASCII");
        let path = || join(folder, name);
        let mode = match mode {
            b"100644" => Mode::File,
            b"100755" => Mode::Executable,
            b"40000" => Mode::Directory,
            b"120000" => return Err(bad_entry(&path(), "symbolic links are not followed")),
            b"160000" => return Err(bad_entry(&path(), "submodules are not fetched")),
            _ => return Err(Refusal::new(Reason::NonCanonical, "a tree entry has an unusual mode").at_path(path())),
        };
        let entry = Entry { mode, name, id };
        if entries.last().is_some_and(|last| last.order(&entry) != Ordering::Less) {
            return Err(Refusal::new(Reason::NonCanonical, "a tree object is not sorted").at_path(folder));
        }
        entries.push(entry);
    }
    if !known {
        check_twins(&entries, folder)?;
    }
    Ok(entries)
}

/// Refuses names that are equal but for upper and lower case, and a file beside a folder of its name.
fn check_twins(entries: &[Entry<'_>], folder: &str) -> Result<(), Refusal> {
    // Only names with capitals are copied; the others are almost in order already.
    let capitals = |name: &str| name.bytes().any(|b| b.is_ascii_uppercase());
    let mut names: Vec<Cow<'_, str>> = Vec::with_capacity(entries.len());
    for Entry { name, .. } in entries {
        names.push(if capitals(name) { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) });
    }
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let message = "another entry here has the same name but for upper and lower case";
            Err(bad_entry(&join(folder, &pair[0]), message))
        }
    }
}

/// Bytes of the shortest entry: mode, space, one letter, zero, and a SHA-1.
const MIN_ENTRY_BYTES: usize = 29;

/// A file that differs between two trees. A rename is one deletion and one addition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Path in the repository.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is gone.
    Deleted,
    /// Content or mode is another.
    Modified,
}

/// The files of one verified tree: path to content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Files {
    /// The files whose path begins with `prefix`.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let range = self.0.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        range
            .take_while(move |(path, _)| path.starts_with(prefix))
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// One file's content.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }
}

/// Reads trees out of a set of objects and remembers their hashes.
#[derive(Debug)]
pub(crate) struct Trees<'a> {
    objects: &'a ObjectSet,
    hashes: HashMap<ObjectId, Hashed>,
    blobs: HashMap<ObjectId, [u8; 32]>,
}

/// What is remembered of a tree that was read whole.
#[derive(Debug, Clone, Copy)]
struct Hashed {
    hash: TreeHash,
    /// Files and folders below it, counted as often as they appear: a tree that contains itself twice, 32 times over,
    /// is small to store and must still be refused.
    entries: usize,
}

impl<'a> Trees<'a> {
    pub(crate) fn new(objects: &'a ObjectSet) -> Self {
        Trees { objects, hashes: HashMap::new(), blobs: HashMap::new() }
    }

    fn entries(&self, tree: &ObjectId, folder: &str) -> Result<Vec<Entry<'a>>, Refusal> {
        let bytes = self.objects.get(tree, ObjectKind::Tree).map_err(|refusal| refusal.at_path(folder))?;
        entries(bytes, self.objects.format(), folder, self.hashes.contains_key(tree))
    }

    /// The tree hash; reads every object below that was not read before, so each is there and in order.
    pub(crate) fn hash(&mut self, tree: &ObjectId) -> Result<TreeHash, Refusal> {
        Ok(self.hash_below(tree, "", 0)?.hash)
    }

    fn hash_below(&mut self, tree: &ObjectId, folder: &str, depth: usize) -> Result<Hashed, Refusal> {
        if let Some(known) = self.hashes.get(tree) {
            return Ok(*known);
        }
        let limit = |what: String| Refusal::new(Reason::Limit, what).at_path(folder);
        if depth > MAX_TREE_DEPTH {
            return Err(limit(format!("more than {MAX_TREE_DEPTH} folders deep")));
        }
        let mut hasher = Sha256::new_with_prefix(b"cairn.tree.v1\n");
        let mut count = 0_usize;
        for entry in self.entries(tree, folder)? {
            let content = match entry.mode {
                Mode::Directory => {
                    let known = self.hashes.get(&entry.id).copied();
                    let read = |trees: &mut Self| trees.hash_below(&entry.id, &join(folder, entry.name), depth + 1);
                    let below = known.map_or_else(|| read(self), Ok)?;
                    count = count.saturating_add(below.entries);
                    *below.hash.as_bytes()
                }
                Mode::File | Mode::Executable => match self.blobs.get(&entry.id) {
                    Some(known) => *known,
                    None => {
                        let hash = self.hash_file(&entry.id, folder, entry.name)?;
                        *self.blobs.entry(entry.id).or_insert(hash)
                    }
                },
            };
            count = count.saturating_add(1);
            if count > MAX_FILES {
                return Err(limit(format!("more than {MAX_FILES} files and folders")));
            }
            let length = u32::try_from(entry.name.len()).expect("because objects have less than 2^32 bytes");
            hasher.update(entry.mode.bits().to_be_bytes());
            hasher.update(length.to_be_bytes());
            hasher.update(entry.name);
            hasher.update(content);
        }
        let hashed = Hashed { hash: TreeHash::from_bytes(hasher.finalize().into()), entries: count };
        self.hashes.insert(*tree, hashed);
        Ok(hashed)
    }

    fn hash_file(&self, id: &ObjectId, folder: &str, name: &str) -> Result<[u8; 32], Refusal> {
        let bytes = self.objects.get(id, ObjectKind::Blob).map_err(|refusal| refusal.at_path(join(folder, name)))?;
        if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Err(bad_entry(&join(folder, name), "a pointer to large file storage has no content here"));
        }
        Ok(Sha256::digest(bytes).into())
    }

    /// The directory or file at a top-level name.
    pub(crate) fn child(&self, tree: &ObjectId, name: &str) -> Result<Option<ObjectId>, Refusal> {
        let entries = self.entries(tree, "")?;
        Ok(entries.iter().find(|e| e.name == name && e.mode == Mode::Directory).map(|e| e.id))
    }

    /// A file's mode and content, by its path.
    pub(crate) fn file_state(&self, tree: &ObjectId, path: &str) -> Result<Option<FileState>, Refusal> {
        let (mut tree, mut rest) = (*tree, path);
        while let Some((folder, below)) = rest.split_once('/') {
            let entries = self.entries(&tree, "")?;
            let found = entries.iter().find(|e| e.name == folder && e.mode == Mode::Directory);
            let Some(entry) = found else { return Ok(None) };
            (tree, rest) = (entry.id, below);
        }
        let entries = self.entries(&tree, "")?;
        let Some(entry) = entries.iter().find(|e| e.name == rest && e.mode != Mode::Directory) else { return Ok(None) };
        let sha256 = Digest::from_bytes(self.hash_file(&entry.id, "", path)?);
        Ok(Some(FileState { executable: entry.mode == Mode::Executable, sha256 }))
    }

    /// The net difference between two trees that [`Trees::hash`] has read, by path. Equal subtrees are not entered.
    pub(crate) fn changes(&self, before: &ObjectId, after: &ObjectId) -> Result<Vec<Change>, Refusal> {
        let mut changes = Vec::new();
        self.compare(Some(*before), Some(*after), "", 0, &mut changes)?;
        changes.sort();
        Ok(changes)
    }

    fn compare(
        &self,
        before: Option<ObjectId>,
        after: Option<ObjectId>,
        folder: &str,
        depth: usize,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        if before == after || depth > MAX_TREE_DEPTH {
            return Ok(());
        }
        let read = |tree: Option<ObjectId>| tree.map_or(Ok(Vec::new()), |tree| self.entries(&tree, folder));
        let (before, after) = (read(before)?, read(after)?);
        for (before, after) in pairs(before, after) {
            if before == after {
                continue;
            }
            let name = before.or(after).map_or("", |entry| entry.name);
            let path = join(folder, name);
            let file = |e: Option<Entry<'_>>| e.filter(|e| e.mode != Mode::Directory).map(|e| (e.mode, e.id));
            let directory = |e: Option<Entry<'_>>| e.filter(|e| e.mode == Mode::Directory).map(|e| e.id);
            let kind = match (file(before), file(after)) {
                (None, Some(_)) => Some(ChangeKind::Added),
                (Some(_), None) => Some(ChangeKind::Deleted),
                (Some(old), Some(new)) if old != new => Some(ChangeKind::Modified),
                (Some(_), Some(_)) | (None, None) => None,
            };
            changes.extend(kind.map(|kind| Change { path: path.clone(), kind }));
            self.compare(directory(before), directory(after), &path, depth + 1, changes)?;
        }
        Ok(())
    }

    /// Every file below a tree that [`Trees::hash`] has read, with `folder` in front of its path.
    pub(crate) fn files(&self, tree: &ObjectId, folder: &str) -> Result<Files, Refusal> {
        let mut files = BTreeMap::new();
        let mut open = vec![(*tree, folder.to_owned())];
        while let Some((tree, folder)) = open.pop() {
            for entry in self.entries(&tree, &folder)? {
                let path = join(&folder, entry.name);
                match entry.mode {
                    Mode::Directory => open.push((entry.id, path)),
                    Mode::File | Mode::Executable => {
                        files.insert(path, self.objects.get(&entry.id, ObjectKind::Blob)?.to_vec());
                    }
                }
            }
        }
        Ok(Files(files))
    }
}

/// The entries of two trees side by side, by their names: a stable sort of two runs that are almost in order.
fn pairs<'a>(before: Vec<Entry<'a>>, after: Vec<Entry<'a>>) -> Vec<(Option<Entry<'a>>, Option<Entry<'a>>)> {
    let one = before.into_iter().map(|entry| (entry.name, Some(entry), None));
    let mut both: Vec<_> = one.chain(after.into_iter().map(|entry| (entry.name, None, Some(entry)))).collect();
    both.sort_by_key(|(name, ..)| *name);
    let mut pairs: Vec<(Option<Entry<'a>>, Option<Entry<'a>>)> = Vec::with_capacity(both.len());
    for (name, before, after) in both {
        match pairs.last_mut() {
            Some((Some(last), other @ None)) if last.name == name && before.is_none() => *other = after,
            Some(_) | None => pairs.push((before, after)),
        }
    }
    pairs
}

/// The net difference between two trees, by path. For tools: the verifier compares what it has hashed itself.
///
/// # Errors
/// `MissingObject`, and whatever is wrong with a tree that differs.
pub fn tree_changes(objects: &ObjectSet, before: &ObjectId, after: &ObjectId) -> Result<Vec<Change>, Refusal> {
    Trees::new(objects).changes(before, after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object_id;

    fn add(set: &mut ObjectSet, kind: ObjectKind, bytes: Vec<u8>) -> ObjectId {
        let id = object_id(ObjectFormat::Sha1, kind, &bytes).expect("because no collision is meant");
        set.insert(id, kind, bytes).expect("because it has its own hash");
        id
    }

    fn tree(entries: &[(&str, &str, ObjectId)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes
    }

    fn hash_of(mode: &str, name: &str) -> Result<TreeHash, Reason> {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let blob = add(&mut set, ObjectKind::Blob, b"x".to_vec());
        let root = add(&mut set, ObjectKind::Tree, tree(&[(mode, name, blob)]));
        Trees::new(&set).hash(&root).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn the_byte_form_is_the_documented_one() {
        let content = Sha256::digest(b"x");
        let mut form = b"cairn.tree.v1\n".to_vec();
        form.extend_from_slice(&[0, 0, 0x81, 0xa4, 0, 0, 0, 1, b'a']);
        form.extend_from_slice(&content);
        assert_eq!(hash_of("100644", "a"), Ok(TreeHash::from_bytes(Sha256::digest(&form).into())));
        assert_ne!(hash_of("100755", "a"), hash_of("100644", "a"));
    }

    #[test]
    fn t39_t40_dangerous_entries_are_refused() {
        for name in ["..", ".", ".git", ".GIT", "a/b", "a\\b", "caf\u{e9}", "a\u{7}", "git~1"] {
            assert_eq!(hash_of("100644", name), Err(Reason::BadEntry), "{name:?}");
        }
        assert_eq!(hash_of("120000", "a"), Err(Reason::BadEntry));
        assert_eq!(hash_of("160000", "a"), Err(Reason::BadEntry));
        assert_eq!(hash_of("100664", "a"), Err(Reason::NonCanonical));
        assert_eq!(hash_of("040000", "a"), Err(Reason::NonCanonical));
    }

    #[test]
    fn t39_twins_by_case_and_unsorted_trees_are_refused() {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let blob = add(&mut set, ObjectKind::Blob, b"x".to_vec());
        for (entries, reason) in [
            ([("100644", "A", blob), ("100644", "a", blob)], Reason::BadEntry),
            ([("100644", "b", blob), ("100644", "a", blob)], Reason::NonCanonical),
        ] {
            let root = add(&mut set, ObjectKind::Tree, tree(&entries));
            assert_eq!(Trees::new(&set).hash(&root).expect_err("because it is refused").reason, reason);
        }
    }

    #[test]
    fn t35_a_tree_that_multiplies_itself_is_refused() {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let blob = add(&mut set, ObjectKind::Blob, b"x".to_vec());
        let mut root = add(&mut set, ObjectKind::Tree, tree(&[("100644", "f", blob)]));
        for _ in 0..30 {
            root = add(&mut set, ObjectKind::Tree, tree(&[("40000", "a", root), ("40000", "b", root)]));
        }
        assert_eq!(Trees::new(&set).hash(&root).expect_err("because it has 2^30 files").reason, Reason::Limit);
    }

    #[test]
    fn t40_a_pointer_to_large_file_storage_is_refused() {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec();
        let blob = add(&mut set, ObjectKind::Blob, pointer);
        let root = add(&mut set, ObjectKind::Tree, tree(&[("100644", "big", blob)]));
        assert_eq!(Trees::new(&set).hash(&root).expect_err("because it is a pointer").reason, Reason::BadEntry);
    }

    #[test]
    fn a_rename_is_a_deletion_and_an_addition() {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let blob = add(&mut set, ObjectKind::Blob, b"x".to_vec());
        let inner = add(&mut set, ObjectKind::Tree, tree(&[("100644", "f", blob)]));
        let before = add(&mut set, ObjectKind::Tree, tree(&[("40000", "old", inner)]));
        let after = add(&mut set, ObjectKind::Tree, tree(&[("40000", "new", inner)]));
        let changes = Trees::new(&set).changes(&before, &after).expect("because both are there");
        assert_eq!(
            changes,
            [
                Change { path: "new/f".into(), kind: ChangeKind::Added },
                Change { path: "old/f".into(), kind: ChangeKind::Deleted }
            ]
        );
    }

    #[test]
    fn a_file_that_becomes_a_folder_is_both_changes() {
        let mut set = ObjectSet::new(ObjectFormat::Sha1);
        let blob = add(&mut set, ObjectKind::Blob, b"x".to_vec());
        let inner = add(&mut set, ObjectKind::Tree, tree(&[("100644", "f", blob)]));
        let before = add(&mut set, ObjectKind::Tree, tree(&[("100644", "a", blob)]));
        let after = add(&mut set, ObjectKind::Tree, tree(&[("40000", "a", inner)]));
        let changes = Trees::new(&set).changes(&before, &after).expect("because both are there");
        let paths: Vec<_> = changes.iter().map(|c| (c.path.as_str(), c.kind)).collect();
        assert_eq!(paths, [("a", ChangeKind::Deleted), ("a/f", ChangeKind::Added)]);
    }
}
