//! Judges a chain of commits: signatures, policy, ancestry. The only maker of `Verified<Commit>`.
//!
//! Called by `gitsync` on every machine and by `cairnctl` on a laptop, with the same answer for the same bytes. It never does
//! I/O, never asks for the time, and never believes a name: objects come in through [`ObjectSet`], which hashes them again.
//!
//! ```text
//! TrustState + Offer { tip, objects, statements, clock, ... } --verify--> Chain { steps: Vec<Verified<Commit>>, refused: Option<Refusal> }
//! ObjectSet + Introduction     --introduce--> (TrustState, Verified<Commit>)
//! ```

mod access;
mod armour;
mod break_glass;
mod chain;
mod equivocation;
mod freshness;
mod introduce;
mod introduction;
pub mod limits;
pub mod mark;
mod objects;
mod offer;
pub mod policy;
mod raw_commit;
mod recovery;
mod refusal;
mod revocation;
mod state;
pub mod statement;
mod step;
mod tree;
mod verified;
mod votes;

pub use access::access_table;
pub use break_glass::{FileState, InForce};
pub use chain::{Chain, Learned, verify};
pub use equivocation::{Equivocation, Side};
pub use freshness::{Freshness, MAX_BEACON_AHEAD, SeenBeacon, freshness};
pub use introduce::{commit_sha256, introduce, recall};
pub use introduction::{Anchor, DeployRef, Introduction};
pub use mark::{Mark, SignedMark};
pub use objects::{ObjectFormat, ObjectId, ObjectKind, ObjectSet, object_id};
pub use offer::{Clock, Offer, Presence};
pub use policy::Policy;
pub use raw_commit::RawCommit;
pub use recovery::{PendingRecovery, body_digest};
pub use refusal::{Mistake, Reason, Refusal};
pub use revocation::Revocation;
pub use state::{
    Action, Applied, MAX_OVERRIDE, Order, Override, Position, TrustState, Wanted, next_step, recovery_step, root_step,
};
pub use statement::{SignedStatement, Statement};
pub use tree::{Change, ChangeKind, Files, Mode, tree_changes};
pub use verified::{Commit, Verified};
pub use votes::{TARGET_TRAILER, target_of};
