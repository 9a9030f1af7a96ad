//! A file tree as a value: sorted paths, each a folder, a file or a link, all owned by root, with one fixed time.
//!
//! The root stage fills one and squashfs takes it as a tar stream, so no file of the image is ever laid out on the host
//! with the host's owners and times. Must never hold a device node: devtmpfs makes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::files::{self, FileError};

/// The time of every file in an image, in seconds since 1970: the first that FAT can hold, so it is the same everywhere.
pub const IMAGE_TIME: u64 = 315_532_800;

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder, mode 0755.
    Folder,
    /// A file with its permission bits.
    File {
        /// Where its bytes come from.
        content: Content,
        /// 0755 for what the kernel executes, 0644 for all else; never more.
        mode: u32,
    },
    /// A symbolic link and its target.
    Link(String),
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the host, read when the tree is written.
    Host(PathBuf),
    /// Made by a stage.
    Bytes(Vec<u8>),
}

impl Content {
    /// Reads the bytes.
    ///
    /// # Errors
    /// When the host's file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, FileError> {
        match self {
            Content::Host(path) => files::read(path),
            Content::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    /// How many bytes there are.
    ///
    /// # Errors
    /// When the host's file cannot be looked at.
    pub fn size(&self) -> Result<u64, FileError> {
        match self {
            Content::Host(path) => {
                fs::metadata(path).map(|found| found.len()).map_err(FileError::because("look at", path))
            }
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
}

/// A file tree; paths begin with `/`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// Two different things for one path.
#[derive(Debug, thiserror::Error)]
#[error("two different things claim {0} in the image; remove one of them from the profile")]
pub struct Conflict(String);

impl Tree {
    /// Puts a node at a path, and folders above it.
    ///
    /// # Errors
    /// When something else is there.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), Conflict> {
        for (index, _) in path.match_indices('/').filter(|(index, _)| *index > 0) {
            let above = self.nodes.entry(path[..index].to_owned()).or_insert(Node::Folder);
            if *above != Node::Folder {
                return Err(Conflict(path[..index].to_owned()));
            }
        }
        let there = self.nodes.entry(path.to_owned()).or_insert_with(|| node.clone());
        if *there == node { Ok(()) } else { Err(Conflict(path.to_owned())) }
    }

    /// The node at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// All paths in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Writes the tree as a tar stream: sorted, owner 0, times [`IMAGE_TIME`].
    ///
    /// # Errors
    /// When a file cannot be read or the stream not be written.
    pub fn write_tar(&self, stream: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(stream);
        for (path, node) in &self.nodes {
            let name = path.trim_start_matches('/');
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(IMAGE_TIME);
            header.set_size(0);
            match node {
                Node::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    tar.append_data(&mut header, format!("{name}/"), io::empty())?;
                }
                Node::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, name, target)?;
                }
                Node::File { content, mode } => {
                    let bytes = content.read().map_err(io::Error::other)?;
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, name, bytes.as_slice())?;
                }
            }
        }
        tar.into_inner()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &str) -> Node {
        Node::File { content: Content::Bytes(bytes.as_bytes().to_vec()), mode: 0o644 }
    }

    #[test]
    fn folders_above_a_file_are_there_and_sorted_before_it() {
        let mut tree = Tree::default();
        tree.insert("/usr/bin/runc", text("x")).expect("because nothing else is there");
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/usr", "/usr/bin", "/usr/bin/runc"]);
    }

    #[test]
    fn two_contents_for_one_path_are_refused_and_the_same_twice_is_not() {
        let mut tree = Tree::default();
        tree.insert("/etc/passwd", text("a")).expect("because nothing else is there");
        tree.insert("/etc/passwd", text("a")).expect("because it is the same");
        let error = tree.insert("/etc/passwd", text("b")).expect_err("because it differs");
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
    }

    #[test]
    fn nothing_lies_below_a_link() {
        let mut tree = Tree::default();
        tree.insert("/lib", Node::Link("usr/lib".to_owned())).expect("because nothing else is there");
        assert!(tree.insert("/lib/libc.so.6", text("")).is_err());
    }

    #[test]
    fn the_tar_stream_is_the_same_each_time_and_names_root_as_owner() {
        let mut tree = Tree::default();
        tree.insert("/etc/os-release", text("ID=cairn\n")).expect("because nothing else is there");
        let write = || {
            let mut bytes = Vec::new();
            tree.write_tar(&mut bytes).expect("because a Vec takes all it is given");
            bytes
        };
        assert_eq!(write(), write());
        let bytes = write();
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().expect("because the stream is whole") {
            let entry = entry.expect("because the stream is whole");
            assert_eq!(entry.header().uid().expect("because the field is a number"), 0);
            assert_eq!(entry.header().mtime().expect("because the field is a number"), IMAGE_TIME);
        }
    }
}
