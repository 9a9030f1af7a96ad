//! `machined`: keeps one machine as its document says, and serves the machine API. PID 1 starts it and starts it again.
//!
//! ```text
//! PID 1 --socket--> init task ----> services        API (TLS, 50000), local socket, console
//!                                      ^                        | read
//! controllers (one task each) ----> store <---------------------+
//! ```
//!
//! This file only builds and runs. All tasks belong to one Supervisor.

mod api;
mod audit_log;
mod console;
mod controllers;
mod deliveries;
mod disks;
mod event_book;
mod extensions;
mod facts;
mod gate;
mod installer;
mod keyboard;
mod leaving;
mod listener;
mod log_book;
mod log_layer;
mod metrics;
mod model;
mod observer;
mod pass;
mod peers;
mod power;
mod recoveries;
mod reports;
mod servers;
mod wellbeing;
mod wire;

use crate::controllers::UpgradeParts;
use crate::facts::{Facts, VERSION};
use crate::leaving::{ControlPlane, Leaving};
use crate::model::{Books, Model};
use crate::observer::Observed;
use crate::power::Power;
use anyhow::Context;
use init_boot::ToInit;
use machined_api::{LOCAL_SOCKET, MACHINE_API_PORT};
use machined_controllers::block::{EPHEMERAL, Volume};
use machined_controllers::reset::{self, ResetOrder};
use machined_controllers::services::{CONTAINERD, CONTROLPLANE, GITSYNC};
use machined_controllers::upgrade::AloneOr;
use machined_host::{InitSocket, LinuxReset, LinuxServices, log_pipe, watch_children, watch_links};
use machined_reconcile::{Restart, Supervisor, story};
use machined_runtime::{Reader, Store};
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Threads for everything; machined waits most of the time.
const WORKER_THREADS: usize = 2;
/// After PID 1 asked machined to end, for tasks to finish what they write.
const STOP_GRACE: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("machined {VERSION}");
        return Ok(());
    }
    // First thing, before anything else opens descriptors.
    let init = init_linux::InitSocket::take();
    let books = Books::default();
    log_layer::install(books.logs.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(init.context("cannot take PID 1's socket")?, books))
}

async fn run(init: Option<init_linux::InitSocket>, books: Books) -> anyhow::Result<()> {
    let init = init.map(InitSocket::new).transpose()?.map(Arc::new);
    // A medium's machine does nothing else, and keeps nothing: no identity, no volumes, no API.
    if let Some(medium) = installer::medium() {
        return installer::run(medium, init).await;
    }
    // Before anything is mounted or read: it may be what is to be forgotten.
    let forgotten = reset::carry_out(&LinuxReset).await.context("this machine was told to forget everything")?;
    if let Some(ResetOrder { by, reason }) = forgotten {
        books.events.add("Reset", "machine", format!("this machine forgot everything, asked for by {by} {reason}"));
    }
    let (store, supervisor) = (Store::new(), Supervisor::new());
    let facts = Facts::read();
    let power = Power::new();
    let (staging, reports) = (books.staging.clone(), books.reports.clone());
    let permits = AloneOr::new(store.reader(), ControlPlane::default());
    let (events, upgrade) = (books.events.clone(), store.reader());
    let leaving = Leaving::new(permits.clone(), power.clone(), events, Arc::new(write_reset), upgrade);
    let parts = UpgradeParts { staging, init: init.clone(), power: power.clone(), permits, reports };
    let started = controllers::start_all(&store, &supervisor, &facts, Arc::clone(&books.tpm), parts);
    let model = Model::new(&store, started.inboxes, (power.clone(), leaving.clone()), books.clone(), facts);
    tracing::info!(version = VERSION, image = model.facts.image, slot = model.facts.slot, "machined starts");

    watch_the_kernel(&supervisor, started.services.clone(), started.links);
    keep_logs(&supervisor, &books, store.reader());
    serve(&supervisor, &model);
    supervisor.spawn("leaving", Restart::Always, move |stop| leaving.clone().keep_asking(stop));
    let observed = Observed {
        services: store.reader(),
        links: store.reader(),
        introduced: store.reader(),
        desired: store.reader(),
        trust: store.reader(),
        upgrade: store.reader(),
        extensions: store.reader(),
    };
    supervisor.spawn("observer", Restart::Always, move |_| {
        let (observed, events) = (observed.clone(), books.events.clone());
        async move {
            observer::observe(observed, events).await;
            Ok::<(), Infallible>(())
        }
    });
    if let Some(init) = init.clone() {
        listen_to_init(&supervisor, init, started.services, model.clone());
    }
    let stopping = store.writer()?;
    tokio::select! {
        () = power::serve(power, stopping, store.reader(), init) => {}
        ended = wait_for_the_end() => ended?,
    }
    supervisor.stop(STOP_GRACE).await;
    Ok(())
}

