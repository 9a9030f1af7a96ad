//! What an error and its causes say, for logs and conditions.

use std::error::Error;

/// An error with its causes on one line, outermost first. A cause that its error repeated already is not said again.
#[must_use]
pub fn story(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::story;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot write the file")]
        Told(#[source] std::io::Error),
        #[error("cannot write the file: {0}")]
        Repeated(#[source] std::io::Error),
    }

    #[test]
    fn every_cause_is_told_once() {
        let full = || std::io::Error::other("the disk is full");
        for error in [Outer::Told(full()), Outer::Repeated(full())] {
            assert_eq!(story(&error), "cannot write the file: the disk is full");
        }
    }
}
