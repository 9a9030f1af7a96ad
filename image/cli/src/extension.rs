//! `cairn-image extension`: what is added to the hosts of a cluster, built from a folder, described, signed and checked.
//!
//! What may be in one is `image_build::extension`'s word, who vouches for one is a key's. Must never read a private key itself.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use image_build::artefact::{self, Judged};
use image_build::extension::{self, Name};
use image_build::pipeline;
use init_boot::artefact::{EXTENSION_NAMESPACE, ExtensionHeader, ExtensionName};
use serde_json::json;

use crate::build::{DEFAULT_CACHE, find_profiles};
use crate::keys;
use crate::report::{Steps, mebibytes};

/// Host extensions: CNI plugins, container runtimes, firmware and kernel modules, each a read-only file system named by its digest.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Extension,
}

#[derive(Subcommand)]
enum Extension {
    Build(Build),
    Inspect(Inspect),
    /// Sign an extension, for whoever hands it on: cairn-image extension verify tells whose it is.
    ///
    /// Adds one signature (SSH, namespace cairn.extension.v1) over the manifest, and changes neither content nor digest. Machines take an
    /// extension by the digest in their document, whoever signed it.
    Sign(keys::SignArguments),
    /// Check an extension whole, and that an allowed key signed it.
    ///
    /// Ends with 0 when the content is what the manifest names and at least one signature is by an allowed key, with 1 otherwise, and
    /// says why.
    Verify(keys::VerifyArguments),
}

/// Pack a folder, laid out as on a machine (opt/cni/bin/bridge), into an extension.
///
/// Files may lie below /opt/cni/bin, /usr/lib/firmware, /usr/lib/modules/KERNEL and /usr/lib/cairn/runtimes. The same files give the
/// same bytes. Every mistake is named at once, and nothing is written then.
#[derive(Args)]
struct Build {
    /// The folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What it is called: lower-case letters, digits and hyphens.
    #[arg(long, value_name = "NAME")]
    name: ExtensionName,
    /// Its version, as you count.
    #[arg(long, value_name = "VERSION")]
    extension_version: String,
    /// The kernel release that its modules are for; cairn-image inspect shows an image's. An image with another kernel loads none of them.
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Where to write it [default: NAME-VERSION.extension].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Profile whose pinned tools pack it.
    #[arg(long, value_name = "NAME", default_value = "cloud")]
    profile: String,
    /// Folder of profiles and lock files [default: image/profiles of the checkout that this folder belongs to].
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// Folder for downloads and intermediate results.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CACHE)]
    cache: PathBuf,
}

/// Show what an extension is; its content is hashed and compared with its manifest.
#[derive(Args)]
struct Inspect {
    /// The extension.
    #[arg(value_name = "FILE")]
    extension: PathBuf,
    /// Text for people, or JSON.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Does what is asked.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Extension::Build(build) => build.run(),
        Extension::Inspect(inspect) => inspect.run(),
        Extension::Sign(sign) => {
            let read = artefact::read_extension;
            let header =
                artefact::sign(&sign.artefact, read, |text| keys::ssh_sign(&sign.key, EXTENSION_NAMESPACE, text))?;
            print(&sign.artefact, &header);
            Ok(())
        }
        Extension::Verify(arguments) => verify(arguments),
    }
}

impl Build {
    fn run(&self) -> anyhow::Result<()> {
        let name =
            Name { name: self.name.clone(), version: self.extension_version.clone(), kernel: self.kernel.clone() };
        name.check()?;
        let collected = extension::collect(&self.folder, self.kernel.as_deref())?;
        let profiles = match &self.profiles {
            Some(folder) => folder.clone(),
            None => find_profiles()?,
        };
        let steps = Steps::new();
        let packed = pipeline::pack(&collected.tree, (&profiles, &self.profile), &self.cache, &steps);
        steps.finish();
        let default = || PathBuf::from(format!("{}-{}.extension", self.name, self.extension_version));
        let path = self.output.clone().unwrap_or_else(default);
        let header = extension::write(&name, collected.folders, packed?, &path)?;
        print(&path, &header);
        let manifest = &header.manifest;
        println!(
            "  name it with  extension \"{}\" digest=\"{}\" url=\"https://...\"",
            manifest.name,
            manifest.digest()
        );
        println!("  sign with     cairn-image extension sign --key KEY {}", path.display());
        Ok(())
    }
}

impl Inspect {
    fn run(&self) -> anyhow::Result<()> {
        let header = artefact::read_extension(&self.extension)?;
        match self.output {
            Format::Text => print(&self.extension, &header),
            Format::Json => {
                let manifest = &header.manifest;
                let folders: Vec<&str> = manifest.folders.iter().map(|folder| folder.path()).collect();
                let value = json!({
                    "name": manifest.name.as_str(), "version": manifest.version, "architecture": manifest.architecture,
                    "kernel": manifest.kernel, "folders": folders, "digest": manifest.digest().to_string(),
                    "image_bytes": manifest.image.bytes, "root_hash": manifest.root_hash.to_string(),
                    "signatures": header.signatures().len(),
                });
                println!("{}", serde_json::to_string_pretty(&value)?);
            }
        }
        Ok(())
    }
}

fn print(path: &Path, header: &ExtensionHeader) {
    let manifest = &header.manifest;
    let folders: Vec<&str> = manifest.folders.iter().map(|folder| folder.path()).collect();
    println!("{}", path.display());
    println!("  extension     {} {} ({})", manifest.name, manifest.version, manifest.architecture);
    println!("  digest        {}", manifest.digest());
    println!("  fills         {}", folders.join(", "));
    if let Some(kernel) = &manifest.kernel {
        println!("  kernel        {kernel}");
    }
    println!("  size          {}", mebibytes(manifest.image.bytes));
    println!("  signatures    {}", header.signatures().len());
}

fn verify(arguments: &keys::VerifyArguments) -> anyhow::Result<()> {
    let allowed = artefact::allowed_keys(&arguments.allowed)?;
    let header = artefact::read_extension(&arguments.artefact)?;
    let judged = artefact::judge(&header, &allowed);
    print(&arguments.artefact, &header);
    for line in keys::lines(&judged) {
        println!("  signature     {line}");
    }
    if judged.iter().any(|judged| matches!(judged, Judged::Allowed(_))) {
        return Ok(());
    }
    let (file, keys) = (arguments.artefact.display(), arguments.allowed.display());
    bail!("no key in {keys} signed {file}; sign it with: cairn-image extension sign --key KEY {file}")
}
