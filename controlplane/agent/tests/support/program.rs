//! The program inside of the tests' container image: answers HTTP with its name, and does what its arguments say.
//!
//! `web` serves on port 8080; `web exit <code>` says goodbye and exits; `web file <path>` prints a file; `web env <name>` prints a
//! variable; `web cat` copies its input.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["exit", code] => {
            println!("goodbye");
            ExitCode::from(code.parse::<u8>().unwrap_or(99))
        }
        ["file", path] => print(std::fs::read_to_string(path).unwrap_or_default()),
        ["env", name] => print(std::env::var(name).unwrap_or_default()),
        ["cat"] => {
            let mut text = String::new();
            match std::io::stdin().read_to_string(&mut text) {
                Ok(_) => print(text),
                Err(_) => ExitCode::FAILURE,
            }
        }
        _serve => serve(),
    }
}

fn print(text: String) -> ExitCode {
    println!("{}", text.trim_end());
    ExitCode::SUCCESS
}

fn serve() -> ExitCode {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let Ok(listener) = TcpListener::bind("0.0.0.0:8080") else { return ExitCode::FAILURE };
    println!("{} {name} listens", std::env::var("GREETING").unwrap_or_default());
    for connection in listener.incoming().flatten() {
        let mut connection = connection;
        let mut request = [0; 1024];
        let _read = connection.read(&mut request);
        let _written =
            write!(connection, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len());
    }
    ExitCode::SUCCESS
}
