//! `controlplane`: the Kubernetes side of a machine. `machine` learns its role from machined; `dev` needs no machine at all.
//!
//! Only parses, builds, runs and drains; what is composed how is in [`machine`] and [`dev`].

mod agents;
mod audit;
mod dev;
mod exposed;
mod group;
mod identify;
mod image_report;
mod in_process;
mod leaf;
mod listener;
mod local;
mod machine;
mod member;
mod node;
mod permits;
mod pki;
mod readiness;
mod remote;
mod server;
mod table;

use anyhow::Result;
use clap::{Parser, Subcommand};
use machined_reconcile::Supervisor;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Longest that tasks may take to end when the process is told to.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Store, Kubernetes API, scheduler, controllers and node agent in one program.
#[derive(Debug, Parser)]
#[command(name = "controlplane", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run what machined says that this machine is: started by machined only
    Machine(machine::MachineArguments),
    /// Run a whole cluster of one on this Linux host, for development
    Dev(dev::DevArguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let supervisor = Supervisor::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let work = async {
        match arguments.role {
            Role::Machine(machine) => machine::run(machine, &supervisor).await,
            Role::Dev(dev) => dev::run(dev, &supervisor).await,
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    supervisor.stop(STOP_GRACE).await;
    ended
}
