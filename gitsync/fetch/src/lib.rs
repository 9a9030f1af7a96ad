//! Git transport with gix: untrusted bytes, in an unprivileged child.
