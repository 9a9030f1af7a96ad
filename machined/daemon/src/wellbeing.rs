//! What a new image must show before it is good: the API answers, the ledger was read, every service that should run is healthy, and no
//! service reports what makes the machine useless.
//!
//! Asked by the upgrade controller during a try. Conditions are the services' own words: machined knows nothing of what they serve.

use crate::facts::api_answers;
use crate::reports::Reports;
use machined_api::Condition;
use machined_controllers::introduction::Introduced;
use machined_controllers::ledger::{DesiredMachine, LedgerRead};
use machined_controllers::services::{ServiceSpec, ServiceStatus};
use machined_runtime::{Reader, Set, Store};

/// Conditions that the services of a machine with a place in a cluster report, and that must be true: the control plane answers, its node
/// is ready. What was not reported since machined started is not known to be true.
const NEEDED: [&str; 2] = ["ControlPlaneReady", "NodeReady"];

/// A probe on this machine's resources; the error says what is missing.
pub(crate) fn probe(store: &Store, reports: Reports) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
    let (specs, services): (Reader<ServiceSpec>, Reader<ServiceStatus>) = (store.reader(), store.reader());
    let (ledger, introduced): (Reader<LedgerRead>, Reader<Introduced>) = (store.reader(), store.reader());
    let desired: Reader<DesiredMachine> = store.reader();
    move || {
        if !api_answers() {
            return Err("the machine API does not answer yet".to_owned());
        }
        if ledger.all().is_empty() || introduced.get(Introduced::ID).is_none() {
            return Err("the state volume was not read yet".to_owned());
        }
        if desired.get(DesiredMachine::ID).is_some() && specs.all().len() < SERVICES_OF_A_MEMBER {
            return Err("not all services are wanted yet".to_owned());
        }
        all_healthy(&specs.all(), &services.all())?;
        if desired.get(DesiredMachine::ID).is_some() { all_true(&reports.conditions()) } else { Ok(()) }
    }
}

fn all_true(conditions: &[Condition]) -> Result<(), String> {
    for needed in NEEDED {
        match conditions.iter().find(|condition| condition.r#type == needed) {
            Some(condition) if condition.status => {}
            Some(condition) => return Err(format!("{needed} is false: {}", condition.message)),
            None => return Err(format!("{needed} was not reported yet")),
        }
    }
    Ok(())
}

/// containerd, gitsync and the control plane: what a machine runs once a step was applied.
const SERVICES_OF_A_MEMBER: usize = 3;

fn all_healthy(specs: &Set<ServiceSpec>, services: &Set<ServiceStatus>) -> Result<(), String> {
    if specs.is_empty() {
        return Err("no service is wanted yet".to_owned());
    }
    let sick = specs.keys().find(|name| !services.get(*name).is_some_and(|status| status.healthy));
    sick.map_or(Ok(()), |name| {
        let why = services.get(name).map(|status| status.message.clone()).filter(|message| !message.is_empty());
        Err(format!("service {name} is not healthy{}", why.map(|why| format!(": {why}")).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_controllers::services::{Health, Place, Reach, ServiceState};

    fn spec() -> ServiceSpec {
        ServiceSpec {
            command: Vec::new(),
            place: Place::Machine,
            health: Health::Process,
            reach: Reach::Main,
            after: Vec::new(),
        }
    }

    fn status(healthy: bool) -> ServiceStatus {
        let message = if healthy { "" } else { "exited with code 1" }.to_owned();
        ServiceStatus { state: ServiceState::Running, healthy, pid: None, restarts: 0, message }
    }

    #[test]
    fn an_image_whose_node_never_gets_ready_is_never_healthy() {
        let condition = |r#type: &str, status: bool| Condition {
            r#type: r#type.to_owned(),
            status,
            message: "the runtime does not answer".to_owned(),
            ..Condition::default()
        };
        let plane = condition("ControlPlaneReady", true);
        let said = |node: bool| all_true(&[plane.clone(), condition("NodeReady", node)]);
        assert_eq!(said(true), Ok(()));
        assert_eq!(said(false), Err("NodeReady is false: the runtime does not answer".to_owned()));
        assert_eq!(all_true(std::slice::from_ref(&plane)), Err("NodeReady was not reported yet".to_owned()));
        assert!(all_true(&[condition("NodeReady", true), condition("ControlPlaneReady", false)]).is_err());
    }

    #[test]
    fn every_service_that_should_run_must_be_healthy() {
        let specs = Set::from([("gitsync".to_owned(), spec()), ("containerd".to_owned(), spec())]);
        let with =
            |gitsync| Set::from([("gitsync".to_owned(), status(gitsync)), ("containerd".to_owned(), status(true))]);
        assert_eq!(all_healthy(&specs, &with(true)), Ok(()));
        assert_eq!(
            all_healthy(&specs, &with(false)),
            Err("service gitsync is not healthy: exited with code 1".to_owned())
        );
        assert!(all_healthy(&specs, &Set::new()).is_err(), "nothing was started yet");
        assert!(all_healthy(&Set::new(), &Set::new()).is_err(), "nothing is wanted yet");
    }
}
