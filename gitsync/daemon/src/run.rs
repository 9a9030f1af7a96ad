//! `gitsync run`: three tasks, one owner for each thing.
//!
//! ```text
//! context   follows machined's stream      --watch<Option<Context>>-->  source
//! source    owns trust state and book      --watch<Option<Target>>--->  cluster
//! cluster   owns Lease and inventory       --watch<ClusterNews>------>  source
//! ```

use crate::api::Api;
use crate::cluster::{Cluster, ClusterNews, Synced, Target};
use crate::machine::{Context, ContextError, Machine, MachineError};
use crate::report::{Reporter, Topic, condition};
use crate::source::Source;
use gitsync_fetch::Fetcher;
use jiff::Timestamp;
use machined_config::Role;
use machined_reconcile::{Restart, Stop, Supervisor, Trigger, story};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often repositories are looked at. A look with nothing new is one small request.
const SOURCE_PERIOD: Duration = Duration::from_secs(2);

/// How often the cluster's side looks whether something is due, and tries again what failed.
const CLUSTER_PERIOD: Duration = Duration::from_secs(2);

/// How long tasks get to finish when the process is asked to end.
const GRACE: Duration = Duration::from_secs(5);

/// Where things are; on a machine always the same.
#[derive(Debug, Clone)]
pub struct Places {
    /// machined's local socket.
    pub socket: PathBuf,
    /// gitsync's own folder.
    pub folder: PathBuf,
    /// The program that serves `fetch-child`.
    pub program: PathBuf,
    /// This machine's API server, used on control-plane machines.
    pub api: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error("machined ended the stream")]
    Ended,
    #[error("machined's stream broke off: {}", .0.message())]
    Stream(#[source] tonic::Status),
}

/// Runs until the process is asked to end.
pub async fn run(places: Places, ended: impl Future<Output = ()>) {
    let machine = Machine::at(&places.socket);
    let fetcher = Fetcher::new(places.program, &["fetch-child"]);
    let supervisor = Supervisor::new();
    let (contexts, context) = watch::channel(None);
    let (targets, target) = watch::channel(None);
    let (news_sender, news) = watch::channel(ClusterNews::default());
    let wake = Trigger::new();

    let (follower, waker) = (machine.clone(), wake.clone());
    supervisor
        .spawn("context", Restart::Always, move |stop| follow(follower.clone(), contexts.clone(), waker.clone(), stop));
    let (reader, folder) = (machine.clone(), places.folder);
    let (source_wake, cluster_wake) = (wake.clone(), Trigger::new());
    let outlet = (targets, cluster_wake.clone());
    supervisor.spawn("source", Restart::Always, move |stop| {
        let source = Source::new(reader.clone(), fetcher.clone(), folder.clone(), outlet.clone(), news.clone());
        keep_source(source, context.clone(), source_wake.clone(), stop)
    });
    supervisor.spawn("cluster", Restart::Always, move |stop| {
        let signals = (cluster_wake.clone(), wake.clone());
        keep_cluster((machine.clone(), places.api), target.clone(), news_sender.clone(), signals, stop)
    });
    ended.await;
    supervisor.stop(GRACE).await;
}

/// Follows machined's stream; its end is an error, and the supervisor starts this again.
async fn follow(
    machine: Machine,
    contexts: watch::Sender<Option<(u64, Context)>>,
    wake: Trigger,
    mut stop: Stop,
) -> Result<(), TaskError> {
    let connection = contexts.borrow().as_ref().map_or(1, |(number, _)| number + 1);
    let mut stream = tokio::select! {
        stream = machine.contexts() => stream?,
        () = stop.requested() => return Ok(()),
    };
    loop {
        let reply = tokio::select! {
            reply = stream.message() => reply.map_err(TaskError::Stream)?.ok_or(TaskError::Ended)?,
            () = stop.requested() => return Ok(()),
        };
        contexts.send_replace(Some((connection, Context::try_from(reply)?)));
        wake.fire();
    }
}

async fn keep_source(
    mut source: Source,
    context: watch::Receiver<Option<(u64, Context)>>,
    wake: Trigger,
    mut stop: Stop,
) -> Result<(), TaskError> {
    let mut wakeups = wake.wakeups(SOURCE_PERIOD);
    let (mut connection, mut said) = (0, String::new());
    loop {
        tokio::select! {
            () = wakeups.next() => {}
            () = stop.requested() => return Ok(()),
        }
        let Some((number, context)) = context.borrow().clone() else { continue };
        if number != connection {
            source.machined_is_new();
            connection = number;
        }
        match source.round(&context, &now()).await {
            Ok(()) => said.clear(),
            Err(error) => warn_once(&mut said, story(&error), "a round of the source was not finished"),
        }
    }
}

async fn keep_cluster(
    (machine, server): (Machine, SocketAddr),
    target: watch::Receiver<Option<Arc<Target>>>,
    news: watch::Sender<ClusterNews>,
    (own, wake): (Trigger, Trigger),
    mut stop: Stop,
) -> Result<(), TaskError> {
    let (mut cluster, mut api) = (Cluster::default(), Api::new(machine.clone(), server));
    let mut reporter = Reporter::new(machine);
    let mut wakeups = own.wakeups(CLUSTER_PERIOD);
    let mut said = String::new();
    loop {
        tokio::select! {
            () = wakeups.next() => {}
            () = stop.requested() => return Ok(()),
        }
        let Some(wanted) = target.borrow().clone() else { continue };
        if wanted.role != Role::ControlPlane {
            continue;
        }
        let told = match round(&mut cluster, &mut api, &wanted).await {
            Ok(Synced::NotHolder | Synced::Unchanged) => continue,
            Ok(Synced::Done(done)) => {
                if news.send_if_modified(|known| {
                    *known != done && {
                        *known = done.clone();
                        true
                    }
                }) {
                    wake.fire();
                }
                said.clear();
                condition(Topic::ClusterSynced, true, "", "")
            }
            Ok(Synced::Refused(refused)) => {
                news.send_replace(refused.clone());
                wake.fire();
                let message = refused.refusal.as_ref().map(ToString::to_string).unwrap_or_default();
                condition(Topic::ClusterSynced, false, refused.reason(), message)
            }
            Err((reason, message)) => {
                warn_once(&mut said, message.clone(), "the cluster is not as it should be yet");
                condition(Topic::ClusterSynced, false, reason, message)
            }
        };
        if let Err(error) = reporter.condition(told).await {
            tracing::debug!(%error, "a condition was not told");
        }
    }
}

async fn round(cluster: &mut Cluster, api: &mut Api, target: &Target) -> Result<Synced, (&'static str, String)> {
    let client = api.client(&target.identity, Timestamp::now()).await.map_err(|e| ("Unreachable", story(&e)))?;
    cluster.round(&client, target, Instant::now()).await.map_err(|error| (error.reason(), story(&error)))
}

/// Says an error when it is another one than before; rounds come every few seconds.
fn warn_once(said: &mut String, error: String, sentence: &'static str) {
    if *said != error {
        tracing::warn!(error, "{sentence}");
        *said = error;
    }
}

fn now() -> String {
    format!("{:.0}", Timestamp::now())
}
