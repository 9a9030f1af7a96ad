//! The Install record of a medium: what an installation without a person is told.
//!
//! ```kdl
//! install {
//!     disk serial="S5GXNF0R"      // or wwn="", model="", path="", bytes-min="400GB", bytes-max="600GB"; all that is said must fit
//!     wipe                        // all that is on that disk may be lost
//! }
//! ```
//!
//! Without `disk` a person chooses at the console.

use super::DiskFacts;
use machined_config::{Problems, read};
use std::fmt;
use std::str::FromStr;

/// Which disk, and what may happen to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstallRequest {
    /// Which disk; `None` to ask.
    pub disk: Option<Selector>,
    /// Whether what is on it may be lost.
    pub wipe: bool,
}

/// What a disk must be. Everything that is said must fit, and exactly one disk may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world wide name.
    pub wwn: Option<String>,
    /// What its maker calls it.
    pub model: Option<String>,
    /// Its device file, such as `/dev/nvme0n1`.
    pub path: Option<String>,
    /// Its least size in bytes.
    pub bytes_min: Option<Size>,
    /// Its largest size in bytes.
    pub bytes_max: Option<Size>,
}

/// A size as makers of disks write it: `500GB` is 500 * 10^9 bytes, `500GiB` 500 * 2^30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] =
            [("GiB", 1 << 30), ("TiB", 1 << 40), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
        let wrong = || format!("{text:?} is no size such as 500GB or 465GiB");
        let found = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim(), *bytes)));
        let (number, unit) = found.ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Size).ok_or_else(wrong)
    }
}

impl InstallRequest {
    /// Reads the record's text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        read::document("install", text, |file| {
            file.one("install")?.children(|block| {
                let disk = block.optional("disk").map(|node| {
                    let selector = Selector {
                        serial: node.property("serial"),
                        wwn: node.property("wwn"),
                        model: node.property("model"),
                        path: node.property("path"),
                        bytes_min: node.property("bytes-min"),
                        bytes_max: node.property("bytes-max"),
                    };
                    node.finish();
                    if selector == Selector::default() {
                        node.problem("says nothing; expected serial, wwn, model, path, bytes-min or bytes-max");
                    }
                    selector
                });
                let wipe = block.optional("wipe").is_some_and(|node| node.switch());
                Some(InstallRequest { disk, wipe })
            })
        })
    }
}

impl Selector {
    /// Whether all that is said fits this disk.
    #[must_use]
    pub fn fits(&self, disk: &DiskFacts) -> bool {
        let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        same(&self.serial, &disk.serial)
            && same(&self.wwn, &disk.wwn)
            && same(&self.model, &disk.model)
            && same(&self.path, &format!("/dev/{}", disk.name))
            && self.bytes_min.is_none_or(|least| disk.bytes >= least.0)
            && self.bytes_max.is_none_or(|most| disk.bytes <= most.0)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [("serial", &self.serial), ("wwn", &self.wwn), ("model", &self.model), ("path", &self.path)];
        let texts = texts.into_iter().filter_map(|(key, value)| Some(format!("{key}={:?}", value.as_ref()?)));
        let sizes = [("bytes-min", self.bytes_min), ("bytes-max", self.bytes_max)];
        let sizes = sizes.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?.0)));
        f.write_str(&texts.chain(sizes).collect::<Vec<_>>().join(" "))
    }
}
