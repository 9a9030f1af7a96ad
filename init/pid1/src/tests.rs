//! Both stages against a fake kernel: what they ask for, in which order, and what they do when it fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use init_boot::{
    Attempt, BootRecord, EMPTY_SLOT_GUID, ExitStatus, Guid, LOADER_DEVICE_PART_UUID, LOADER_ENTRY_ONE_SHOT,
    MEDIUM_IN_INITRAMFS, META_BYTES, MetaKind, RootHash, STARTS_MAX, Slot, Superblock, Table, label, type_guid,
};
use init_linux::efi::EFI_VARIABLES;
use init_linux::{Call, Event, FakeKernel, Kernel, Power, Reaped, Wake};

use crate::boot_times::BootTimes;
use crate::supervision::QUICK_FAILURES_MAX;
use crate::trial::Trial;
use crate::{stage_one, stage_two};

const BLOCKS: u64 = 3;
const SLOT_SECTORS: u64 = 128;

/// Any partition of a disk tells it from others; here it is the ESP, for which these small disks have META.
const META_OF_DISK: Guid = Guid::from_text_order([3; 16]);
const META_OF_MEDIUM: Guid = Guid::from_text_order([4; 16]);

fn loader_variable() -> PathBuf {
    Path::new(EFI_VARIABLES).join(LOADER_DEVICE_PART_UUID)
}

/// What systemd-boot says when it came from this partition.
fn loader(partition: Guid) -> Vec<u8> {
    let text = format!("{partition}\0").to_uppercase();
    [6, 0, 0, 0].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

fn root() -> RootHash {
    RootHash::from_bytes([0x5a; 32])
}

/// A disk with both slots, slot B holding what `other` says, and slot A's verity superblock.
fn disk(other: Guid) -> (Vec<u8>, Vec<u8>) {
    let sectors = 5 * 2048;
    let mut table = Table::new(Guid::from_text_order([1; 16]), sectors).expect("because 5 MiB hold a table");
    for (slot, guid) in [(Slot::A, root().partition_guid()), (Slot::B, other)] {
        table.append(type_guid::ROOT_X86_64, guid, slot.label(), SLOT_SECTORS).expect("because the disk has room");
    }
    table.append(type_guid::META, META_OF_DISK, label::META, META_BYTES / 512).expect("because the disk has room");
    let encoded = table.encode();
    let mut bytes = vec![0; sectors as usize * 512];
    bytes[..encoded.primary.len()].copy_from_slice(&encoded.primary);
    let superblock = Superblock { uuid: [0; 16], data_blocks: BLOCKS, salt: vec![1, 2] };
    let mut slot = vec![0; SLOT_SECTORS as usize * 512];
    let encoded = superblock.encode().expect("because it is well formed");
    slot[BLOCKS as usize * 4096..][..encoded.len()].copy_from_slice(&encoded);
    (bytes, slot)
}

fn disk_files(other: Guid) -> Vec<(PathBuf, Vec<u8>)> {
    let (whole, slot) = disk(other);
    vec![
        (PathBuf::from("/dev/vda"), whole),
        (PathBuf::from("/dev/vda1"), slot),
        (PathBuf::from("/dev/vda3"), vec![0; META_BYTES as usize]),
        (PathBuf::from("/sys/class/block/vda/dev"), b"254:0\n".to_vec()),
        (PathBuf::from("/sys/class/block/vda1/partition"), b"1\n".to_vec()),
        (PathBuf::from("/sys/class/block/vda2/partition"), b"2\n".to_vec()),
        (PathBuf::from("/sys/class/block/vda3/partition"), b"3\n".to_vec()),
    ]
}

fn machine() -> FakeKernel {
    let kernel = FakeKernel::new();
    let line = format!("quiet cairn.root={} cairn.root.blocks={BLOCKS} console=ttyS0\n", root());
    {
        let mut state = kernel.state();
        state.files.insert(PathBuf::from("/proc/cmdline"), line.into_bytes());
        state.files.insert(PathBuf::from("/modules.load"), b"/a.ko\n/b.ko\n/c.ko\n".to_vec());
        state.files.insert(loader_variable(), loader(META_OF_DISK));
    }
    kernel
}

fn calls(kernel: &FakeKernel) -> Vec<Call> {
    kernel.state().calls.clone()
}

fn failed_boot(kernel: &FakeKernel) -> String {
    match stage_one::boot(kernel) {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn ends(pid: u32) -> Event {
    Event::Ends(Reaped { pid, status: ExitStatus::Signal(9) })
}

fn says(message: &str) -> Event {
    Event::Wake(Wake::Message(message.as_bytes().to_vec()))
}

#[test]
fn stage_one_verifies_before_it_mounts_and_then_becomes_stage_two() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    failed_boot(&kernel);
    let calls = calls(&kernel);
    let after_modules = calls.iter().position(|call| matches!(call, Call::MapVerity(_))).expect("because it is mapped");
    let modules = calls[..after_modules].iter().filter(|call| matches!(call, Call::LoadModule(_))).count();
    assert_eq!(modules, 3);
    let Call::MapVerity(parameters) = &calls[after_modules] else { unreachable!("because it was just found") };
    assert!(parameters.starts_with("1 /dev/vda1 /dev/vda1 4096 4096 3 4 sha256 5a5a"), "{parameters}");
    assert!(parameters.ends_with(" 0102"), "{parameters}");
    let rest = &calls[after_modules + 1..];
    assert_eq!(rest[0], Call::Mount("squashfs", PathBuf::from("/sysroot")));
    assert_eq!(rest[1], Call::SwitchRoot(PathBuf::from("/sysroot")));
    let Call::Execute(program, arguments) = &rest[2] else { panic!("it did {:?} instead of going on", rest[2]) };
    assert_eq!((program.as_path(), arguments[0].as_str()), (Path::new("/usr/bin/pid1"), "stage-two"));
}

#[test]
fn the_policy_of_the_image_outlives_the_initramfs() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    failed_boot(&kernel);
    let carried = |kernel: &FakeKernel| {
        let written = calls(kernel).into_iter().filter_map(|call| match call {
            Call::Write(path, content) if path.starts_with("/run/cairn") => Some((path, content)),
            _ => None,
        });
        written.collect::<Vec<_>>()
    };
    assert_eq!(carried(&kernel), [], "there is none in this image");
    for (path, content) in [("/.extra/tpm2-pcr-public-key.pem", "key"), ("/.extra/tpm2-pcr-signature.json", "{}")] {
        kernel.state().files.insert(PathBuf::from(path), content.into());
    }
    failed_boot(&kernel);
    let expected = [(init_boot::POLICY_KEY, "key"), (init_boot::POLICY_SIGNATURES, "{}")];
    assert_eq!(carried(&kernel), expected.map(|(path, content)| (PathBuf::from(path), content.to_owned())));
    assert!(calls(&kernel).iter().any(|call| matches!(call, Call::Mount("tmpfs", path) if path == Path::new("/run"))));
}

#[test]
fn a_module_that_fails_does_not_stop_the_boot() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().failing.insert(("finit_module", "/b.ko".to_owned()));
    failed_boot(&kernel);
    assert!(calls(&kernel).iter().any(|call| matches!(call, Call::Execute(..))));
    assert!(kernel.state().log.iter().any(|line| line.contains("/b.ko")));
}

