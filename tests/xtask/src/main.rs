//! cargo xtask: tidy, ci, image, vm, bench.

fn main() {}
