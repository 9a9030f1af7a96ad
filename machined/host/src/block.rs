//! Block devices by GPT label, e2fsprogs, and mounts; encrypted data by device-mapper.
//!
//! ```text
//! partition: | ext4 ............................................ | 64 KiB: "being formatted" or zeros |
//!            | 1 MiB: LUKS2 header | ext4, encrypted ........... | 64 KiB: "being formatted" or zeros |
//! ```
//!
//! A power cut while a header is written or mke2fs runs leaves neither an empty partition nor a file system. The mark behind the file system
//! says that nothing of value can be there yet.

mod encrypted;

use crate::boot_disk::{boot_disk, disk_of};
use init_boot::{POLICY_KEY, POLICY_SIGNATURES};
use machined_controllers::block::{BlockError, BlockHost, Contents, STATE};
use machined_luks::{Header, SignedPolicy, VolumeKey, Write};
use nix::mount::MsFlags;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// What lies before the file system's magic number, and where that is (ext4(5), struct ext4_super_block).
const EXT4_MAGIC_OFFSET: u64 = 1024 + 0x38;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
/// How much of a partition must be zero for it to count as empty; what other tools write begins within this.
const EMPTY_BYTES: usize = 1024 * 1024;
/// Kept free behind the file system for the mark.
const TAIL_BYTES: u64 = 64 * 1024;
/// Stands at the beginning of the tail while mke2fs runs.
const FORMATTING: &[u8; 16] = b"cairn:formatting";
/// A check of a damaged terabyte takes minutes; beyond this the disk is not answering.
const TOOL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How much of a tool's output goes into an error.
const OUTPUT_CHARS: usize = 400;

/// Block devices of this machine.
#[derive(Debug, Default)]
pub struct LinuxBlock;

/// How a volume is mounted. Nothing is started from STATE; containers' programs lie on EPHEMERAL.
fn mount_flags(target: &Path) -> MsFlags {
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if target == Path::new(STATE) { flags | MsFlags::MS_NOEXEC } else { flags }
}

fn access(device: &Path) -> impl FnOnce(std::io::Error) -> BlockError {
    let device = device.to_owned();
    move |source| BlockError::Access { device, source }
}

