//! Typed resource store of the machine: single writer per type, watch.
