//! The lock file: name, version and SHA-256 of every package, and the time that the image is from (`image/profiles/<name>.lock`,
//! committed).
//!
//! Written by the packages stage, one line a package, sorted, so that a change of version is a change of one line. Lines that begin
//! with `@` are about the image as a whole.
//! Must never hold a host name or an address: whoever builds brings their own mirror, the digests decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Package name as Debian has it.
    pub package: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the .deb file, lower-case hexadecimal.
    pub sha256: String,
    /// Size of the .deb file in bytes.
    pub size: u64,
}

/// All pinned packages, by the name under which the profile asks for them.
///
/// For the kernel the two names differ: the profile asks for the package that always depends on the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lock {
    pins: BTreeMap<String, Pin>,
    built: Option<Timestamp>,
    compilers: BTreeSet<String>,
}

/// Why a lock file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {what}; remove the file to have it written anew from the mirror")]
pub struct LockError {
    file: String,
    line: usize,
    what: &'static str,
}

/// First lines of every lock file.
const HEAD: &str = "\
# Packages of this profile: name asked for, package, version, size in bytes, SHA-256 of the .deb.
# @built is the time that the image is from, @compiler what made our programs.
# Written by cairn-image build; --refresh moves all to what the mirror has now.
";

impl Lock {
    /// Parses a lock file; `file` is only named in messages.
    ///
    /// # Errors
    /// When a line does not have its five fields.
    pub fn parse(file: &str, text: &str) -> Result<Lock, LockError> {
        let mut lock = Lock::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |what| LockError { file: file.to_owned(), line: index + 1, what };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(time) = line.strip_prefix("@built ") {
                let sound = |at: &Timestamp| at.subsec_nanosecond() == 0 && at.to_string() == time;
                let time = time.parse().ok().filter(sound);
                lock.built = Some(time.ok_or_else(|| wrong("@built is not a time such as 2026-11-21T20:00:00Z"))?);
                continue;
            }
            if let Some(compiler) = line.strip_prefix("@compiler ") {
                lock.compilers.insert(compiler.to_owned());
                continue;
            }
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [wanted, package, version, size, sha256] = fields[..] else {
                return Err(wrong("expected five fields: name, package, version, size, SHA-256"));
            };
            if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong("the last field is not a SHA-256 in lower-case hexadecimal"));
            }
            let size = size.parse().map_err(|_| wrong("the size is not a whole number of bytes"))?;
            let (package, version, sha256) = (package.to_owned(), version.to_owned(), sha256.to_owned());
            if lock.pins.insert(wanted.to_owned(), Pin { package, version, sha256, size }).is_some() {
                return Err(wrong("this name is pinned twice"));
            }
        }
        Ok(lock)
    }

    /// The pin for a name of the profile.
    pub fn get(&self, wanted: &str) -> Option<&Pin> {
        self.pins.get(wanted)
    }

    /// Pins a name; returns what was pinned before.
    pub fn insert(&mut self, wanted: &str, pin: Pin) -> Option<Pin> {
        self.pins.insert(wanted.to_owned(), pin)
    }

    /// The time that images of this lock are from: when a pin moved last. What builds reproducibly calls it SOURCE_DATE_EPOCH.
    pub fn built(&self) -> Option<Timestamp> {
        self.built
    }

    /// Sets the time, cut to whole seconds.
    pub fn set_built(&mut self, at: Timestamp) {
        self.built = Some(Timestamp::from_second(at.as_second()).expect("because it was a time before it was cut"));
    }

    /// What made our programs, as they say themselves.
    pub fn compilers(&self) -> &BTreeSet<String> {
        &self.compilers
    }

    /// Sets what made our programs.
    pub fn set_compilers(&mut self, compilers: BTreeSet<String>) {
        self.compilers = compilers;
    }

    /// Forgets every name that is not in `wanted`.
    pub fn keep_only(&mut self, wanted: &[String]) {
        self.pins.retain(|name, _| wanted.contains(name));
    }

    /// All pins, sorted by the name asked for.
    pub fn pins(&self) -> impl Iterator<Item = (&str, &Pin)> {
        self.pins.iter().map(|(name, pin)| (name.as_str(), pin))
    }

    /// The text of the lock file.
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        let put = "because a String takes all it is given";
        if let Some(built) = self.built {
            writeln!(text, "@built {built}").expect(put);
        }
        for compiler in &self.compilers {
            writeln!(text, "@compiler {compiler}").expect(put);
        }
        for (wanted, pin) in &self.pins {
            let Pin { package, version, sha256, size } = pin;
            writeln!(text, "{wanted} {package} {version} {size} {sha256}").expect(put);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(version: &str) -> Pin {
        Pin { package: "runc".to_owned(), version: version.to_owned(), sha256: "ab".repeat(32), size: 3_229_748 }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut lock = Lock::default();
        lock.insert("runc", pin("1.1.15+ds1-2+b4"));
        let kernel = Pin { package: "linux-image-6.12.117+deb13-cloud-amd64".to_owned(), ..pin("6.12.117-1") };
        lock.insert("linux-image-cloud-amd64", kernel);
        lock.set_compilers(BTreeSet::from(["rustc version 1.95.0 (59807616e 2026-04-14)".to_owned()]));
        lock.set_built("2026-11-21T20:00:00.5Z".parse().expect("because it is a time"));
        assert!(lock.render().contains("@built 2026-11-21T20:00:00Z\n"), "{}", lock.render());
        assert_eq!(Lock::parse("cloud.lock", &lock.render()).expect("because it was just written"), lock);
    }

    #[test]
    fn a_bad_digest_is_refused_with_its_line() {
        let error = Lock::parse("cloud.lock", "# head\nrunc runc 1 2 zz\n").expect_err("because zz is no digest");
        assert!(error.to_string().starts_with("cloud.lock:2: the last field is not a SHA-256"), "{error}");
    }

    #[test]
    fn a_time_has_one_way_to_be_written() {
        for time in ["yesterday", "2026-11-21T20:00:00.5Z", "2026-11-21T20:00:00+00:00"] {
            let error =
                Lock::parse("cloud.lock", &format!("@built {time}\n")).expect_err("because it is written wrongly");
            assert!(error.to_string().starts_with("cloud.lock:1: @built"), "{error}");
        }
    }

    #[test]
    fn a_name_pinned_twice_is_refused() {
        let line = format!("runc runc 1 2 {}\n", "ab".repeat(32));
        let error = Lock::parse("cloud.lock", &format!("{line}{line}")).expect_err("because runc is there twice");
        assert!(error.to_string().contains("pinned twice"), "{error}");
    }
}
