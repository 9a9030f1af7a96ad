//! controlplane: server, node and dev.

fn main() {}
