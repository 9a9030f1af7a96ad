//! `cairn-image inspect`: what an image is made of, from the manifest beside it.
//!
//! Must never open the image itself: the manifest says what was measured when it was built.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use image_build::manifest::Manifest;

use crate::build::DEFAULT_IMAGE;
use crate::report::mebibytes;

/// How many of the largest files are shown.
const FILES_SHOWN: usize = 12;

/// Show sizes, digests and packages of an image.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder of the image.
    #[arg(value_name = "DIR", default_value = DEFAULT_IMAGE)]
    image: PathBuf,
    /// Text for people, or the whole manifest as JSON.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Shows the manifest.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let manifest = Manifest::load(&arguments.image)?;
    match arguments.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&manifest)?),
        Format::Text => print_text(&manifest),
    }
    Ok(())
}

fn print_text(manifest: &Manifest) {
    println!("Cairn {} ({}), kernel {}", manifest.version, manifest.profile, manifest.kernel);
    println!("  root hash     {}", manifest.root_hash);
    println!("  command line  {}", manifest.command_line);
    println!("  UKI           {} (initramfs {})", mebibytes(manifest.uki_bytes), mebibytes(manifest.initramfs_bytes));
    println!("  root          {} ({} of files)", mebibytes(manifest.root_bytes), mebibytes(manifest.root_files_bytes));
    println!("  disk          {}", mebibytes(manifest.disk_bytes));
    println!("  seed          {}", if manifest.seed { "yes" } else { "no" });
    println!("Packages");
    for package in &manifest.packages {
        println!("  {} {}", package.name, package.version);
    }
    println!("Largest of {} files", manifest.files.len());
    let mut files: Vec<_> = manifest.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    for file in files.iter().take(FILES_SHOWN) {
        println!("  {:>10}  {}", mebibytes(file.bytes), file.path);
    }
}
