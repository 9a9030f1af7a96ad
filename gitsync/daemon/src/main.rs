//! `gitsync`: brings a machine to what its repository says, as far as that was signed for.
//!
//! `gitsync run` is started by machined; `gitsync fetch-child` by `gitsync run`. Neither takes options: where to look, and what
//! this machine is, comes from machined's local socket.

use std::process::ExitCode;

fn main() -> ExitCode {
    let word = std::env::args().nth(1);
    match word.as_deref() {
        Some("fetch-child") => fetch_child(),
        _ => {
            eprintln!("usage: gitsync run\n\nmachined starts it; people use cairnctl.");
            ExitCode::from(2)
        }
    }
}

fn fetch_child() -> ExitCode {
    match gitsync_fetch::child::run(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gitsync fetch-child: its parent is gone: {error}");
            ExitCode::FAILURE
        }
    }
}
