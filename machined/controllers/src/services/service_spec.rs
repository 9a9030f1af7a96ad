//! Runs every service's life: adopts, starts, watches, stops.

use super::service_machine::{Action, ServiceMachine, Wish};
use super::{ServiceError, ServiceHost, ServiceSpec, ServiceState, ServiceStatus};
use machined_reconcile::{Outcome, Trigger};
use machined_runtime::{Controller, Ports, Reader, Set, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How soon to look at the health of a service that starts; its socket appears without anybody telling.
const STARTING_POLL: Duration = Duration::from_millis(250);
/// How soon to look at the health of a service that runs.
const RUNNING_POLL: Duration = Duration::from_secs(5);

/// Names of services that people asked to restart; shared with the machine API. A name asked twice counts once.
#[derive(Clone, Default)]
pub struct RestartRequests {
    names: Arc<Mutex<BTreeSet<String>>>,
    trigger: Trigger,
}

impl RestartRequests {
    /// Asks for a restart. The caller has checked that the service exists, which limits the number of names.
    pub fn ask(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.trigger.fire();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes [`ServiceStatus`].
pub struct ServiceController<H> {
    host: Arc<H>,
    specs: Reader<ServiceSpec>,
    status: Writer<ServiceStatus>,
    restarts: RestartRequests,
    /// Each service with the specification it was started from, which says how to stop it.
    lives: BTreeMap<String, (ServiceSpec, ServiceMachine)>,
}

impl<H: ServiceHost> ServiceController<H> {
    /// Declares input and output at `ports`; gives the handle for restarts too.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> (Self, RestartRequests) {
        let restarts = RestartRequests { trigger: ports.trigger(), ..RestartRequests::default() };
        let controller = ServiceController {
            host,
            specs: ports.input(),
            status: ports.output(),
            restarts: restarts.clone(),
            lives: BTreeMap::new(),
        };
        (controller, restarts)
    }

    /// Begins the life of services that are new, with the process that an earlier machined left.
    async fn meet(&mut self, specs: &Set<ServiceSpec>) {
        for (name, spec) in specs {
            if let Some((known, _)) = self.lives.get_mut(name) {
                known.clone_from(spec);
                continue;
            }
            let mut machine = ServiceMachine::default();
            if let Some(pid) = self.host.adopt(name).await {
                tracing::info!(service = name, pid, "adopted a running service");
                machine.started(pid, Instant::now());
            }
            self.lives.insert(name.clone(), (spec.clone(), machine));
        }
    }

    /// Takes in what happened to processes.
    fn notice_ends(&mut self) {
        let now = Instant::now();
        for (pid, how) in self.host.ended() {
            let life = self.lives.iter_mut().find(|(_, (_, machine))| machine.pid() == Some(pid));
            if let Some((name, (_, machine))) = life {
                tracing::warn!(service = name, pid, how = %how, "service ended");
                machine.ended(how, now);
            }
        }
    }

    async fn act(&mut self, name: &str, wish: Wish, restart: bool) -> Result<(), ServiceError> {
        let Some((spec, machine)) = self.lives.get_mut(name) else { return Ok(()) };
        let now = Instant::now();
        let action = if restart { machine.restart(now) } else { Action::None };
        let action = if action == Action::None { machine.step(wish, now) } else { action };
        match action {
            Action::None => Ok(()),
            Action::Launch => match self.host.launch(name, spec).await {
                Ok(pid) => {
                    tracing::info!(service = name, pid, "service started");
                    machine.started(pid, Instant::now());
                    Ok(())
                }
                Err(error) => {
                    machine.not_started(format!("{error}: {}", error.source), Instant::now());
                    Err(error)
                }
            },
            Action::Signal(pid, signal) => {
                tracing::info!(service = name, pid, ?signal, "service is asked to end");
                self.host.signal(name, pid, signal, spec.reach)
            }
        }
    }

    async fn check_health(&mut self) {
        for (spec, machine) in self.lives.values_mut() {
            if machine.pid().is_some() {
                machine.checked(self.host.healthy(&spec.health).await);
            }
        }
    }

    /// The first service in `spec.after` that is not healthy.
    fn missing<'a>(&self, spec: &'a ServiceSpec) -> Option<&'a str> {
        let healthy = |name: &str| self.lives.get(name).is_some_and(|(_, machine)| machine.status(None).healthy);
        spec.after.iter().map(String::as_str).find(|name| !healthy(name))
    }

    fn report(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Duration> = None;
        let mut statuses = Set::new();
        for (name, (spec, machine)) in &self.lives {
            let status = machine.status(self.missing(spec));
            let poll = match status.state {
                ServiceState::Starting => Some(STARTING_POLL),
                ServiceState::Running if status.healthy => Some(RUNNING_POLL),
                ServiceState::Running => Some(STARTING_POLL),
                ServiceState::Waiting | ServiceState::Stopping | ServiceState::Backoff | ServiceState::Finished => None,
            };
            next = [next, poll, machine.next(now)].into_iter().flatten().min();
            statuses.insert(name.clone(), status);
        }
        self.status.replace(statuses);
        next
    }
}

impl<H: ServiceHost> Controller for ServiceController<H> {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<Outcome, Infallible> {
        let specs = self.specs.all();
        self.meet(&specs).await;
        self.notice_ends();
        self.check_health().await;
        let restarts = self.restarts.take();
        let names: Vec<String> = self.lives.keys().cloned().collect();
        for name in names {
            let wanted = specs.contains_key(&name);
            let ready = specs.get(&name).is_some_and(|spec| self.missing(spec).is_none());
            if let Err(error) = self.act(&name, Wish { wanted, ready }, restarts.contains(&name)).await {
                tracing::error!(service = name, error = %error, cause = %error.source, "service could not be handled");
            }
        }
        self.check_health().await;
        Ok(self.report().map_or(Outcome::Done, Outcome::Again))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ended, Health, Place, Reach, StopSignal};
    use super::*;
    use machined_reconcile::Supervisor;
    use machined_runtime::{Store, start};

