//! Which volumes a machine has, and what lies on them.

use super::{EPHEMERAL, STATE};

/// A volume that every machine has.
pub(super) struct VolumeSpec {
    pub(super) label: &'static str,
    pub(super) target: &'static str,
    /// Folders below the mount point with their permission bits, parents first.
    pub(super) folders: &'static [(&'static str, u32)],
}

/// All of them.
pub(super) const VOLUMES: [VolumeSpec; 2] = [
    VolumeSpec {
        label: "CAIRN-STATE",
        target: STATE,
        folders: &[("machined", 0o700), ("controlplane", 0o700), ("gitsync", 0o711)],
    },
    VolumeSpec {
        label: "CAIRN-EPHEMERAL",
        target: EPHEMERAL,
        folders: &[
            ("lib", 0o755),
            ("lib/containerd", 0o711),
            ("lib/cairn", 0o755),
            ("log", 0o755),
            ("log/services", 0o750),
            ("log/pods", 0o755),
            ("log/containers", 0o755),
            ("tmp", 0o1777),
        ],
    },
];
