//! Host extensions: a folder of the user's -> a read-only file system with a dm-verity tree, named by the digest of its manifest.
//!
//! Called by `cairn-image extension`. What an extension may hold is looked at here, every mistake at once, before anything is packed: only
//! the folders of `init_boot::artefact::ExtensionFolder`, nothing setuid, no scripts, modules of the one kernel that it names. The same
//! files give the same bytes, whatever their owners and times. Must never call an extension good whose content was not hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use init_boot::VerityError;
use init_boot::artefact::{
    ArtefactError, EXTENSION_MODULE_LIST, ExtensionFolder, ExtensionHeader, ExtensionManifest, ExtensionName, Part,
};

use crate::artefact::{self, ArtefactFileError};
use crate::files::{self, FileError};
use crate::modules::{self, Module, ModulesError};
use crate::tree::{Content, Node, Tree};
use crate::verity::{self, RootImage};

/// Most files of an extension; the firmware of all of Linux has some thousands.
const FILES_MAX: usize = 20_000;
/// Deepest folder in an extension; bounds the walk.
const DEPTH_MAX: usize = 32;
/// What an ELF file begins with.
const ELF: &[u8] = b"\x7fELF";
/// What a kernel module says of the kernel that it is for, in its section `.modinfo`.
const VERMAGIC: &[u8] = b"vermagic=";
/// What ends a signed module (scripts/sign-file.c).
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// Any of these lets a file run with rights that its caller lacks.
const SET_ID_BITS: u32 = 0o6000;

/// What an extension is called and made for.
#[derive(Debug, Clone)]
pub struct Name {
    /// Lower-case letters, digits and hyphens.
    pub name: ExtensionName,
    /// As whoever made it counts.
    pub version: String,
    /// The kernel release that its modules are for.
    pub kernel: Option<String>,
}

impl Name {
    /// Says before anything is packed whether an extension may be called so.
    ///
    /// # Errors
    /// Which part of it may not be.
    pub fn check(&self) -> Result<(), ExtensionError> {
        let folder = if self.kernel.is_some() { ExtensionFolder::Modules } else { ExtensionFolder::CniPlugins };
        let image = verity::seal(vec![0; 1])?;
        ExtensionHeader::new(self.manifest(vec![folder], &image)).encode().map(|_| ()).map_err(ExtensionError::Manifest)
    }

    fn manifest(&self, folders: Vec<ExtensionFolder>, image: &RootImage) -> ExtensionManifest {
        ExtensionManifest {
            name: self.name.clone(),
            version: self.version.clone(),
            architecture: "amd64".to_owned(),
            kernel: self.kernel.clone(),
            folders,
            image: Part::of(&image.bytes),
            data_blocks: image.data_blocks,
            root_hash: image.root_hash,
        }
    }
}

/// Files that may become an extension.
#[derive(Debug)]
pub struct Collected {
    /// The files.
    pub tree: Tree,
    /// The folders that they fill.
    pub folders: Vec<ExtensionFolder>,
}

