//! `cairn-image inspect`: what an image is made of, from the manifest beside it, or what an artefact carries, from the file itself.
//!
//! A folder is described by what was measured when it was built. An artefact is hashed whole; its packages and files come from the
//! manifest beside it, when that is of the same image digest.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use image_build::artefact;
use image_build::manifest::Manifest;
use init_boot::artefact::ArtefactHeader;
use init_boot::expected_uki_pcr;
use init_boot::tpm::PcrValue;
use serde::Serialize;

use crate::build::DEFAULT_IMAGE;
use crate::report::mebibytes;

/// How many of the largest files are shown.
const FILES_SHOWN: usize = 12;

/// Show sizes, digests and packages of an image or an artefact.
///
/// An artefact's content is hashed and compared with its manifest; who signed it is for cairn-image verify.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder of an image, or an artefact's file.
    #[arg(value_name = "PATH", default_value = DEFAULT_IMAGE)]
    image: PathBuf,
    /// Text for people, or all that is known as JSON.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// An artefact as JSON: what its header says, under the names that manifest.json uses, and the manifest beside it.
#[derive(Serialize)]
struct Carried {
    version: String,
    number: u64,
    level: u32,
    profile: String,
    architecture: String,
    built: String,
    image_digest: String,
    uki_bytes: u64,
    uki_sha256: String,
    root_bytes: u64,
    root_sha256: String,
    root_hash: String,
    /// What the TPM's PCR 11 holds once this image was started.
    pcr11: String,
    signatures: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    executables: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Manifest>,
}

impl Carried {
    fn new(header: &ArtefactHeader, pcr11: PcrValue, image: Option<Manifest>) -> Carried {
        let manifest = &header.manifest;
        Carried {
            version: manifest.version.to_string(),
            number: manifest.number.0,
            level: manifest.level,
            profile: manifest.profile.clone(),
            architecture: manifest.architecture.clone(),
            built: manifest.built.to_string(),
            image_digest: manifest.digest().to_string(),
            uki_bytes: manifest.uki.bytes,
            uki_sha256: manifest.uki.hex(),
            root_bytes: manifest.root.bytes,
            root_sha256: manifest.root.hex(),
            root_hash: manifest.root_hash.to_string(),
            pcr11: pcr11.to_string(),
            signatures: header.signatures().len(),
            executables: image.as_ref().map(|image| image.executables),
            image,
        }
    }
}

/// Shows what is known.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.image.is_file() {
        return inspect_artefact(&arguments.image, arguments.output);
    }
    let manifest = Manifest::load(&arguments.image)?;
    match arguments.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&manifest)?),
        Format::Text => print_text(&manifest),
    }
    Ok(())
}

fn inspect_artefact(path: &Path, output: Format) -> anyhow::Result<()> {
    let header = artefact::read(path)?;
    let digest = header.manifest.digest().to_string();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = Manifest::load(folder).ok().filter(|manifest| manifest.image_digest == digest);
    let pcr11 =
        expected_uki_pcr(&artefact::read_uki(path, &header)?).with_context(|| format!("in {}", path.display()))?;
    let carried = Carried::new(&header, pcr11, beside);
    match output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&carried)?),
        Format::Text => print_carried(&carried),
    }
    Ok(())
}

fn print_carried(carried: &Carried) {
    let Carried { version, number, profile, architecture, level, built, .. } = carried;
    println!("Cairn {version} ({profile}, {architecture}), number {number}, level {level}, of {built}");
    println!("  image digest  {}", carried.image_digest);
    println!("  root hash     {}", carried.root_hash);
    println!("  UKI           {} sha256:{}", mebibytes(carried.uki_bytes), carried.uki_sha256);
    println!("  root          {} sha256:{}", mebibytes(carried.root_bytes), carried.root_sha256);
    println!("  PCR 11        {} once it was started", carried.pcr11);
    println!("  signatures    {}; check them with: cairn-image verify", carried.signatures);
    match &carried.image {
        Some(manifest) => print_content(manifest),
        None => println!("  packages      unknown: the manifest.json of this image does not lie beside it"),
    }
}

fn print_text(manifest: &Manifest) {
    println!(
        "Cairn {} ({}), number {}, kernel {}",
        manifest.version, manifest.profile, manifest.number, manifest.kernel
    );
    println!("  image digest  {}", manifest.image_digest);
    println!("  root hash     {}", manifest.root_hash);
    println!("  command line  {}", manifest.command_line);
    println!("  UKI           {} (initramfs {})", mebibytes(manifest.uki_bytes), mebibytes(manifest.initramfs_bytes));
    println!("  root          {} ({} of files)", mebibytes(manifest.root_bytes), mebibytes(manifest.root_files_bytes));
    println!("  disk          {}", mebibytes(manifest.disk_bytes));
    println!("  seed          {}", if manifest.seed { "yes" } else { "no" });
    println!("  Secure Boot   {}", if manifest.secure_boot { "signed" } else { "not signed" });
    println!("  policy key    {}", manifest.policy_key.as_deref().unwrap_or("none: it opens no encrypted volumes"));
    print_content(manifest);
}

fn print_content(manifest: &Manifest) {
    println!("Packages");
    for package in &manifest.packages {
        println!("  {} {}", package.name, package.version);
    }
    println!("{} executables", manifest.executables);
    for file in manifest.files.iter().filter(|file| file.executable) {
        println!("  {:>10}  {}", mebibytes(file.bytes), file.path);
    }
    println!("Largest of {} files", manifest.files.len());
    let mut files: Vec<_> = manifest.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    for file in files.iter().take(FILES_SHOWN) {
        println!("  {:>10}  {}", mebibytes(file.bytes), file.path);
    }
}
