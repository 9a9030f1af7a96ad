//! How each extension stands, for people: from the document, what is kept here, and what was merged at the start. Pure.

use super::record::{MergeEntry, MergeRecord};
use init_boot::artefact::{ExtensionDigest, ExtensionManifest, ExtensionName};
use machined_config::ExtensionConfig;
use machined_runtime::{Resource, Set};
use std::collections::BTreeMap;

/// Where an extension is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionState {
    /// It is fetched, or will be.
    Fetching,
    /// It is here, and is merged when the machine restarts.
    Waiting,
    /// Its files are there.
    Merged,
    /// It is here, and its modules are for a kernel that does not run.
    OtherKernel,
    /// It could not be fetched or merged.
    Failed,
    /// The document does not name it any more; its files go when the machine restarts.
    Leaving,
}

impl ExtensionState {
    /// The word in the machine API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ExtensionState::Fetching => "fetching",
            ExtensionState::Waiting => "waiting",
            ExtensionState::Merged => "merged",
            ExtensionState::OtherKernel => "other-kernel",
            ExtensionState::Failed => "failed",
            ExtensionState::Leaving => "leaving",
        }
    }
}

/// How an extension stands; the id is its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionStatus {
    /// The digest that the document names; of one that leaves, its own.
    pub digest: ExtensionDigest,
    /// Its version; empty before its header was read.
    pub version: String,
    /// Where it is.
    pub state: ExtensionState,
    /// Why, and what to do next; empty when it is merged and nothing went wrong.
    pub message: String,
}

impl Resource for ExtensionStatus {
    const KIND: &'static str = "extension";
}

/// What is known beside the document.
pub(super) struct Known<'a> {
    /// What was merged at the start.
    pub(super) record: &'a MergeRecord,
    /// What is kept here.
    pub(super) kept: &'a BTreeMap<ExtensionDigest, ExtensionManifest>,
    /// Why one could not be fetched.
    pub(super) failures: &'a BTreeMap<ExtensionDigest, String>,
    /// The running kernel.
    pub(super) kernel: &'a str,
}

/// How all extensions stand.
pub(super) fn of_all(wanted: &[ExtensionConfig], known: &Known<'_>) -> Set<ExtensionStatus> {
    let named = |name: &ExtensionName| wanted.iter().any(|config| config.name == *name);
    let leaving = known.record.entries.iter().filter(|entry| entry.merged && !named(&entry.name)).map(|entry| {
        let message = "the document does not name it any more; restart the machine to be without it: cairnctl reboot";
        (entry.name.to_string(), status(entry.digest, &entry.version, ExtensionState::Leaving, message.to_owned()))
    });
    let wanted = wanted.iter().map(|config| (config.name.to_string(), of_one(config, known)));
    leaving.chain(wanted).collect()
}

fn status(digest: ExtensionDigest, version: &str, state: ExtensionState, message: String) -> ExtensionStatus {
    ExtensionStatus { digest, version: version.to_owned(), state, message }
}

fn of_one(config: &ExtensionConfig, known: &Known<'_>) -> ExtensionStatus {
    let entry = known.record.of(&config.name);
    let same = entry.filter(|entry| entry.digest == config.digest);
    if let Some(MergeEntry { version, merged: true, problem, .. }) = same {
        let state = if problem.is_empty() { ExtensionState::Merged } else { ExtensionState::Failed };
        return status(config.digest, version, state, problem.clone());
    }
    if let Some(MergeEntry { version, damaged: false, problem, .. }) = same {
        return status(config.digest, version, ExtensionState::Failed, problem.clone());
    }
    let at_the_start = same.map(|entry| format!("; at the start: {}", entry.problem)).unwrap_or_default();
    let before = entry.filter(|entry| entry.merged && same.is_none());
    let before = before.map(|entry| format!("; until then it is {}", entry.digest)).unwrap_or_default();
    let Some(manifest) = known.kept.get(&config.digest) else {
        let (state, message) = match known.failures.get(&config.digest) {
            Some(why) => (ExtensionState::Failed, format!("{why}{at_the_start}{before}")),
            None => (ExtensionState::Fetching, format!("it is fetched from {}{at_the_start}{before}", config.url)),
        };
        return status(config.digest, "", state, message);
    };
    let (state, message) = match &manifest.kernel {
        Some(kernel) if kernel != known.kernel => {
            let message = format!(
                "its modules are for kernel {kernel}, and {} runs; it is merged when that one does",
                known.kernel
            );
            (ExtensionState::OtherKernel, message)
        }
        Some(_) | None => {
            let message = format!("restart the machine to have it (`cairnctl reboot`){before}{at_the_start}");
            (ExtensionState::Waiting, message)
        }
    };
    status(config.digest, &manifest.version, state, message)
}
