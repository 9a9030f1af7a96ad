//! One pod's life on this node: look, plan, do, report, wait.
//!
//! One task a pod, `pod <namespace>/<name>`, spawned by [`super::manager`]. It is woken by changes of the pod, by
//! containers that end, by probes, by its own plan's time and by period, and is told nothing by any of them. It owns
//! everything of its pod on this machine and touches nothing of any other.

use super::cgroups;
use super::hooks::Asked;
use super::plan::{self, Action, Failure, Plan, Stop as StopContainer, View, newest};
use super::probes::ProbeBoard;
use super::start::{self, StartError, Starter};
use super::status::{self, Facts};
use crate::events::Gravity;
use crate::node::Node;
use crate::runtime::{Container, ContainerId, Kind, PodKey, Runtime, RuntimeError, Started, State};
use crate::spec;
use crate::volumes::{self, WriteError};
use controlplane_client::{ClientError, Optional, Patch};
use controlplane_network::PodNetworkError;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use machined_reconcile::{Stop, Trigger, story};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a pod is looked at though nothing happened, and its ConfigMap and Secret volumes are fetched again.
const PERIOD: Duration = Duration::from_secs(60);
/// Wait after something failed that is not a container's own fault.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// Rounds of look, plan and do in a row; more means that actions do not change what is seen.
const ROUNDS: u32 = 64;
/// Grace when the pod does not say; the API's default.
const GRACE: Duration = Duration::from_secs(30);
/// Least time between SIGTERM and SIGKILL even when a hook used the grace up; kubelet's figure.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// A step of a pod's life failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The API.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The network.
    #[error(transparent)]
    Network(#[from] PodNetworkError),
    /// Volumes.
    #[error(transparent)]
    Volumes(#[from] WriteError),
    /// A file.
    #[error("cannot remove {path}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Everything of one pod.
pub(crate) struct Worker {
    node: Arc<Node>,
    key: PodKey,
    /// The pod as the API has it; none when it has none of this uid.
    desired: watch::Receiver<Option<Arc<Pod>>>,
    trigger: Trigger,
    failures: BTreeMap<String, Failure>,
    refreshed: Option<Timestamp>,
}

/// Whether the worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Wait(Option<Timestamp>),
    Gone,
}

impl Worker {
    /// A worker for the pod.
    #[must_use]
    pub(crate) fn new(
        node: Arc<Node>,
        key: PodKey,
        desired: watch::Receiver<Option<Arc<Pod>>>,
        trigger: Trigger,
    ) -> Self {
        Self { node, key, desired, trigger, failures: BTreeMap::new(), refreshed: None }
    }

    /// Works until nothing of the pod is left or the process stops. A stop leaves everything running.
    pub(crate) async fn run(mut self, mut stop: Stop) {
        let mut wakeups = self.trigger.wakeups(PERIOD);
        loop {
            tokio::select! {
                () = wakeups.next() => {}
                () = stop.requested() => return,
            }
            let next = tokio::select! {
                next = self.step() => next,
                () = stop.requested() => return,
            };
            match next {
                Ok(Next::Gone) => return,
                Ok(Next::Wait(Some(time))) => wakeups.again(until(time)),
                Ok(Next::Wait(None)) => {}
                Err(error) => {
                    let (pod, namespace) = (&self.key.name, &self.key.namespace);
                    tracing::warn!(pod, namespace, error = story(&error), "pod step failed, trying again");
                    wakeups.again(AFTER_ERROR);
                }
            }
        }
    }

    /// Looks, plans and acts until there is nothing more to do at once.
    async fn step(&mut self) -> Result<Next, WorkError> {
        let mut wake = None;
        for _ in 0..ROUNDS {
            let pod = self.desired.borrow_and_update().clone();
            let containers = self.node.containerd.containers(&self.key.uid).await?;
            self.watch_probes(pod.as_ref(), &containers);
            let ids: Vec<ContainerId> = containers.iter().map(|container| container.id.clone()).collect();
            let health = self.node.probes.health(&ids);
            let now = Timestamp::now();
            let view =
                View { pod: pod.as_deref(), containers: &containers, health: &health, failures: &self.failures, now };
            let plan = plan::plan(&view);
            if let Some(pod) = &pod {
                self.report(pod, &containers, &health, &plan).await?;
            }
            wake = plan.wake;
            if plan.actions.is_empty() {
                self.refresh_volumes(pod.as_deref(), &containers).await;
                break;
            }
            for action in plan.actions {
                if !self.act(action, pod.as_ref(), &containers).await? {
                    return Ok(Next::Gone);
                }
            }
        }
        Ok(Next::Wait(wake))
    }

    /// Does one thing; false when nothing of the pod is left.
    async fn act(
        &mut self,
        action: Action,
        pod: Option<&Arc<Pod>>,
        containers: &[Container],
    ) -> Result<bool, WorkError> {
        tracing::debug!(pod = self.key.name, namespace = self.key.namespace, ?action, "pod action");
        match action {
            Action::StartSandbox { attempt } => self.start_sandbox(attempt, pod).await,
            Action::StartContainer { kind, name, attempt, short_runs } => {
                self.start_container(kind, &name, (attempt, short_runs), pod, containers).await;
            }
            Action::Stop(stops) => self.stop_all(&stops, pod, containers).await?,
            Action::StopSandbox(id) => self.kill(&id).await?,
            Action::Remove(id) => self.node.containerd.remove(&id).await?,
            Action::Release => self.release(pod).await?,
            Action::Finish => {
                self.finish(pod).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn start_sandbox(&mut self, attempt: u32, pod: Option<&Arc<Pod>>) {
        let Some((pod, spec)) = pod.and_then(|pod| Some((pod, pod.spec.as_ref()?))) else { return };
        let started = Starter::new(&self.node, pod, spec, &self.key).sandbox(attempt).await;
        self.note("", pod, started);
    }

    async fn start_container(
        &mut self,
        kind: Kind,
        name: &str,
        attempt: (u32, u32),
        pod: Option<&Arc<Pod>>,
        containers: &[Container],
    ) {
        let Some((pod, spec)) = pod.and_then(|pod| Some((pod, pod.spec.as_ref()?))) else { return };
        let Some(container) = find_spec(pod, kind, name) else { return };
        let sandbox = containers.iter().filter(|c| c.kind == Kind::Sandbox).max_by_key(|c| c.attempt);
        let Some((pid, address)) = sandbox.and_then(running_sandbox) else {
            return self.note(name, pod, Err(StartError::Sandbox));
        };
        let starter = Starter::new(&self.node, pod, spec, &self.key);
        let started = starter.container(kind, container, attempt, (pid, address.clone())).await;
        match &started {
            Ok(Started { id, problem: None }) => {
                let message = format!("Started container {name} of image {}", container.image.as_deref().unwrap_or(""));
                self.node.events.tell(pod, Some(name), Gravity::Normal, "Started", message);
                self.after_start(id, container, pod, address.as_deref().unwrap_or("")).await;
            }
            Ok(Started { id: _, problem: Some(problem) }) => {
                self.node.events.tell(pod, Some(name), Gravity::Warning, "Failed", format!("Error: {problem}"));
            }
            Err(_told_by_note) => {}
        }
        self.note(name, pod, started.map(drop));
    }

    /// Runs the hook after the start; a container whose hook fails is ended.
    async fn after_start(&self, id: &ContainerId, container: &Spec, pod: &Pod, address: &str) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return;
        };
        let asked = Asked { node: &self.node, id, container, address };
        if let Err(problem) = asked.hook(hook, Duration::MAX).await {
            let message = format!("PostStart hook failed: {problem}");
            self.node.events.tell(pod, Some(&container.name), Gravity::Warning, "FailedPostStartHook", message);
            if let Err(error) = self.kill(id).await {
                tracing::warn!(
                    container = container.name,
                    error = story(&error),
                    "container with a failed hook still runs"
                );
            }
        }
    }

    /// Remembers whether a start failed, which decides when it is tried again.
    fn note(&mut self, name: &str, pod: &Pod, result: Result<(), StartError>) {
        let Err(error) = result else {
            self.failures.remove(name);
            return;
        };
        let count = self.failures.get(name).map_or(1, |failure| failure.count.saturating_add(1));
        let (reason, message) = (error.reason().to_owned(), story(&error));
        let container = Some(name).filter(|name| !name.is_empty());
        self.node.events.tell(pod, container, Gravity::Warning, "Failed", message.clone());
        self.failures.insert(name.to_owned(), Failure { count, last: Timestamp::now(), reason, message });
    }

    /// Ends containers side by side: hook, SIGTERM, grace, SIGKILL.
    async fn stop_all(
        &self,
        stops: &[StopContainer],
        pod: Option<&Arc<Pod>>,
        containers: &[Container],
    ) -> Result<(), WorkError> {
        let address =
            containers.iter().filter(|c| c.kind == Kind::Sandbox).find_map(|c| c.address.clone()).unwrap_or_default();
        let each = stops.iter().map(|stop| self.stop_one(stop, pod, &address));
        futures_util::future::try_join_all(each).await.map(drop)
    }

    async fn stop_one(&self, stop: &StopContainer, pod: Option<&Arc<Pod>>, address: &str) -> Result<(), WorkError> {
        let spec = pod.and_then(|pod| find_any_spec(pod, &stop.name));
        let grace = grace(pod.map(AsRef::as_ref));
        let deadline = tokio::time::Instant::now() + grace;
        if let Some(pod) = pod {
            self.node.events.tell(
                pod,
                Some(&stop.name),
                Gravity::Normal,
                "Killing",
                format!("Stopping container {}: {}", stop.name, stop.why),
            );
        }
        if let (Some(pod), Some(container), false) = (pod, spec, grace.is_zero()) {
            let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook {
                let asked = Asked { node: &self.node, id: &stop.id, container, address };
                if let Err(problem) = asked.hook(hook, grace).await {
                    let message = format!("PreStop hook failed: {problem}");
                    self.node.events.tell(pod, Some(&stop.name), Gravity::Warning, "FailedPreStopHook", message);
                }
            }
        }
        if !grace.is_zero() {
            self.node.containerd.signal(&stop.id, SIGTERM).await?;
            let left = deadline.saturating_duration_since(tokio::time::Instant::now()).max(LEAST_GRACE);
            if let Ok(ended) = tokio::time::timeout(left, self.node.containerd.ended(&stop.id)).await {
                return Ok(ended?);
            }
        }
        self.kill(&stop.id).await
    }

    async fn kill(&self, id: &ContainerId) -> Result<(), WorkError> {
        self.node.containerd.signal(id, SIGKILL).await?;
        let ended = tokio::time::timeout(KILL_LIMIT, self.node.containerd.ended(id)).await;
        let what = || format!("the end of container {id} after SIGKILL");
        Ok(ended.map_err(|_| RuntimeError::Late { what: what(), limit: KILL_LIMIT })??)
    }

    /// Gives back network and volumes; logs stay with the pod object.
    async fn release(&self, pod: Option<&Arc<Pod>>) -> Result<(), WorkError> {
        self.node.network.detach(&self.key.uid).await?;
        for class in spec::Qos::ALL {
            cgroups::remove(&start::pod_cgroup(&self.node, class, &self.key.uid));
        }
        volumes::remove_all(&start::pod_folder(&self.node, &self.key.uid))?;
        let gone = pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        if gone {
            let folder = start::log_folder(&self.node, &self.key);
            match std::fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(WorkError::File { path: folder, source }),
            }
        }
        Ok(())
    }

    /// Tells the API that nothing of the pod is left.
    async fn finish(&self, pod: Option<&Arc<Pod>>) -> Result<(), WorkError> {
        if pod.is_some() {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(self.key.uid.clone()), resource_version: None }),
                ..DeleteOptions::default()
            };
            let pods = self.node.client.namespaced::<Pod>(&self.key.namespace);
            match pods.delete_if_there(&self.key.name, &options).await {
                // Another pod of that name is there already: this one is gone.
                Err(error) if error.is_conflict() => {}
                other => other?,
            }
        }
        tracing::info!(pod = self.key.name, namespace = self.key.namespace, "pod is gone");
        Ok(())
    }

    /// Writes the status when it differs from what the API has.
    async fn report(
        &self,
        pod: &Pod,
        containers: &[Container],
        health: &BTreeMap<ContainerId, super::probe::Health>,
        plan: &Plan,
    ) -> Result<(), WorkError> {
        let host_ips = self.node.host_ips();
        let status =
            status::status(&Facts { pod, containers, health, plan, host_ips: &host_ips, now: Timestamp::now() });
        if pod.status.as_ref().is_some_and(|old| *old == with_foreign_fields(status.clone(), old)) {
            return Ok(());
        }
        // The uid keeps the status off another pod of the same name.
        let patch = json!({ "metadata": { "uid": self.key.uid }, "status": status });
        let pods = self.node.client.namespaced::<Pod>(&self.key.namespace);
        match pods.patch_status(&self.key.name, Patch::Merge(&patch)).await.optional() {
            Err(error) if error.is_conflict() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Starts probes of running containers and ends those of others.
    fn watch_probes(&self, pod: Option<&Arc<Pod>>, containers: &[Container]) {
        let ids: Vec<ContainerId> = containers.iter().map(|container| container.id.clone()).collect();
        let running = |container: &&Container| matches!(container.state, State::Running { .. });
        let alive: Vec<ContainerId> = containers.iter().filter(running).map(|container| container.id.clone()).collect();
        self.node.probes.keep(&ids, &alive);
        let Some(pod) = pod else { return };
        let address = containers.iter().find_map(|container| container.address.clone()).unwrap_or_default();
        for container in containers.iter().filter(running).filter(|container| container.kind != Kind::Sandbox) {
            if let Some(spec) = find_spec(pod, container.kind, &container.name) {
                ProbeBoard::watch(&self.node, pod, &container.id, spec, &address, &self.trigger);
            }
        }
    }

    /// Brings changed ConfigMaps and Secrets into the volumes of a running pod.
    async fn refresh_volumes(&mut self, pod: Option<&Pod>, containers: &[Container]) {
        let now = Timestamp::now();
        let due = self.refreshed.is_none_or(|last| now >= super::backoff::after(last, PERIOD));
        let Some((pod, spec)) = pod.and_then(|pod| Some((pod, pod.spec.as_ref()?))).filter(|_| due) else { return };
        let draws = spec.volumes.iter().flatten().any(|volume| {
            volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.projected.is_some()
                || volume.downward_api.is_some()
        });
        let Some((_, address)) = newest(containers, Kind::Sandbox, "").and_then(running_sandbox) else { return };
        self.refreshed = Some(now);
        if draws && let Err(error) = Starter::new(&self.node, pod, spec, &self.key).refresh(address).await {
            tracing::warn!(
                pod = self.key.name,
                namespace = self.key.namespace,
                error = story(&error),
                "volumes are not fresh"
            );
        }
    }
}

/// Fields of the status that others write stay out of the comparison.
fn with_foreign_fields(status: PodStatus, old: &PodStatus) -> PodStatus {
    PodStatus {
        nominated_node_name: old.nominated_node_name.clone(),
        resize: old.resize.clone(),
        ephemeral_container_statuses: old.ephemeral_container_statuses.clone(),
        message: old.message.clone(),
        reason: old.reason.clone(),
        ..status
    }
}

fn running_sandbox(sandbox: &Container) -> Option<(u32, Option<String>)> {
    match sandbox.state {
        State::Running { pid, .. } => Some((pid, sandbox.address.clone())),
        State::Created | State::Exited(_) => None,
    }
}

fn find_spec<'a>(pod: &'a Pod, kind: Kind, name: &str) -> Option<&'a Spec> {
    let spec = pod.spec.as_ref()?;
    match kind {
        Kind::Sandbox => None,
        Kind::Init => spec.init_containers.iter().flatten().find(|container| container.name == name),
        Kind::App => spec.containers.iter().find(|container| container.name == name),
    }
}

fn find_any_spec<'a>(pod: &'a Pod, name: &str) -> Option<&'a Spec> {
    find_spec(pod, Kind::App, name).or_else(|| find_spec(pod, Kind::Init, name))
}

/// How long a container may take to end: what the deletion says, else the pod.
fn grace(pod: Option<&Pod>) -> Duration {
    let of_deletion = pod.and_then(|pod| pod.metadata.deletion_grace_period_seconds);
    let of_pod = pod.and_then(|pod| pod.spec.as_ref()?.termination_grace_period_seconds);
    of_deletion.or(of_pod).map_or(GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}
