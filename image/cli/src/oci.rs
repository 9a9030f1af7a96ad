//! `cairn-image oci`: one static program as a container image, in an OCI archive.
//!
//! For demos and tests that need no registry: the archive is baked into an OS image with build --preload.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use image_build::oci::{self, Program};

use crate::report::mebibytes;

/// Pack one static program as a container image (an OCI archive).
///
/// The program is the only file of the image. Bake the archive into an OS image with: cairn-image build --preload FILE
#[derive(Args)]
pub(crate) struct Arguments {
    /// The program, linked statically.
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Name of the image, such as demo/hello:1; without a registry it is docker.io, as everywhere.
    #[arg(long, value_name = "NAME:TAG")]
    name: String,
    /// Path of the program in the image [default: / and its file name].
    #[arg(long, value_name = "PATH")]
    entrypoint: Option<String>,
    /// Archive to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Packs.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let bytes = fs::read(&arguments.binary).with_context(|| format!("cannot read {}", arguments.binary.display()))?;
    let file = arguments.binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let program = Program {
        entrypoint: arguments.entrypoint.clone().unwrap_or_else(|| format!("/{file}")),
        bytes,
        name: arguments.name.parse()?,
    };
    let archive = oci::archive(&program)?;
    fs::write(&arguments.output, &archive).with_context(|| format!("cannot write {}", arguments.output.display()))?;
    println!("{} ({}): {}", arguments.output.display(), mebibytes(archive.len() as u64), program.name);
    Ok(())
}
