//! The crates that our programs are linked from: cargo's own resolution, followed from each program along normal dependencies.
//!
//! cargo resolves features for the whole workspace, so an optional dependency that only a test turns on may be listed; none is left
//! out. cargo fetches what it has not read yet, such as crates of tests alone; must never change Cargo.lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Component, licence, percent};
use crate::files::{self, FileError};

/// The one target of our programs.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Why cargo could not tell.
#[derive(Debug, thiserror::Error)]
pub enum CratesError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// cargo failed.
    #[error("cargo metadata failed in {}: {message}", checkout.display())]
    Failed {
        /// Where it ran.
        checkout: PathBuf,
        /// What it said.
        message: String,
    },
    /// Its answer is something else.
    #[error("cargo metadata answered something else than expected")]
    Answer(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// The crates of these programs, our own among them.
pub(super) fn components(checkout: &Path, programs: &[&str]) -> Result<Vec<Component>, CratesError> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let output = command.current_dir(checkout).output().map_err(FileError::because("run cargo in", checkout))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CratesError::Failed { checkout: checkout.to_path_buf(), message });
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let lock = files::read_text(&checkout.join("Cargo.lock"))?;
    Ok(select(&metadata, &checksums(&lock), programs))
}

fn select(metadata: &Metadata, checksums: &BTreeMap<(String, String), String>, programs: &[&str]) -> Vec<Component> {
    let is_program =
        |target: &Target| target.kind.iter().any(|kind| kind == "bin") && programs.contains(&target.name.as_str());
    let roots = metadata.packages.iter().filter(|package| package.targets.iter().any(is_program));
    let mut open: Vec<&str> = roots.map(|package| package.id.as_str()).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = open.pop() {
        if linked.insert(id) {
            let normal = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
            let dependencies = nodes.get(id).map_or(&[][..], |node| &node.deps);
            open.extend(dependencies.iter().filter(normal).map(|dependency| dependency.pkg.as_str()));
        }
    }
    let component = |package: &Package| {
        let checksum = checksums.get(&(package.name.clone(), package.version.clone())).cloned();
        Component {
            purl: format!("pkg:cargo/{}@{}", percent(&package.name), percent(&package.version)),
            name: package.name.clone(),
            version: package.version.clone(),
            licence: package.license.as_deref().map(licence::of_crate),
            sha256: checksum.filter(|_| package.source.is_some()),
        }
    };
    metadata.packages.iter().filter(|package| linked.contains(package.id.as_str())).map(component).collect()
}

/// SHA-256 of each crate's file by name and version, from Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for block in lock.split("[[package]]") {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
            line.and_then(|line| line.strip_suffix('"')).map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(checksum)) = (value("name"), value("version"), value("checksum")) {
            found.insert((name, version), checksum);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_dependencies_are_followed_and_others_are_not() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"packages": [
                {"id": "a", "name": "own", "version": "0.1.0", "license": "Apache-2.0", "source": null, "targets": [{"name": "machined", "kind": ["bin"]}]},
                {"id": "b", "name": "linked", "version": "1.0.0", "license": "MIT/Apache-2.0", "source": "registry", "targets": []},
                {"id": "c", "name": "tester", "version": "1.0.0", "license": null, "source": "registry", "targets": []},
                {"id": "d", "name": "other", "version": "0.1.0", "license": null, "source": null, "targets": [{"name": "cairnctl", "kind": ["bin"]}]}],
              "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}, {"pkg": "c", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]}]},
                {"id": "b", "deps": []}, {"id": "c", "deps": []}, {"id": "d", "deps": []}]}}"#,
        )
        .expect("because it is as cargo writes it");
        let lock = "[[package]]\nname = \"linked\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"ab\"\n";
        let found = select(&metadata, &checksums(lock), &["machined"]);
        let names: Vec<(&str, Option<&str>)> =
            found.iter().map(|found| (found.purl.as_str(), found.sha256.as_deref())).collect();
        assert_eq!(names, [("pkg:cargo/own@0.1.0", None), ("pkg:cargo/linked@1.0.0", Some("ab"))]);
        assert_eq!(found[1].licence.as_deref(), Some("MIT OR Apache-2.0"));
    }
}
