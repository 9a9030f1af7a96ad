//! Why a header cannot be used or changed.

use thiserror::Error;

/// Why a header cannot be used or changed.
#[derive(Debug, Error)]
pub enum LuksError {
    /// Neither copy is whole.
    #[error(
        "both copies of the LUKS2 header are damaged ({first}; {second}); without one of them the volume cannot be opened"
    )]
    Damaged {
        /// What is wrong with the first copy.
        first: &'static str,
        /// What is wrong with the second one.
        second: &'static str,
    },
    /// Its JSON cannot be understood.
    #[error("the LUKS2 header cannot be understood")]
    Json(#[source] serde_json::Error),
    /// It asks for something that is not supported.
    #[error("the LUKS2 header asks for {0}, which Cairn does not support")]
    Unsupported(&'static str),
    /// It contradicts itself.
    #[error("the LUKS2 header contradicts itself: {0}")]
    Contradiction(&'static str),
    /// No key slot opens with this secret.
    #[error("no key slot of the volume opens with this key")]
    WrongSecret,
    /// There is no room for another key slot.
    #[error("all key slots of the volume are taken")]
    Full,
    /// The JSON does not fit.
    #[error("the LUKS2 header has no room for {bytes} bytes of JSON")]
    TooLong {
        /// What would have to fit.
        bytes: usize,
    },
}
