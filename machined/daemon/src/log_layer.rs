//! machined's own log: to stderr, which PID 1 carries to the kernel's log, and into the log book for the machine API.

use crate::log_book::LogBook;
use jiff::Timestamp;
use std::io::Write;
use tracing_subscriber::fmt::MakeWriter;

/// The name under which machined's own lines are read.
pub(crate) const OWN_LOG: &str = "machined";

/// Writes each line to both places.
#[derive(Clone)]
pub(crate) struct BothLogs(pub(crate) LogBook);

impl<'a> MakeWriter<'a> for BothLogs {
    type Writer = BothLogs;
    fn make_writer(&'a self) -> BothLogs {
        self.clone()
    }
}

impl Write for BothLogs {
    /// The formatter hands over one whole line at a time.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.add(OWN_LOG, Timestamp::now(), line.trim_ascii_end().to_vec());
        // A stderr that nobody reads must not keep the line out of the book.
        let _unread = std::io::stderr().write_all(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends the log there. `CAIRN_LOG` chooses levels, `info` without it.
pub(crate) fn install(book: LogBook) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CAIRN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .with_writer(BothLogs(book))
        .init();
}
