//! Deterministic stages: packages, root, verity, UKI, disk.
