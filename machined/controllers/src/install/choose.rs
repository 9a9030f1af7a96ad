//! Which disk an installation goes to, or why to none. Pure.

use super::{DiskFacts, Holds, InstallRequest, Selector};
use init_boot::{PartitionSizes, SECTOR_BYTES};
use machined_ids::{Digest, RecoveryCode};
use sha2::{Digest as _, Sha256};

/// Why a disk cannot be installed on, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// This machine was started from it.
    #[error("it is the medium that this machine was started from")]
    Medium,
    /// It cannot be written.
    #[error("it is read-only")]
    ReadOnly,
    /// Its sectors have another size.
    #[error(
        "its sectors have {bytes} bytes; only disks with sectors of 512 bytes can be used (some disks can be switched to them)"
    )]
    Sectors {
        /// Their size.
        bytes: u64,
    },
    /// It is too small.
    #[error("it has {bytes} bytes, and {least} are the least")]
    Small {
        /// Its size.
        bytes: u64,
        /// The least size.
        least: u64,
    },
}

/// Why nothing is installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No disk fits.
    #[error("no disk of this machine fits {wanted}")]
    None {
        /// What was asked for.
        wanted: Selector,
    },
    /// More than one fits.
    #[error("{} disks fit {wanted} ({}); say more about the one that is meant, such as its serial", names.len(), names.join(", "))]
    Several {
        /// What was asked for.
        wanted: Selector,
        /// Those that fit.
        names: Vec<String>,
    },
    /// The one that fits cannot be used.
    #[error("/dev/{name} cannot be used: {why}")]
    Unfit {
        /// The disk.
        name: String,
        /// Why.
        why: Unfit,
    },
    /// It holds something.
    #[error(
        "/dev/{name} holds {what}; it is left as it is. To lose it, build the medium with `wipe`, or install by hand"
    )]
    Occupied {
        /// The disk.
        name: String,
        /// What it holds.
        what: &'static str,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Install on the disk with this name.
    Install(String),
    /// Ask a person.
    Ask,
}

/// Why a disk can never be installed on; `None` when it can.
#[must_use]
pub fn unfit(disk: &DiskFacts, sizes: &PartitionSizes) -> Option<Unfit> {
    let least = sizes.disk_bytes_min();
    match disk {
        DiskFacts { is_medium: true, .. } => Some(Unfit::Medium),
        DiskFacts { read_only: true, .. } => Some(Unfit::ReadOnly),
        DiskFacts { sector_bytes, .. } if *sector_bytes != SECTOR_BYTES => {
            Some(Unfit::Sectors { bytes: *sector_bytes })
        }
        DiskFacts { bytes, .. } if *bytes < least => Some(Unfit::Small { bytes: *bytes, least }),
        DiskFacts { .. } => None,
    }
}

/// What a request means on a machine with these disks.
///
/// # Errors
/// [`Refusal`]: the disk that is meant is not clear, or must not be written.
pub fn choose(request: &InstallRequest, disks: &[DiskFacts], sizes: &PartitionSizes) -> Result<Choice, Refusal> {
    let Some(wanted) = &request.disk else { return Ok(Choice::Ask) };
    let fitting: Vec<&DiskFacts> = disks.iter().filter(|disk| !disk.is_medium && wanted.fits(disk)).collect();
    let disk = match fitting.as_slice() {
        [] => return Err(Refusal::None { wanted: wanted.clone() }),
        [disk] => disk,
        several => {
            let names = several.iter().map(|disk| disk.name.clone()).collect();
            return Err(Refusal::Several { wanted: wanted.clone(), names });
        }
    };
    if let Some(why) = unfit(disk, sizes) {
        return Err(Refusal::Unfit { name: disk.name.clone(), why });
    }
    let occupied = |what| Err(Refusal::Occupied { name: disk.name.clone(), what });
    match disk.holds {
        Holds::Nothing | Holds::Unfinished => Ok(Choice::Install(disk.name.clone())),
        Holds::Cairn | Holds::Something if request.wipe => Ok(Choice::Install(disk.name.clone())),
        Holds::Cairn => occupied("a Cairn machine with its STATE"),
        Holds::Something => occupied("data"),
    }
}

/// What a person types to confirm that this disk is meant and what is on it may be lost: another code for every disk and content.
#[must_use]
pub fn confirmation(disk: &DiskFacts) -> RecoveryCode {
    let DiskFacts { name, bytes, model, serial, wwn, holds, .. } = disk;
    let text = format!("cairn install\n{name}\n{bytes}\n{model}\n{serial}\n{wwn}\n{holds:?}\n");
    RecoveryCode::of(&Digest::from_bytes(Sha256::digest(text).into()))
}
