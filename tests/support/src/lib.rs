//! Waiting on values, a git server, an OCI registry on loopback.
