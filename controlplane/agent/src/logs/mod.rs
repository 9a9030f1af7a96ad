//! Container output: from pipes into files in the CRI format, and from there to people.

mod pump;
mod reader;
mod writer;

pub(crate) use pump::LogPumps;
pub(crate) use reader::{IsOver, LogQuery, log_lines};
