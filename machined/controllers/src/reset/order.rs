//! Who wants the machine to forget everything, and why: the record on META between the request and the start that obeys it.
//!
//! ```text
//! reset 1
//! by ada
//! reason moved to another rack
//! ```
//!
//! Pure. It fits into one sector of 512 bytes with META's header, so that it is there or not.

use std::str::Utf8Error;

/// The first line: what this is, in which version.
const HEAD: &str = "reset 1";
/// Bytes of a name that are kept.
const NAME_BYTES_MAX: usize = 100;
/// Bytes of a reason that are kept.
pub const REASON_BYTES_MAX: usize = 200;

/// Who wants it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetOrder {
    /// Name of the person.
    pub by: String,
    /// Why no permit was waited for; empty with a permit.
    pub reason: String,
}

/// Why bytes are no order.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResetOrderError {
    /// No text.
    #[error("the reset record is no text")]
    Text(#[from] Utf8Error),
    /// A line is wrong.
    #[error("line {line} of the reset record cannot be read")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
}

impl ResetOrder {
    /// The record's content; what is too long is cut, what does not print is replaced.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (by, reason) = (clean(&self.by, NAME_BYTES_MAX), clean(&self.reason, REASON_BYTES_MAX));
        format!("{HEAD}\nby {by}\nreason {reason}\n").into_bytes()
    }

    /// Reads the record's content.
    ///
    /// # Errors
    /// When it is not exactly an order.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResetOrderError> {
        let text = std::str::from_utf8(bytes)?;
        let wrong = |line| ResetOrderError::Line { line };
        let mut lines = text.strip_suffix('\n').ok_or(wrong(1))?.split('\n');
        if lines.next() != Some(HEAD) {
            return Err(wrong(1));
        }
        let mut next = |name: &str, line| {
            let found = lines.next().and_then(|text| text.strip_prefix(name)?.strip_prefix(' '));
            found.map(str::to_owned).ok_or(wrong(line))
        };
        let (by, reason) = (next("by", 2)?, next("reason", 3)?);
        match lines.next() {
            Some(_) => Err(wrong(4)),
            None => Ok(ResetOrder { by, reason }),
        }
    }
}

/// One line of printable ASCII, cut to what fits.
fn clean(text: &str, bytes: usize) -> String {
    let plain = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
    text.chars().map(plain).take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use init_boot::{MetaKind, MetaRecord};

    #[test]
    fn an_order_is_read_back_and_fits_one_sector() {
        let order = ResetOrder { by: "ada".to_owned(), reason: "moved to another rack".to_owned() };
        assert_eq!(ResetOrder::parse(&order.encode()), Ok(order));
        let long = ResetOrder { by: "\u{e9}\n".repeat(200), reason: "x".repeat(4000) };
        let read = ResetOrder::parse(&long.encode()).expect("because whatever was written is read");
        assert_eq!((read.by.len(), read.reason.len()), (NAME_BYTES_MAX, REASON_BYTES_MAX));
        let record = MetaRecord { kind: MetaKind::Reset, bytes: long.encode() };
        assert!(record.encode().expect("because it is short").len() <= 512);
    }

    #[test]
    fn what_is_not_exactly_an_order_is_none() {
        for text in ["", "reset 1", "reset 2\nby a\nreason b\n", "reset 1\nby a\n", "reset 1\nby a\nreason b\nand\n"] {
            assert!(ResetOrder::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(ResetOrder::parse(&[0xff]).is_err());
    }
}
