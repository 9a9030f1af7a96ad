//! A version of the image: semantic versioning without build metadata, which would give two names to one rank.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::ImageNumber;

/// The longest version, in bytes: it is part of file names.
const VERSION_BYTES_MAX: usize = 64;
/// What one step of minor and major adds to the default number.
const MINOR_STEP: u64 = 1_000;
const MAJOR_STEP: u64 = 1_000_000;

/// `major.minor.patch`, or with a pre-release as in `1.2.0-rc.1` (<https://semver.org>).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageVersion {
    text: String,
    numbers: [u64; 3],
}

/// Why a text is no version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is no version of an image; write one as 1.2.3 or 1.2.3-rc.1")]
pub struct ImageVersionError {
    text: String,
}

impl ImageVersion {
    /// The version as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number that a floor counts, unless the builder says another: `major * 1_000_000 + minor * 1_000 + patch`.
    ///
    /// `None` when minor or patch would run into the next place.
    pub fn default_number(&self) -> Option<ImageNumber> {
        let [major, minor, patch] = self.numbers;
        if minor >= MAJOR_STEP / MINOR_STEP || patch >= MINOR_STEP {
            return None;
        }
        let number = major.checked_mul(MAJOR_STEP)?.checked_add(minor * MINOR_STEP + patch)?;
        Some(ImageNumber(number))
    }
}

impl FromStr for ImageVersion {
    type Err = ImageVersionError;

    fn from_str(text: &str) -> Result<Self, ImageVersionError> {
        let parse = || {
            let (core, pre_release) = match text.split_once('-') {
                Some((core, pre_release)) => (core, Some(pre_release)),
                None => (text, None),
            };
            let mut numbers = [0; 3];
            let mut parts = core.split('.');
            for number in &mut numbers {
                *number = canonical_number(parts.next()?)?;
            }
            let sound = text.len() <= VERSION_BYTES_MAX && parts.next().is_none();
            let named = pre_release.is_none_or(|name| name.split('.').all(is_identifier));
            (sound && named).then(|| Self { text: text.to_owned(), numbers })
        };
        parse().ok_or_else(|| ImageVersionError { text: text.chars().take(VERSION_BYTES_MAX).collect() })
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// An identifier of a pre-release: letters, digits and hyphens; a number has no zeros in front.
fn is_identifier(text: &str) -> bool {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let number = text.bytes().all(|byte| byte.is_ascii_digit());
    !text.is_empty() && letters && !(number && text.len() > 1 && text.starts_with('0'))
}

/// A decimal number in the one way to write it.
pub(super) fn canonical_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text.len() == 1 || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_major_minor_and_patch() {
        let number = |text: &str| text.parse::<ImageVersion>().expect("because it is a version").default_number();
        assert_eq!(number("0.1.0"), Some(ImageNumber(1_000)));
        assert_eq!(number("2.34.5"), Some(ImageNumber(2_034_005)));
        assert_eq!(number("1.0.0-rc.1"), Some(ImageNumber(1_000_000)));
        assert_eq!(number("1.1000.0"), None);
        assert_eq!(number("1.0.1000"), None);
        assert_eq!(number("18446744073709551615.0.0"), None);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let long = format!("1.2.3-{}", "a".repeat(VERSION_BYTES_MAX));
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "01.2.3",
            "1.2.-3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2.3+x",
            "v1.2.3",
            "1.2.3-a/b",
            &long,
        ] {
            assert!(text.parse::<ImageVersion>().is_err(), "{text} was taken");
        }
    }
}
