//! Stage 3: the root tree as a squashfs file, made by the pinned mksquashfs.
//!
//! The tree is handed over as a tar stream on standard input: no staging folder, no root privileges, no owner or time of the host.
//! Called by `pipeline`. The result depends on the tree, the compression and the version of squashfs-tools alone.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use crate::files::FileError;
use crate::profile::Compression;
use crate::tools::Tool;
use crate::tree::{IMAGE_TIME, Tree};

/// Why there is no squashfs.
#[derive(Debug, thiserror::Error)]
pub enum SquashfsError {
    /// mksquashfs could not be started or fed.
    #[error("cannot hand the root tree to mksquashfs")]
    Feed(#[source] io::Error),
    /// It could not write where it should.
    #[error(transparent)]
    File(#[from] FileError),
    /// It failed.
    #[error("mksquashfs failed: {0}")]
    Failed(String),
}

/// Writes the tree to `target`, which must not exist yet.
///
/// # Errors
/// See [`SquashfsError`].
pub fn write(tree: &Tree, compression: &Compression, mksquashfs: &Tool, target: &Path) -> Result<(), SquashfsError> {
    let time = IMAGE_TIME.to_string();
    let mut command = mksquashfs.command();
    command.arg("-").arg(target).args(["-tar", "-noappend", "-no-progress", "-quiet", "-no-xattrs"]);
    command.args(["-comp", &compression.algorithm]).args(&compression.options);
    command.args(["-b", &compression.block_bytes.to_string()]);
    command.args(["-mkfs-time", &time, "-root-time", &time, "-root-mode", "755", "-root-uid", "0", "-root-gid", "0"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(SquashfsError::Feed)?;
    let stdin = child.stdin.take().expect("because it was piped");
    // Fed from a thread of its own: a complaint on standard error must not wait for the stream to end.
    let (fed, output) = thread::scope(|scope| {
        let feeder = scope.spawn(|| tree.write_tar(io::BufWriter::with_capacity(1 << 20, stdin)));
        let output = child.wait_with_output();
        (feeder.join().expect("because writing a tar stream does not panic"), output)
    });
    let output = output.map_err(SquashfsError::Feed)?;
    if !output.status.success() {
        return Err(SquashfsError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    fed.map_err(SquashfsError::Feed)
}