#[test]
fn a_disk_that_comes_late_is_waited_for() {
    let kernel = machine();
    kernel.state().announced.extend([Vec::new(), disk_files(EMPTY_SLOT_GUID)]);
    failed_boot(&kernel);
    assert!(calls(&kernel).iter().any(|call| matches!(call, Call::Execute(..))));
    assert_eq!(kernel.uptime(), Duration::ZERO);
}

/// An installer's medium with the same root as the disk, as this device; `meta` is what tells it from the disk.
fn medium_files(name: &str, meta: Guid) -> Vec<(PathBuf, Vec<u8>)> {
    let sectors = 5 * 2048;
    let mut table = Table::new(Guid::from_text_order([2; 16]), sectors).expect("because 5 MiB hold a table");
    let guid = root().partition_guid();
    table.append(type_guid::ROOT_X86_64, guid, label::ROOT_A, SLOT_SECTORS).expect("because there is room");
    table.append(type_guid::META, meta, label::META, META_BYTES / 512).expect("because there is room");
    let (encoded, (_, slot)) = (table.encode(), disk(EMPTY_SLOT_GUID));
    let mut bytes = vec![0; sectors as usize * 512];
    bytes[..encoded.primary.len()].copy_from_slice(&encoded.primary);
    bytes[1 << 20..][..slot.len()].copy_from_slice(&slot);
    let mut files = vec![
        (Path::new("/dev").join(name), bytes),
        (Path::new("/sys/class/block").join(name).join("dev"), b"11:0\n".to_vec()),
    ];
    if !name.starts_with("sr") {
        files.push((Path::new("/dev").join(format!("{name}1")), slot));
        files.push((Path::new("/sys/class/block").join(format!("{name}1/partition")), b"1\n".to_vec()));
    }
    files
}

