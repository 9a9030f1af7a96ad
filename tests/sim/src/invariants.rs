//! What must hold of every run, one file each, named with its source. Each reads the [`History`] and says where it breaks.

mod bookmarks;
mod bounded_disk;
mod election_safety;
mod equal_members;
mod leader_completeness;
mod linearizability;
mod log_matching;
mod model;
mod refused_writes;
mod state_machine_safety;
mod watch_atomic;
mod watch_ordered;
mod watch_reliable;

use crate::history::History;

/// A check of a finished run; the error says what broke and where.
pub(crate) type Invariant = fn(&History) -> Result<(), String>;

/// Every invariant, with its name.
pub(crate) const ALL: [(&str, Invariant); 12] = [
    ("election safety", election_safety::check),
    ("log matching", log_matching::check),
    ("leader completeness", leader_completeness::check),
    ("state machine safety", state_machine_safety::check),
    ("linearizability", linearizability::check),
    ("refused writes", refused_writes::check),
    ("watch: ordered and unique", watch_ordered::check),
    ("watch: reliable", watch_reliable::check),
    ("watch: atomic", watch_atomic::check),
    ("watch: bookmarks", bookmarks::check),
    ("equal members", equal_members::check),
    ("bounded disk", bounded_disk::check),
];
