//! What a pod needs next: from the pod, what the runtime says and what probes say to a list of actions. Pure.
//!
//! ```text
//! sandbox gone -> stop what runs -> new sandbox -> init containers, one after the other -> containers
//!                                                   ^ exit: restart policy and back-off ^
//! deleted -> stop all (grace) -> stop sandbox -> remove all -> release -> finish
//! over (no container will be started again) -> stop sandbox -> release
//! ```
//! The worker calls it after every wake-up and does what it says; it is never told what changed.

use super::backoff::{self, Restart};
use super::probe::Health;
use crate::runtime::{Container, ContainerId, Exit, Kind, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec};
use std::collections::BTreeMap;

/// Ended containers of a name that are kept beside the newest, for the last state and previous logs.
const KEPT: u32 = 1;

/// What is known when a plan is made.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The pod; none when the API no longer has it.
    pub(crate) pod: Option<&'a Pod>,
    /// Its containers, as the runtime knows them.
    pub(crate) containers: &'a [Container],
    /// What probes say of running containers.
    pub(crate) health: &'a BTreeMap<ContainerId, Health>,
    /// Failed tries to start a container, by its name; the sandbox's name is empty.
    pub(crate) failures: &'a BTreeMap<String, Failure>,
    /// Now.
    pub(crate) now: Timestamp,
}

/// Tries in a row that could not start a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How many, at least one.
    pub(crate) count: u32,
    /// When the last one was.
    pub(crate) last: Timestamp,
    /// Short, for machines: "ErrImagePull".
    pub(crate) reason: String,
    /// Long, for people.
    pub(crate) message: String,
}

/// What to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The actions; after them the worker looks again.
    pub(crate) actions: Vec<Action>,
    /// Look again at this time even if nothing happens.
    pub(crate) wake: Option<Timestamp>,
    /// Why containers wait, by name.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    /// Whether no container of the pod will ever be started again.
    pub(crate) over: bool,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Short, for machines: "CrashLoopBackOff".
    pub(crate) reason: String,
    /// Long, for people.
    pub(crate) message: Option<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make network, files and sandbox.
    StartSandbox {
        /// Number of the sandbox.
        attempt: u32,
    },
    /// Get the image and start the container.
    StartContainer {
        /// Init container or container.
        kind: Kind,
        /// Its name.
        name: String,
        /// Number of the run.
        attempt: u32,
        /// Short runs in a row before it.
        short_runs: u32,
    },
    /// End containers together: hooks, signal, grace, kill.
    Stop(Vec<Stop>),
    /// End the sandbox.
    StopSandbox(ContainerId),
    /// Forget an ended container.
    Remove(ContainerId),
    /// Give back network, volumes and files.
    Release,
    /// Tell the API that nothing is left, so that the pod may go.
    Finish,
}

/// One container to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Which.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: String,
    /// Why, for an event.
    pub(crate) why: String,
}

/// Decides what the pod needs next.
#[must_use]
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let gone = view.pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    match view.pod.and_then(|pod| pod.spec.as_ref()) {
        Some(spec) if !gone => Planner { view, spec, plan: Plan::default() }.run(),
        Some(_) | None => tear_down(view),
    }
}

/// Whether the container is restarted for as long as the pod lives, beside the others: a sidecar.
#[must_use]
pub(crate) fn is_sidecar(container: &Spec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The newest container of a kind and name.
#[must_use]
pub(crate) fn newest<'a>(containers: &'a [Container], kind: Kind, name: &str) -> Option<&'a Container> {
    containers.iter().filter(|c| c.kind == kind && c.name == name).max_by_key(|c| c.attempt)
}

fn is_running(container: &&Container) -> bool {
    matches!(container.state, State::Running { .. })
}

fn stop(container: &Container, why: &str) -> Stop {
    Stop { id: container.id.clone(), name: container.name.clone(), why: why.to_owned() }
}

/// A pod that is to go: processes first, then the sandbox, then everything else.
fn tear_down(view: &View<'_>) -> Plan {
    let workload = |container: &&Container| container.kind != Kind::Sandbox;
    let running: Vec<Stop> =
        view.containers.iter().filter(is_running).filter(workload).map(|c| stop(c, "the pod is deleted")).collect();
    let sandboxes = view.containers.iter().filter(is_running).filter(|c| !workload(c));
    let mut actions: Vec<Action> = Vec::new();
    if running.is_empty() {
        actions.extend(sandboxes.map(|sandbox| Action::StopSandbox(sandbox.id.clone())));
    } else {
        actions.push(Action::Stop(running));
    }
    if actions.is_empty() {
        actions.extend(view.containers.iter().map(|container| Action::Remove(container.id.clone())));
        actions.push(Action::Release);
        actions.push(Action::Finish);
    }
    Plan { actions, over: true, ..Plan::default() }
}

