//! Which Debian mirror to use: `--mirror`, or the one in the host's own apt configuration.
//!
//! Called by the packages stage when something must be downloaded. Understands both formats of sources.list(5): one line
//! a source, and deb822 paragraphs. Must never write to /etc.

use std::fs;
use std::path::Path;

/// Where the host's apt keeps its sources.
const HOST_APT: &str = "/etc/apt";
/// What apt itself falls back to when a network has no mirror of its own.
const DEFAULT_ARCHIVE: &str = "http://deb.debian.org/debian";

/// Addresses of a Debian archive and of its security archive, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The main archive.
    pub archive: String,
    /// The security archive.
    pub security: String,
}

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// `--mirror` is not an address.
    #[error("{0} is not the address of a Debian archive; expected something like {DEFAULT_ARCHIVE}")]
    Address(String),
}

impl Mirror {
    /// A mirror from the address of its main archive; the security archive is its neighbour `debian-security`.
    ///
    /// # Errors
    /// When it is not an http, https or file address.
    pub fn of_archive(address: &str) -> Result<Mirror, MirrorError> {
        let archive = address.trim_end_matches('/');
        let known = ["http://", "https://", "file:/"].iter().any(|scheme| archive.starts_with(scheme));
        let Some((parent, _)) = archive.rsplit_once('/').filter(|_| known) else {
            return Err(MirrorError::Address(address.to_owned()));
        };
        Ok(Mirror { archive: archive.to_owned(), security: format!("{parent}/debian-security") })
    }
}

/// The mirror that the host's apt uses, else Debian's own.
///
/// # Errors
/// Never for a sound host; the address in its configuration could be none.
pub fn host_mirror() -> Result<Mirror, MirrorError> {
    let mut text = fs::read_to_string(Path::new(HOST_APT).join("sources.list")).unwrap_or_default();
    text.push('\n');
    let mut addresses = one_line_addresses(&text);
    let parts = fs::read_dir(Path::new(HOST_APT).join("sources.list.d"));
    let mut paths: Vec<_> = parts.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => addresses.extend(one_line_addresses(&text)),
            Some("sources") => addresses.extend(deb822_addresses(&text)),
            Some(_) | None => {}
        }
    }
    choose(&addresses)
}

/// Picks archive and security archive among the addresses of all sources. Pure.
fn choose(addresses: &[String]) -> Result<Mirror, MirrorError> {
    let ends = |suffix: &str| {
        addresses.iter().map(|address| address.trim_end_matches('/')).find(|address| address.ends_with(suffix))
    };
    let mut mirror = Mirror::of_archive(ends("/debian").unwrap_or(DEFAULT_ARCHIVE))?;
    if let Some(security) = ends("/debian-security") {
        mirror.security = security.to_owned();
    }
    Ok(mirror)
}

/// Addresses of `deb [options] address suite component...` lines.
fn one_line_addresses(text: &str) -> Vec<String> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[').and_then(|options| options.split_once(']')) {
            Some((_, after)) => after,
            None => rest,
        };
        addresses.extend(rest.split_whitespace().next().map(str::to_owned));
    }
    addresses
}

/// Addresses of deb822 paragraphs that are enabled and have type `deb`.
fn deb822_addresses(text: &str) -> Vec<String> {
    let mut addresses = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let mut lines = paragraph.iter();
            let first = lines.find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value)
            })?;
            let more = lines.take_while(|line| line.starts_with([' ', '\t'])).copied();
            Some(std::iter::once(first).chain(more).collect::<Vec<_>>().join(" "))
        };
        let is_deb = field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
        let enabled = field("Enabled").is_none_or(|value| value.trim() != "no");
        if is_deb && enabled {
            addresses.extend(field("URIs").unwrap_or_default().split_whitespace().map(str::to_owned));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_with_options_are_read() {
        let text = "# comment\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian/ trixie main\n\
                    deb-src http://other.test/debian trixie main\ndeb http://mirror.test/debian-security trixie-security main\n";
        let addresses = one_line_addresses(text);
        assert_eq!(addresses, ["http://mirror.test/debian/", "http://mirror.test/debian-security"]);
        let mirror = choose(&addresses).expect("because both addresses are sound");
        assert_eq!(mirror.archive, "http://mirror.test/debian");
        assert_eq!(mirror.security, "http://mirror.test/debian-security");
    }

    #[test]
    fn deb822_sources_are_read_but_for_disabled_ones() {
        let text = "Types: deb deb-src\n# a comment inside\nURIs: http://one.test/debian\n  http://two.test/debian\nSuites: bookworm\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off.test/debian\n\nTypes: deb-src\nURIs: http://src.test/debian\n";
        assert_eq!(deb822_addresses(text), ["http://one.test/debian", "http://two.test/debian"]);
    }

    #[test]
    fn foreign_sources_are_passed_over() {
        let addresses = ["https://deb.nodesource.com/node_20.x".to_owned()];
        let mirror = choose(&addresses).expect("because the default is sound");
        assert_eq!(mirror.archive, DEFAULT_ARCHIVE);
        assert_eq!(mirror.security, "http://deb.debian.org/debian-security");
    }

    #[test]
    fn a_mirror_that_is_no_address_is_refused() {
        let error = Mirror::of_archive("ftp.de.debian.org").expect_err("because the scheme is missing");
        assert!(error.to_string().contains("is not the address of a Debian archive"), "{error}");
    }
}
