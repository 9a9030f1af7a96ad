//! The only crate with unsafe code: system calls behind a Kernel trait.