/// What is to be done about one container.
enum Next {
    /// It runs, or it has ended for good.
    Nothing,
    /// It has to be started.
    Start { attempt: u32, short_runs: u32 },
    /// It waits.
    Wait,
}

struct Planner<'a> {
    view: &'a View<'a>,
    spec: &'a PodSpec,
    plan: Plan,
}

impl Planner<'_> {
    fn run(mut self) -> Plan {
        self.forget_old();
        if self.is_over() {
            self.finish();
            return self.plan;
        }
        let sandbox = self.view.containers.iter().filter(|c| c.kind == Kind::Sandbox).max_by_key(|c| c.attempt);
        match sandbox {
            Some(sandbox) if is_running(&sandbox) => {
                self.stop_unhealthy();
                if self.init_containers() {
                    self.containers();
                }
            }
            other => self.new_sandbox(other),
        }
        self.plan
    }

    /// Ended containers but the newest of each name and the one before it.
    fn forget_old(&mut self) {
        for container in self.view.containers.iter().filter(|c| c.kind != Kind::Sandbox) {
            let newest = newest(self.view.containers, container.kind, &container.name).map_or(0, |c| c.attempt);
            if container.attempt + KEPT < newest && !is_running(&container) {
                self.plan.actions.push(Action::Remove(container.id.clone()));
            }
        }
    }

    /// No container will be started again: all have ended for good, or an init container failed for good.
    fn is_over(&self) -> bool {
        let ended_for_good = |kind: Kind, spec: &Spec| {
            self.exit_of(kind, &spec.name).is_some_and(|exit| !self.restarts(kind, spec, exit))
        };
        let failed_init = self.inits().any(|spec| {
            !is_sidecar(spec)
                && ended_for_good(Kind::Init, spec)
                && self.exit_of(Kind::Init, &spec.name).is_some_and(|exit| exit.code != 0)
        });
        failed_init || self.spec.containers.iter().all(|spec| ended_for_good(Kind::App, spec))
    }

    fn finish(&mut self) {
        self.plan.over = true;
        let running = self.view.containers.iter().filter(is_running);
        let (sandboxes, rest): (Vec<_>, Vec<_>) = running.partition(|c| c.kind == Kind::Sandbox);
        if !rest.is_empty() {
            let stops = rest.into_iter().map(|container| stop(container, "the pod's containers have ended"));
            self.plan.actions.push(Action::Stop(stops.collect()));
        } else if !sandboxes.is_empty() {
            self.plan.actions.extend(sandboxes.into_iter().map(|sandbox| Action::StopSandbox(sandbox.id.clone())));
            self.plan.actions.push(Action::Release);
        }
    }

    /// A pod without a living sandbox starts anew, init containers included; what still runs in the old one ends.
    fn new_sandbox(&mut self, old: Option<&Container>) {
        let running: Vec<Stop> =
            self.view.containers.iter().filter(is_running).map(|c| stop(c, "the pod's sandbox has ended")).collect();
        if !running.is_empty() {
            self.plan.actions.push(Action::Stop(running));
            return;
        }
        if self.waits_after_failure("") {
            for spec in self.inits().chain(&self.spec.containers).map(|spec| spec.name.clone()).collect::<Vec<_>>() {
                self.wait(&spec, "ContainerCreating", None);
            }
            return;
        }
        let init = self.view.containers.iter().filter(|c| c.kind == Kind::Init);
        let stale: Vec<Action> = init.chain(old).map(|container| Action::Remove(container.id.clone())).collect();
        for action in stale {
            if !self.plan.actions.contains(&action) {
                self.plan.actions.push(action);
            }
        }
        let attempt = old.map_or(0, |sandbox| sandbox.attempt + 1);
        self.plan.actions.push(Action::StartSandbox { attempt });
    }

    /// Starts the next init container; true when all have done their work.
    fn init_containers(&mut self) -> bool {
        let mut before_all_done = true;
        for spec in self.inits().cloned().collect::<Vec<_>>() {
            if !before_all_done {
                self.wait(&spec.name, "PodInitializing", None);
                continue;
            }
            let next = self.next(Kind::Init, &spec);
            let newest = newest(self.view.containers, Kind::Init, &spec.name);
            before_all_done = match (&next, newest) {
                (Next::Nothing, Some(container)) if is_sidecar(&spec) => self.has_started(container),
                (Next::Nothing, Some(container)) => !is_running(&container),
                (Next::Nothing, None) | (Next::Start { .. } | Next::Wait, _) => false,
            };
            self.act(Kind::Init, &spec.name, next);
        }
        if !before_all_done {
            for name in self.spec.containers.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>() {
                if newest(self.view.containers, Kind::App, &name).is_none() {
                    self.wait(&name, "PodInitializing", None);
                }
            }
        }
        before_all_done
    }

    fn containers(&mut self) {
        for spec in &self.spec.containers {
            let next = self.next(Kind::App, spec);
            self.act(Kind::App, &spec.name, next);
        }
    }

    fn act(&mut self, kind: Kind, name: &str, next: Next) {
        match next {
            Next::Start { attempt, short_runs } => {
                self.wait(name, "ContainerCreating", None);
                self.plan.actions.push(Action::StartContainer { kind, name: name.to_owned(), attempt, short_runs });
            }
            Next::Nothing | Next::Wait => {}
        }
    }

    fn next(&mut self, kind: Kind, spec: &Spec) -> Next {
        if self.waits_after_failure(&spec.name) {
            return Next::Wait;
        }
        let Some(container) = newest(self.view.containers, kind, &spec.name) else {
            return Next::Start { attempt: 0, short_runs: 0 };
        };
        match &container.state {
            State::Running { .. } => Next::Nothing,
            // The agent died between making and starting it; the same attempt is made again.
            State::Created => Next::Start { attempt: container.attempt, short_runs: container.short_runs },
            State::Exited(exit) if self.restarts(kind, spec, exit) => {
                let restart = backoff::restart(exit, container.short_runs);
                self.restart(&spec.name, container.attempt, restart)
            }
            State::Exited(_) => Next::Nothing,
        }
    }

    fn restart(&mut self, name: &str, attempt: u32, restart: Restart) -> Next {
        if self.view.now >= restart.at {
            return Next::Start { attempt: attempt + 1, short_runs: restart.short_runs };
        }
        self.wake_at(restart.at);
        let message = format!("back-off {} s restarting container {name:?}", restart.delay.as_secs());
        self.wait(name, "CrashLoopBackOff", Some(message));
        Next::Wait
    }

    fn restarts(&self, kind: Kind, spec: &Spec, exit: &Exit) -> bool {
        let policy = self.spec.restart_policy.as_deref().unwrap_or("Always");
        match kind {
            Kind::Init if is_sidecar(spec) => true,
            Kind::Init => exit.code != 0 && policy != "Never",
            Kind::App | Kind::Sandbox => match policy {
                "Never" => false,
                "OnFailure" => exit.code != 0,
                _always => true,
            },
        }
    }

    /// Containers that a liveness or startup probe gave up on are ended; their exit does the rest.
    fn stop_unhealthy(&mut self) {
        let unhealthy = self.view.containers.iter().filter(is_running).filter_map(|container| {
            let why = self.view.health.get(&container.id)?.unhealthy.as_ref()?;
            Some(stop(container, why))
        });
        let stops: Vec<Stop> = unhealthy.collect();
        if !stops.is_empty() {
            self.plan.actions.push(Action::Stop(stops));
        }
    }

    /// Whether a failed start keeps the container waiting; sets wake-up and reason then.
    fn waits_after_failure(&mut self, name: &str) -> bool {
        let Some(failure) = self.view.failures.get(name) else { return false };
        let again = backoff::after(failure.last, backoff::wait(failure.count - 1));
        if self.view.now >= again {
            return false;
        }
        self.wake_at(again);
        let reason =
            if failure.reason == "ErrImagePull" && failure.count > 1 { "ImagePullBackOff" } else { &failure.reason };
        self.wait(name, reason, Some(failure.message.clone()));
        true
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(time, |earlier| earlier.min(time)));
    }

    fn wait(&mut self, name: &str, reason: &str, message: Option<String>) {
        self.plan.waiting.insert(name.to_owned(), Waiting { reason: reason.to_owned(), message });
    }

    fn has_started(&self, container: &Container) -> bool {
        is_running(&container) && self.view.health.get(&container.id).is_some_and(|health| health.started)
    }

    fn exit_of(&self, kind: Kind, name: &str) -> Option<&Exit> {
        match &newest(self.view.containers, kind, name)?.state {
            State::Exited(exit) => Some(exit),
            State::Created | State::Running { .. } => None,
        }
    }

    fn inits(&self) -> impl Iterator<Item = &Spec> {
        self.spec.init_containers.iter().flatten()
    }
}
