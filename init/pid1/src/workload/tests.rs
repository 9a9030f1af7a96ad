//! The walls' plan on a fake kernel, and the walls themselves on the kernel that runs the tests; as root, as CI is.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use init_linux::{Call, FakeKernel, walls};

use super::*;

/// The folder of the machine in miniature, for the child that moves in behind its walls.
const MACHINE: &str = "CAIRN_WORKLOAD_TEST_MACHINE";

fn machine() -> FakeKernel {
    let kernel = FakeKernel::new();
    {
        let mut state = kernel.state();
        for file in ["/usr/bin/containerd", "/usr/sbin/runc", "/run/cairn/machined.sock", "/state/controlplane/ca"] {
            state.files.insert(file.into(), Vec::new());
        }
        for file in HIDDEN.iter().filter(|path| path.starts_with("/usr")) {
            state.files.insert((*file).into(), Vec::new());
        }
        for directory in ["/etc", "/usr/lib", "/var", "/dev", "/proc", "/sys", "/tmp", "/opt/cni/bin"] {
            state.directories.insert(directory.into());
        }
        state.links.insert("/bin".into(), "usr/bin".into());
    }
    kernel
}

fn calls() -> Vec<Call> {
    let kernel = machine();
    build(&kernel).expect("because nothing fails");
    kernel.state().calls.clone()
}

#[test]
fn nothing_hidden_is_shown_nor_anything_above_it() {
    let shown: BTreeSet<PathBuf> = calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Bind(from, _) => Some(from),
            _ => None,
        })
        .collect();
    let secret =
        HIDDEN.iter().chain(["/run/cairn/machined.sock", "/run/cairn/permits.sock", "/run/cairn/services"].iter());
    for path in secret.map(Path::new) {
        let above = shown.iter().find(|shown| path.starts_with(shown));
        assert_eq!(above, None, "{} can be reached", path.display());
    }
    let expected = ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/lib", "/etc", "/opt", "/var"];
    for path in expected.iter().chain(&SHARED_RUN) {
        assert!(shown.contains(Path::new(path)), "{path} is missing in {shown:?}");
    }
}

#[test]
fn the_machines_root_is_left_before_anybody_is_let_in_and_nothing_is_given_back() {
    let calls = calls();
    let at = |wanted: &Call| calls.iter().position(|call| call == wanted).unwrap_or_else(|| panic!("no {wanted:?}"));
    let slave = at(&Call::Propagate("/".into(), Propagation::Slave));
    let first = calls.iter().position(|call| matches!(call, Call::Mount(..) | Call::Bind(..)));
    assert!(Some(slave) < first, "a mount of ours would be seen by the machine");
    let entered = at(&Call::EnterRoot(NEW_ROOT.into()));
    assert!(at(&Call::MakeReadOnly(NEW_ROOT.into())) < entered);
    let after = &calls[entered + 1..];
    assert_eq!(after, [Call::Propagate("/".into(), Propagation::Shared), Call::Confine]);
}

#[test]
fn a_step_that_fails_lets_nobody_in() {
    for (call, subject) in [("bind", "/var"), ("pivot_root", NEW_ROOT), ("prctl", "the walls"), ("propagate", "/")] {
        let kernel = machine();
        kernel.state().failing.insert((call, subject.to_owned()));
        let reason = build(&kernel).expect_err("because a step fails");
        assert!(reason.contains(subject), "{reason}");
    }
}

/// A machine of a few files, of which this process becomes a part.
fn enter_machine(kernel: &Linux, folder: &Path) {
    let done = "because the child is root in namespaces of its own";
    kernel.propagate(Path::new("/"), Propagation::Slave).expect(done);
    mount_memory(kernel, folder, &[]).expect(done);
    for directory in [
        "usr",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "etc",
        "state",
        "var",
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "run/containerd",
    ] {
        kernel.make_directory(&folder.join(directory), 0o755).expect(done);
    }
    kernel.make_directory(&folder.join("run/cairn"), 0o755).expect(done);
    for directory in ["etc", "netns", "agent", "workload"] {
        kernel.make_directory(&folder.join("run/cairn").join(directory), 0o755).expect(done);
    }
    let files = ["state/key", "usr/bin/containerd", "run/cairn/machined.sock", "var/log"];
    for file in files {
        kernel.write_file(&folder.join(file), b"secret").expect(done);
    }
    for program in HIDDEN.iter().filter(|path| path.starts_with("/usr")) {
        kernel.write_file(&folder.join(program.trim_start_matches('/')), b"program").expect(done);
    }
    let proc = Mount {
        source: "proc".into(),
        target: folder.join("proc"),
        kind: "proc",
        flags: Vec::new(),
        options: String::new(),
    };
    kernel.mount(&proc).expect(done);
    kernel.link(Path::new("usr/bin"), &folder.join("bin")).expect(done);
    kernel.enter_root(folder).expect(done);
}

/// What the child does that is started behind new walls. Without a machine this is no test.
#[test]
fn walled_child() {
    let Some(folder) = std::env::var_os(MACHINE) else {
        return;
    };
    let kernel = Linux::new();
    enter_machine(&kernel, Path::new(&folder));
    assert!(kernel.exists(Path::new("/state/key")), "the machine has its secrets before the walls stand");
    build(&kernel).expect("because the machine is complete");
    let seen = HIDDEN.iter().chain(&["/run/cairn/machined.sock", "/bin/machined"]);
    let seen: Vec<_> = seen.filter(|path| kernel.exists(Path::new(path))).collect();
    let processes = kernel.list(Path::new("/proc")).expect("because /proc is mounted");
    let processes: Vec<_> = processes.iter().filter(|name| name.parse::<u32>().is_ok()).collect();
    let shown = ["/bin/containerd", "/var/log", "/run/containerd", "/proc/self/ns", "/sys/class", "/dev/null"];
    let missing: Vec<_> = shown.iter().filter(|path| !kernel.exists(Path::new(path))).collect();
    let writable = kernel.make_directory(Path::new("/new"), 0o755).is_ok();
    println!("answer: seen {seen:?}, processes {processes:?}, missing {missing:?}, writable {writable}");
    let bare = kernel.list(Path::new("/run/cairn")).expect("because it is there");
    println!("answer: {bare:?}");
}

#[test]
fn behind_real_walls_nothing_of_the_machine_is_left() {
    let folder = std::env::temp_dir().join(format!("cairn-workload-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("because tests may write temporary files");
    let mut command = Command::new(std::env::current_exe().expect("because the test runs from a file"));
    command.args(["--exact", "workload::tests::walled_child", "--nocapture"]).env(MACHINE, &folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = walls::spawn_behind_new_walls(&mut command).expect("because tests run as root");
    let output = child.wait_with_output().expect("because it is ours");
    std::fs::remove_dir(&folder).expect("because nothing of the child's mounts came here");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<_> =
        said.lines().filter_map(|line| line.split_once("answer: ")).map(|(_, answer)| answer).collect();
    let whole = r#"seen [], processes ["1"], missing [], writable false"#;
    assert_eq!(answers.first().copied(), Some(whole), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(answers.last().copied(), Some(r#"["agent", "etc", "netns"]"#));
}
