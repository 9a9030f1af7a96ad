//! Turns changes of resources into events. It looks at two states of a set and says what happened between them.

use crate::event_book::EventBook;
use machined_controllers::extensions::{ExtensionState, ExtensionStatus};
use machined_controllers::introduction::Introduced;
use machined_controllers::ledger::DesiredMachine;
use machined_controllers::network::LinkStatus;
use machined_controllers::services::{ServiceState, ServiceStatus};
use machined_controllers::trust::{Order, OrderAction, TrustRecord};
use machined_controllers::upgrade::{Ended, ImageNote, Outcome, UpgradeStatus};
use machined_runtime::{Reader, Resource, Set};
use std::sync::Arc;

/// One event to be.
type News = (&'static str, String, String);

fn services(old: &Set<ServiceStatus>, new: &Set<ServiceStatus>) -> Vec<News> {
    let mut news = Vec::new();
    for (name, status) in new {
        let before = old.get(name);
        let subject = || format!("service/{name}");
        let state = |status: &ServiceStatus| status.state;
        if status.pid.is_some() && before.and_then(|b| b.pid) != status.pid {
            news.push(("ServiceStarted", subject(), format!("process {}", status.pid.unwrap_or_default())));
        }
        if status.state == ServiceState::Backoff && before.map(state) != Some(ServiceState::Backoff) {
            news.push(("ServiceFailed", subject(), status.message.clone()));
        }
        if status.state == ServiceState::Finished && before.map(state) != Some(ServiceState::Finished) {
            news.push(("ServiceStopped", subject(), status.message.clone()));
        }
        match (before.is_some_and(|before| before.healthy), status.healthy) {
            (false, true) => news.push(("ServiceHealthy", subject(), String::new())),
            (true, false) => news.push(("ServiceUnhealthy", subject(), status.message.clone())),
            (true, true) | (false, false) => {}
        }
    }
    news
}

fn links(old: &Set<LinkStatus>, new: &Set<LinkStatus>) -> Vec<News> {
    let mut news = Vec::new();
    for (name, link) in new.iter().filter(|(_, link)| link.physical) {
        let none = Vec::new();
        let before = old.get(name).map_or(&none, |link| &link.addresses);
        for added in link.addresses.iter().filter(|address| !before.contains(address)) {
            news.push(("AddressAdded", format!("link/{name}"), added.to_string()));
        }
        for removed in before.iter().filter(|address| !link.addresses.contains(address)) {
            news.push(("AddressRemoved", format!("link/{name}"), removed.to_string()));
        }
    }
    news
}

fn introductions(_old: &Set<Introduced>, new: &Set<Introduced>) -> Vec<News> {
    match new.get(Introduced::ID) {
        Some(Introduced::As(introduction)) => {
            vec![("Introduced", format!("cluster/{}", introduction.cluster), introduction.repositories.join(" "))]
        }
        Some(Introduced::Not) | None => Vec::new(),
    }
}

fn activations(_old: &Set<DesiredMachine>, new: &Set<DesiredMachine>) -> Vec<News> {
    let applied = new.get(DesiredMachine::ID).map(|desired| &desired.raw);
    let news = applied.map(|raw| {
        let message = format!("generation {} as machine {}, signed by {}", raw.generation, raw.machine, raw.signer);
        ("CommitApplied", format!("commit/{}", raw.commit), message)
    });
    news.into_iter().collect()
}

fn orders(old: &Set<TrustRecord>, new: &Set<TrustRecord>) -> Vec<News> {
    let order = |set: &Set<TrustRecord>| set.get(TrustRecord::ID).and_then(|record| record.order.clone());
    let (before, after) = (order(old), order(new));
    match (&before, &after) {
        (_, Some(order)) if before != after => {
            let Order { by, until, reason, .. } = order;
            let (kind, subject) = match &order.action {
                OrderAction::Hold {} => ("Held", "machine".to_owned()),
                OrderAction::Pin { commit, .. } => ("Pinned", format!("commit/{commit}")),
            };
            vec![(kind, subject, format!("by {by} until {until}: {reason}"))]
        }
        (Some(ended), None) => {
            vec![("Resumed", "machine".to_owned(), format!("the {} by {} is over", ended.action.as_str(), ended.by))]
        }
        (Some(_) | None, Some(_)) | (None, None) => Vec::new(),
    }
}

fn upgrades(old: &Set<UpgradeStatus>, new: &Set<UpgradeStatus>) -> Vec<News> {
    let Some(now) = new.get(UpgradeStatus::ID) else { return Vec::new() };
    let subject = |image: Option<&ImageNote>| {
        format!("image/{}", image.and_then(|image| image.digest.as_deref()).unwrap_or("unknown"))
    };
    let before = old.get(UpgradeStatus::ID);
    let mut news = Vec::new();
    if now.phase != UpgradeStatus::IDLE && before.map(|before| before.phase) != Some(now.phase) {
        news.push(("UpgradePhase", subject(now.target.as_ref()), format!("{}: {}", now.phase, now.message)));
    }
    // What ended before machined started is told once more: on the image that the machine came back to, it is news.
    if let Some(Ended { outcome, image, reason, origin }) = &now.last
        && before.is_none_or(|before| before.last != now.last)
    {
        let kind = match outcome {
            Outcome::Good => "UpgradeGood",
            Outcome::Failed => "UpgradeFailed",
            Outcome::Refused => "UpgradeRefused",
        };
        news.push((kind, subject(image.as_ref()), format!("wanted by {}: {reason}", origin.by())));
    }
    news
}

fn extensions(old: &Set<ExtensionStatus>, new: &Set<ExtensionStatus>) -> Vec<News> {
    let mut news = Vec::new();
    for (name, status) in new.iter().filter(|(name, status)| old.get(*name) != Some(status)) {
        let kind = match status.state {
            ExtensionState::Fetching | ExtensionState::OtherKernel | ExtensionState::Leaving => continue,
            ExtensionState::Waiting => "ExtensionWaiting",
            ExtensionState::Merged => "ExtensionMerged",
            ExtensionState::Failed => "ExtensionFailed",
        };
        news.push((kind, format!("extension/{name}"), format!("{} {}", status.digest, status.message)));
    }
    news
}

async fn watch<T: Resource>(mut reader: Reader<T>, events: EventBook, compare: fn(&Set<T>, &Set<T>) -> Vec<News>) {
    let mut old = Arc::new(Set::new());
    loop {
        let new = reader.all();
        for (kind, subject, message) in compare(&old, &new) {
            events.add(kind, subject, message);
        }
        old = new;
        reader.changed().await;
    }
}

/// What is observed.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) services: Reader<ServiceStatus>,
    pub(crate) links: Reader<LinkStatus>,
    pub(crate) introduced: Reader<Introduced>,
    pub(crate) desired: Reader<DesiredMachine>,
    pub(crate) trust: Reader<TrustRecord>,
    pub(crate) upgrade: Reader<UpgradeStatus>,
    pub(crate) extensions: Reader<ExtensionStatus>,
}

