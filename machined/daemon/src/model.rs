//! Everything the API and the console show, in one handle: readers of the store, books, facts, and the ways to ask for things.

use crate::audit_log::AuditLog;
use crate::deliveries::Deliveries;
use crate::disks;
use crate::event_book::EventBook;
use crate::extensions;
use crate::facts::Facts;
use crate::leaving::Leaving;
use crate::log_book::LogBook;
use crate::power::Power;
use crate::recoveries::Recoveries;
use crate::reports::Reports;
use crate::wire;
use machined_api::{Condition, StatusReply};
use machined_controllers::block::{Encryption, ShareInbox, VolumeInbox};
use machined_controllers::extensions::{ExtensionStatus, Merged};
use machined_controllers::identity::MachineKey;
use machined_controllers::introduction::{IntroduceInbox, Introduced};
use machined_controllers::ledger::{ApplyInbox, DesiredMachine, LedgerRead};
use machined_controllers::network::{LinkStatus, Names};
use machined_controllers::services::{RestartRequests, ServiceSpec, ServiceStatus, Stopping};
use machined_controllers::time::TimeStatus;
use machined_controllers::tpm::Measured;
use machined_controllers::trust::{Order, OrderAction, Presence, PresenceInbox, Rollback, TrustInbox, TrustRecord};
use machined_controllers::upgrade::{Outcome, UpgradeInbox, UpgradeStatus};
use machined_host::{LinuxTpm, Staging};
use machined_runtime::{Reader, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Shared by all APIs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) keys: Reader<MachineKey>,
    pub(crate) introduced: Reader<Introduced>,
    pub(crate) desired: Reader<DesiredMachine>,
    pub(crate) ledger: Reader<LedgerRead>,
    pub(crate) links: Reader<LinkStatus>,
    pub(crate) names: Reader<Names>,
    pub(crate) services: Reader<ServiceStatus>,
    pub(crate) specs: Reader<ServiceSpec>,
    pub(crate) stopping: Reader<Stopping>,
    pub(crate) time: Reader<TimeStatus>,
    pub(crate) trust: Reader<TrustRecord>,
    pub(crate) rollback: Reader<Rollback>,
    pub(crate) presence: Reader<Presence>,
    pub(crate) measured: Reader<Measured>,
    merged: Reader<Merged>,
    extensions: Reader<ExtensionStatus>,
    pub(crate) tpm: Arc<LinuxTpm>,
    failures: watch::Receiver<BTreeMap<&'static str, String>>,
    pub(crate) introduce: IntroduceInbox,
    pub(crate) apply: ApplyInbox,
    pub(crate) orders: TrustInbox,
    pub(crate) confirm: PresenceInbox,
    pub(crate) restarts: RestartRequests,
    pub(crate) upgrades: UpgradeInbox,
    pub(crate) volumes: VolumeInbox,
    pub(crate) shares: ShareInbox,
    pub(crate) encryption: Reader<Encryption>,
    pub(crate) upgrade: Reader<UpgradeStatus>,
    pub(crate) staging: Staging,
    pub(crate) power: Power,
    pub(crate) leaving: Leaving,
    pub(crate) audit: AuditLog,
    pub(crate) logs: LogBook,
    pub(crate) events: EventBook,
    pub(crate) reports: Reports,
    pub(crate) recoveries: Recoveries,
    pub(crate) deliveries: Deliveries,
    pub(crate) facts: Arc<Facts>,
    pub(crate) api_millis: Arc<AtomicU64>,
}

/// The ways to ask controllers for something.
pub(crate) struct Inboxes {
    pub(crate) introduce: IntroduceInbox,
    pub(crate) apply: ApplyInbox,
    pub(crate) orders: TrustInbox,
    pub(crate) presence: PresenceInbox,
    pub(crate) restarts: RestartRequests,
    pub(crate) upgrades: UpgradeInbox,
    pub(crate) volumes: VolumeInbox,
    pub(crate) shares: ShareInbox,
}

/// The books of this process.
#[derive(Clone, Default)]
pub(crate) struct Books {
    pub(crate) logs: LogBook,
    pub(crate) events: EventBook,
    pub(crate) reports: Reports,
    pub(crate) deliveries: Deliveries,
    pub(crate) staging: Staging,
    pub(crate) tpm: Arc<LinuxTpm>,
}

