//! Removes the cgroups of pods that are gone. runc makes them with a pod's first container and removes a container's own
//! with it, but nobody else removes the pod's.

use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Removes a pod's cgroup from every hierarchy. What is busy stays: somebody still runs in it.
pub(crate) fn remove(pod_cgroup: &str) {
    for hierarchy in hierarchies(Path::new(ROOT)) {
        let path = hierarchy.join(pod_cgroup.trim_start_matches('/'));
        if let Err(error) = remove_tree(&path) {
            tracing::debug!(cgroup = %path.display(), %error, "cgroup of a pod stays");
        }
    }
}

/// The one hierarchy of version 2, or each of version 1.
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// cgroups have no files that could be removed, only folders.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    std::fs::remove_dir(path)
}