/// The device whose uevent file names this label, on the disk that this machine runs from: another disk may have the same labels.
pub(crate) fn find_partition(label: &str) -> Result<Option<PathBuf>, BlockError> {
    let own = boot_disk();
    let root = Path::new("/sys/class/block");
    let list = |source| BlockError::List { path: root.to_owned(), source };
    for entry in std::fs::read_dir(root).map_err(list)? {
        let entry = entry.map_err(list)?;
        // A disk may go away between the two reads; then it is not the one.
        let Ok(uevent) = std::fs::read_to_string(entry.path().join("uevent")) else { continue };
        let labelled = uevent.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(label));
        let disk = || std::fs::canonicalize(entry.path()).ok().and_then(|folder| disk_of(&folder));
        if labelled && (own.is_none() || disk() == own) {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

fn device_bytes(file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

fn look(device: &Path) -> std::io::Result<Contents> {
    let file = File::open(device)?;
    let size = device_bytes(&file)?;
    let mut mark = [0; FORMATTING.len()];
    file.read_exact_at(&mut mark, size.saturating_sub(TAIL_BYTES))?;
    if mark == *FORMATTING {
        return Ok(Contents::Empty);
    }
    let mut head = vec![0; EMPTY_BYTES];
    file.read_exact_at(&mut head, 0)?;
    if Header::is_there(&head) {
        return Ok(Contents::Luks);
    }
    let magic = EXT4_MAGIC_OFFSET as usize;
    if head[magic..].starts_with(&EXT4_MAGIC) {
        return Ok(Contents::Ext4);
    }
    Ok(if head.iter().all(|byte| *byte == 0) { Contents::Empty } else { Contents::Unknown })
}

/// Writes or clears the mark; returns the bytes before it.
fn mark(device: &Path, formatting: bool) -> std::io::Result<u64> {
    let file = File::options().read(true).write(true).open(device)?;
    let end = device_bytes(&file)?.saturating_sub(TAIL_BYTES);
    let bytes = if formatting { *FORMATTING } else { [0; FORMATTING.len()] };
    file.write_all_at(&bytes, end)?;
    file.sync_all()?;
    Ok(end)
}

pub(crate) async fn blocking<T: Send + 'static>(
    device: &Path,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, BlockError> {
    let path = device.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    done.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).map_err(access(device))
}

/// Runs a tool of e2fsprogs; gives its exit code and the end of its output.
async fn run(program: &'static str, device: &Path, arguments: &[&str]) -> Result<(i32, String), BlockError> {
    let refused = |source| BlockError::Run { program, device: device.to_owned(), source };
    let path = ["/usr/sbin", "/sbin"].iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    let path = path.ok_or_else(|| refused(std::io::ErrorKind::NotFound.into()))?;
    let mut command = tokio::process::Command::new(path);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TOOL_TIMEOUT, command.output()).await;
    let output = output.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(refused)?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    let skip = text.chars().count().saturating_sub(OUTPUT_CHARS);
    // Killed by a signal counts as the worst exit code.
    Ok((output.status.code().unwrap_or(i32::MAX), text.chars().skip(skip).collect()))
}

impl BlockHost for LinuxBlock {
    async fn partition(&self, label: &str) -> Result<Option<PathBuf>, BlockError> {
        find_partition(label)
    }

    async fn contents(&self, device: &Path) -> Result<Contents, BlockError> {
        blocking(device, look).await
    }

    async fn note(&self, device: &Path, formatting: bool) -> Result<u64, BlockError> {
        blocking(device, move |device| mark(device, formatting)).await
    }

    async fn format(&self, device: &Path, label: &str, bytes: u64) -> Result<(), BlockError> {
        let (target, size) = (device.to_string_lossy().into_owned(), format!("{}k", bytes / 1024));
        // Short label: ext4 has 16 characters. Tables are zeroed later by the kernel, so that a first boot need not wait.
        let label = label.strip_prefix("CAIRN-").unwrap_or(label).to_lowercase();
        let options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
        let arguments = ["-q", "-F", "-t", "ext4", "-m", "0", "-L", &label, "-E", options, &target, &size];
        match run("mke2fs", device, &arguments).await? {
            // The mark is cleared next: what it speaks of has to be on the disk by then.
            (0, _) => blocking(device, |device| File::open(device)?.sync_all()).await,
            (code, output) => {
                let status = format!("exit code {code}");
                Err(BlockError::Tool { program: "mke2fs", device: device.to_owned(), status, output })
            }
        }
    }

    async fn check(&self, device: &Path) -> Result<(), BlockError> {
        let target = device.to_string_lossy().into_owned();
        // Exit codes of e2fsck(8): 0 clean, 1 and 2 repaired, 4 and more not repaired.
        let (code, output) = run("e2fsck", device, &["-p", &target]).await?;
        if code <= 2 {
            return Ok(());
        }
        // Nobody can answer its questions on a machine without a shell, and not mounting helps nobody.
        tracing::warn!(device = %device.display(), code, output, "the file system needs a full repair");
        match run("e2fsck", device, &["-y", &target]).await? {
            (0..=2, _) => Ok(()),
            (code, output) => {
                let status = format!("exit code {code}");
                Err(BlockError::Tool { program: "e2fsck", device: device.to_owned(), status, output })
            }
        }
    }

    async fn is_mounted(&self, target: &Path) -> Result<bool, BlockError> {
        let path = Path::new("/proc/self/mountinfo");
        let table =
            std::fs::read_to_string(path).map_err(|source| BlockError::List { path: path.to_owned(), source })?;
        // Field 5 is the mount point (proc_pid_mountinfo(5)).
        Ok(table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(target)))
    }

    async fn mount(&self, device: &Path, target: &Path) -> Result<(), BlockError> {
        let flags = mount_flags(target);
        let (from, to) = (device.to_owned(), target.to_owned());
        // Replaying a journal takes time that other tasks can use.
        let mounted =
            tokio::task::spawn_blocking(move || nix::mount::mount(Some(&from), &to, Some("ext4"), flags, None::<&str>));
        let mounted = mounted.await.unwrap_or(Err(nix::errno::Errno::EIO));
        mounted.map_err(|errno| BlockError::Mount {
            device: device.to_owned(),
            target: target.to_owned(),
            source: errno.into(),
        })
    }

    async fn front(&self, device: &Path) -> Result<Vec<u8>, BlockError> {
        blocking(device, encrypted::front).await
    }

    async fn write(&self, device: &Path, writes: Vec<Write>) -> Result<(), BlockError> {
        blocking(device, move |device| encrypted::write(device, &writes)).await
    }

    async fn map(&self, name: &str, device: &Path, header: &Header, key: &VolumeKey) -> Result<PathBuf, BlockError> {
        let (name, header, key) = (format!("cairn-{}", name.trim_start_matches("cairn-")), header.clone(), key.clone());
        let mapped = blocking(device, move |device| encrypted::map(&name, device, &header, &key)).await;
        mapped.map_err(|error| match error {
            BlockError::Access { device, source } => BlockError::Map { device, source },
            other => other,
        })
    }

    async fn policy(&self) -> Option<SignedPolicy> {
        encrypted::policy(Path::new(POLICY_KEY), Path::new(POLICY_SIGNATURES))
    }

    fn random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("because every Linux that Cairn runs on has randomness");
    }

    async fn make_folder(&self, path: &Path, mode: u32) -> Result<(), BlockError> {
        let refused = |source| BlockError::Folder { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(refused)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("because there is a temporary folder");
        file.as_file().set_len(bytes).expect("because the file is new");
        file
    }

    #[test]
    fn an_interrupted_format_counts_as_empty() {
        let file = partition(4 << 20);
        assert_eq!(look(file.path()).expect("because it can be read"), Contents::Empty);
        assert_eq!(mark(file.path(), true).expect("because it can be written"), (4 << 20) - (64 << 10));
        file.as_file().write_all_at(&EXT4_MAGIC, EXT4_MAGIC_OFFSET).expect("because it can be written");
        assert_eq!(look(file.path()).expect("because it can be read"), Contents::Empty);
        mark(file.path(), false).expect("because it can be written");
        assert_eq!(look(file.path()).expect("because it can be read"), Contents::Ext4);
    }

    #[test]
    fn nothing_on_a_volume_is_a_device_or_gains_rights_and_nothing_is_started_from_state() {
        for target in [STATE, machined_controllers::block::EPHEMERAL] {
            assert!(mount_flags(Path::new(target)).contains(MsFlags::MS_NODEV | MsFlags::MS_NOSUID), "{target}");
        }
        assert!(mount_flags(Path::new(STATE)).contains(MsFlags::MS_NOEXEC));
    }

    #[test]
    fn other_data_is_recognised_as_not_ours() {
        let file = partition(4 << 20);
        file.as_file().write_all_at(b"somebody's data", 4096).expect("because it can be written");
        assert_eq!(look(file.path()).expect("because it can be read"), Contents::Unknown);
    }
}
