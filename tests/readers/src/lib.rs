//! Every reader of bytes from outside, as a target for fuzzing: what it expects, and what must hold whatever comes.
//!
//! `tests/sample.rs` feeds each target a fixed sample of mutations in `cargo test`; `tests/fuzz`, built by `cargo xtask fuzz`, feeds them with
//! feedback from coverage for as long as one likes. A target calls the code that ships and panics when a promise is broken.
//!
//! ```text
//! bytes -> commits, trees, policies, documents, statements, states     pure readers of gitsync-verify and machined-config
//!       -> packs, bundles                                              the fetch child's whole run, then what gitsync makes of its answer
//!       -> answers                                                     what gitsync reads from a child that has been taken over
//!       -> command-lines, tables, superblocks, records, messages,      what PID 1 and machined read from firmware, disks and each other
//!          module-lists, unified-images, artefacts, extensions
//!       -> applied-logs, tpm-answers                                   what attestation rests on
//! ```

mod boot;
mod documents;
mod history;
mod packs;
mod statements;
mod tpm;

use std::fmt;

/// A reader, and how to feed it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line, and of the folder of its corpus.
    pub name: &'static str,
    /// Inputs that it takes, or nearly: where mutation begins.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads an input; a panic is a fault that was found.
    pub feed: fn(&[u8]),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub const TARGETS: [Target; 20] = [
    Target { name: "commits", seeds: history::commit_seeds, feed: history::commits },
    Target { name: "trees", seeds: history::tree_seeds, feed: history::trees },
    Target { name: "policies", seeds: documents::policy_seeds, feed: documents::policies },
    Target { name: "documents", seeds: documents::document_seeds, feed: documents::documents },
    Target { name: "statements", seeds: statements::statement_seeds, feed: statements::statements },
    Target { name: "states", seeds: statements::state_seeds, feed: statements::states },
    Target { name: "packs", seeds: packs::pack_seeds, feed: packs::packs },
    Target { name: "bundles", seeds: packs::bundle_seeds, feed: packs::bundles },
    Target { name: "answers", seeds: packs::answer_seeds, feed: packs::answers },
    Target { name: "command-lines", seeds: boot::command_line_seeds, feed: boot::command_lines },
    Target { name: "tables", seeds: boot::table_seeds, feed: boot::tables },
    Target { name: "superblocks", seeds: boot::superblock_seeds, feed: boot::superblocks },
    Target { name: "records", seeds: boot::record_seeds, feed: boot::records },
    Target { name: "messages", seeds: boot::message_seeds, feed: boot::messages },
    Target { name: "module-lists", seeds: boot::module_list_seeds, feed: boot::module_lists },
    Target { name: "unified-images", seeds: boot::unified_image_seeds, feed: boot::unified_images },
    Target { name: "artefacts", seeds: boot::artefact_seeds, feed: boot::artefacts },
    Target { name: "extensions", seeds: boot::extension_seeds, feed: boot::extensions },
    Target { name: "applied-logs", seeds: boot::applied_log_seeds, feed: boot::applied_logs },
    Target { name: "tpm-answers", seeds: tpm::answer_seeds, feed: tpm::answers },
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
