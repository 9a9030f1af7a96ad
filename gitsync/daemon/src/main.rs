//! gitsync: fetch, verify, accept, plan, apply.

fn main() {}
