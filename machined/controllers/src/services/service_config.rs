//! Decides which services should run: the container runtime once extensions are merged, gitsync once introduced, the control plane once a
//! step is applied, nothing while the machine stops.

use super::{Health, Place, Reach, ServiceSpec};
use crate::block::{EPHEMERAL, STATE, Volume};
use crate::extensions::Merged;
use crate::introduction::Introduced;
use crate::ledger::DesiredMachine;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader, Resource, Set, Writer};
use std::convert::Infallible;

/// Somebody asked the machine to stop; the id is [`Stopping::ID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping;

impl Stopping {
    /// The id of the one wish.
    pub const ID: &'static str = "stopping";
}

impl Resource for Stopping {
    const KIND: &'static str = "stopping";
}

/// The container runtime.
pub const CONTAINERD: &str = "containerd";
/// Follows the repository.
pub const GITSYNC: &str = "gitsync";
/// What runs on top of the machine.
pub const CONTROLPLANE: &str = "controlplane";

/// What the choice depends on.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    state: bool,
    ephemeral: bool,
    merged: bool,
    introduced: bool,
    applied: bool,
    stopping: bool,
}

fn service(command: &str, health: Health, reach: Reach, after: &[&str]) -> ServiceSpec {
    ServiceSpec {
        command: command.split(' ').map(str::to_owned).collect(),
        place: Place::Machine,
        health,
        reach,
        after: after.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn choose(facts: Facts) -> Set<ServiceSpec> {
    let mut services = Set::new();
    if facts.stopping {
        return services;
    }
    if facts.ephemeral && facts.merged {
        let socket = Health::Socket("/run/containerd/containerd.sock".to_owned());
        let command = "/usr/bin/containerd --config /etc/containerd/config.toml";
        // Its children are containers' shims: they must outlive it, so it is only ever signalled by pid.
        let containerd = ServiceSpec { place: Place::BehindWalls, ..service(command, socket, Reach::Main, &[]) };
        services.insert(CONTAINERD.to_owned(), containerd);
    }
    if facts.state && facts.introduced {
        services.insert(GITSYNC.to_owned(), service("/usr/bin/gitsync run", Health::Process, Reach::Group, &[]));
    }
    if facts.state && facts.ephemeral && facts.applied {
        // It has no children, and waits for nothing: its server part can come up while containerd does.
        let command = "/usr/bin/controlplane machine";
        services.insert(CONTROLPLANE.to_owned(), service(command, Health::Process, Reach::Group, &[]));
    }
    services
}

/// Writes [`ServiceSpec`].
pub struct ServiceConfigController {
    volumes: Reader<Volume>,
    merged: Reader<Merged>,
    introduced: Reader<Introduced>,
    desired: Reader<DesiredMachine>,
    stopping: Reader<Stopping>,
    specs: Writer<ServiceSpec>,
}

impl ServiceConfigController {
    /// Declares inputs and output at `ports`.
    pub fn new(ports: &mut Ports) -> Self {
        ServiceConfigController {
            volumes: ports.input(),
            merged: ports.input(),
            introduced: ports.input(),
            desired: ports.input(),
            stopping: ports.input(),
            specs: ports.output(),
        }
    }
}

impl Controller for ServiceConfigController {
    type Error = Infallible;

    async fn reconcile(&mut self) -> Result<Outcome, Infallible> {
        let volumes = self.volumes.all();
        self.specs.replace(choose(Facts {
            state: volumes.contains_key(STATE),
            ephemeral: volumes.contains_key(EPHEMERAL),
            merged: self.merged.get(Merged::ID).is_some(),
            introduced: matches!(self.introduced.get(Introduced::ID), Some(Introduced::As(_))),
            applied: self.desired.get(DesiredMachine::ID).is_some(),
            stopping: self.stopping.get(Stopping::ID).is_some(),
        }));
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(facts: Facts) -> Vec<String> {
        choose(facts).into_keys().collect()
    }

    #[test]
    fn services_come_as_the_machine_learns_more() {
        let mut facts = Facts::default();
        assert!(names(facts).is_empty());
        facts.ephemeral = true;
        assert!(names(facts).is_empty(), "it would not see what is merged later");
        facts.merged = true;
        assert_eq!(names(facts), [CONTAINERD]);
        (facts.state, facts.introduced) = (true, true);
        assert_eq!(names(facts), [CONTAINERD, GITSYNC]);
        facts.applied = true;
        assert_eq!(names(facts), [CONTAINERD, CONTROLPLANE, GITSYNC]);
        facts.stopping = true;
        assert!(names(facts).is_empty());
    }

    #[test]
    fn nothing_but_the_container_runtime_is_behind_the_walls() {
        let all =
            Facts { state: true, ephemeral: true, merged: true, introduced: true, applied: true, stopping: false };
        for (name, spec) in choose(all) {
            let expected = if name == CONTAINERD { Place::BehindWalls } else { Place::Machine };
            assert_eq!(spec.place, expected, "{name}");
        }
    }

    #[test]
    fn the_container_runtime_is_only_ever_signalled_by_pid() {
        let services = choose(Facts { ephemeral: true, merged: true, ..Facts::default() });
        assert_eq!(services[CONTAINERD].reach, Reach::Main);
    }
}