/// Writes on META that the next start forgets everything.
fn write_reset(order: ResetOrder) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
    Box::pin(async move { reset::ask(&LinuxReset, &order).await.map_err(|error| story(&error)) })
}

fn watch_the_kernel(supervisor: &Supervisor, services: LinuxServices, links: machined_reconcile::Trigger) {
    supervisor.spawn("link watch", Restart::Always, move |_| watch_links(links.clone()));
    supervisor.spawn("child watch", Restart::Always, move |_| {
        let services = services.clone();
        async move { watch_children(services).await.map(|never| match never {}) }
    });
}

fn keep_logs(supervisor: &Supervisor, books: &Books, volumes: Reader<Volume>) {
    for service in [CONTAINERD, GITSYNC, CONTROLPLANE] {
        books.logs.open(service);
        let logs = books.logs.clone();
        supervisor.spawn(format!("log of {service}"), Restart::Always, move |_| {
            let logs = logs.clone();
            async move { log_book::read_lines(logs, service, log_pipe(service)?).await }
        });
    }
    let logs = books.logs.clone();
    supervisor.spawn("log files", Restart::Never, move |_| {
        let (logs, mut volumes) = (logs.clone(), volumes.clone());
        async move {
            volumes.wait_for(|set| set.contains_key(EPHEMERAL)).await;
            logs.write_files(log_book::log_folder())
        }
    });
}

fn serve(supervisor: &Supervisor, model: &Model) {
    let for_people = model.clone();
    supervisor.spawn("machine API", Restart::Always, move |stop| {
        let model = for_people.clone();
        async move { servers::machine_api(model, servers::listen(MACHINE_API_PORT).await?, stop).await }
    });
    let for_services = model.clone();
    supervisor.spawn("local API", Restart::Always, move |stop| {
        let model = for_services.clone();
        async move { servers::local_api(model, Path::new(LOCAL_SOCKET), stop).await }
    });
    let for_the_console = model.clone();
    supervisor.spawn("console", Restart::Always, move |_| {
        let model = for_the_console.clone();
        async move { console::paint(model, MACHINE_API_PORT).await.map(|never| match never {}) }
    });
    let for_the_keyboard = model.clone();
    supervisor.spawn("keyboard", Restart::Always, move |_| {
        let model = for_the_keyboard.clone();
        async move { keyboard::listen(model).await.map(|never| match never {}) }
    });
}

/// Hears who ended, and says that machined is healthy once the machine API answers.
fn listen_to_init(supervisor: &Supervisor, init: Arc<InitSocket>, services: LinuxServices, model: Model) {
    let mouth = Arc::clone(&init);
    supervisor.spawn("PID 1, speaking", Restart::Never, move |_| {
        let (init, mut model) = (Arc::clone(&mouth), model.clone());
        async move {
            while model.status().boot_api_ms == 0 {
                model.changed().await;
            }
            init.send(ToInit::Healthy)
        }
    });
    supervisor.spawn("PID 1, listening", Restart::Always, move |_| {
        let (init, services) = (Arc::clone(&init), services.clone());
        async move {
            loop {
                match init.next().await {
                    Ok(message) => services.reaped(message),
                    Err(error) => return Err::<(), _>(error),
                }
            }
        }
    });
}

/// PID 1 ends the machine by SIGTERM to everybody.
async fn wait_for_the_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
