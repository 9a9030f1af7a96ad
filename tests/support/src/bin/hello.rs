//! The demo's workload: a web server that says who it is, small enough to be the only file of its image.
//!
//! It ends on SIGTERM at once because it is PID 1 of its container only when nobody shares the PID namespace; the agent's
//! grace period bounds it otherwise.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{TcpListener, TcpStream};

/// Longest request head that is read, in lines; curl sends four.
const HEAD_LINES_MAX: usize = 100;

fn main() -> Result<()> {
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
    let name = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default();
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
