//! How a long build tells what it is doing: the caller decides whether that is a bar, a line or nothing.
//!
//! `cairn-image` shows a spinner, tests use [`Silent`]. Must never carry a decision.

/// Receives what a build is doing.
pub trait Progress {
    /// The build begins to do this.
    fn step(&self, doing: &str);
    /// Something that a person should know and that does not stop the build.
    fn warn(&self, message: &str);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _doing: &str) {}
    fn warn(&self, _message: &str) {}
}
