//! Stage one, the initramfs's /init: modules, find the slot, dm-verity, mount, switch root, become stage two.
//!
//! Nothing on the disk is trusted before the kernel has compared it with the root hash of the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use init_boot::{
    CommandLine, MEDIUM_IN_INITRAMFS, PID1_PROGRAM, POLICY_PART_BYTES_MAX, POLICY_PARTS, RootHash, STAGE_ONE_MODULES,
    SUPERBLOCK_BYTES, Superblock, VERITY_BLOCK_BYTES,
};
use init_linux::{Kernel, Mount, MountFlag};

use crate::boot_times::BootTimes;
use crate::find_slot::{FoundSlot, Place, find_slot};
use crate::{STAGE_TWO, last_resort, load_modules, log, mount_table, other_slot, trial};

/// How long stage one waits for the disk to appear: a slow RAID controller takes this long, a missing disk never comes.
const DISK_WAIT: Duration = Duration::from_secs(60);
/// How long it waits, once a disk holds the root, for the one that the boot loader came from: a USB stick may take seconds longer than
/// the disk beside it.
const LOADER_WAIT: Duration = Duration::from_secs(15);
/// The command line's own limit and its line feed, in bytes.
const COMMAND_LINE_READ_MAX: usize = init_boot::COMMAND_LINE_BYTES_MAX + 1;
/// Where the root is mounted before it becomes the root.
const NEW_ROOT: &str = "/sysroot";
/// The mapped device's name.
const VERITY_NAME: &str = "cairn-root";
/// The name of the part of a CD that holds the root.
const MEDIUM_NAME: &str = "cairn-medium";
/// What the image builder makes, and what it could make instead.
const ROOT_KINDS: [&str; 2] = ["squashfs", "erofs"];

/// Runs stage one; ends only in stage two or in a restart.
pub(crate) fn run(kernel: &dyn Kernel) -> ExitCode {
    match boot(kernel) {
        Ok(never) => match never {},
        Err(reason) => {
            let reason = format!("the root could not be started: {reason}");
            trial::end(kernel, &reason);
            let next = other_slot::choose(kernel);
            last_resort::restart(kernel, &format!("{reason}. {next}"))
        }
    }
}

/// The steps in order. The error is for people: nothing can be decided from it.
pub(crate) fn boot(kernel: &dyn Kernel) -> Result<std::convert::Infallible, String> {
    let mut times = BootTimes::default();
    times.mark("kernel", kernel.uptime());
    mount_table::mount_first(kernel)?;
    log::line(kernel, "stage one begins");
    let (root, blocks) = read_command_line(kernel)?;

    carry_policy(kernel);

    let loaded = load_modules::load_list(kernel, Path::new(STAGE_ONE_MODULES));
    times.mark("stage-one-modules", kernel.uptime());
    log::line(kernel, &format!("{loaded} modules are loaded"));

    attach_medium(kernel)?;
    // They say where the boot loader came from.
    mount_table::mount_variables(kernel);
    let found = wait_for_slot(kernel, &root)?;
    times.mark("disk", kernel.uptime());
    let device = match &found.place {
        Place::Node(node) => node.clone(),
        Place::Part(device, first, sectors) => {
            kernel.map_linear(MEDIUM_NAME, device, *first, *sectors).map_err(|error| error.story())?
        }
    };
    log::line(kernel, &format!("slot {:?} is {}", found.slot.slot, device.display()));

    // Counted before anything of the slot is read: whatever happens from here on, this start was one.
    let trial = trial::begin(kernel, &found, &root)?;
    let mapped = set_up_verity(kernel, &device, &root, blocks)?;
    mount_root(kernel, &mapped)?;
    times.mark("root", kernel.uptime());
    log::line(kernel, "the verified root is mounted");

    kernel.switch_root(Path::new(NEW_ROOT)).map_err(|error| error.story())?;
    let error = kernel.execute(Path::new(PID1_PROGRAM), &[STAGE_TWO, &times.to_argument(), &trial.to_argument()]);
    Err(error.story())
}