/// Something that may not be in an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The path as it would be on a machine.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Why there is no extension.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content; all that is wrong.
    #[error("{} cannot become an extension:\n{}", folder.display(), lines(mistakes))]
    Content {
        /// The folder.
        folder: PathBuf,
        /// What is wrong in it.
        mistakes: Vec<Mistake>,
    },
    /// Name, version or kernel.
    #[error("the extension cannot be called that")]
    Manifest(#[source] ArtefactError),
    /// A module.
    #[error(transparent)]
    Module(#[from] ModulesError),
    /// Too large for its hash tree.
    #[error(transparent)]
    Verity(#[from] VerityError),
    /// The file.
    #[error(transparent)]
    Artefact(#[from] ArtefactFileError),
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("  {mistake}")).collect::<Vec<_>>().join("\n")
}

/// Looks at all files of a folder, which is laid out as they will be on a machine: `opt/cni/bin/bridge`.
///
/// # Errors
/// Every file that may not be in an extension, or that cannot be read.
pub fn collect(folder: &Path, kernel: Option<&str>) -> Result<Collected, ExtensionError> {
    let mut walk = Walk { kernel, ..Walk::default() };
    walk.folder(folder, "", 0)?;
    if walk.files == 0 {
        walk.mistake("/", format!("there is no file; an extension fills {}", all_folders()));
    }
    if kernel.is_some() && walk.mistakes.is_empty() && !walk.folders.contains(ExtensionFolder::Modules.as_str()) {
        walk.mistake("/", "a kernel was named, and there are no modules; leave --kernel away".to_owned());
    }
    if !walk.mistakes.is_empty() {
        walk.mistakes.sort_by(|one, other| one.path.cmp(&other.path));
        return Err(ExtensionError::Content { folder: folder.to_path_buf(), mistakes: walk.mistakes });
    }
    if !walk.modules.is_empty() {
        let paths: BTreeMap<&str, &str> =
            walk.modules.iter().map(|(path, module)| (module.name.as_str(), path.as_str())).collect();
        let ordered = modules::in_order(walk.modules.iter().map(|(_, module)| module));
        let list = modules::load_list(ordered.into_iter(), |module| paths[module.name.as_str()].to_owned());
        let list = Node::File { content: Content::Bytes(list.render().into_bytes()), mode: 0o644 };
        walk.tree.insert(EXTENSION_MODULE_LIST, list).expect("because files lie in the folders of extensions only");
    }
    let folders = ExtensionFolder::ALL.into_iter().filter(|one| walk.folders.contains(one.as_str())).collect();
    Ok(Collected { tree: walk.tree, folders })
}

fn all_folders() -> String {
    ExtensionFolder::ALL.map(ExtensionFolder::path).join(", ")
}

#[derive(Default)]
struct Walk<'a> {
    kernel: Option<&'a str>,
    tree: Tree,
    folders: BTreeSet<&'static str>,
    /// With their paths on a machine.
    modules: Vec<(String, Module)>,
    files: usize,
    mistakes: Vec<Mistake>,
}

impl Walk<'_> {
    fn mistake(&mut self, path: &str, message: String) {
        self.mistakes.push(Mistake { path: path.to_owned(), message });
    }

    fn folder(&mut self, folder: &Path, above: &str, depth: usize) -> Result<(), ExtensionError> {
        if depth > DEPTH_MAX {
            self.mistake(above, format!("folders are nested deeper than {DEPTH_MAX}"));
            return Ok(());
        }
        for entry in files::list(folder)? {
            let plain = |name: &&str| !name.chars().any(|letter| letter.is_control() || letter.is_whitespace());
            let Some(name) = entry.file_name().and_then(|name| name.to_str()).filter(plain) else {
                self.mistake(above, format!("the name {} is not plain text without spaces", entry.display()));
                continue;
            };
            let path = format!("{above}/{name}");
            if fs::symlink_metadata(&entry).map_err(FileError::because("look at", &entry))?.is_dir() {
                self.folder(&entry, &path, depth + 1)?;
                continue;
            }
            self.files += 1;
            if self.files > FILES_MAX {
                self.mistake("/", format!("an extension has at most {FILES_MAX} files"));
                return Ok(());
            }
            match ExtensionFolder::of(&path) {
                None => self.mistake(&path, format!("extensions fill only {}", all_folders())),
                Some(inside) => self.entry(inside, &entry, path)?,
            }
        }
        Ok(())
    }

    /// Takes a file or a link that lies in a folder of extensions.
    fn entry(&mut self, inside: ExtensionFolder, entry: &Path, path: String) -> Result<(), ExtensionError> {
        let found = fs::symlink_metadata(entry).map_err(FileError::because("look at", entry))?;
        let (path, node) = match found.is_symlink() {
            true => (path, link(entry)?),
            false if !found.is_file() => (path, Err("only files, folders and links may be in an extension".to_owned())),
            false if inside == ExtensionFolder::Modules => self.module(entry, path)?,
            false => {
                let node = file(entry, inside, found.permissions().mode())?;
                (path, node)
            }
        };
        let node = match node {
            Ok(node) => node,
            Err(message) => {
                self.mistake(&path, message);
                return Ok(());
            }
        };
        self.folders.insert(inside.as_str());
        if let Err(conflict) = self.tree.insert(&path, node) {
            self.mistake(&path, conflict.to_string());
        }
        Ok(())
    }

    /// Takes a module, decompressed as the image's own are; gives its path without the ending of a compression.
    fn module(&mut self, entry: &Path, path: String) -> Result<(String, Result<Node, String>), ExtensionError> {
        let Some(name) = modules::module_name(entry) else {
            let message = "only modules, *.ko or *.ko.xz, may be here; the lists that depmod writes are the image's";
            return Ok((path, Err(message.to_owned())));
        };
        let path = path.strip_suffix(".xz").map(str::to_owned).unwrap_or(path);
        let bytes = modules::decompressed(entry)?;
        let judged = judge_module(&path, &bytes, self.kernel);
        let node = judged.map(|()| Node::File { content: Content::Bytes(bytes.clone()), mode: 0o644 });
        if node.is_ok() {
            if let Some((other, _)) = self.modules.iter().find(|(_, module)| module.name == name) {
                let message = format!("{other} is the module {name} already");
                return Ok((path, Err(message)));
            }
            self.modules.push((path.clone(), Module { name, bytes }));
        }
        Ok((path, node))
    }
}

