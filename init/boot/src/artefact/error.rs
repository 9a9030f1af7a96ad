//! Why an artefact's header is refused.

use thiserror::Error;

use super::{ARTEFACT_SIGNATURES_MAX, FORMAT};

/// Why a header cannot be read or written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArtefactError {
    /// Fewer bytes than the header has.
    #[error("the artefact is cut off: {bytes} bytes of its header are there, {wanted} are needed")]
    CutOff {
        /// What is there.
        bytes: usize,
        /// What is needed.
        wanted: usize,
    },
    /// Something else than an artefact.
    #[error(
        "this is no such file of Cairn: it does not begin with {wanted}; images begin with CAIRNART, extensions with CAIRNEXT"
    )]
    Magic {
        /// What it should begin with.
        wanted: &'static str,
    },
    /// A newer one.
    #[error("the artefact has format {format}, this release reads format {FORMAT} only; use a newer one")]
    Format {
        /// The format that it names.
        format: u32,
    },
    /// A text beyond its limit.
    #[error("the artefact's {what} text has {bytes} bytes, at most {max} are taken")]
    TooLong {
        /// `manifest` or `signatures`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Damage.
    #[error("the artefact's header is damaged: its digest does not match; fetch the file again")]
    Digest,
    /// Bytes where zeros belong.
    #[error("the artefact's header has other bytes than zeros where it is padded")]
    Padding,
    /// Not UTF-8.
    #[error("the artefact's manifest or signatures are not UTF-8 text")]
    NotText,
    /// A line of the manifest that is missing, out of place, or not the one way to write its value.
    #[error("line {line} of the artefact's manifest is not `{key}` and {expected}")]
    Line {
        /// From 1.
        line: usize,
        /// The key that belongs there.
        key: &'static str,
        /// What the value must be.
        expected: &'static str,
    },
    /// Something behind the last line.
    #[error("the artefact's manifest goes on behind its last line")]
    Trailing,
    /// Not an armour, counted from 0.
    #[error("signature {index} of the artefact is not one SSH signature as ssh-keygen -Y sign writes it")]
    Armour {
        /// Which one.
        index: usize,
    },
    /// The same one twice.
    #[error("signature {index} of the artefact stands there twice")]
    RepeatedSignature {
        /// The second one.
        index: usize,
    },
    /// Too many.
    #[error("an artefact carries at most {ARTEFACT_SIGNATURES_MAX} signatures")]
    TooManySignatures,
}