/// The device under the verified root.
fn taken(kernel: &FakeKernel) -> String {
    let mapped = calls(kernel).into_iter().find_map(|call| match call {
        Call::MapVerity(parameters) => Some(parameters),
        _ => None,
    });
    mapped.expect("because a slot was found").split(' ').nth(1).expect("because it names its device").to_owned()
}

#[test]
fn of_two_disks_with_one_root_the_boot_loaders_own_wins_whatever_their_order() {
    for (medium, loader_from, expected) in [
        ("sda", META_OF_MEDIUM, "/dev/sda1"),
        ("vdb", META_OF_MEDIUM, "/dev/vdb1"),
        ("sda", META_OF_DISK, "/dev/vda1"),
        ("vdb", META_OF_DISK, "/dev/vda1"),
        // A medium in the drive of a machine that booted from its disk.
        ("sr0", META_OF_DISK, "/dev/vda1"),
    ] {
        let kernel = machine();
        kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
        kernel.state().files.extend(medium_files(medium, META_OF_MEDIUM));
        kernel.state().files.insert(loader_variable(), loader(loader_from));
        failed_boot(&kernel);
        assert_eq!(taken(&kernel), expected, "with {medium}");
        assert_eq!(kernel.uptime(), Duration::ZERO, "nothing was waited for");
    }
}

#[test]
fn a_cd_is_where_a_boot_loader_without_a_partition_came_from() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().files.extend(medium_files("sr0", META_OF_MEDIUM));
    kernel.state().files.remove(&loader_variable());
    failed_boot(&kernel);
    let part = Call::MapLinear(PathBuf::from("/dev/sr0"), 2048, SLOT_SECTORS);
    assert!(calls(&kernel).contains(&part), "{:?}", calls(&kernel));
    assert_eq!(taken(&kernel), "/dev/dm-1");
}

#[test]
fn a_machine_from_the_network_runs_from_the_medium_that_came_along() {
    let start = || {
        let kernel = machine();
        kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
        let (_, medium) = medium_files("sr0", META_OF_MEDIUM).swap_remove(0);
        kernel.state().files.insert(PathBuf::from(MEDIUM_IN_INITRAMFS), medium);
        kernel.state().files.insert(PathBuf::from("/sys/class/block/loop1/dev"), b"7:1\n".to_vec());
        kernel.state().files.remove(&loader_variable());
        kernel
    };
    let kernel = start();
    failed_boot(&kernel);
    let part = Call::MapLinear(PathBuf::from("/dev/loop0"), 2048, SLOT_SECTORS);
    assert!(calls(&kernel).contains(&part), "{:?}", calls(&kernel));
    assert_eq!(taken(&kernel), "/dev/dm-1");
    let at = |call: &Call| calls(&kernel).iter().position(|other| other == call);
    let attached = at(&Call::AttachFile(PathBuf::from(MEDIUM_IN_INITRAMFS)));
    let last_module = at(&Call::LoadModule(PathBuf::from("/c.ko")));
    assert!(last_module.is_some() && last_module < attached, "its driver is a module");

    // A medium that cannot be attached is told, and the disk beside it is not taken for it.
    let kernel = start();
    kernel.state().failing.insert(("attach", MEDIUM_IN_INITRAMFS.to_owned()));
    let reason = failed_boot(&kernel);
    assert!(reason.contains(MEDIUM_IN_INITRAMFS), "{reason}");
    assert!(!calls(&kernel).iter().any(|call| matches!(call, Call::MapVerity(_))));
}

#[test]
fn a_slow_medium_is_waited_for_while_a_disk_with_the_same_root_is_there() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().files.insert(loader_variable(), loader(META_OF_MEDIUM));
    kernel.state().announced.extend([Vec::new(), medium_files("sda", META_OF_MEDIUM)]);
    failed_boot(&kernel);
    assert_eq!(taken(&kernel), "/dev/sda1");

    // It never comes: the machine boots all the same.
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().files.insert(loader_variable(), loader(META_OF_MEDIUM));
    failed_boot(&kernel);
    assert_eq!(taken(&kernel), "/dev/vda1");
    assert_eq!(kernel.uptime(), Duration::from_secs(15));
}

