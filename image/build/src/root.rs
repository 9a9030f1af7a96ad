//! Stage 2: the root file tree: exactly what the profile names, and the libraries that those programs need.
//!
//! Called by `pipeline`. Takes files from unpacked packages, our own binaries, the profile's overlay folder and preloaded container
//! images. Must never pick up a file that nobody named: everything in the image has a line in the profile or is a library of one.

use std::path::{Path, PathBuf};

use init_boot::artefact::ExtensionFolder;
use init_boot::{ENCRYPTION_MODULES, EXTENSION_MODULES, ROOT_MODULES};

use crate::elf::{self, ElfError};
use crate::files::{self, FileError};
use crate::modules::{self, Catalogue, Module, ModulesError};
use crate::packages::UnpackedSet;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::tree::{Conflict, Content, Node, Tree};

/// Where preloaded container images lie; the node agent looks here before it asks a registry.
const IMAGE_CACHE: &str = "/usr/share/cairn/images";
/// Where Debian's package ca-certificates keeps the certificates that its bundle is made of.
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";

/// The inputs of this stage.
pub struct Request<'a> {
    /// What to put in.
    pub profile: &'a Profile,
    /// Folder that the profile lies in; its overlay is relative to it.
    pub profiles: &'a Path,
    /// Where programs and libraries come from.
    pub packages: &'a UnpackedSet,
    /// Where modules come from.
    pub catalogue: &'a Catalogue,
    /// Folder with our own programs.
    pub binaries: &'a Path,
    /// OCI archives to bake in.
    pub preload: &'a [PathBuf],
    /// Contents of /etc/os-release.
    pub os_release: &'a str,
}

/// Why there is no root tree.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Two things want one path.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Libraries are missing.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Modules are missing.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A file of the profile that no package has.
    #[error("no package of the profile has {0}; correct the files of the profile")]
    NoSuchFile(String),
    /// One of our programs has not been built.
    #[error(
        "{} is missing; build the programs first (cargo build --release), or name their folder with --binaries",
        .0.display()
    )]
    NotBuilt(PathBuf),
    /// One of our programs would not start in the image.
    #[error("{} is linked dynamically; build it with -C target-feature=+crt-static", .0.display())]
    Dynamic(PathBuf),
    /// Something that no image may hold.
    #[error("{path} is {what}; an image holds nothing of the kind, take it out of the profile")]
    Hardening {
        /// Where.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The certificates package is not among the packages.
    #[error("no package of the profile has {CERTIFICATES}; add ca-certificates to its packages")]
    NoCertificates,
}

/// The most files that the kernel would execute: each one is something that an intruder could start.
const EXECUTABLES_MAX: usize = 12;
/// Names of programs that run what they are given: none is in an image, whatever the profile says.
const INTERPRETERS: [&str; 16] = [
    "ash", "awk", "bash", "busybox", "dash", "env", "gawk", "lua", "mawk", "node", "perl", "python", "python3", "ruby",
    "sh", "zsh",
];

/// Makes sure that a tree holds nothing that an intruder would like to find.
///
/// # Errors
/// When it holds an interpreter, a script, a set-user-id bit, or too many executables.
pub fn harden(tree: &Tree) -> Result<(), RootError> {
    let refused = |path: &str, what| Err(RootError::Hardening { path: path.to_owned(), what });
    let mut executables = 0;
    for (path, node) in tree.iter() {
        if INTERPRETERS.contains(&path.rsplit('/').next().unwrap_or_default()) {
            return refused(path, "an interpreter");
        }
        let Node::File { content, mode } = node else { continue };
        if mode & !0o777 != 0 || mode & 0o022 != 0 {
            return refused(path, "writable for others, or run as somebody else");
        }
        if mode & 0o111 == 0 {
            continue;
        }
        executables += 1;
        if executables > EXECUTABLES_MAX {
            return refused(path, "one executable too many (12 are allowed)");
        }
        if content.read()?.starts_with(b"#!") {
            return refused(path, "a script");
        }
    }
    Ok(())
}

/// Assembles the root tree.
///
/// # Errors
/// See [`RootError`].
pub fn assemble(request: &Request<'_>, progress: &dyn Progress) -> Result<Tree, RootError> {
    let Request { profile, packages, .. } = request;
    let mut tree = Tree::default();
    let mut programs = Vec::new();
    for path in &profile.files {
        let source = packages.file(path).ok_or_else(|| RootError::NoSuchFile(path.clone()))?;
        let mode = if path.contains("/bin/") || path.contains("/sbin/") { 0o755 } else { 0o644 };
        tree.insert(path, Node::File { content: Content::Host(source.clone()), mode })?;
        programs.push((path.clone(), source));
    }
    for library in elf::closure(&programs, packages)? {
        // To map a library takes no right to execute it.
        let mode = if library.interpreter { 0o755 } else { 0o644 };
        tree.insert(&library.path, Node::File { content: Content::Host(library.source), mode })?;
    }
    for (path, target) in &profile.links {
        tree.insert(path, Node::Link(target.clone()))?;
    }
    for path in &profile.directories {
        tree.insert(path, Node::Folder)?;
    }
    // Where extensions are merged: a mount needs its folder.
    for folder in ExtensionFolder::ALL {
        tree.insert(folder.path(), Node::Folder)?;
    }
    own_binaries(&mut tree, request, progress)?;
    overlay(&mut tree, request)?;
    tree.insert("/etc/os-release", text(request.os_release.as_bytes().to_vec()))?;
    if let Some(path) = &profile.certificates {
        tree.insert(path, text(certificates(packages)?))?;
    }
    kernel_modules(&mut tree, request)?;
    for archive in request.preload {
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let content = Content::Host(archive.clone());
        tree.insert(&format!("{IMAGE_CACHE}/{name}"), Node::File { content, mode: 0o644 })?;
    }
    Ok(tree)
}

