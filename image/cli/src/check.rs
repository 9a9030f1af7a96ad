//! `cairn-image build --check`: the same image again under other circumstances, and every byte compared.
//!
//! The second build is a process of its own with another umask, locale, time zone and folders, at a later time; packages are
//! unpacked again and no intermediate result is taken over, only downloads are. Must never change the first image.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use image_build::compare;
use nix::sys::stat::{Mode, umask};

/// Hides from everybody else what the first build showed to all.
const OTHER_UMASK: u32 = 0o077;
/// Fourteen hours ahead of UTC: mostly another day.
const OTHER_ZONE: &str = "Pacific/Kiritimati";
/// Numbers, dates and orders of another language, where the host has it.
const OTHER_LOCALE: &str = "tr_TR.UTF-8";
/// Where downloads lie in the folder of intermediate results.
const DOWNLOADS: &str = "debs";

/// Builds again with these arguments of `build` and compares with the image in `output`.
///
/// # Errors
/// When the second build fails, or a byte differs: the first one and the stage that wrote it.
pub(crate) fn again(arguments: &[OsString], cache: &Path, output: &Path) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("cairn-check-").tempdir_in(cache).context("cannot make a folder")?;
    let (image, other_cache) = (folder.path().join("elsewhere/image"), folder.path().join("elsewhere/build"));
    lend_downloads(cache, &other_cache)?;
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut command = Command::new(program);
    command.arg("build").args(arguments).arg("--locked");
    command.arg("--cache").arg(&other_cache).arg("--output").arg(&image);
    command.env("TZ", OTHER_ZONE).env("LC_ALL", OTHER_LOCALE).env("LANG", OTHER_LOCALE).stdout(Stdio::null());
    let before = umask(Mode::from_bits_truncate(OTHER_UMASK));
    let status = command.status();
    umask(before);
    ensure!(status.context("cannot start the second build")?.success(), "the second build failed; it said why above");
    match compare::first_difference(output, &image)? {
        None => Ok(()),
        Some(difference) => {
            let kept = folder.keep();
            bail!("two builds of the same image differ: {difference}. The second one is in {}", kept.display())
        }
    }
}

/// Lets another folder of intermediate results use the downloads of this one.
fn lend_downloads(cache: &Path, other: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(other).with_context(|| format!("cannot make folder {}", other.display()))?;
    let downloads: PathBuf = std::fs::canonicalize(cache.join(DOWNLOADS)).context("cannot find the downloads")?;
    symlink(&downloads, other.join(DOWNLOADS)).context("cannot lend the downloads")
}