#[test]
fn a_disk_that_never_comes_is_told_with_what_was_there() {
    let kernel = machine();
    let reason = failed_boot(&kernel);
    assert!(reason.contains("there is no disk"), "{reason}");
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().files.insert(PathBuf::from("/dev/vda"), vec![0; 1 << 20]);
    let reason = failed_boot(&kernel);
    assert!(reason.contains("vda: neither copy of the partition table"), "{reason}");
    assert!(reason.contains(&root().partition_guid().to_string()), "{reason}");
}

#[test]
fn a_command_line_without_a_root_names_the_remedy() {
    let kernel = FakeKernel::new();
    kernel.state().files.insert(PathBuf::from("/proc/cmdline"), b"quiet\n".to_vec());
    let reason = failed_boot(&kernel);
    assert!(reason.contains("boot a UKI that cairn-image built"), "{reason}");
}

#[test]
fn an_erofs_root_is_mounted_too_and_a_broken_one_tells_both_reasons() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().failing.insert(("mount", "/sysroot".to_owned()));
    let reason = failed_boot(&kernel);
    assert!(reason.contains("as squashfs") && reason.contains("as erofs"), "{reason}");
    assert!(!calls(&kernel).iter().any(|call| matches!(call, Call::SwitchRoot(_))));
}

#[test]
fn stage_two_prepares_cgroups_before_anything_runs_in_them() {
    let kernel = machine();
    let mut times = BootTimes::from_argument("kernel:4600");
    stage_two::prepare(&kernel, &mut times).expect("because nothing fails");
    let calls = calls(&kernel);
    let written = |path: &str, text: &str| {
        let call = Call::Write(PathBuf::from(path), text.to_owned());
        calls
            .iter()
            .position(|other| *other == call)
            .unwrap_or_else(|| panic!("{path} was never written with {text:?}"))
    };
    let moved = written("/sys/fs/cgroup/cairn/init/cgroup.procs", "0");
    assert!(moved < written("/sys/fs/cgroup/cgroup.subtree_control", "+memory"));
    assert!(moved < written("/sys/fs/cgroup/cairn/services/cgroup.subtree_control", "+memory"));
    written("/run/cairn/boot-times", "kernel 4600\nprepared 0\n");
    for group in ["machined", "services", "shims"] {
        assert!(kernel.state().directories.contains(&Path::new("/sys/fs/cgroup/cairn").join(group)));
    }
}

#[test]
fn a_missing_extra_is_passed_over_and_a_missing_necessity_is_not() {
    let kernel = machine();
    kernel.state().failing.insert(("mkdir", "/sys/firmware/efi/efivars".to_owned()));
    kernel.state().failing.insert(("mount", "/sys/fs/bpf".to_owned()));
    stage_two::prepare(&kernel, &mut BootTimes::default()).expect("because these are extras");
    kernel.state().failing.insert(("mount", "/tmp".to_owned()));
    let reason = stage_two::prepare(&kernel, &mut BootTimes::default()).expect_err("because /tmp is a necessity");
    assert!(reason.contains("/tmp"), "{reason}");
}

#[test]
fn machined_is_restarted_and_told_what_ended_meanwhile() {
    let kernel = machine();
    kernel.state().script.extend([ends(1), ends(77), Event::TimePasses, says("healthy"), ends(78), says("poweroff")]);
    stage_two::supervise(&kernel, Trial::None);
    let told: Vec<Call> = calls(&kernel)
        .into_iter()
        .filter(|call| matches!(call, Call::Start(_) | Call::Send(_) | Call::End(_)))
        .collect();
    let start = Call::Start(PathBuf::from("/usr/bin/machined"));
    let expected = [
        start.clone(),
        start,
        Call::Send("exited 77 signal 9".to_owned()),
        Call::Send("exited 78 signal 9".to_owned()),
        Call::End(Power::Off),
    ];
    assert_eq!(told, expected);
}

#[test]
fn messages_that_find_no_room_are_sent_later() {
    let kernel = machine();
    kernel.state().room = Some(0);
    kernel.state().script.extend([ends(50), ends(51), says("reboot")]);
    stage_two::supervise(&kernel, Trial::None);
    let sent = calls(&kernel).into_iter().filter(|call| matches!(call, Call::Send(_))).count();
    assert_eq!(sent, 2);
}

