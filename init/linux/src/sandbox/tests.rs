//! The cage is tried on real children of this test program's host. What needs root, or a kernel with Landlock, is
//! tried where it can be.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use super::*;

/// The child is this test program again, told by this variable what to try.
const TASK: &str = "CAIRN_SANDBOX_TASK";

fn sandbox() -> Sandbox {
    Sandbox {
        identity: None,
        limits: vec![Limit::CoreBytes(0)],
        paths: vec![PathRule { path: PathBuf::from("/dev"), access: PathAccess::ReadWrite }],
        network: NetworkUse::None,
        landlock: Demand::IfAvailable,
    }
}

fn run(sandbox: &Sandbox, task: &str) -> (Applied, Output) {
    let program = std::env::current_exe().expect("because the test runs from a file");
    let mut command = Command::new(program);
    command.args(["--exact", "sandbox::tests::caged_child", "--nocapture"]).env(TASK, task);
    let applied = sandbox.apply_in_child(&mut command).expect("because all paths exist");
    (applied, command.output().expect("because the program may be started"))
}

fn says(sandbox: &Sandbox, task: &str) -> String {
    let (_, output) = run(sandbox, task);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.split_once("answer: ").map(|(_, answer)| answer.to_owned()));
    answer.unwrap_or_else(|| panic!("the child for {task} gave no answer: {output:?}"))
}

/// What a child does when it is one; as an ordinary test it has nothing to do.
#[test]
fn caged_child() {
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let open = |family| socket(family, SockType::Datagram, SockFlag::empty(), None).map(drop);
    let answer = match task.as_str() {
        "nothing" => "ok".to_owned(),
        "unshare" => format!("{:?}", unshare(CloneFlags::CLONE_NEWUSER)),
        "thread" => format!("{:?}", std::thread::spawn(|| 7).join().ok()),
        "internet" => format!("{:?}", open(AddressFamily::Inet)),
        "unix" => format!("{:?}", open(AddressFamily::Unix)),
        "netlink" => format!("{:?}", open(AddressFamily::Netlink)),
        "listen" => format!("{:?}", std::net::TcpListener::bind("127.0.0.1:0").map(drop).map_err(|error| error.kind())),
        "version" => format!("{:?}", std::fs::read("/proc/version").map(drop).map_err(|error| error.kind())),
        "who" => format!("{} {}", nix::unistd::getuid(), nix::unistd::getgid()),
        "regain" => format!("{:?}", nix::unistd::setresuid(0.into(), 0.into(), 0.into())),
        "file" => {
            let path = std::env::temp_dir().join(format!("cairn-sandbox-{}", std::process::id()));
            let written = std::fs::write(&path, [0; 8192]);
            std::fs::remove_file(&path).expect("because it was just made");
            format!("{:?}", written.map_err(|error| error.kind()))
        }
        other => panic!("there is no task {other}"),
    };
    println!("answer: {answer}");
}

#[test]
fn ordinary_work_goes_on() {
    assert_eq!(says(&sandbox(), "nothing"), "ok");
    assert_eq!(says(&sandbox(), "thread"), "Some(7)");
    assert_eq!(says(&sandbox(), "unix"), "Ok(())");
}

#[test]
fn name_spaces_and_other_sockets_are_refused() {
    assert_eq!(says(&sandbox(), "unshare"), "Err(EPERM)");
    assert_eq!(says(&sandbox(), "internet"), "Err(EAFNOSUPPORT)");
    assert_eq!(says(&sandbox(), "netlink"), "Err(EAFNOSUPPORT)");
}

#[test]
fn a_network_client_gets_internet_sockets_and_no_others() {
    let client = Sandbox { network: NetworkUse::Client, ..sandbox() };
    assert_eq!(says(&client, "internet"), "Ok(())");
    assert_eq!(says(&client, "netlink"), "Err(EAFNOSUPPORT)");
}

#[test]
fn a_file_that_grows_too_large_ends_the_child() {
    let bounded = Sandbox {
        limits: vec![Limit::FileBytes(4096)],
        paths: vec![PathRule { path: std::env::temp_dir(), access: PathAccess::ReadWrite }],
        ..sandbox()
    };
    let (_, output) = run(&bounded, "file");
    assert_eq!(output.status.signal(), Some(libc::SIGXFSZ));
}

#[test]
fn landlock_hides_what_no_rule_allows_where_the_kernel_has_it() {
    let (applied, _) = run(&sandbox(), "nothing");
    let client = Sandbox { network: NetworkUse::Client, ..sandbox() };
    match applied.landlock {
        None => {
            let required = Sandbox { landlock: Demand::Required, ..sandbox() };
            let refused = required.apply_in_child(&mut Command::new("/bin/true"));
            assert!(refused.is_err(), "a demanded protection is missing and nobody minds");
        }
        Some(version) => {
            assert_eq!(says(&sandbox(), "version"), "Err(PermissionDenied)");
            if version >= 4 {
                assert_eq!(says(&client, "listen"), "Err(PermissionDenied)");
            }
        }
    }
}

#[test]
fn root_becomes_nobody_and_stays_so() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // The test program may lie where only root reaches it; the child asks for nothing but its own identity.
    let nobody = Sandbox { identity: Some(Identity { user: 65534, group: 65534 }), ..sandbox() };
    let program = std::env::current_exe().expect("because the test runs from a file");
    let copy = std::env::temp_dir().join(format!("cairn-sandbox-program-{}", std::process::id()));
    // By another process: while this one writes a program, a child of another test may inherit the open file, and the kernel starts no
    // program that somebody can write to.
    let copied = Command::new("cp").arg(&program).arg(&copy).status().expect("because cp is everywhere");
    assert!(copied.success(), "there is no room for a copy of the test program");
    let mut answers = Vec::new();
    for task in ["who", "regain"] {
        let mut command = Command::new(&copy);
        command.args(["--exact", "sandbox::tests::caged_child", "--nocapture"]).env(TASK, task);
        nobody.apply_in_child(&mut command).expect("because all paths exist");
        let output = command.output().expect("because the program may be started");
        answers.push(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    std::fs::remove_file(&copy).expect("because it was just made");
    assert!(answers[0].contains("answer: 65534 65534"), "{answers:?}");
    assert!(answers[1].contains("answer: Err(EPERM)"), "{answers:?}");
}
