//! The walls on the kernel that runs the tests; as root, as CI is. What a container's process might do is done by this program,
//! started again behind them with a task.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use nix::errno::Errno;

use super::*;

const TASK: &str = "CAIRN_WALLS_TASK";

/// `struct file_handle` with room for any file system's.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

/// Opens a file of the root file system by its handle, as one does who cannot see it.
fn open_by_handle() -> Result<(), Errno> {
    let mut handle = MaybeUninit::<Handle>::zeroed();
    let mut mount = 0;
    // SAFETY: all zeroes are a Handle; the kernel writes at most `bytes` bytes behind its head, and one integer.
    let answer = unsafe {
        (*handle.as_mut_ptr()).bytes = 128;
        let name = c"/".as_ptr();
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, name, handle.as_mut_ptr(), &raw mut mount, 0)
    };
    Errno::result(answer)?;
    let root = File::open("/").map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    // SAFETY: the handle was filled above, and the kernel reads it only.
    let opened = unsafe { libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), handle.as_ptr(), libc::O_PATH) };
    Errno::result(opened).map(drop)
}

/// Asks for the mount namespace behind or before this one.
fn other_mount_namespace(request: libc::c_ulong) -> Result<(), Errno> {
    let own = File::open("/proc/self/ns/mnt").expect("because every process has one");
    let mut answer = [0_u8; 64];
    // SAFETY: the kernel writes at most the bytes that the request's number says, sixteen or thirty-two, into sixty-four.
    let done = unsafe { libc::ioctl(own.as_raw_fd(), request, answer.as_mut_ptr()) };
    Errno::result(done).map(drop)
}

fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("because /proc is there");
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("because each process has one");
    u64::from_str_radix(line.trim(), 16).expect("because it is hexadecimal")
}

/// What the caged program does. Without a task this is no test.
#[test]
fn walled_child() {
    match std::env::var(TASK).as_deref() {
        Ok("id") => println!("answer: {}", std::process::id()),
        Ok("rest") => {
            println!("answer: first");
            // Until who started it is done: it is process 1 and holds the namespace.
            let _end = std::io::stdin().read(&mut [0]);
        }
        Ok("attack") => {
            let requests = [0x8010_b70b, 0x8010_b70c, 0x8020_b70b];
            let namespaces = requests.map(other_mount_namespace);
            println!("answer: {:?} {namespaces:?} {:x}", open_by_handle(), bounding_set());
        }
        Ok(other) => panic!("there is no task {other}"),
        Err(_) => {}
    }
}

fn child(task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("because the test runs from a file"));
    command.args(["--exact", "walls::tests::walled_child", "--nocapture"]).env(TASK, task);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn answer(child: &mut Child) -> String {
    let mut said = String::new();
    let mut output = child.stdout.take().expect("because it is a pipe");
    let mut byte = [0];
    while !(said.contains("answer: ") && said.ends_with('\n'))
        && output.read(&mut byte).expect("because it is open") == 1
    {
        said.push(char::from(byte[0]));
    }
    child.stdout = Some(output);
    said.lines().find_map(|line| line.split_once("answer: ")).map(|(_, answer)| answer.to_owned()).unwrap_or(said)
}

fn namespace(pid: u32, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("because the process runs");
    link.display().to_string()
}

#[test]
fn what_is_started_behind_walls_is_in_their_namespaces_and_confined() {
    let mut first = spawn_behind_new_walls(&mut child("rest")).expect("because tests run as root");
    assert_eq!(answer(&mut first), "first");
    let handle = ProcessHandle::open(first.id()).expect("because it runs");
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(first.id(), kind), namespace(std::process::id(), kind), "its {kind} namespace is ours");
    }
    let mut second = spawn_behind_walls(&mut child("rest"), &handle).expect("because the first one runs");
    assert_eq!(answer(&mut second), "first");
    for kind in ["pid", "mnt"] {
        assert_eq!(namespace(second.id(), kind), namespace(first.id(), kind));
    }
    let mut third = spawn_behind_walls(&mut child("id"), &handle).expect("because the first one runs");
    let id: u32 = answer(&mut third).parse().expect("because it is a number");
    assert!((3..third.id()).contains(&id), "{id} is its own id, and {} ours for it", third.id());

    let mut attack = spawn_behind_walls(&mut child("attack"), &handle).expect("because the first one runs");
    let said = answer(&mut attack);
    let (calls, set) = said.rsplit_once(' ').expect("because it says three things");
    assert_eq!(calls, "Err(EPERM) [Err(EPERM), Err(EPERM), Err(EPERM)]");
    let set = u64::from_str_radix(set, 16).expect("because it is hexadecimal");
    assert_eq!(set, bounding_set() & !(1 << 16) & !(1 << 22), "it may load modules or restart the machine");

    // The end of the first one is the end of all, and it ends last: once who started the others has collected them.
    let second_input = second.stdin.take();
    drop(first.stdin.take());
    let ended = second.wait().expect("because it is ours");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(libc::SIGKILL));
    drop(second_input);
    for mut child in [third, attack] {
        child.wait().expect("because it is ours");
    }
    assert!(first.wait().expect("because it is ours").success());
    assert!(spawn_behind_walls(&mut child("id"), &handle).is_err(), "nobody is let in where nobody holds the walls");
}

#[test]
fn without_the_walls_the_attacks_are_not_refused() {
    // Else the test above would pass on a kernel that refuses them to everybody.
    assert_ne!(other_mount_namespace(0x8010_b70b), Err(Errno::EPERM));
    assert_ne!(open_by_handle(), Err(Errno::EPERM));
}
