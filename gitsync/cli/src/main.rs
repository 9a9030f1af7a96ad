//! `cairnctl`: the operator's tool. Talks to the machine API and makes what people sign; it holds no power of its own.
//!
//! Called by people and by kubectl (as an exec credential). It must never print a private key or a login token except to
//! kubectl, and never change a repository without saying so.

#![allow(
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags,
    reason = "help texts are for terminals: URLs and <NAMES> stand as they are"
)]

mod approval;
mod arguments;
mod commands;
mod contexts;
mod judge;
mod machine;
#[cfg(test)]
mod named_commands;
mod output;
mod repository;
mod session;
mod signing;
mod template;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let failure = arguments.command.failure();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(commands::run(arguments)));
    match result {
        Ok(code) => code,
        // Whoever read the output has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairnctl: {error:#}");
            failure
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