/// Saves the image's policy from the initramfs, which is about to go. Without it the machine works, and opens no encrypted volume by itself.
fn carry_policy(kernel: &dyn Kernel) {
    for (from, to) in POLICY_PARTS {
        if !kernel.exists(Path::new(from)) {
            continue;
        }
        let carried = kernel.make_directory(Path::new("/run/cairn"), 0o755);
        let carried = carried.and_then(|()| kernel.read_file(Path::new(from), POLICY_PART_BYTES_MAX));
        if let Err(error) = carried.and_then(|bytes| kernel.write_file(Path::new(to), &bytes)) {
            log::line(kernel, &error.story());
        }
    }
}

/// A machine that started from the network has its installer's medium in the initramfs. It is looked at like a CD from here on, and
/// stays in memory when the initramfs goes.
fn attach_medium(kernel: &dyn Kernel) -> Result<(), String> {
    let medium = Path::new(MEDIUM_IN_INITRAMFS);
    if !kernel.exists(medium) {
        return Ok(());
    }
    let device = kernel.attach_file(medium).map_err(|error| error.story())?;
    log::line(kernel, &format!("the medium from the network is {}", device.display()));
    Ok(())
}

/// Reads root hash and block count.
pub(crate) fn read_command_line(kernel: &dyn Kernel) -> Result<(RootHash, u64), String> {
    let bytes = kernel.read_file(Path::new("/proc/cmdline"), COMMAND_LINE_READ_MAX).map_err(|error| error.story())?;
    let line = CommandLine::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| error.to_string())?;
    match (line.root, line.root_blocks) {
        (Some(root), Some(blocks)) => Ok((root, blocks)),
        (None, _) | (_, None) => Err("the kernel command line lacks cairn.root or cairn.root.blocks; boot a UKI that \
                                      cairn-image built"
            .to_owned()),
    }
}

/// Looks again at each announcement of the kernel until the slot is there or the time is over. A slot on another disk than the boot
/// loader's is taken only when the loader's own does not come.
fn wait_for_slot(kernel: &dyn Kernel, root: &RootHash) -> Result<FoundSlot, String> {
    let begin = kernel.uptime();
    // Listening begins before the first look, so that nothing is missed between the two.
    kernel.wait_for_device(Duration::ZERO).map_err(|error| error.story())?;
    loop {
        let mut notes = Vec::new();
        let found = find_slot(kernel, root, &mut notes);
        let limit = if found.is_some() { LOADER_WAIT } else { DISK_WAIT };
        let rest = (begin + limit).saturating_sub(kernel.uptime());
        match found {
            Some(found) if found.loader_was_here => return Ok(found),
            Some(found) if rest.is_zero() => {
                log::line(
                    kernel,
                    "the disk that the boot loader came from holds no slot with this root; another one does",
                );
                return Ok(found);
            }
            None if rest.is_zero() => {
                let notes = if notes.is_empty() { "there is no disk".to_owned() } else { notes.join("; ") };
                let guid = root.partition_guid();
                let seconds = DISK_WAIT.as_secs();
                return Err(format!("after {seconds} s no partition with GUID {guid} has appeared ({notes})"));
            }
            Some(_) | None => kernel.wait_for_device(rest).map_err(|error| error.story())?,
        };
    }
}

fn set_up_verity(kernel: &dyn Kernel, device: &Path, root: &RootHash, blocks: u64) -> Result<PathBuf, String> {
    let offset = blocks.checked_mul(VERITY_BLOCK_BYTES.into()).ok_or("cairn.root.blocks is too large")?;
    let superblock = kernel.read_at(device, offset, SUPERBLOCK_BYTES).map_err(|error| error.story())?;
    let table = Superblock::parse(&superblock)
        .and_then(|superblock| superblock.table(&device.display().to_string(), root, blocks))
        .map_err(|error| format!("{}: {error}", device.display()))?;
    kernel.map_verity(VERITY_NAME, &table).map_err(|error| error.story())
}

fn mount_root(kernel: &dyn Kernel, device: &Path) -> Result<(), String> {
    kernel.make_directory(Path::new(NEW_ROOT), 0o755).map_err(|error| error.story())?;
    let mut reasons = Vec::new();
    for kind in ROOT_KINDS {
        let mount = Mount {
            source: device.to_owned(),
            target: PathBuf::from(NEW_ROOT),
            kind,
            flags: vec![MountFlag::ReadOnly, MountFlag::NoDevices],
            options: String::new(),
        };
        match kernel.mount(&mount) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("as {kind}: {}", error.story())),
        }
    }
    Err(format!("the root cannot be mounted: {}", reasons.join("; ")))
}
