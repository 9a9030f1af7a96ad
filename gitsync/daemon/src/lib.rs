//! gitsync's parts, for the program `gitsync` and its tests; see [`run`] for how they hang together.
//!
//! The trust state is written by this crate alone, what machines should be goes to machined and nowhere else, and nothing
//! becomes desired state that `gitsync/verify` did not pass.

mod api;
mod book;
mod cluster;
mod desire;
mod health;
mod kept;
mod lease;
mod look;
mod machine;
mod marks;
mod meter;
mod objects;
mod orders;
mod peers;
mod report;
mod rollout;
mod run;
#[cfg(test)]
mod samples;
mod show;
mod source;
mod statements;
mod store;

pub use run::{Places, WallClock, run};
