//! `gitsync`: brings a machine to what its repository says, as far as that was signed for.
//!
//! `gitsync run` is started by machined; `gitsync fetch-child` by `gitsync run`. Neither takes options: where to look, and what
//! this machine is, comes from machined's local socket.

use gitsync_daemon::{Places, WallClock};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// gitsync's folder on the state partition.
const FOLDER: &str = "/state/gitsync";

/// Port of the Kubernetes API on control-plane machines.
const API_PORT: u16 = 6443;

fn main() -> ExitCode {
    let word = std::env::args().nth(1);
    match word.as_deref() {
        Some("run") => run(),
        Some("fetch-child") => fetch_child(),
        Some(_) | None => {
            eprintln!("usage: gitsync run\n\nmachined starts it; people use cairnctl.");
            ExitCode::from(2)
        }
    }
}

fn fetch_child() -> ExitCode {
    match gitsync_fetch::child::run(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gitsync fetch-child: its parent is gone: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_not_set| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            tracing::error!(%error, "gitsync does not know where its own program is");
            return ExitCode::FAILURE;
        }
    };
    let places = Places {
        socket: machined_api::LOCAL_SOCKET.into(),
        folder: FOLDER.into(),
        program,
        api: SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)),
        clock: WallClock::default(),
    };
    let terminated = match signal(SignalKind::terminate()) {
        Ok(mut signal) => async move { _ = signal.recv().await },
        Err(error) => {
            tracing::error!(%error, "signals cannot be heard");
            return ExitCode::FAILURE;
        }
    };
    gitsync_daemon::run(places, terminated).await;
    ExitCode::SUCCESS
}
