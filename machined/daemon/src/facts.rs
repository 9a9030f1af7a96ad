//! What machined knows of the machine it runs on and of itself, read once at start.

use init_boot::{CommandLine, RootHash, SECTOR_BYTES};
use machined_controllers::network::{NetworkLayer, command_line_layer};
use machined_controllers::upgrade::ImageNote;
use std::path::Path;
use std::time::Duration;

/// Where PID 1 left its times.
const BOOT_TIMES: &str = "/run/cairn/boot-times";
/// Where machined writes down when its API answered first, for the machined after it.
const API_TIME: &str = "/run/cairn/api-time";
/// Longest files that are looked at here, in bytes.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Facts that do not change until the next boot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Kernel release.
    pub(crate) kernel: String,
    /// Root hash of the running image, hex; empty when it does not run from one.
    pub(crate) image: String,
    /// The running slot: a or b; empty when it does not run from one.
    pub(crate) slot: String,
    /// What the kernel command line says about the network; `None` when it says nothing.
    pub(crate) network: Option<NetworkLayer>,
    /// From kernel start to PID 1, in milliseconds.
    pub(crate) kernel_millis: u64,
    /// What the running image says of itself.
    pub(crate) note: ImageNote,
}

/// Reads os-release: what the image was built as.
fn image_note(release: &str, root: &str) -> ImageNote {
    let value = |key: &str| {
        let found = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    ImageNote {
        root: root.to_owned(),
        digest: None,
        version: value("IMAGE_VERSION"),
        number: value("CAIRN_IMAGE_NUMBER").parse().unwrap_or_default(),
        level: value("CAIRN_LEVEL").parse().unwrap_or_default(),
        profile: value("IMAGE_ID").strip_prefix("cairn-").unwrap_or_default().to_owned(),
    }
}

/// Release of these binaries.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit of these binaries, when the build said so.
pub(crate) const COMMIT: Option<&str> = option_env!("CAIRN_COMMIT");

/// Whether firmware verified what booted: the variable `SecureBoot` (UEFI 2.10, 3.3), four bytes of attributes before its value.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Whether firmware enforces Secure Boot; `None` where there is no firmware that could say so.
pub(crate) fn secure_boot() -> Option<bool> {
    Some(matches!(std::fs::read(SECURE_BOOT).ok()?.as_slice(), [_, _, _, _, 1]))
}

fn short_file(path: &str) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..bytes.len().min(FILE_BYTES_MAX)]).into_owned()
}

/// The time of one mark in PID 1's file.
fn mark(times: &str, name: &str) -> Option<u64> {
    times.lines().find_map(|line| line.split_once(' ').filter(|(mark, _)| *mark == name)?.1.trim().parse().ok())
}

/// Letter of the slot whose partition says that it holds this root.
fn slot_of(root: &RootHash) -> Option<String> {
    let blocks = std::fs::read_dir("/sys/class/block").ok()?;
    for block in blocks.flatten() {
        let uevent = std::fs::read_to_string(block.path().join("uevent")).unwrap_or_default();
        let value =
            |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
        let (Some(label), Some(number)) = (value("PARTNAME"), value("PARTN")) else { continue };
        let letter = match label.as_str() {
            init_boot::label::ROOT_A => "a",
            init_boot::label::ROOT_B => "b",
            _ => continue,
        };
        // The partition's folder lies in its disk's.
        let disk = std::fs::canonicalize(block.path()).ok()?;
        let disk = disk.parent()?.file_name()?.to_owned();
        if holds(&Path::new("/dev").join(disk), number.parse().ok()?, root) == Some(true) {
            return Some(letter.to_owned());
        }
    }
    None
}

fn holds(disk: &Path, number: u32, root: &RootHash) -> Option<bool> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(disk).ok()?;
    let mut head = vec![0; (init_boot::PRIMARY_SECTORS * SECTOR_BYTES) as usize];
    file.read_exact_at(&mut head, 0).ok()?;
    // Entry `number` lies 128 bytes apart from sector 2 on; its GUID is the second 16 bytes, mixed-endian as in every GPT.
    let at = 2 * SECTOR_BYTES as usize + (number as usize - 1) * 128 + 16;
    let found: [u8; 16] = head.get(at..at + 16)?.try_into().ok()?;
    Some(init_boot::Guid::from_disk(found) == root.partition_guid())
}

impl Facts {
    /// Looks at the running machine. What cannot be found out stays empty.
    pub(crate) fn read() -> Self {
        let text = short_file("/proc/cmdline");
        let line = CommandLine::parse(text.trim_end()).ok();
        let root = line.as_ref().and_then(|line| line.root);
        let (network, mistakes) = command_line_layer(line.as_ref().map_or(&[], |line| &line.extra));
        for error in mistakes {
            tracing::warn!(%error, "kernel command line");
        }
        let says_something = !network.links.is_empty() || !network.nameservers.is_empty();
        let image = root.as_ref().map(ToString::to_string).unwrap_or_default();
        Facts {
            note: image_note(&short_file("/etc/os-release"), &image),
            network: says_something.then_some(network),
            kernel: short_file("/proc/sys/kernel/osrelease").trim().to_owned(),
            image,
            slot: root.as_ref().and_then(slot_of).unwrap_or_default(),
            kernel_millis: mark(&short_file(BOOT_TIMES), "kernel").unwrap_or_default(),
        }
    }
}

/// When the machine API answered first since the kernel started, in milliseconds: `now` unless an earlier machined wrote it down.
pub(crate) fn first_api_millis(now: u64) -> u64 {
    if let Ok(first) = short_file(API_TIME).trim().parse() {
        return first;
    }
    if let Err(error) = std::fs::write(API_TIME, now.to_string()) {
        tracing::debug!(%error, path = API_TIME, "cannot write down when the API answered first");
    }
    now
}

/// Whether the API answered since the kernel started.
pub(crate) fn api_answers() -> bool {
    Path::new(API_TIME).exists()
}

/// Time since the kernel started.
pub(crate) fn uptime() -> Duration {
    init_linux::clock::uptime()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_says_what_it_is() {
        let release =
            "NAME=\"Cairn\"\nIMAGE_ID=cairn-cloud\nIMAGE_VERSION=0.2.0\nCAIRN_IMAGE_NUMBER=2000\nCAIRN_LEVEL=1\n";
        let note = image_note(release, "ab");
        assert_eq!(
            (note.version.as_str(), note.number, note.level, note.profile.as_str()),
            ("0.2.0", 2000, 1, "cloud")
        );
        assert_eq!(image_note("", "ab").number, 0);
    }

    #[test]
    fn a_mark_is_found_by_its_name() {
        assert_eq!(mark("kernel 4600\ndisk 5100\n", "kernel"), Some(4600));
        assert_eq!(mark("kernel 4600\n", "disk"), None);
        assert_eq!(mark("kernel\n", "kernel"), None);
    }
}
