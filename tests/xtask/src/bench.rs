//! `cargo xtask bench`: measurements. They print figures and never fail for being slow.

mod boot;
mod join;
mod memory;
mod people;
mod store;
mod trust;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Image sizes, boot times, time from push to answer, memory of the idle machine, and what an upgrade costs its users
    Boot(boot::Boot),
    /// The store behind etcd's API beside etcd, in turns: throughput, processor time, delays, memory, restart
    Store(store::Store),
    /// Commits verified per second beside git's own, and the difference of two trees
    Trust(trust::Trust),
    /// One fetch in a process of its own, for `trust`; the task comes on standard input
    #[command(hide = true)]
    Probe,
}

pub(crate) async fn bench(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Boot(boot) => boot::run(boot).await,
        Bench::Store(store) => store::measure(store),
        Bench::Trust(trust) => trust::run(trust).await,
        Bench::Probe => memory::probe().await,
    }
}
