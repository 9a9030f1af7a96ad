//! The layer and tidy checks: what the house plan says and the compiler cannot.
//!
//! Layers and purity come from `[workspace.metadata.layers]` in the root manifest; everything else is read from the files.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest production file, in lines before its `mod tests`; the code bases we admire keep 93 to 97 % below it.
const FILE_LINES_MAX: usize = 500;

/// Longest line that is no URL, in characters. rustfmt breaks code at 120 and leaves comments alone; they get a little more.
const LINE_CHARS_MAX: usize = 150;

/// What a pure crate must not name: disk, network, threads, clocks, randomness.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::process::Command",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "tokio::",
];

/// Words that no production file may hold: unfinished work, and what STYLE.md bans.
const BANNED: [(&str, &str); 5] = [
    ("todo!(", "finish it"),
    ("unimplemented!(", "finish it"),
    ("#[ignore", "a test runs or is gone"),
    ("unbounded_channel", "channels are bounded"),
    ("FIXME", "finish it"),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    metadata: WorkspaceMetadata,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct WorkspaceMetadata {
    layers: Layers,
}

#[derive(Deserialize)]
struct Layers {
    order: Vec<String>,
    pure: Vec<String>,
    contracts: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

pub(crate) fn tidy() -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()
        .context("starting cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cargo metadata said: {}", String::from_utf8_lossy(&output.stderr)))?;
    let root = metadata.workspace_root.clone();
    let mut problems = layers(&metadata);
    problems.extend(maps(&root, &metadata.metadata.layers.order));
    problems.extend(top_level(&root, &metadata.metadata.layers.order));
    for file in tracked(&root)? {
        problems.extend(file_problems(&root, &file, &metadata.metadata.layers)?);
    }
    if problems.is_empty() {
        println!("tidy: layers, heads, sizes and words are as they should be");
        return Ok(());
    }
    bail!("tidy found {} problems:\n  {}", problems.len(), problems.join("\n  "))
}

/// Left is lower, and other folders use contracts only.
fn layers(metadata: &Metadata) -> Vec<String> {
    let layers = &metadata.metadata.layers;
    let place: BTreeMap<&str, String> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            let folder = package.manifest_path.parent()?.strip_prefix(&metadata.workspace_root).ok()?;
            Some((package.name.as_str(), folder.to_str()?.to_owned()))
        })
        .collect();
    let rank = |folder: &str| {
        let top = folder.split('/').next().unwrap_or_default();
        layers.order.iter().position(|layer| layer == top)
    };
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(from) = place.get(package.name.as_str()) else { continue };
        if package.name != from.replace('/', "-") {
            problems.push(format!("{from}: package {} must be called {}", package.name, from.replace('/', "-")));
        }
        let own = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        for dependency in own.filter(|dependency| dependency.kind.as_deref() != Some("dev")) {
            let Some(to) = place.get(dependency.name.as_str()) else { continue };
            if rank(to) > rank(from) {
                problems.push(format!("{from} depends on {to}, which lies to its right"));
            }
        }
    }
    for listed in layers.pure.iter().chain(&layers.contracts) {
        if !place.values().any(|folder| folder == listed) {
            problems.push(format!("Cargo.toml: metadata.layers names {listed}, which is no crate"));
        }
    }
    problems
}

/// Each top-level folder has its README map, and the map names its crates.
fn maps(root: &Path, folders: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for folder in folders.iter().map(String::as_str).chain(["docs"]) {
        let map = std::fs::read_to_string(root.join(folder).join("README.md")).unwrap_or_default();
        if map.is_empty() {
            problems.push(format!("{folder}/README.md, the map of the folder, is missing"));
            continue;
        }
        let inside = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        for entry in inside.filter(|entry| entry.path().join("Cargo.toml").exists()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !map.contains(&format!("`{name}`")) {
                problems.push(format!("{folder}/README.md does not name `{name}`"));
            }
        }
    }
    problems
}