    /// Processes in memory. A signalled process ends at once, as a good service does.
    #[derive(Default)]
    struct World {
        next_pid: u32,
        left_running: BTreeMap<String, u32>,
        ended: Vec<(u32, Ended)>,
        did: Vec<String>,
    }

    #[derive(Clone)]
    struct FakeProcesses(Arc<Mutex<World>>, Trigger);

    impl FakeProcesses {
        fn world(&self) -> std::sync::MutexGuard<'_, World> {
            self.0.lock().expect("because no test panics with it")
        }
        fn end(&self, pid: u32, how: Ended) {
            self.world().ended.push((pid, how));
            self.1.fire();
        }
    }

    impl ServiceHost for FakeProcesses {
        async fn launch(&self, name: &str, _: &ServiceSpec) -> Result<u32, ServiceError> {
            let mut world = self.world();
            world.next_pid += 1;
            world.did.push(format!("launch {name}"));
            Ok(world.next_pid)
        }
        async fn adopt(&self, name: &str) -> Option<u32> {
            self.world().left_running.get(name).copied()
        }
        fn ended(&self) -> Vec<(u32, Ended)> {
            std::mem::take(&mut self.world().ended)
        }
        fn signal(&self, name: &str, pid: u32, signal: StopSignal, _: Reach) -> Result<(), ServiceError> {
            self.world().did.push(format!("{signal:?} {name}"));
            self.end(pid, Ended::Signal(15));
            Ok(())
        }
        async fn healthy(&self, _: &Health) -> bool {
            true
        }
    }

    struct Machine {
        host: FakeProcesses,
        specs: Writer<ServiceSpec>,
        status: Reader<ServiceStatus>,
        restarts: RestartRequests,
        supervisor: Supervisor,
    }

    fn machine(left_running: &[(&str, u32)]) -> Machine {
        let (store, supervisor) = (Store::new(), Supervisor::new());
        let mut ports = Ports::new(&store, "services");
        let left_running = left_running.iter().map(|(name, pid)| ((*name).to_owned(), *pid)).collect();
        let world = World { next_pid: 100, left_running, ..World::default() };
        let host = FakeProcesses(Arc::new(Mutex::new(world)), ports.trigger());
        let (controller, restarts) = ServiceController::new(&mut ports, Arc::new(host.clone()));
        start(&supervisor, &ports, controller);
        let specs = store.writer().expect("because nobody else writes it");
        Machine { host, specs, status: store.reader(), restarts, supervisor }
    }

    fn spec(after: &[&str]) -> ServiceSpec {
        let after = after.iter().map(|name| (*name).to_owned()).collect();
        ServiceSpec {
            command: vec!["/usr/bin/x".to_owned()],
            place: Place::Machine,
            health: Health::Process,
            reach: Reach::Group,
            after,
        }
    }

    impl Machine {
        async fn until(&mut self, name: &str, test: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
            self.status.wait_for(|set| set.get(name).is_some_and(&test)).await[name].clone()
        }
        async fn done(self) -> Vec<String> {
            self.supervisor.stop(Duration::from_secs(1)).await;
            std::mem::take(&mut self.host.world().did)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_died_is_started_again() {
        let mut machine = machine(&[]);
        machine.specs.put("gitsync", spec(&[]));
        let first = machine.until("gitsync", |status| status.healthy).await;
        machine.host.end(first.pid.expect("because it runs"), Ended::Code(1));
        let second = machine.until("gitsync", |status| status.healthy && status.restarts == 1).await;
        assert_ne!(first.pid, second.pid);
        assert_eq!(second.message, "exited with code 1");
        assert_eq!(machine.done().await, ["launch gitsync", "launch gitsync"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_machined_left_running_is_adopted_and_not_started() {
        let mut machine = machine(&[("containerd", 7)]);
        machine.specs.put("containerd", spec(&[]));
        assert_eq!(machine.until("containerd", |status| status.healthy).await.pid, Some(7));
        machine.host.end(7, Ended::Signal(9));
        machine.until("containerd", |status| status.healthy && status.pid == Some(101)).await;
        assert_eq!(machine.done().await, ["launch containerd"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_waits_for_the_ones_before_it() {
        let mut machine = machine(&[]);
        machine.specs.put("b", spec(&["a"]));
        assert_eq!(machine.until("b", |status| status.state == ServiceState::Waiting).await.message, "waits for a");
        machine.specs.put("a", spec(&[]));
        machine.until("b", |status| status.healthy).await;
        assert_eq!(machine.done().await, ["launch a", "launch b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_and_the_end_of_a_service_go_by_signal() {
        let mut machine = machine(&[]);
        machine.specs.put("gitsync", spec(&[]));
        machine.until("gitsync", |status| status.healthy).await;
        machine.restarts.ask("gitsync");
        machine.until("gitsync", |status| status.healthy && status.restarts == 1).await;
        machine.specs.remove("gitsync");
        machine.until("gitsync", |status| status.state == ServiceState::Finished).await;
        let expected = ["launch gitsync", "Terminate gitsync", "launch gitsync", "Terminate gitsync"];
        assert_eq!(machine.done().await, expected);
    }
}
