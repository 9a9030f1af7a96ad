//! The node agent: pod state machine to containerd.
