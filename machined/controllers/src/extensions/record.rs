//! What was merged at this start, for a machined that is started again: on /run, as short-lived as the mounts.

use init_boot::artefact::{ExtensionDigest, ExtensionName};
use serde::{Deserialize, Serialize};

/// Where the record is.
pub(super) const RECORD: &str = "/run/cairn/extensions.json";
/// Longest record, in bytes: eight entries of a few hundred.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;

/// What became of the extensions that were here at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeRecord {
    /// In the order of names.
    pub entries: Vec<MergeEntry>,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeEntry {
    /// Its name.
    pub name: ExtensionName,
    /// Its digest.
    pub digest: ExtensionDigest,
    /// Its version; empty when its header could not be read.
    pub version: String,
    /// Whether its files are there.
    pub merged: bool,
    /// What went wrong; empty when nothing did.
    pub problem: String,
    /// The file itself was wrong: with another one the next start may do better.
    pub damaged: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: String,
    digest: String,
    version: String,
    merged: bool,
    problem: String,
    damaged: bool,
}

impl MergeRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let raw = |entry: &MergeEntry| RawEntry {
            name: entry.name.to_string(),
            digest: entry.digest.to_string(),
            version: entry.version.clone(),
            merged: entry.merged,
            problem: entry.problem.clone(),
            damaged: entry.damaged,
        };
        let entries: Vec<RawEntry> = self.entries.iter().map(raw).collect();
        serde_json::to_vec(&entries).expect("because texts and switches are JSON")
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let entries: Vec<RawEntry> = serde_json::from_slice(bytes).ok()?;
        let entry = |raw: RawEntry| {
            let (name, digest) = (raw.name.parse().ok()?, raw.digest.parse().ok()?);
            let RawEntry { version, merged, problem, damaged, .. } = raw;
            Some(MergeEntry { name, digest, version, merged, problem, damaged })
        };
        Some(MergeRecord { entries: entries.into_iter().map(entry).collect::<Option<_>>()? })
    }

    /// The one of this name.
    pub(super) fn of(&self, name: &ExtensionName) -> Option<&MergeEntry> {
        self.entries.iter().find(|entry| entry.name == *name)
    }

    /// Whether files of this extension are in use until the machine restarts.
    pub(super) fn uses(&self, digest: ExtensionDigest) -> bool {
        self.entries.iter().any(|entry| entry.merged && entry.digest == digest)
    }
}
