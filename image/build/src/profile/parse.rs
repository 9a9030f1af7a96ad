//! Text of a profile -> `Profile`, all mistakes at once, each with line and column.
//!
//! Called by `Profile::parse` only. Unknown nodes are mistakes: a typing error must never silently drop a file.

use kdl::{KdlDocument, KdlNode};

use super::{Binary, Compression, DiskSizes, ModuleLists, Profile};

/// Collects mistakes while the document is walked.
struct Reader<'a> {
    text: &'a str,
    problems: Vec<String>,
}

/// Parses a profile.
pub(super) fn parse(text: &str) -> Result<Profile, Vec<String>> {
    let document = KdlDocument::parse_v2(text).map_err(|error| {
        let line_of = |offset| position(text, offset);
        error
            .diagnostics
            .iter()
            .map(|found| {
                let what = found.message.clone().unwrap_or_else(|| "not valid KDL".to_owned());
                let help = found.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
                format!("{}: {what}{help}", line_of(found.span.offset()))
            })
            .collect::<Vec<_>>()
    })?;
    let mut reader = Reader { text, problems: Vec::new() };
    let profile = reader.profile(&document);
    match profile {
        Some(profile) if reader.problems.is_empty() => Ok(profile),
        _ => Err(reader.problems),
    }
}

/// `line:column` of a byte offset, both from one.
fn position(text: &str, offset: usize) -> String {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    format!("{line}:{column}")
}

impl Reader<'_> {
    fn wrong(&mut self, node: &KdlNode, message: String) {
        self.problems.push(format!("{}: {message}", position(self.text, node.span().offset())));
    }

    fn profile(&mut self, document: &KdlDocument) -> Option<Profile> {
        let [node] = document.nodes() else {
            self.problems.push("1:1: expected exactly one node: profile \"<name>\" { ... }".to_owned());
            return None;
        };
        if node.name().value() != "profile" {
            self.wrong(node, format!("expected profile, found {}", node.name().value()));
            return None;
        }
        let mut profile = Profile {
            name: self.argument(node)?,
            suite: String::new(),
            architecture: String::new(),
            kernel: String::new(),
            packages: Vec::new(),
            tools: Vec::new(),
            files: Vec::new(),
            binaries: Vec::new(),
            links: Vec::new(),
            directories: Vec::new(),
            overlay: None,
            certificates: None,
            modules: ModuleLists::default(),
            command_line: Vec::new(),
            compression: Compression { algorithm: String::new(), options: Vec::new(), block_bytes: 0 },
            disk: DiskSizes { total: 0, esp: 0, root: 0, state: 0 },
            iso: false,
        };
        for child in children(node) {
            match child.name().value() {
                "suite" => profile.suite = self.argument(child).unwrap_or_default(),
                "architecture" => profile.architecture = self.argument(child).unwrap_or_default(),
                "kernel" => profile.kernel = self.argument(child).unwrap_or_default(),
                "packages" => profile.packages.extend(self.arguments(child)),
                "tools" => profile.tools.extend(self.arguments(child)),
                "root" => self.root(child, &mut profile),
                "modules" => profile.modules = self.modules(child),
                "command-line" => profile.command_line.extend(self.arguments(child)),
                "compression" => profile.compression = self.compression(child),
                "disk" => profile.disk = self.disk(child),
                "iso" => profile.iso = true,
                other => self.wrong(child, format!("unknown node {other} in profile")),
            }
        }
        for (what, empty) in [
            ("suite", profile.suite.is_empty()),
            ("architecture", profile.architecture.is_empty()),
            ("kernel", profile.kernel.is_empty()),
            ("compression", profile.compression.algorithm.is_empty()),
            ("disk", profile.disk.total == 0),
        ] {
            if empty {
                self.wrong(node, format!("profile {} needs a {what} node", profile.name));
            }
        }
        Some(profile)
    }

    fn root(&mut self, node: &KdlNode, profile: &mut Profile) {
        for child in children(node) {
            match child.name().value() {
                "files" => profile.files.extend(self.paths(child)),
                "directories" => profile.directories.extend(self.paths(child)),
                "overlay" => profile.overlay = self.argument(child),
                "certificates" => profile.certificates = self.argument(child),
                "binary" => {
                    let optional = child.get("optional").and_then(|value| value.as_bool()).unwrap_or(false);
                    if let (Some(name), Some(path)) = (self.argument(child), self.property(child, "path")) {
                        profile.binaries.push(Binary { name, path, optional });
                    }
                }
                "link" => {
                    if let (Some(path), Some(target)) = (self.argument(child), self.property(child, "to")) {
                        profile.links.push((path, target));
                    }
                }
                other => self.wrong(child, format!("unknown node {other} in root")),
            }
        }
    }

    fn modules(&mut self, node: &KdlNode) -> ModuleLists {
        let mut lists = ModuleLists::default();
        for child in children(node) {
            match child.name().value() {
                "stage-one" => lists.stage_one.extend(self.arguments(child)),
                "boot" => lists.boot.extend(self.arguments(child)),
                "encryption" => lists.encryption.extend(self.arguments(child)),
                "extension" => lists.extension.extend(self.arguments(child)),
                other => self.wrong(child, format!("unknown node {other} in modules")),
            }
        }
        lists
    }

    fn compression(&mut self, node: &KdlNode) -> Compression {
        let mut arguments = self.arguments(node).into_iter();
        Compression {
            algorithm: arguments.next().unwrap_or_default(),
            options: arguments.collect(),
            block_bytes: self.size(node, "block"),
        }
    }

    fn disk(&mut self, node: &KdlNode) -> DiskSizes {
        DiskSizes {
            total: self.size(node, "total"),
            esp: self.size(node, "esp"),
            root: self.size(node, "root"),
            state: self.size(node, "state"),
        }
    }

    fn argument(&mut self, node: &KdlNode) -> Option<String> {
        match self.arguments(node).as_slice() {
            [one] => Some(one.clone()),
            _ => {
                self.wrong(node, format!("{} takes exactly one string", node.name().value()));
                None
            }
        }
    }

    fn arguments(&mut self, node: &KdlNode) -> Vec<String> {
        let mut found = Vec::new();
        for entry in node.entries().iter().filter(|entry| entry.name().is_none()) {
            match entry.value().as_string() {
                Some(text) => found.push(text.to_owned()),
                None => self.wrong(node, format!("{} takes strings, found {}", node.name().value(), entry.value())),
            }
        }
        found
    }

    fn paths(&mut self, node: &KdlNode) -> Vec<String> {
        let paths = self.arguments(node);
        for path in &paths {
            if !path.starts_with('/') || path.ends_with('/') {
                self.wrong(node, format!("{path} is not an absolute path without a slash at the end"));
            }
        }
        paths
    }

    fn property(&mut self, node: &KdlNode, key: &str) -> Option<String> {
        let value = node.get(key).and_then(|value| value.as_string()).map(str::to_owned);
        if value.is_none() {
            self.wrong(node, format!("{} needs {key}=\"...\"", node.name().value()));
        }
        value
    }

    fn size(&mut self, node: &KdlNode, key: &str) -> u64 {
        let Some(text) = self.property(node, key) else { return 0 };
        let parsed = parse_size(&text);
        if parsed.is_none() {
            self.wrong(node, format!("{key}=\"{text}\" is not a size such as \"512MiB\""));
        }
        parsed.unwrap_or(0)
    }
}

