//! A whole cluster of the store in one process, from one seed: the shipped members on a simulated clock, network and disk.
//!
//! `cargo xtask sim --seed S --minutes N` runs seed after seed; a failing run is a seed and a commit. No task here may ask the real
//! clock, the operating system's randomness or a thread: a run must be the same every time.
//!
//! - `runtime`: one thread, simulated time, processes that are killed or paused at any await point
//! - `network`, `disk`: what connects members, what keeps their files, and what goes wrong with them
//! - `cluster`, `traffic`, `faults`: machines, clients, and the seeded choice of faults
//! - `history`, `invariants`: what was seen, and what must hold of it; [`Fault`] breaks the store to show that they notice

mod broken;
mod cluster;
mod disk;
mod faults;
mod history;
mod invariants;
mod network;
mod run;
mod runtime;
mod traffic;

pub use broken::Fault;
pub use run::{Report, run};