/// A link that leads nowhere else: to a name in its own folder or below.
fn link(entry: &Path) -> Result<Result<Node, String>, FileError> {
    let target = fs::read_link(entry).map_err(FileError::because("read", entry))?;
    let inside = target.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    Ok(match target.to_str().filter(|_| inside) {
        Some(target) => Ok(Node::Link(target.to_owned())),
        None => Err(format!("the link leads to {}; it may lead to files beside or below it only", target.display())),
    })
}

/// Anything but a module.
fn file(entry: &Path, inside: ExtensionFolder, mode: u32) -> Result<Result<Node, String>, FileError> {
    let executable = mode & 0o111 != 0;
    let bytes = files::read(entry)?;
    let judged = match inside {
        _ if mode & SET_ID_BITS != 0 => Err("setuid and setgid programs are not taken: chmod u-s,g-s"),
        ExtensionFolder::CniPlugins | ExtensionFolder::Runtimes if executable && !bytes.starts_with(ELF) => {
            Err("it is executable and no ELF program; machines have nothing that interprets scripts")
        }
        ExtensionFolder::Firmware if executable => Err("firmware is not executable: chmod a-x"),
        ExtensionFolder::CniPlugins
        | ExtensionFolder::Runtimes
        | ExtensionFolder::Firmware
        | ExtensionFolder::Modules => Ok(()),
    };
    let mode = if executable { 0o755 } else { 0o644 };
    let judged = judged.map_err(str::to_owned);
    Ok(judged.map(|()| Node::File { content: Content::Bytes(bytes), mode }))
}

/// A module of the one kernel, signed: machines load no others.
fn judge_module(path: &str, bytes: &[u8], kernel: Option<&str>) -> Result<(), String> {
    let Some(kernel) = kernel else {
        return Err("a module is for one kernel; name its release with --kernel".to_owned());
    };
    let own = format!("{}/{kernel}/", ExtensionFolder::Modules.path());
    if !path.starts_with(&own) {
        return Err(format!("modules for this kernel lie below {own}"));
    }
    let at = bytes.windows(VERMAGIC.len()).position(|window| window == VERMAGIC);
    let Some(at) = at else {
        return Err("this is no kernel module: it does not say for which kernel it is".to_owned());
    };
    let release = bytes[at + VERMAGIC.len()..].split(|byte| *byte == 0 || *byte == b' ').next().unwrap_or_default();
    match String::from_utf8_lossy(release) {
        found if found != kernel => Err(format!("the module is for kernel {found}, and the extension for {kernel}")),
        _ if !bytes.ends_with(SIGNED) => {
            Err("the module is not signed; machines load only what a key of their kernel signed".to_owned())
        }
        _ => Ok(()),
    }
}

/// Writes an extension from the file system that was made of `collected`.
///
/// # Errors
/// When it cannot be called so, is too large, or cannot be written.
pub fn write(
    name: &Name,
    folders: Vec<ExtensionFolder>,
    squashfs: Vec<u8>,
    path: &Path,
) -> Result<ExtensionHeader, ExtensionError> {
    let image = verity::seal(squashfs)?;
    let header = ExtensionHeader::new(name.manifest(folders, &image));
    // Said before anything of the file is written.
    header.encode().map_err(ExtensionError::Manifest)?;
    artefact::write_extension(path, &header, &image.bytes)?;
    Ok(header)
}

#[cfg(test)]
mod tests;
