//! The demo's workload: a web server that says who it is, small enough to be the only file of its image.
//!
//! ```text
//! hello             serves HTTP on $PORT (8080)
//! hello echo CODE   copies its input to its output and ends with this exit code, for `kubectl exec`
//! hello kill NAME   kills every process of that name outside its own container, in a pod that sees the machine's processes
//! hello look PATH.. says which processes it sees and which of these paths are there
//! hello write PATH TEXT   writes into a file that is there, such as one of the kernel's
//! ```
//!
//! It ends on SIGTERM at once because it is PID 1 of its container only when nobody shares the PID namespace; the agent's
//! grace period bounds it otherwise.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

/// Longest request head that is read, in lines; curl sends four.
const HEAD_LINES_MAX: usize = 100;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve().map(|()| ExitCode::SUCCESS),
        ["echo", code] => echo().map(|()| code.parse::<u8>().map_or(ExitCode::FAILURE, ExitCode::from)),
        ["kill", name] => kill_all(name).map(|()| ExitCode::SUCCESS),
        ["look", paths @ ..] => look(paths).map(|()| ExitCode::SUCCESS),
        ["write", path, text] => write_into(path, text).map(|()| ExitCode::SUCCESS),
        other => Err(Error::other(format!(
            "{other:?} is nothing that hello does; there are echo CODE, kill NAME, look PATH.. and write PATH TEXT"
        ))),
    }
}

fn echo() -> Result<()> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).map(drop)
}

/// Sends SIGKILL, which nobody can catch, and says whom it hit.
fn kill_all(name: &str) -> Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        let file = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if file("comm").trim() == name && file("cgroup") != own {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            println!("killed {pid}");
        }
    }
    Ok(())
}

fn write_into(path: &str, text: &str) -> Result<()> {
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// Names every process and its executable, and says of each path whether something is there, be it a socket.
fn look(paths: &[&str]) -> Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            println!("process {} {}", name.trim(), program.display());
        }
    }
    for path in paths {
        match fs::symlink_metadata(path) {
            Ok(_) => println!("there {path}"),
            Err(error) => println!("hidden {path}: {error}"),
        }
    }
    Ok(())
}

fn serve() -> Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080_u16);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("hello: listening on port {port}");
    for stream in listener.incoming() {
        // One visitor's broken connection is no reason to stop serving the others.
        if let Err(error) = stream.and_then(answer) {
            eprintln!("hello: {error}");
        }
    }
    Ok(())
}

fn answer(stream: TcpStream) -> Result<()> {
    let name = std::env::var("HOSTNAME").or_else(|_| fs::read_to_string("/etc/hostname")).unwrap_or_default();
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello from Cairn".to_owned());
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines.take(HEAD_LINES_MAX) {
        if line?.is_empty() {
            break;
        }
    }
    println!("hello: {request}");
    let body = format!("{greeting}, pod {}\n", name.trim());
    let length = body.len();
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
