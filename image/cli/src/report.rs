//! What `cairn-image` tells people while it works: one line a step, with a spinner while it lasts.
//!
//! Everything goes to standard error; standard output is for results. Without a terminal, each step is one plain line.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use image_build::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);
/// Bytes of a mebibyte.
const MIB: f64 = 1_048_576.0;

/// Shows the steps of a build.
pub(crate) struct Steps {
    current: RefCell<Option<(String, Instant)>>,
    bar: ProgressBar,
}

impl Steps {
    /// Starts with nothing to show.
    pub(crate) fn new() -> Steps {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("because the template is sound");
        bar.set_style(style);
        Steps { current: RefCell::new(None), bar }
    }

    /// Ends the last step.
    pub(crate) fn finish(&self) {
        if let Some((doing, started)) = self.current.borrow_mut().take() {
            self.line(&format!("{doing}: {}", seconds(started.elapsed())));
        }
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }
}

impl Progress for Steps {
    fn step(&self, doing: &str) {
        if let Some((before, started)) = self.current.borrow_mut().replace((doing.to_owned(), Instant::now())) {
            self.line(&format!("{before}: {}", seconds(started.elapsed())));
        }
        self.bar.reset_elapsed();
        self.bar.set_message(doing.to_owned());
        self.bar.enable_steady_tick(TICK);
    }

    fn warn(&self, message: &str) {
        self.line(&format!("note: {message}"));
    }
}

/// A duration as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A size as people read it.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}
