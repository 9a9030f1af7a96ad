//! `cairn-image`: builds, runs, describes and signs Cairn images, and packs programs as container images.
//!
//! Used by people, by `make up` and by the tests in `tests/vm`. Parses arguments and calls one module per subcommand; needs no root.

#![allow(
    rustdoc::bare_urls,
    rustdoc::invalid_html_tags,
    reason = "help texts are for terminals: URLs and <NAMES> stand as they are"
)]

mod build;
mod check;
mod extension;
mod inspect;
mod keys;
mod oci;
mod qemu;
mod report;
mod run;

use clap::{Parser, Subcommand};

/// Build, run, describe and sign Cairn images.
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
      Shows sizes, digests and packages of the image.
  cairn-image sign --key ~/.ssh/id_ed25519 .cairn/image/cairn-0.1.0-cloud.artefact
      Signs what upgrades carry."
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
    Keys(keys::Arguments),
    Sign(keys::SignArguments),
    Verify(keys::VerifyArguments),
    Oci(oci::Arguments),
    Extension(extension::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Build(arguments) => build::execute(&arguments),
        Command::Run(arguments) => run::execute(&arguments),
        Command::Stop(arguments) => run::stop(&arguments),
        Command::Inspect(arguments) => inspect::execute(&arguments),
        Command::Keys(arguments) => keys::execute(&arguments),
        Command::Sign(arguments) => keys::sign(&arguments),
        Command::Verify(arguments) => keys::verify(&arguments),
        Command::Oci(arguments) => oci::execute(&arguments),
        Command::Extension(arguments) => extension::execute(&arguments),
    }
}
