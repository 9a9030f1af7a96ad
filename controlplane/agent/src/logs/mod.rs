//! Container output: from pipes into files in the CRI format, and from there to people.

mod pump;
mod reader;
mod writer;

pub use pump::LogPumps;
pub use reader::{IsOver, LogQuery, log_lines};
