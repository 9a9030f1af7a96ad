//! cairn-image: build, run.

fn main() {}