fn children(node: &KdlNode) -> impl Iterator<Item = &KdlNode> {
    node.children().into_iter().flat_map(|document| document.nodes())
}

/// Bytes of a size written as a whole number of KiB, MiB or GiB.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.len().checked_sub(3)?);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
profile "small" {
    suite "trixie"
    architecture "amd64"
    kernel "linux-image-cloud-amd64"
    packages "runc" "containerd"
    root {
        files "/usr/bin/containerd"
        binary "machined" path="/usr/bin/machined"
        link "/etc/hosts" to="/run/cairn/etc/hosts"
    }
    modules { stage-one "dm-verity"; }
    compression "zstd" "-Xcompression-level" "19" block="1MiB"
    disk total="6GiB" esp="96MiB" root="160MiB" state="512MiB"
}
"#;

    #[test]
    fn a_whole_profile_is_read() {
        let profile = parse(SMALL).expect("because the text is valid");
        assert_eq!(profile.packages, ["runc", "containerd"]);
        assert_eq!(profile.compression.block_bytes, 1 << 20);
        assert_eq!(profile.disk.total, 6 << 30);
        assert!(!profile.iso);
        let with = parse(&SMALL.replace("modules {", "iso\n    modules {")).expect("because the text is valid");
        assert!(with.iso);
        assert_eq!(profile.links, [("/etc/hosts".to_owned(), "/run/cairn/etc/hosts".to_owned())]);
    }

    /// The kernel asks nobody for these, and an image without them cannot open what another one encrypted.
    #[test]
    fn every_profile_of_ours_names_what_encrypted_volumes_and_extensions_need() {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../profiles"));
        let entries = std::fs::read_dir(folder)
            .expect("because profiles lie there")
            .map(|entry| entry.expect("because it can be read").path());
        let profiles: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "kdl")).collect();
        assert!(!profiles.is_empty());
        for path in profiles {
            let profile =
                parse(&std::fs::read_to_string(&path).expect("because it can be read")).expect("because it is used");
            for module in ["dm_crypt", "xts", "aesni_intel"] {
                assert!(
                    profile.modules.encryption.iter().any(|named| named == module),
                    "{} lacks {module}",
                    path.display()
                );
            }
            assert_eq!(profile.modules.extension, ["loop"], "{}", path.display());
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let text = SMALL.replace("suite \"trixie\"", "siute \"trixie\"").replace("6GiB", "six");
        let problems = parse(&text).expect_err("because of two typing errors");
        assert_eq!(
            problems,
            [
                "3:5: unknown node siute in profile",
                "14:5: total=\"six\" is not a size such as \"512MiB\"",
                "2:1: profile small needs a suite node",
                "2:1: profile small needs a disk node",
            ]
        );
    }
}
