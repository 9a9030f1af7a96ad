//! cairnctl: the operator's tool.

fn main() {}
