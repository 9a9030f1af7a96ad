//! Two builds compared: which byte differs first, and which stage wrote it.
//!
//! Called by `cairn-image build --check`. Files are looked at in the order of the stages, so the first difference is the cause and
//! not a consequence of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::files::{self, FileError};
use crate::manifest::Manifest;
use crate::pipeline;

/// Bytes compared at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Files by the stage that writes them, in the order of the stages; all others come last.
const STAGES: [(&str, &str); 6] = [
    ("root.img", "root file system"),
    ("cairn.efi", "kernel image"),
    ("disk.raw", "disk image"),
    ("disk.qcow2", "disk image"),
    (pipeline::ISO, "disk image"),
    (pipeline::NETWORK, "disk image"),
];
/// The stage of all other files.
const DESCRIPTION: &str = "description";

/// The first difference of two builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the file.
    pub file: String,
    /// The stage that wrote it.
    pub stage: &'static str,
    /// The first byte that differs; none when only one build has the file.
    pub offset: Option<u64>,
    /// For the root file system: the first file in it that differs.
    pub inside: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { file, stage, offset, inside } = self;
        match offset {
            Some(offset) => write!(formatter, "{file} differs at byte {offset} (stage: {stage})")?,
            None => write!(formatter, "only one of the builds has {file} (stage: {stage})")?,
        }
        inside.as_ref().map_or(Ok(()), |path| write!(formatter, "; {path} in it is another"))
    }
}

/// Compares all files of two image folders.
///
/// # Errors
/// When one of them cannot be read.
pub fn first_difference(one: &Path, other: &Path) -> Result<Option<Difference>, FileError> {
    let (ours, theirs) = (names(one)?, names(other)?);
    let mut all: Vec<&String> = ours.union(&theirs).collect();
    all.sort_by_key(|name| (rank(name), name.as_str()));
    for name in all {
        let difference = |offset, inside| Difference { file: name.clone(), stage: stage(name), offset, inside };
        if !(ours.contains(name) && theirs.contains(name)) {
            return Ok(Some(difference(None, None)));
        }
        if let Some(offset) = first_byte(&one.join(name), &other.join(name))? {
            let inside = if rank(name) == 0 { other_file(one, other) } else { None };
            return Ok(Some(difference(Some(offset), inside)));
        }
    }
    Ok(None)
}

fn names(folder: &Path) -> Result<BTreeSet<String>, FileError> {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files::list(folder)?.iter().filter(|path| path.is_file()).map(name).collect())
}

fn rank(name: &str) -> usize {
    STAGES.iter().position(|(file, _)| *file == name).unwrap_or(STAGES.len())
}

fn stage(name: &str) -> &'static str {
    STAGES.get(rank(name)).map_or(DESCRIPTION, |(_, stage)| stage)
}

/// Where two files differ first; the end of the shorter one counts.
fn first_byte(one: &Path, other: &Path) -> Result<Option<u64>, FileError> {
    let open = |path: &Path| File::open(path).map_err(FileError::because("open", path));
    let (mut ours, mut theirs) = (open(one)?, open(other)?);
    let mut at = 0;
    loop {
        let left = chunk(&mut ours).map_err(FileError::because("read", one))?;
        let right = chunk(&mut theirs).map_err(FileError::because("read", other))?;
        if left != right {
            let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
            return Ok(Some(at + same as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        at += left.len() as u64;
    }
}

fn chunk(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first file of the root whose digest differs, when both builds say so.
fn other_file(one: &Path, other: &Path) -> Option<String> {
    let (ours, theirs) = (Manifest::load(one).ok()?, Manifest::load(other).ok()?);
    let (longer, shorter) = if ours.files.len() < theirs.files.len() { (theirs, ours) } else { (ours, theirs) };
    longer.files.iter().find(|file| !shorter.files.contains(file)).map(|file| file.path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(ours: &[(&str, &[u8])], theirs: &[(&str, &[u8])]) -> Option<Difference> {
        let make = |files: &[(&str, &[u8])]| {
            let folder = tempfile::tempdir().expect("because temporary folders can be made");
            for (name, bytes) in files {
                std::fs::write(folder.path().join(name), bytes).expect("because the folder is ours");
            }
            folder
        };
        let (one, other) = (make(ours), make(theirs));
        first_difference(one.path(), other.path()).expect("because both folders can be read")
    }

    #[test]
    fn the_same_bytes_differ_nowhere() {
        let files: [(&str, &[u8]); 2] = [("root.img", &[1; 3 << 20]), ("manifest.json", b"{}")];
        assert_eq!(folders(&files, &files), None);
    }

    #[test]
    fn the_earliest_stage_is_blamed_and_not_what_follows_from_it() {
        let mut root = vec![0; (1 << 20) + 7];
        let ours: [(&str, &[u8]); 3] = [("cairn.efi", b"a"), ("disk.raw", b"a"), ("root.img", &root.clone())];
        root[(1 << 20) + 5] = 1;
        let found = folders(&ours, &[("cairn.efi", b"b"), ("disk.raw", b"b"), ("root.img", &root)]);
        let found = found.expect("because all files differ");
        assert_eq!(found.to_string(), "root.img differs at byte 1048581 (stage: root file system)");
    }

    #[test]
    fn a_longer_file_differs_where_the_other_one_ends() {
        let found = folders(&[("cairn.efi", b"MZ")], &[("cairn.efi", b"MZ.")]).expect("because one is longer");
        assert_eq!((found.offset, found.stage), (Some(2), "kernel image"));
    }

    #[test]
    fn a_file_that_one_build_lacks_is_a_difference() {
        let found = folders(&[("root.img", b"")], &[("root.img", b""), ("x.spdx.json", b"")]);
        assert_eq!(
            found.expect("because one file is missing").to_string(),
            "only one of the builds has x.spdx.json (stage: description)"
        );
    }
}