impl Model {
    /// Puts the handle together.
    pub(crate) fn new(
        store: &Store,
        inboxes: Inboxes,
        (power, leaving): (Power, Leaving),
        books: Books,
        facts: Facts,
    ) -> Self {
        let Inboxes { introduce, apply, orders, presence, restarts, upgrades, volumes, shares } = inboxes;
        let Books { logs, events, reports, deliveries, staging, tpm } = books;
        Model {
            keys: store.reader(),
            introduced: store.reader(),
            desired: store.reader(),
            ledger: store.reader(),
            links: store.reader(),
            names: store.reader(),
            services: store.reader(),
            specs: store.reader(),
            stopping: store.reader(),
            time: store.reader(),
            trust: store.reader(),
            rollback: store.reader(),
            presence: store.reader(),
            measured: store.reader(),
            merged: store.reader(),
            tpm,
            failures: store.failures().watch(),
            introduce,
            apply,
            orders,
            confirm: presence,
            restarts,
            upgrades,
            volumes,
            shares,
            encryption: store.reader(),
            extensions: store.reader(),
            upgrade: store.reader(),
            staging,
            power,
            leaving,
            audit: AuditLog::new(logs.clone()),
            logs,
            events,
            reports,
            recoveries: Recoveries::default(),
            deliveries,
            facts: Arc::new(facts),
            api_millis: Arc::default(),
        }
    }

    /// The machine's fingerprint; empty before the key is there.
    pub(crate) fn identity(&self) -> String {
        self.keys.get(MachineKey::ID).map(|key| key.fingerprint.to_string()).unwrap_or_default()
    }

    /// Where the key lies; empty before it is there.
    fn identity_place(&self) -> String {
        self.keys.get(MachineKey::ID).map(|key| key.place().as_str().to_owned()).unwrap_or_default()
    }

