//! `cargo xtask`: everything that the project does with itself. `make` and CI call it; it says the same to everybody.

mod bench;
mod check;
mod demo;
mod fuzz;
mod run;
mod test;
mod tidy;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What Cairn's developers and its demo need.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything, boot a machine and run the demo on it; safe to run again
    Up,
    /// Stop the demo's machine and servers
    Down,
    /// Stop the demo and remove .cairn/
    CleanUp,
    /// All tests, those in virtual machines included
    Test(test::Test),
    /// What takes longer than `make test`: upgrades with power cuts at seeded moments, or three machines of which each is lost
    Vm(vm::Vm),
    /// Formatting, lints, layers, tidiness, documentation, licences
    Check,
    /// The layer and tidy checks alone
    Tidy,
    /// Simulate clusters of the store, seed after seed, until the time is over or an invariant breaks
    Sim(test::Sim),
    /// Measurements: a table, and JSON in .cairn/bench/
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Fuzz the readers of bytes from outside with coverage feedback; corpus and finds in target/fuzz/
    Fuzz(fuzz::Fuzz),
    /// Serve a folder of git repositories over HTTP (the demo's background server)
    #[command(hide = true)]
    ServeGit(demo::ServeGit),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Command::Up => runtime.block_on(demo::up()),
        Command::Down => demo::down(),
        Command::CleanUp => demo::clean_up(),
        Command::Test(test) => runtime.block_on(test::test(&test)),
        Command::Sim(sim) => test::sim(&sim),
        Command::Vm(vm) => runtime.block_on(vm::vm(&vm)),
        Command::Check => check::check(),
        Command::Tidy => tidy::tidy(),
        Command::Bench { bench } => runtime.block_on(bench::bench(&bench)),
        Command::Fuzz(fuzz) => fuzz::fuzz(&fuzz),
        Command::ServeGit(serve) => runtime.block_on(demo::serve_git(&serve)),
    }
}
