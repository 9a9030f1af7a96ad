//! Runs the probes of running containers and keeps what they say.
//!
//! One task for each probe of each container, `probe <kind> <container>`, spawned by [`ProbeBoard::watch`]; it ends when the
//! container is forgotten. A verdict wakes the pod's worker.

use super::hooks::{Asked, Question};
use super::probe::{Counter, Health, ProbeKind, Schedule, initial};
use crate::events::Gravity;
use crate::node::Node;
use crate::runtime::ContainerId;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use machined_reconcile::{Restart, Trigger};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Health of the node's running containers.
#[derive(Default)]
pub(crate) struct ProbeBoard {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
}

struct Entry {
    health: Health,
    /// Dropped with the entry, which ends the container's probes.
    _alive: watch::Sender<()>,
}

/// A container whose probes run.
#[derive(Clone)]
struct Watched {
    node: Arc<Node>,
    pod: Arc<Pod>,
    id: ContainerId,
    container: Container,
    address: String,
    worker: Trigger,
}

impl ProbeBoard {
    /// Starts a container's probes; those that run already are kept.
    pub(crate) fn watch(
        node: &Arc<Node>,
        pod: &Arc<Pod>,
        id: &ContainerId,
        container: &Container,
        address: &str,
        worker: &Trigger,
    ) {
        let gone;
        {
            let alive = watch::Sender::new(());
            let mut entries = node.probes.entries.lock().expect("because no holder of this lock panics");
            if entries.contains_key(id) {
                return;
            }
            gone = alive.subscribe();
            entries.insert(id.clone(), Entry { health: initial(container), _alive: alive });
        }
        let watched = Watched {
            node: Arc::clone(node),
            pod: Arc::clone(pod),
            id: id.clone(),
            container: container.clone(),
            address: address.to_owned(),
            worker: worker.clone(),
        };
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            let Some(probe) = kind.of(container).cloned() else { continue };
            let (watched, gone) = (watched.clone(), gone.clone());
            let name = format!("{} probe of {}", kind.name(), container.name);
            node.supervisor.spawn(name, Restart::Never, move |mut stop| {
                let (watched, probe, mut gone) = (watched.clone(), probe.clone(), gone.clone());
                async move {
                    tokio::select! {
                        () = watched.run(kind, &probe) => {}
                        _forgotten = gone.changed() => {}
                        () = stop.requested() => {}
                    }
                    Ok::<(), Infallible>(())
                }
            });
        }
    }

    /// Ends the probes of those of a pod's `known` containers that are not `running`.
    pub(crate) fn keep(&self, known: &[ContainerId], running: &[ContainerId]) {
        let mut entries = self.entries.lock().expect("because no holder of this lock panics");
        entries.retain(|id, _| !known.contains(id) || running.contains(id));
    }

    /// What is known of these containers.
    #[must_use]
    pub(crate) fn health(&self, ids: &[ContainerId]) -> BTreeMap<ContainerId, Health> {
        let entries = self.entries.lock().expect("because no holder of this lock panics");
        ids.iter().filter_map(|id| Some((id.clone(), entries.get(id)?.health.clone()))).collect()
    }

    fn judge(&self, id: &ContainerId, kind: ProbeKind, success: bool, detail: &str, container: &Container) -> bool {
        let mut entries = self.entries.lock().expect("because no holder of this lock panics");
        let Some(entry) = entries.get_mut(id) else { return false };
        let before = entry.health.clone();
        entry.health.judge(kind, success, detail, container);
        entry.health != before
    }

    fn started(&self, id: &ContainerId) -> bool {
        let entries = self.entries.lock().expect("because no holder of this lock panics");
        entries.get(id).is_some_and(|entry| entry.health.started)
    }
}

impl Watched {
    /// Tries on and on; returns when a startup probe has succeeded or a probe has given up on the container.
    async fn run(&self, kind: ProbeKind, probe: &Probe) {
        let schedule = Schedule::of(probe);
        tokio::time::sleep(schedule.delay).await;
        let mut counter = Counter::default();
        let mut tick = tokio::time::interval(schedule.period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if kind != ProbeKind::Startup && !self.node.probes.started(&self.id) {
                continue;
            }
            let result = self.try_once(probe, &schedule).await;
            let detail = result.as_ref().err().cloned().unwrap_or_default();
            if result.is_err() {
                let message = format!("{} probe failed: {detail}", kind.name());
                self.node.events.tell(&self.pod, Some(&self.container.name), Gravity::Warning, "Unhealthy", message);
            }
            let Some(success) = counter.count(result.is_ok(), &schedule) else { continue };
            if self.node.probes.judge(&self.id, kind, success, &detail, &self.container) {
                self.worker.fire();
            }
            if kind == ProbeKind::Startup || (kind == ProbeKind::Liveness && !success) {
                return;
            }
        }
    }

    async fn try_once(&self, probe: &Probe, schedule: &Schedule) -> Result<(), String> {
        let question = match (&probe.exec, &probe.http_get, &probe.tcp_socket) {
            (Some(exec), ..) => Question::Exec(exec),
            (None, Some(get), _) => Question::Http(get),
            (None, None, Some(tcp)) => Question::Tcp(tcp),
            (None, None, None) => Question::Unknown,
        };
        let asked = Asked { node: &self.node, id: &self.id, container: &self.container, address: &self.address };
        asked.ask(&question, schedule.limit).await
    }
}