#[test]
fn a_root_that_does_not_work_gives_way_to_the_other_slot() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(Guid::from_text_order([0x42; 16])));
    kernel.state().failing.insert(("spawn", "/usr/bin/machined".to_owned()));
    stage_two::supervise(&kernel, Trial::None);
    let calls = calls(&kernel);
    let starts = calls.iter().filter(|call| matches!(call, Call::Start(_))).count();
    assert_eq!(starts, QUICK_FAILURES_MAX as usize);
    let variable = calls.iter().find_map(|call| match call {
        Call::Write(path, value) if path == Path::new(LOADER_ENTRY_ONE_SHOT) => Some(value.clone()),
        _ => None,
    });
    assert_eq!(variable.as_deref(), Some("cairn-b.efi"));
    assert_eq!(calls.last(), Some(&Call::End(Power::Reboot)));
    assert!(kernel.state().console.contains("The next start is from cairn-b.efi"));
}

#[test]
fn an_empty_other_slot_is_never_chosen() {
    let kernel = machine();
    kernel.state().files.extend(disk_files(EMPTY_SLOT_GUID));
    kernel.state().failing.insert(("spawn", "/usr/bin/machined".to_owned()));
    stage_two::supervise(&kernel, Trial::None);
    assert!(!calls(&kernel).iter().any(|call| matches!(call, Call::Write(..))));
    assert!(kernel.state().console.contains("the other slot is empty"));
    assert_eq!(calls(&kernel).last(), Some(&Call::End(Power::Reboot)));
}

#[test]
fn the_end_is_asked_for_then_forced_then_written() {
    let kernel = machine();
    let table = "22 1 254:0 / / ro - squashfs /dev/dm-0 ro\n30 22 0:25 / /run rw - tmpfs tmpfs rw\n\
                 40 22 254:5 / /state rw - ext4 /dev/vda5 rw\n41 22 254:6 / /var rw - ext4 /dev/vda6 rw\n";
    kernel.state().files.insert(PathBuf::from("/proc/self/mountinfo"), table.as_bytes().to_vec());
    kernel.state().failing.insert(("umount", "/state".to_owned()));
    kernel.state().failing.insert(("umount", "/var".to_owned()));
    kernel.state().stubborn = true;
    kernel.state().script.extend([Event::Wake(Wake::PowerOff)]);
    stage_two::supervise(&kernel, Trial::None);
    let calls = calls(&kernel);
    let expected = [
        Call::TerminateAll,
        Call::KillAll,
        Call::Sync,
        Call::Unmount(PathBuf::from("/var")),
        Call::Unmount(PathBuf::from("/state")),
        Call::MakeReadOnly(PathBuf::from("/state")),
        Call::MakeReadOnly(PathBuf::from("/var")),
        Call::Sync,
        Call::End(Power::Off),
    ];
    assert_eq!(calls[1..], expected);
    assert_eq!(kernel.uptime(), Duration::from_secs(10), "SIGTERM was given its time");
}

/// The other slot, as one that holds another image.
const SOMETHING: Guid = Guid::from_text_order([0x42; 16]);

/// A machine whose boot record says that slot A's image is being tried.
fn trying(starts: u32, ended: Option<&str>) -> FakeKernel {
    let kernel = machine();
    kernel.state().files.extend(disk_files(SOMETHING));
    let attempt = Attempt {
        slot: Slot::A,
        root: root(),
        starts,
        deadline: Duration::from_secs(300),
        ended: ended.map(str::to_owned),
    };
    let record = BootRecord { sequence: 4, good: Slot::B, attempt: Some(attempt) };
    let (kind, bytes) = record.encode();
    kernel.write_at(Path::new("/dev/vda3"), kind.offset(), &bytes).expect("because META is there");
    kernel
}

fn record(kernel: &FakeKernel) -> BootRecord {
    let place = |kind: MetaKind| {
        kernel.read_at(Path::new("/dev/vda3"), kind.offset(), kind.place_bytes()).expect("because META is there")
    };
    BootRecord::newest(&place(MetaKind::BootFirst), &place(MetaKind::BootSecond)).expect("because it was written")
}

fn attempt(kernel: &FakeKernel) -> Attempt {
    record(kernel).attempt.expect("because an image is being tried")
}