fn text(bytes: Vec<u8>) -> Node {
    Node::File { content: Content::Bytes(bytes), mode: 0o644 }
}

fn own_binaries(tree: &mut Tree, request: &Request<'_>, progress: &dyn Progress) -> Result<(), RootError> {
    for binary in &request.profile.binaries {
        let source = request.binaries.join(&binary.name);
        if !source.exists() {
            if binary.optional {
                progress.warn(&format!("the image goes without {}: {} is not there", binary.path, source.display()));
                continue;
            }
            return Err(RootError::NotBuilt(source));
        }
        static_program(&source)?;
        tree.insert(&binary.path, Node::File { content: Content::Host(source), mode: 0o755 })?;
    }
    Ok(())
}

/// Reads one of our programs and makes sure that it needs no libraries.
///
/// # Errors
/// When it is missing, damaged or linked dynamically.
pub(crate) fn static_program(path: &Path) -> Result<Vec<u8>, RootError> {
    let bytes = files::read(path)?;
    let damaged = |source| ElfError::Damaged { path: path.to_path_buf(), source };
    let needs = elf::needs(&bytes).map_err(damaged)?;
    match needs.interpreter.is_none() && needs.libraries.is_empty() {
        true => Ok(bytes),
        false => Err(RootError::Dynamic(path.to_path_buf())),
    }
}

fn overlay(tree: &mut Tree, request: &Request<'_>) -> Result<(), RootError> {
    let Some(overlay) = &request.profile.overlay else { return Ok(()) };
    let top = request.profiles.join(overlay);
    let mut open = vec![top.clone()];
    while let Some(folder) = open.pop() {
        for path in files::list(&folder)? {
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(&top).expect("because the walk began there").display().to_string();
            tree.insert(&format!("/{below}"), Node::File { content: Content::Host(path), mode: 0o644 })?;
        }
    }
    Ok(())
}

/// The bundle that update-ca-certificates would write: all certificates, one after the other, by name.
fn certificates(packages: &UnpackedSet) -> Result<Vec<u8>, RootError> {
    let folder = packages.iter().map(|package| package.folder.join(CERTIFICATES)).find(|folder| folder.is_dir());
    let mut bundle = Vec::new();
    for path in files::list(&folder.ok_or(RootError::NoCertificates)?)? {
        bundle.extend(files::read(&path)?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}

/// All modules of the profile below /usr/lib/modules, those of stage one too, and the list of what to load.
fn kernel_modules(tree: &mut Tree, request: &Request<'_>) -> Result<(), RootError> {
    let Request { profile, catalogue, .. } = request;
    let folder = format!("/usr/lib/modules/{}", catalogue.release);
    let path = |module: &Module| format!("{folder}/{}.ko", module.name);
    let lists = &profile.modules;
    // Stage one has loaded its own before; naming one again would only be refused by the kernel with EEXIST.
    let early: Vec<String> = catalogue.select(&lists.stage_one)?.into_iter().map(|module| module.name).collect();
    let at_boot = catalogue.select(&lists.boot)?;
    let late = |wanted: Vec<Module>, known: &[String]| -> Vec<Module> {
        wanted.into_iter().filter(|module| !early.contains(&module.name) && !known.contains(&module.name)).collect()
    };
    let at_boot = late(at_boot, &[]);
    let names: Vec<String> = at_boot.iter().map(|module| module.name.clone()).collect();
    let for_encryption = late(catalogue.select(&lists.encryption)?, &names);
    let for_extensions = late(catalogue.select(&lists.extension)?, &names);
    tree.insert(ROOT_MODULES, text(modules::load_list(at_boot.iter(), path).render().into_bytes()))?;
    tree.insert(ENCRYPTION_MODULES, text(modules::load_list(for_encryption.iter(), path).render().into_bytes()))?;
    let list = modules::load_list(for_extensions.iter(), path);
    tree.insert(EXTENSION_MODULES, text(list.render().into_bytes()))?;
    for module in at_boot.into_iter().chain(for_encryption).chain(for_extensions) {
        tree.insert(&path(&module), text(module.bytes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