/// Observes until dropped.
pub(crate) async fn observe(observed: Observed, events: EventBook) {
    tokio::join!(
        watch(observed.services, events.clone(), services),
        watch(observed.links, events.clone(), links),
        watch(observed.introduced, events.clone(), introductions),
        watch(observed.desired, events.clone(), activations),
        watch(observed.trust, events.clone(), orders),
        watch(observed.upgrade, events.clone(), upgrades),
        watch(observed.extensions, events, extensions),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: ServiceState, healthy: bool, pid: Option<u32>) -> Set<ServiceStatus> {
        let status = ServiceStatus { state, healthy, pid, restarts: 0, message: "exited with code 1".to_owned() };
        Set::from([("gitsync".to_owned(), status)])
    }

    fn kinds(old: &Set<ServiceStatus>, new: &Set<ServiceStatus>) -> Vec<&'static str> {
        services(old, new).into_iter().map(|(kind, _, _)| kind).collect()
    }

    #[test]
    fn a_service_tells_its_life() {
        let (none, starting) = (Set::new(), status(ServiceState::Starting, false, Some(1)));
        let running = status(ServiceState::Running, true, Some(1));
        let failed = status(ServiceState::Backoff, false, None);
        assert_eq!(kinds(&none, &starting), ["ServiceStarted"]);
        assert_eq!(kinds(&starting, &running), ["ServiceHealthy"]);
        assert_eq!(kinds(&running, &running), Vec::<&str>::new());
        assert_eq!(kinds(&running, &failed), ["ServiceFailed", "ServiceUnhealthy"]);
    }
}
