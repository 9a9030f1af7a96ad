//! place(&Pod, &Snapshot) -> Decision.
