//! Lines `key value`, read in a fixed order.

use jiff::Timestamp;
use std::str::FromStr;

/// What is left of a body.
pub(super) struct Lines<'a> {
    rest: &'a str,
}

impl<'a> Lines<'a> {
    pub(super) const fn new(rest: &'a str) -> Self {
        Lines { rest }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next line's value, when the line has this key.
    pub(super) fn value(&mut self, key: &str) -> Option<&'a str> {
        let (line, rest) = self.rest.split_once('\n')?;
        let value = line.strip_prefix(key)?.strip_prefix(' ')?;
        self.rest = rest;
        Some(value)
    }

    pub(super) fn read<T: FromStr>(&mut self, key: &str) -> Option<T> {
        self.value(key)?.parse().ok()
    }

    pub(super) fn time(&mut self, key: &str) -> Option<Timestamp> {
        time(self.value(key)?)
    }
}

/// A time in whole seconds.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|at: &Timestamp| at.subsec_nanosecond() == 0)
}
