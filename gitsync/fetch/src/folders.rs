//! Where children keep what they fetched, one folder for each repository, and what happens when an answer lacked objects.
//!
//! git believes that a repository that has a commit has everything below it, and never asks again. So one answer with a hole in it
//! (a lying server, or somebody on the line, once) would leave the machine without that object for as long as the folder lives.
//! Such a folder is therefore not built upon: the next fetch goes to an empty one, which takes the old one's place only when what
//! came is whole. Until then the old one stays, because accepted steps are read again from it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The folders of all repositories, by their number.
#[derive(Debug)]
pub struct Folders {
    base: PathBuf,
    afresh: BTreeSet<usize>,
}

impl Folders {
    /// Folders below `base`.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Folders { base: base.into(), afresh: BTreeSet::new() }
    }

    /// Where the next fetch of a repository goes.
    #[must_use]
    pub fn next(&self, number: usize) -> PathBuf {
        if self.afresh.contains(&number) { self.fresh(number) } else { self.kept(number) }
    }

    /// Where what was accepted of a repository can be read again.
    #[must_use]
    pub fn kept(&self, number: usize) -> PathBuf {
        self.base.join(number.to_string())
    }

    fn fresh(&self, number: usize) -> PathBuf {
        self.base.join(format!("{number}.fresh"))
    }

    /// The last fetch of a repository lacked objects: the next one begins with nothing.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn incomplete(&mut self, number: usize) -> io::Result<()> {
        self.afresh.insert(number);
        remove(&self.fresh(number))
    }

    /// The last fetch of a repository brought all that its judgement needed.
    ///
    /// # Errors
    /// When a folder cannot be removed or renamed.
    pub fn whole(&mut self, number: usize) -> io::Result<()> {
        if self.afresh.remove(&number) {
            remove(&self.kept(number))?;
            std::fs::rename(self.fresh(number), self.kept(number))?;
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_hole_is_replaced_by_a_whole_one_and_kept_until_then() {
        let base = tempfile::tempdir().expect("because /tmp can be written");
        let mut folders = Folders::new(base.path());
        let old = folders.next(0);
        std::fs::create_dir_all(old.join("old")).expect("because /tmp can be written");
        folders.incomplete(0).expect("because nothing is in the way");
        let fresh = folders.next(0);
        assert!(fresh != old && !fresh.exists() && folders.kept(0) == old && old.exists());
        assert_eq!(folders.next(1), base.path().join("1"), "others are left alone");
        std::fs::create_dir_all(fresh.join("again")).expect("because /tmp can be written");
        folders.incomplete(0).expect("because it can be removed");
        assert!(!folders.next(0).exists(), "another hole: again with nothing");
        std::fs::create_dir_all(fresh.join("new")).expect("because /tmp can be written");
        folders.whole(0).expect("because it can be renamed");
        assert!(folders.next(0) == old && old.join("new").exists() && !old.join("old").exists() && !fresh.exists());
    }
}
