//! Counters that only grow.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next one.
            ///
            /// # Panics
            /// After 2^64 steps, which no cluster lives to see.
            #[must_use]
            pub const fn next(self) -> Self {
                $name(self.0.checked_add(1).expect("because 2^64 steps take longer than any cluster lives"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position! {
    /// Counts activations: grows with every apply and every revert. Receivers refuse older ones.
    Generation
}
position! {
    /// The store's global revision; zero means "never written".
    Revision
}
position! {
    /// Steps since the introduction, counted by the verifier and never merely claimed.
    Seq
}
/// What releases of one cluster have in common: formats and protocols up to this level. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterLevel(pub u32);

impl ClusterLevel {
    /// What every release speaks.
    pub const FIRST: ClusterLevel = ClusterLevel(1);
}

impl fmt::Display for ClusterLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

position! {
    /// Grows with every re-introduction and comes before [`Generation`] in every comparison.
    Epoch
}
