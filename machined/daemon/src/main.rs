//! machined: composition root and machine API server.

fn main() {}
