//! Installing: which disk, what is written in which order, and the writing itself on whatever can be written to.
//!
//! ```text
//! Install record of the medium --> request --\
//! disks of the machine ---------------------> choose --> plan --> execute --> restart
//!                           a person's choice --/
//! ```
//!
//! `machined/host` lists disks and reads the medium, `machined/daemon` talks to the person and runs it. Nothing here is a controller:
//! an installation happens once, on a machine that does nothing else, and keeps nothing of itself. Must never write to a disk that
//! holds something unless somebody said that it may be lost.

mod choose;
mod execute;
mod plan;
mod request;

pub use choose::{Choice, Refusal, Unfit, choose, confirmation, unfit};
pub use execute::{Disk, ExecuteError, Source, execute};
pub use plan::{Content, INSTALLING, Parts, Phase, Plan, PlanError, Write, plan};
pub use request::{InstallRequest, Selector, Size};

/// What lies on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Nothing: its first and its last MiB are zeros.
    Nothing,
    /// An installation that was cut off before its last write.
    Unfinished,
    /// A Cairn machine with its STATE.
    Cairn,
    /// Something else.
    Something,
}

/// A disk as people and selectors know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// The kernel's name, such as `nvme0n1`. It may be another one at the next boot.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size of the sectors that it is addressed by, in bytes.
    pub sector_bytes: u64,
    /// What its maker calls it; empty when it does not say.
    pub model: String,
    /// Its serial number; empty when it does not say.
    pub serial: String,
    /// Its world wide name, such as `eui.0025388b11b2c3d4` or `naa.5002538e40a1b2c3`; empty when it has none.
    pub wwn: String,
    /// Whether it refuses to be written.
    pub read_only: bool,
    /// Whether it is what this machine was started from.
    pub is_medium: bool,
    /// What lies on it.
    pub holds: Holds,
}

impl DiskFacts {
    /// A line by which a person tells it from the others.
    #[must_use]
    pub fn line(&self) -> String {
        let or = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let holds = match self.holds {
            Holds::Nothing => "empty",
            Holds::Unfinished => "an installation that was cut off",
            Holds::Cairn => "A CAIRN MACHINE WITH ITS STATE",
            Holds::Something => "HOLDS DATA",
        };
        let gigabytes = self.bytes as f64 / 1e9;
        format!("/dev/{}  {gigabytes:.1} GB  {}  serial {}  {holds}", self.name, or(&self.model), or(&self.serial))
    }
}

#[cfg(test)]
mod tests;
