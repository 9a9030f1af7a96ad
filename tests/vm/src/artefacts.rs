//! What must be built before a machine can boot: the programs, the demo's container image, and the operating system image.

use crate::places::{Places, text};
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Packages with the programs that an image carries, and the tools that build and drive it.
const PROGRAMS: [&str; 8] = [
    "init-pid1",
    "machined-daemon",
    "controlplane-daemon",
    "controlplane-agent",
    "gitsync-daemon",
    "gitsync-cli",
    "image-cli",
    "tests-support",
];

/// Lines of a failed command's output that are shown; the rest is in its log.
const LINES_SHOWN: usize = 40;

/// A built image.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// Sizes, digests and packages, as `cairn-image build` wrote them.
    pub manifest: PathBuf,
}

impl Artefacts {
    /// Builds the programs and the demo's container image: what `controlplane dev` needs.
    ///
    /// # Errors
    /// When one cannot be built; the log's end is part of the error.
    pub async fn programs(places: &Places, steps: &mut Steps) -> Result<()> {
        let log = log_file(places, "cargo", "build");
        steps.take_logged("building the programs (release, static)", &log, programs(places)).await?;
        steps.take("packing the demo's container image", hello(places)).await
    }

    /// Builds everything that is not there yet.
    ///
    /// # Errors
    /// When a program, a package or the image cannot be built; the log's end is part of the error.
    pub async fn build(places: &Places, steps: &mut Steps) -> Result<Self> {
        Artefacts::programs(places, steps).await?;
        let log = log_file(places, "cairn-image", "build");
        let output = places.image("");
        steps.take_logged("building the operating system image", &log, image(places, &output, &[])).await?;
        Ok(Artefacts { manifest: places.image("manifest.json") })
    }
}

async fn programs(places: &Places) -> Result<()> {
    let mut arguments = vec!["build", "--release", "--locked"];
    for package in PROGRAMS {
        arguments.extend(["--package", package]);
    }
    logged(places, "cargo", &arguments).await
}

async fn hello(places: &Places) -> Result<()> {
    let (binary, archive) = (places.program("hello")?, text(&places.image("hello.tar"))?);
    std::fs::create_dir_all(places.image("")).context("making the image folder")?;
    let arguments = ["oci", "--binary", &binary, "--name", crate::DEMO_IMAGE, "--output", &archive];
    logged(places, &places.program("cairn-image")?, &arguments).await
}

/// Builds an image into a folder, with further arguments for `cairn-image build`.
pub(crate) async fn image(places: &Places, output: &Path, more: &[&str]) -> Result<()> {
    let (binaries, archive, output) = (text(&places.programs())?, text(&places.image("hello.tar"))?, text(output)?);
    let arguments = ["build", "--binaries", &binaries, "--preload", &archive, "--output", &output];
    logged(places, &places.program("cairn-image")?, &[&arguments, more].concat()).await
}

/// The same, with the programs of another folder when `more` names one.
pub(crate) async fn image_of(places: &Places, output: &Path, more: &[&str], own_binaries: bool) -> Result<()> {
    if !own_binaries {
        return image(places, output, more).await;
    }
    let (archive, output) = (text(&places.image("hello.tar"))?, text(output)?);
    let arguments = ["build", "--preload", &archive, "--output", &output];
    logged(places, &places.program("cairn-image")?, &[&arguments, more].concat()).await
}

/// Makes a raw disk of a qcow2 one; what is zero takes no room.
pub(crate) async fn raw_disk(qcow2: &Path, raw: &Path) -> Result<()> {
    let converted = Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(qcow2).arg(raw).status().await;
    ensure!(converted.context("starting qemu-img")?.success(), "qemu-img could not read {}", qcow2.display());
    Ok(())
}

/// Where the output of a command goes.
fn log_file(places: &Places, program: &str, what: &str) -> PathBuf {
    places.root().join(".cairn/logs").join(format!("{program}-{what}.log"))
}

/// Runs a command with its output in `.cairn/logs/`, and shows the end of it when it fails.
pub(crate) async fn logged(places: &Places, program: &str, arguments: &[&str]) -> Result<()> {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or("command");
    let log = log_file(places, name, arguments.first().copied().unwrap_or("run"));
    std::fs::create_dir_all(log.parent().context("a log lies in a folder")?)?;
    let file = std::fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let status = Command::new(program)
        .args(arguments)
        .current_dir(places.root())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("starting {program}"))?;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
    ensure!(status.success(), "{name} {} ended with {status}; {} ends:\n{end}", arguments[0], log.display());
    Ok(())
}
