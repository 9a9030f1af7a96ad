//! `cairn-image`: builds, runs and describes Cairn images, and packs programs as container images.
//!
//! Used by people, by `make up` and by the tests in `tests/vm`. Parses arguments and calls one module per subcommand; needs no root.

#![allow(
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags,
    reason = "help texts are for terminals: URLs and <NAMES> stand as they are"
)]

mod build;
mod inspect;
mod oci;
mod qemu;
mod report;
mod run;

use clap::{Parser, Subcommand};

/// Build, run and describe Cairn images.
#[derive(Parser)]
#[command(
    name = "cairn-image",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  cargo build --release && cairn-image build
      Builds the programs, then the image, into .cairn/image.
  cairn-image run --forward 50000:50000 --forward 6443:6443
      Boots it in QEMU with UEFI firmware; the serial console is this terminal. Ctrl-a x ends it.
  cairn-image inspect
      Shows sizes, digests and packages of the image."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Arguments),
    Run(run::Arguments),
    Stop(run::StopArguments),
    Inspect(inspect::Arguments),
    Oci(oci::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Build(arguments) => build::execute(&arguments),
        Command::Run(arguments) => run::execute(&arguments),
        Command::Stop(arguments) => run::stop(&arguments),
        Command::Inspect(arguments) => inspect::execute(&arguments),
        Command::Oci(arguments) => oci::execute(&arguments),
    }
}
