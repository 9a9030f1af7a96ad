//! Loop device, dm-verity, squashfs and overlays of extensions.
//!
//! ```text
//! file on EPHEMERAL -> loop device -> dm-verity by the manifest's root hash -> squashfs on /run/cairn/extensions/<name>
//!                                            image's folder on top of those -> overlay on the folder itself, read-only
//! ```
//!
//! The mapping holds the loop device, and the mount the mapping; nothing here stays open. In the name space of machined, which PID 1 and
//! containerd share: the kernel looks for firmware where PID 1 does.

use init_boot::artefact::{EXTENSION_MODULE_LIST, ExtensionFolder, ExtensionHeader, ExtensionName};
use init_boot::{EXTENSION_MODULES, ModuleList, SUPERBLOCK_BYTES, Superblock, VERITY_BLOCK_BYTES};
use init_linux::device_mapper::{map_verity, unmap};
use init_linux::loop_device::attach_read_only;
use init_linux::modules::load_module;
use init_linux::{Mount, MountFlag, mount, unmount};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where they are mounted, each under its name.
const MOUNTS: &str = "/run/cairn/extensions";
/// Where device-mapper's names begin.
const MAPPED: &str = "cairn-extension-";
/// What `/proc/self/mountinfo` shows as the source of a merged folder.
const OVERLAY: &str = "cairn-extensions";
/// Longest list of modules, in bytes.
const LIST_BYTES_MAX: u64 = 1 << 20;

fn mount_point(name: &ExtensionName) -> PathBuf {
    Path::new(MOUNTS).join(name.as_str())
}

fn mapped(name: &str) -> String {
    format!("{MAPPED}{name}")
}

fn list(path: &Path) -> io::Result<ModuleList> {
    let text = match File::open(path) {
        Ok(file) => io::read_to_string(file.take(LIST_BYTES_MAX))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ModuleList::default()),
        Err(error) => return Err(error),
    };
    ModuleList::parse(&text).map_err(io::Error::other)
}

fn load(modules: &ModuleList) -> io::Result<()> {
    for module in modules.paths() {
        load_module(Path::new(module)).map_err(|error| io::Error::other(error.story()))?;
    }
    Ok(())
}

/// Maps and mounts one, out of everybody's way.
pub(super) fn attach(file: &File, header: &ExtensionHeader) -> io::Result<()> {
    let told = |error: init_linux::SystemError| io::Error::other(error.story());
    load(&list(Path::new(EXTENSION_MODULES))?)?;
    let manifest = &header.manifest;
    // First of all: `clear` unmaps by the names of these folders.
    let target = mount_point(&manifest.name);
    fs::create_dir_all(&target)?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    let at = header.bytes() + manifest.data_blocks * u64::from(VERITY_BLOCK_BYTES);
    file.read_exact_at(&mut superblock, at)?;
    let superblock = Superblock::parse(&superblock).map_err(io::Error::other)?;
    let device = attach_read_only(file.as_fd(), header.bytes(), manifest.image.bytes).map_err(told)?;
    let table = superblock.table(&device.path().display().to_string(), &manifest.root_hash, manifest.data_blocks);
    let name = mapped(manifest.name.as_str());
    let source = map_verity(&name, &table.map_err(io::Error::other)?).map_err(told)?;
    let flags = vec![MountFlag::ReadOnly, MountFlag::NoSetUserId, MountFlag::NoDevices];
    let mounted = mount(&Mount { source, target, kind: "squashfs", flags, options: String::new() });
    mounted.map_err(|error| {
        // Nobody uses it, and the next attempt wants the name.
        let _gone = unmap(&name);
        told(error)
    })
}

/// Puts one overlay over a folder: what the image has there on top, extensions below in the order of names.
pub(super) fn merge(folder: ExtensionFolder, names: &[ExtensionName]) -> io::Result<()> {
    let layers = names.iter().map(|name| format!("{}{}", mount_point(name).display(), folder.path()));
    let layers: Vec<String> = std::iter::once(folder.path().to_owned()).chain(layers).collect();
    let flags = vec![MountFlag::ReadOnly, MountFlag::NoSetUserId, MountFlag::NoDevices];
    let options = format!("lowerdir={}", layers.join(":"));
    let target = PathBuf::from(folder.path());
    mount(&Mount { source: PathBuf::from(OVERLAY), target, kind: "overlay", flags, options })
        .map_err(|error| io::Error::other(error.story()))
}

/// Loads the modules of one in the order that was packed with it, from where they were merged.
pub(super) fn load_modules(name: &ExtensionName) -> io::Result<()> {
    let modules = list(&mount_point(name).join(EXTENSION_MODULE_LIST.trim_start_matches('/')))?;
    let inside = |path: &&String| ExtensionFolder::of(path) != Some(ExtensionFolder::Modules) || path.contains("/../");
    if let Some(outside) = modules.paths().iter().find(inside) {
        return Err(io::Error::other(format!("its list names {outside}, which is no place of modules")));
    }
    load(&modules)
}

/// Unmounts and unmaps everything of extensions, whoever made it.
pub(super) fn clear() -> io::Result<()> {
    let told = |error: init_linux::SystemError| io::Error::other(error.story());
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for target in table.lines().filter_map(ours).rev() {
        unmount(Path::new(target)).map_err(told)?;
    }
    let entries = match fs::read_dir(MOUNTS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        match unmap(&mapped(&entry.file_name().to_string_lossy())) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(nix::errno::Errno::ENXIO) => {}
            Err(error) => return Err(told(error)),
        }
        fs::remove_dir(entry.path())?;
    }
    Ok(())
}

/// The target of a line of mountinfo (proc_pid_mountinfo(5)) that is an extension's mount or a merged folder.
fn ours(line: &str) -> Option<&str> {
    let (before, behind) = line.split_once(" - ")?;
    let (target, mut behind) = (before.split(' ').nth(4)?, behind.split(' '));
    let (kind, source) = (behind.next()?, behind.next()?);
    let merged = kind == "overlay" && source == OVERLAY;
    let attached = target.strip_prefix(MOUNTS).is_some_and(|rest| rest.starts_with('/'));
    (merged || attached).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_extensions_are_taken_away() {
        let table = "\
36 27 254:0 / / ro,relatime shared:1 - squashfs /dev/dm-0 ro
51 36 254:1 / /run/cairn/extensions/cni ro,nosuid,nodev - squashfs /dev/dm-1 ro
52 36 0:40 / /opt/cni/bin ro,nosuid,nodev - overlay cairn-extensions ro,lowerdir=/opt/cni/bin
60 36 0:50 / /run/containerd/rootfs rw - overlay overlay rw,lowerdir=/a:/b
61 36 0:51 / /run/cairn/extensions-not rw - tmpfs tmpfs rw";
        let found: Vec<&str> = table.lines().filter_map(ours).collect();
        assert_eq!(found, ["/run/cairn/extensions/cni", "/opt/cni/bin"]);
    }

    #[test]
    fn a_missing_list_of_modules_is_an_empty_one() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let path = folder.path().join("modules.load");
        assert_eq!(list(&path).expect("because a missing one is empty"), ModuleList::default());
        fs::write(&path, "b.ko\n").expect("because the folder is ours");
        assert!(list(&path).is_err(), "a path is absolute");
    }
}
