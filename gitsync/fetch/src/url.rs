//! Where a repository may be: plain http(s) URLs and nothing that a git client could read as something else.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An `http://` or `https://` URL of a repository, without user, password, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryUrl(String);

/// A text is no repository URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a repository URL: {expected}")]
pub struct UrlError {
    text: String,
    expected: &'static str,
}

/// Characters of a URL; longer ones are a mistake or an attack.
const MAX_URL: usize = 2_000;

impl RepositoryUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`UrlError`] says what was expected.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let error = |expected| UrlError { text: text.chars().take(80).collect(), expected };
        let rest = ["http://", "https://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| error("it must begin with http:// or https://"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| error("it names no repository after the host"))?;
        let host_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(host_ok) {
            return Err(error("the host is letters, digits, dots and a port, without user name or password"));
        }
        let path_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b'~' | b'+');
        if path.is_empty()
            || !path.bytes().all(path_ok)
            || path.split('/').any(|part| part == ".." || part.starts_with('-'))
        {
            return Err(error("the path is letters, digits and - _ . ~ + without .., query or fragment"));
        }
        if text.len() > MAX_URL {
            return Err(error("it is too long"));
        }
        Ok(RepositoryUrl(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RepositoryUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, UrlError> {
        RepositoryUrl::parse(&text)
    }
}

impl From<RepositoryUrl> for String {
    fn from(url: RepositoryUrl) -> String {
        url.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t38_only_plain_web_addresses_are_taken() {
        for good in ["http://10.0.2.2:8080/demo.git", "https://git.example.org/~a/b_c.git", "http://[::1]:80/x"] {
            assert!(RepositoryUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "file:///etc",
            "ssh://a/b",
            "git@host:x",
            "ext::sh -c id",
            "http://u:p@host/x",
            "http://-oProxyCommand=x/y",
            "http://host/../x",
            "http://host/-x",
            "http://host",
            "http://host/x?y",
            "http://host/x#y",
            "http:///x",
            "https://h/%2e",
        ] {
            assert!(RepositoryUrl::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
