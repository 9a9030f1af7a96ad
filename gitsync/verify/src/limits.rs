//! What the verifier reads at most. Beyond any of these the commit is refused with `Limit`, and nothing that runs changes.

/// Bytes of one object: far above any manifest, and small enough that a hostile one cannot fill a small machine.
pub const MAX_OBJECT_BYTES: u64 = 8 << 20;

/// Bytes of all objects of one judgement together; bounds the verifier's memory.
pub const MAX_TOTAL_BYTES: u64 = 128 << 20;

/// Bytes of memory that fetching and judging the largest thing within these limits takes in gitsync, besides its fetch child: all objects,
/// the index over them, and what is made of them. Measured by `cargo xtask bench trust --memory`.
pub const JUDGEMENT_MEMORY_BYTES: u64 = 256 << 20;

/// Objects of one judgement; bounds the index over them.
pub const MAX_OBJECTS: usize = 200_000;

/// First-parent commits from accepted to the tip in one judgement: years of busy history, seconds of work.
pub const MAX_CHAIN_COMMITS: usize = 10_000;

/// Directories inside each other; bounds recursion.
pub const MAX_TREE_DEPTH: usize = 32;

/// Files of one tree; a machine has to render them all.
pub const MAX_FILES: usize = 50_000;

/// Positions at or below accepted that stay recognisable, so that a twin of a recent step is known again.
pub const MAX_HISTORY: usize = 64;

/// Bytes of one statement with its signature: a hardware key's needs less than a quarter.
pub const MAX_STATEMENT_BYTES: usize = 4096;

/// Statements beside the commits that one fetch brings; what is beyond is left out, and asked for again by a later fetch.
pub const MAX_STATEMENTS: usize = 256;

/// Release statements in the trailers of one commit: more approvals than any policy asks for; bounds the signatures checked.
pub const MAX_COMMIT_STATEMENTS: usize = 32;

/// Marks of machines that one judgement looks at: more machines than have a say in it.
pub const MAX_MARKS: usize = 256;

/// Revoked keys that are remembered: many times the keys that a team ever has.
pub const MAX_REVOCATIONS: usize = 1024;

/// Overrides that are remembered; older ones are in machined's audit log.
pub const MAX_OVERRIDES: usize = 64;

/// Files that one break-glass may touch: an emergency, not a release.
pub const MAX_BREAK_GLASS_FILES: usize = 256;

/// Recoveries that wait at once; a second one of an epoch already stops everything.
pub const MAX_PENDING_RECOVERIES: usize = 8;

/// Statements that did not count and are told about after one judgement.
pub const MAX_IGNORED: usize = 16;
