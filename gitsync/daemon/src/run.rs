//! `gitsync run`: three tasks, one owner for each thing.
//!
//! ```text
//! context   follows machined's stream      --watch<Option<Context>>-->  source
//! source    owns trust state and book      --watch<Option<Target>>--->  cluster
//! cluster   owns Lease and inventory       --watch<ClusterNews>------>  source
//!           exchanges with other machines  --watch<Heard>----------->  source
//! ```

use crate::api::Api;
use crate::cluster::{Cluster, ClusterNews, Synced, Target};
use crate::machine::{Context, ContextError, Machine, MachineError};
use crate::peers::{Exchange, Heard};
use crate::report::{Reporter, Topic, condition};
use crate::source::{Moment, Source, Wires};
use gitsync_fetch::Fetcher;
use jiff::Timestamp;
use machined_config::Role;
use machined_reconcile::{Restart, Stop, Supervisor, Trigger, story};
use std::fmt;
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

/// The machine's clock, which people and time servers set: it may jump both ways. Tests bring their own.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl WallClock {
    /// A clock that says what `now` does.
    #[must_use]
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        WallClock(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        WallClock::new(Timestamp::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// Where things are; on a machine always the same.
#[derive(Debug, Clone)]
pub struct Places {
    /// machined's local socket.
    pub socket: PathBuf,
    /// gitsync's own folder.
    pub folder: PathBuf,
    /// The program that serves `fetch-child`.
    pub program: PathBuf,
    /// This machine's API server, used on control-plane machines. Workers use its port at the cluster's endpoints.
    pub api: SocketAddr,
    /// The machine's clock.
    pub clock: WallClock,
}

/// machined's newest word, and the number of the stream that it came by.
type Contexts = watch::Receiver<Option<(u64, Context)>>;

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
    let (heard_sender, heard) = watch::channel(None);
    let wake = Trigger::new();

    let latest = context.clone();
    let (follower, waker) = (machine.clone(), wake.clone());
    supervisor
        .spawn("context", Restart::Always, move |stop| follow(follower.clone(), contexts.clone(), waker.clone(), stop));
    let (reader, folder, clock) = (machine.clone(), places.folder, places.clock);
    let (source_wake, cluster_wake) = (wake.clone(), Trigger::new());
    let source_cluster = cluster_wake.clone();
    supervisor.spawn("source", Restart::Always, move |stop| {
        let (target, cluster) = (targets.clone(), source_cluster.clone());
        let wires = Wires { target, cluster, news: news.clone(), heard: heard.clone() };
        let source = Source::new(reader.clone(), fetcher.clone(), folder.clone(), wires);
        keep_source(source, clock.clone(), context.clone(), source_wake.clone(), stop)
    });
    supervisor.spawn("cluster", Restart::Always, move |stop| {
        let outlet = Outlet { news: news_sender.clone(), heard: heard_sender.clone(), wake: wake.clone() };
        let wires = (target.clone(), latest.clone());
        keep_cluster((machine.clone(), places.api), wires, outlet, cluster_wake.clone(), stop)
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
    clock: WallClock,
    latest: Contexts,
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
        let Some((number, context)) = latest.borrow().clone() else { continue };
        if number != connection {
            source.machined_is_new();
            connection = number;
        }
        let newest = || latest.borrow().as_ref().map_or_else(|| context.clone(), |(_, newest)| newest.clone());
        match source.round(&context, newest, &Moment::now(&clock, &context)).await {
            Ok(()) => said.clear(),
            Err(error) => warn_once(&mut said, story(&error), "a round of the source was not finished"),
        }
    }
}

/// Where the cluster's side tells what it finds.
struct Outlet {
    news: watch::Sender<ClusterNews>,
    heard: watch::Sender<Option<Arc<Heard>>>,
    wake: Trigger,
}

impl Outlet {
    fn news(&self, found: ClusterNews) {
        tell(&self.news, found, &self.wake);
    }
}

/// Puts a value where the source finds it, and wakes the source when it is another one.
fn tell<T: PartialEq>(sender: &watch::Sender<T>, found: T, wake: &Trigger) {
    let changed = sender.send_if_modified(|known| {
        let changed = *known != found;
        *known = found;
        changed
    });
    if changed {
        wake.fire();
    }
}

async fn keep_cluster(
    (machine, server): (Machine, SocketAddr),
    (target, latest): (watch::Receiver<Option<Arc<Target>>>, Contexts),
    outlet: Outlet,
    own: Trigger,
    mut stop: Stop,
) -> Result<(), TaskError> {
    let (mut cluster, mut api) = (Cluster::default(), Api::new(machine.clone(), server));
    let (mut exchange, mut reporter) = (Exchange::default(), Reporter::new(machine));
    let mut wakeups = own.wakeups(CLUSTER_PERIOD);
    let mut said = String::new();
    loop {
        tokio::select! {
            () = wakeups.next() => {}
            () = stop.requested() => return Ok(()),
        }
        let Some(wanted) = target.borrow().clone() else { continue };
        if wanted.role == Role::Worker {
            // What the cluster should be is the control plane's business; what machines tell each other is everybody's.
            talk(&mut exchange, &mut api, &wanted, &outlet).await;
            continue;
        }
        let newest_order = || latest.borrow().as_ref().map_or(0, |(_, context)| context.orders);
        let told = match round(&mut cluster, &mut api, &wanted, newest_order).await {
            Ok(Synced::NotHolder) => {
                let step = Some(wanted.desired.source.step);
                outlet.news(ClusterNews { step, elsewhere: true, ..ClusterNews::default() });
                None
            }
            Ok(Synced::Unchanged) => None,
            Ok(Synced::Done(done)) => {
                outlet.news(done);
                said.clear();
                Some(condition(Topic::ClusterSynced, true, "", ""))
            }
            Ok(Synced::Refused(refused)) => {
                let message = refused.refusal.as_ref().map(ToString::to_string).unwrap_or_default();
                let reason = refused.reason();
                outlet.news(refused);
                Some(condition(Topic::ClusterSynced, false, reason, message))
            }
            Err((reason, message)) => {
                warn_once(&mut said, message.clone(), "the cluster is not as it should be yet");
                Some(condition(Topic::ClusterSynced, false, reason, message))
            }
        };
        if let Some(told) = told
            && let Err(error) = reporter.condition(told).await
        {
            tracing::debug!(%error, "a condition was not told");
        }
        talk(&mut exchange, &mut api, &wanted, &outlet).await;
    }
}

/// Shows the other machines what this one has and hears them; what fails is tried again by the next round.
async fn talk(exchange: &mut Exchange, api: &mut Api, target: &Target, outlet: &Outlet) {
    let client = match api.client(target, Timestamp::now()).await {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(error = story(&error), "there is no way to the other machines");
            return;
        }
    };
    match exchange.round(&client, target, Instant::now()).await {
        Ok(Some(heard)) => tell(&outlet.heard, Some(Arc::new(heard)), &outlet.wake),
        Ok(None) => {}
        Err(error) => tracing::debug!(error = story(&error), "nothing was exchanged with the other machines"),
    }
}

async fn round(
    cluster: &mut Cluster,
    api: &mut Api,
    target: &Target,
    newest_order: impl Fn() -> u64,
) -> Result<Synced, (&'static str, String)> {
    let client = api.client(target, Timestamp::now()).await.map_err(|e| ("Unreachable", story(&e)))?;
    cluster.round(&client, target, newest_order, Instant::now()).await.map_err(|error| (error.reason(), story(&error)))
}

/// Says an error when it is another one than before; rounds come every few seconds.
fn warn_once(said: &mut String, error: String, sentence: &'static str) {
    if *said != error {
        tracing::warn!(error, "{sentence}");
        *said = error;
    }
}