/// Nothing at the top but the seven folders and the files that tools and people expect.
fn top_level(root: &Path, folders: &[String]) -> Vec<String> {
    const FILES: [&str; 6] = ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "Makefile", "CHANGELOG.md"];
    let listed = std::fs::read_dir(root).into_iter().flatten().flatten();
    let names = listed.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let expected = |name: &str| {
        name.starts_with('.')
            || ["docs", "target"].contains(&name)
            || FILES.contains(&name)
            || folders.iter().any(|f| f == name)
    };
    names.filter(|name| !expected(name)).map(|name| format!("{name} does not belong at the top level")).collect()
}

/// Files that git knows, or would know after `git add`.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("starting git ls-files")?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn file_problems(root: &Path, path: &str, layers: &Layers) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let file = root.join(path);
    if path.ends_with(".md") {
        let text = std::fs::read_to_string(&file).with_context(|| path.to_owned())?;
        problems.extend(broken_links(root, path, &text));
        return Ok(problems);
    }
    if !path.ends_with(".rs") || !file.exists() {
        return Ok(problems);
    }
    let text = std::fs::read_to_string(&file).with_context(|| path.to_owned())?;
    let production = production_part(path, &text);
    if !text.starts_with("//!") {
        problems.push(format!("{path}: begins without a //! head"));
    }
    let lines = production.lines().count();
    if lines > FILE_LINES_MAX {
        problems.push(format!("{path}: {lines} lines; more than {FILE_LINES_MAX}: is there a second room in it?"));
    }
    for (number, line) in production.lines().enumerate() {
        if line.chars().count() > LINE_CHARS_MAX && !line.contains("://") && !line.contains('"') {
            problems.push(format!("{path}:{}: longer than {LINE_CHARS_MAX} characters", number + 1));
        }
    }
    for (word, why) in BANNED {
        if production.contains(word) && path != "tests/xtask/src/tidy.rs" {
            problems.push(format!("{path}: {word} ({why})"));
        }
    }
    if path.starts_with("machined/") && production.to_lowercase().contains("kubernetes") {
        problems.push(format!("{path}: machined/ mentions Kubernetes"));
    }
    if layers.pure.iter().any(|folder| path.starts_with(&format!("{folder}/src/"))) {
        let code = production.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        for word in IMPURE.iter().filter(|word| code.contains(*word)) {
            problems.push(format!("{path}: a pure crate names {word}"));
        }
    }
    Ok(problems)
}

/// The file without its tests: up to `mod tests`, and nothing of a file that is one.
fn production_part<'a>(path: &str, text: &'a str) -> &'a str {
    if path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("tests/") {
        return "";
    }
    let tests = text.match_indices("\n#[cfg(test)]\n").find(|(at, _)| {
        let after = text[at + 1..].lines().skip(1).find(|line| !line.starts_with("#["));
        after.is_some_and(|line| line.starts_with("mod "))
    });
    tests.map_or(text, |(at, _)| &text[..=at])
}

/// Links of a Markdown file to files that do not exist.
fn broken_links(root: &Path, path: &str, text: &str) -> Vec<String> {
    let folder = root.join(path).parent().map(Path::to_owned).unwrap_or_default();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    let files = local.map(|target| target.split('#').next().unwrap_or_default());
    let missing = files.filter(|target| !target.is_empty() && !folder.join(target).exists());
    missing.map(|target| format!("{path}: link to {target}, which is not there")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_ends_where_the_tests_begin() {
        let text = "//! x\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n todo!()\n}\n";
        assert_eq!(production_part("init/boot/src/lib.rs", text), "//! x\nfn a() {}\n\n");
        let attributed = text.replace("mod tests", "#[expect(x)]\nmod tests");
        assert_eq!(production_part("init/boot/src/lib.rs", &attributed), "//! x\nfn a() {}\n\n");
        assert_eq!(production_part("init/boot/tests/it.rs", text), "");
    }

    #[test]
    fn links_to_nowhere_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[good](Cargo.toml) [web](https://example.org/x) [top](#here) [bad](missing.md#part)";
        assert_eq!(broken_links(root, "README.md", text), ["README.md: link to missing.md, which is not there"]);
    }
}