    /// Addresses of physical links, in CIDR notation.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let links = self.links.all();
        let physical = links.values().filter(|link| link.physical);
        physical.flat_map(|link| link.addresses.iter().map(ToString::to_string)).collect()
    }

    /// Where the machine is in its life.
    pub(crate) fn phase(&self) -> &'static str {
        if self.stopping.get(Stopping::ID).is_some() {
            return "stopping";
        }
        let ledger_read = !self.ledger.all().is_empty();
        match (self.introduced.get(Introduced::ID), self.desired.get(DesiredMachine::ID)) {
            (_, Some(_)) => "running",
            (Some(Introduced::As(_)), None) if ledger_read => "enrolling",
            (Some(Introduced::Not), None) => "maintenance",
            (Some(Introduced::As(_)) | None, None) => "starting",
        }
    }

    /// Whether every service that should run is healthy.
    pub(crate) fn ready(&self) -> bool {
        let (specs, services) = (self.specs.all(), self.services.all());
        !specs.is_empty() && specs.keys().all(|name| services.get(name).is_some_and(|service| service.healthy))
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut conditions = self.reports.conditions();
        let time = self.time.get(TimeStatus::ID).unwrap_or_default();
        let (reason, message) = match (&time.server, time.synchronised) {
            (Some(server), true) => ("Following", format!("the clock follows {server}")),
            (Some(_) | None, _) => {
                ("NoServer", "no time server answers or none is configured; the hardware clock is believed".to_owned())
            }
        };
        conditions.push(Condition {
            r#type: "TimeSynchronised".to_owned(),
            status: time.synchronised,
            reason: reason.to_owned(),
            message,
        });
        conditions.push(override_of(self.trust.get(TrustRecord::ID).and_then(|record| record.order).as_ref()));
        conditions.push(disks::condition(&self.encryption.all()));
        conditions.push(extensions::condition(self.merged.get(Merged::ID).is_some(), &self.extensions.all()));
        conditions.push(upgrade_of(self.upgrade.get(UpgradeStatus::ID).as_ref()));
        let failing = |(controller, story): (&&str, &String)| Condition {
            r#type: "ControllerFailing".to_owned(),
            status: true,
            reason: camel(controller),
            message: story.clone(),
        };
        conditions.extend(self.failures.borrow().iter().map(failing));
        conditions
    }

    /// What the console shows and Status answers.
    pub(crate) fn status(&self) -> StatusReply {
        let desired = self.desired.get(DesiredMachine::ID).map(|desired| desired.raw);
        let trust = self.trust.get(TrustRecord::ID).unwrap_or_default();
        let cluster = match self.introduced.get(Introduced::ID) {
            Some(Introduced::As(introduction)) => introduction.cluster.to_string(),
            Some(Introduced::Not) | None => String::new(),
        };
        let text =
            |of: fn(&machined_controllers::ledger::RawDesired) -> String| desired.as_ref().map(of).unwrap_or_default();
        StatusReply {
            name: text(|raw| raw.machine.to_string()),
            addresses: self.addresses(),
            identity: self.identity(),
            cluster,
            generation: desired.as_ref().map_or(0, |raw| raw.generation.0),
            commit: text(|raw| raw.commit.to_string()),
            seq: desired.as_ref().map_or(0, |raw| raw.seq.0),
            signer: text(|raw| raw.signer.to_string()),
            phase: self.phase().to_owned(),
            ready: self.ready(),
            conditions: self.conditions(),
            slot: self.facts.slot.clone(),
            boot_kernel_ms: self.facts.kernel_millis,
            boot_api_ms: self.api_millis.load(Ordering::Relaxed),
            accepted: trust.accepted.as_ref().map(wire::position),
            order: trust.order.as_ref().map(wire::order),
            identity_place: self.identity_place(),
            extensions: extensions::shown(&self.extensions.all()),
        }
    }

    /// Waits until it is known where the machine belongs, what it should be, what people ordered, and which links it has. Who asks a
    /// machined that was just started again must not be told of a machine without name, orders and addresses.
    pub(crate) async fn known(&mut self) {
        self.introduced.wait_for(|set| !set.is_empty()).await;
        self.ledger.wait_for(|set| !set.is_empty()).await;
        self.links.wait_for(|set| !set.is_empty()).await;
        self.trust.wait_for(|set| !set.is_empty()).await;
        self.presence.wait_for(|set| !set.is_empty()).await;
    }

    /// Waits until something that [`Model::status`] shows may have changed.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            _ = self.keys.changed() => {}
            _ = self.introduced.changed() => {}
            _ = self.desired.changed() => {}
            _ = self.ledger.changed() => {}
            _ = self.links.changed() => {}
            _ = self.names.changed() => {}
            _ = self.services.changed() => {}
            _ = self.stopping.changed() => {}
            _ = self.time.changed() => {}
            _ = self.trust.changed() => {}
            _ = self.rollback.changed() => {}
            _ = self.presence.changed() => {}
            () = self.recoveries.changed() => {}
            _ = self.upgrade.changed() => {}
            _ = self.merged.changed() => {}
            _ = self.encryption.changed() => {}
            _ = self.extensions.changed() => {}
            () = self.deliveries.changed() => {}
            Ok(()) = self.failures.changed() => {}
        }
    }
}

/// What people ordered, for everybody to see until it ends.
fn override_of(order: Option<&Order>) -> Condition {
    let (status, reason, message) = match order {
        None => (false, "None", String::new()),
        Some(order) => {
            let (reason, what) = match &order.action {
                OrderAction::Hold {} => ("Hold", "what runs is held".to_owned()),
                OrderAction::Pin { seq, commit } => {
                    ("Pin", format!("step {seq} (commit {}) is pinned", commit.short()))
                }
            };
            let Order { by, until, reason: why, .. } = order;
            (true, reason, format!("{what} by {by} until {until}: {why}; end it with `cairnctl resume`"))
        }
    };
    Condition { r#type: "Override".to_owned(), status, reason: reason.to_owned(), message }
}

/// How upgrades stand: true while one runs, or when the last one did not do what was wanted.
fn upgrade_of(upgrade: Option<&UpgradeStatus>) -> Condition {
    let (status, reason, message) = match upgrade {
        Some(upgrade) if upgrade.phase != UpgradeStatus::IDLE => (true, camel(upgrade.phase), upgrade.message.clone()),
        Some(UpgradeStatus { last: Some(last), .. }) => {
            let bad = last.outcome != Outcome::Good;
            (bad, camel(last.outcome.as_str()), format!("wanted by {}: {}", last.origin.by(), last.reason))
        }
        Some(_) | None => (false, "None".to_owned(), String::new()),
    };
    Condition { r#type: "Upgrade".to_owned(), status, reason, message }
}

/// "link spec" as "LinkSpec", the form of stable words in the API.
fn camel(name: &str) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_uppercase() + rest,
        None => String::new(),
    };
    name.split(' ').map(word).collect()
}
