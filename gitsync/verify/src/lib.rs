//! Judges a chain of commits: signatures, policy, ancestry. The only maker of `Verified<Commit>`.
//!
//! Called by `gitsync` on every machine and by `cairnctl` on a laptop, with the same answer for the same bytes. It never does
//! I/O, never asks for the time, and never believes a name: objects come in through [`ObjectSet`], which hashes them again.
//!
//! ```text
//! ObjectSet + TrustState + tip --verify--> Chain { steps: Vec<Verified<Commit>>, refused: Option<Refusal> }
//! ObjectSet + Introduction     --introduce--> (TrustState, Verified<Commit>)
//! ```

mod access;
mod chain;
mod introduction;
pub mod limits;
mod objects;
pub mod policy;
mod raw_commit;
mod refusal;
mod signature;
mod state;
mod tree;
mod verified;

pub use access::access_table;
pub use chain::{Chain, commit_sha256, introduce, recall, verify};
pub use introduction::{DeployRef, Introduction};
pub use objects::{ObjectFormat, ObjectId, ObjectKind, ObjectSet, object_id};
pub use policy::Policy;
pub use raw_commit::RawCommit;
pub use refusal::{Mistake, Reason, Refusal};
pub use signature::{TARGET_TRAILER, target_of};
pub use state::{Applied, Position, TrustState, next_step, root_step};
pub use tree::{Change, ChangeKind, Files, Mode};
pub use verified::{Commit, Verified};