fn stage_two_arguments(kernel: &FakeKernel) -> Option<Vec<String>> {
    calls(kernel).into_iter().find_map(|call| match call {
        Call::Execute(_, arguments) => Some(arguments),
        _ => None,
    })
}

#[test]
fn a_try_is_counted_before_anything_of_it_runs() {
    let kernel = trying(0, None);
    failed_boot(&kernel);
    let calls = calls(&kernel);
    let at = |is: fn(&Call) -> bool| calls.iter().rposition(is).expect("because it was asked");
    assert!(at(|call| matches!(call, Call::WriteAt(..))) < at(|call| matches!(call, Call::MapVerity(_))));
    assert_eq!(attempt(&kernel).starts, 1);
    let arguments = stage_two_arguments(&kernel).expect("because stage two is started");
    assert_eq!(arguments[2], "try=300");
}

#[test]
fn an_image_that_is_not_being_tried_is_not_counted() {
    let kernel = trying(0, None);
    let mut other = record(&kernel).next();
    other.attempt.as_mut().expect("because an image is being tried").root = RootHash::from_bytes([9; 32]);
    let (kind, bytes) = other.encode();
    kernel.write_at(Path::new("/dev/vda3"), kind.offset(), &bytes).expect("because META is there");
    failed_boot(&kernel);
    assert_eq!(record(&kernel), other);
    assert_eq!(stage_two_arguments(&kernel).expect("because stage two is started")[2], "");
}

#[test]
fn an_image_that_was_started_too_often_or_ended_is_not_started_again() {
    for (starts, ended) in [(STARTS_MAX, None), (1, Some("machined failed"))] {
        let kernel = trying(starts, ended);
        let reason = failed_boot(&kernel);
        assert!(reason.contains("this image was"), "{reason}");
        assert!(stage_two_arguments(&kernel).is_none());
        assert_eq!(attempt(&kernel).starts, starts);
    }
}

#[test]
fn a_try_that_cannot_be_counted_does_not_run() {
    let kernel = trying(0, None);
    kernel.state().failing.insert(("pwrite", "/dev/vda3".to_owned()));
    failed_boot(&kernel);
    assert!(stage_two_arguments(&kernel).is_none());
}

#[test]
fn a_torn_boot_record_counts_as_the_one_before() {
    let kernel = trying(0, None);
    failed_boot(&kernel);
    let newest = record(&kernel).encode().0;
    let place = usize::try_from(newest.offset()).expect("because META is small");
    kernel.state().files.get_mut(Path::new("/dev/vda3")).expect("because META is there")[place + 60] ^= 1;
    assert_eq!(attempt(&kernel).starts, 0);
    failed_boot(&kernel);
    assert_eq!(attempt(&kernel).starts, 1);
}

#[test]
fn a_try_that_does_not_become_good_in_time_goes_back_and_says_why() {
    let kernel = trying(1, None);
    kernel.state().script.extend([says("healthy"), Event::TimePasses]);
    stage_two::supervise(&kernel, Trial::Until(Duration::from_secs(300)));
    assert!(kernel.uptime() >= Duration::from_secs(300), "it had its time");
    assert_eq!(calls(&kernel).last(), Some(&Call::End(Power::Reboot)));
    let reason = attempt(&kernel).ended.expect("because PID 1 noted it");
    assert!(reason.contains("did not become good in time"), "{reason}");
}

#[test]
fn a_try_whose_machined_keeps_failing_goes_back_at_once() {
    let kernel = trying(1, None);
    kernel.state().failing.insert(("spawn", "/usr/bin/machined".to_owned()));
    stage_two::supervise(&kernel, Trial::Until(Duration::from_secs(300)));
    assert!(kernel.uptime() < Duration::from_secs(60));
    assert!(attempt(&kernel).ended.expect("because PID 1 noted it").contains("machined failed"));
    assert!(kernel.state().console.contains("The next start is from cairn-b.efi"));
}

#[test]
fn a_good_image_has_no_deadline_any_more() {
    let kernel = trying(1, None);
    kernel.state().script.extend([says("good"), ends(77), says("poweroff")]);
    stage_two::supervise(&kernel, Trial::Until(Duration::from_secs(300)));
    assert_eq!(calls(&kernel).last(), Some(&Call::End(Power::Off)));
    assert_eq!(attempt(&kernel).ended, None);
}
