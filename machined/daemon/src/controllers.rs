//! Builds the controllers and starts them. Their inputs and outputs are declared in their constructors.

use crate::facts::Facts;
use crate::leaving::ControlPlane;
use crate::model::Inboxes;
use crate::peers::TlsPeers;
use crate::power::{End, Power};
use crate::reports::Reports;
use crate::wellbeing;
use machined_config::{Addressing, MachineNetwork};
use machined_controllers::block::{Health, ShareBookController, VolumeController, VolumeInbox};
use machined_controllers::extensions::ExtensionController;
use machined_controllers::files::SettingsController;
use machined_controllers::identity::IdentityController;
use machined_controllers::introduction::{IntroductionController, Seed, SeedController};
use machined_controllers::ledger::{DesiredMachine, LedgerController, LedgerRead};
use machined_controllers::network::{
    Layer, LayerLink, LeaseController, LinkConfigController, LinkSpecController, LinkStatusController, NamesController,
    NetworkLayer, Reach, ReachController,
};
use machined_controllers::services::{ServiceConfigController, ServiceController};
use machined_controllers::time::TimeController;
use machined_controllers::tpm::MeasureController;
use machined_controllers::trust::{PresenceController, TrustController};
use machined_controllers::upgrade::{AloneOr, UpgradeController, UpgradeInbox};
use machined_host::{
    InitSocket, LinuxBlock, LinuxClock, LinuxDhcp, LinuxExtensions, LinuxFiles, LinuxLinks, LinuxMeta, LinuxServices,
    LinuxTpm, LinuxUpgrade, Staging,
};
use machined_reconcile::{Supervisor, Trigger};
use machined_runtime::{Ports, Reader, Store, start};
use std::sync::Arc;

/// What the daemon's other tasks need of the controllers.
pub(crate) struct Started {
    pub(crate) inboxes: Inboxes,
    pub(crate) services: LinuxServices,
    /// Fired when the kernel's network changes.
    pub(crate) links: Trigger,
}

/// A document's or a seed's network as a layer.
fn layer(layer: Layer, network: &MachineNetwork, hostname: Option<String>) -> NetworkLayer {
    let links = network.links.iter().map(|link| match &link.addressing {
        Addressing::Dhcp => LayerLink { name: link.name.clone(), dhcp: true, addresses: Vec::new(), gateway: None },
        Addressing::Static { addresses, gateway } => {
            LayerLink { name: link.name.clone(), dhcp: false, addresses: addresses.clone(), gateway: *gateway }
        }
    });
    NetworkLayer { layer, links: links.collect(), nameservers: network.nameservers.clone(), hostname }
}

fn network_layers(
    command_line: Option<&NetworkLayer>,
    seeds: &Reader<Seed>,
    desired: &Reader<DesiredMachine>,
    last: Option<Reach>,
) -> Vec<NetworkLayer> {
    let seed = seeds.get(Seed::ID).map(|seed| layer(Layer::Seed, &seed.network, None));
    let last = last.map(|reach| layer(Layer::LastDocument, &reach.network, None));
    let document = desired
        .get(DesiredMachine::ID)
        .map(|desired| layer(Layer::Document, &desired.machine.network, Some(desired.machine.name.to_string())));
    command_line.cloned().into_iter().chain(seed).chain(last).chain(document).collect()
}

/// What META says of the network and the time until the ledger says it; the inputs behind it are declared at `ports`.
fn last_reach(ports: &mut Ports) -> impl Fn() -> Option<Reach> + Send + 'static {
    let (reach, ledger): (Reader<Reach>, Reader<LedgerRead>) = (ports.input(), ports.input());
    move || reach.get(Reach::ID).filter(|_| ledger.all().is_empty())
}

fn start_network(store: &Store, supervisor: &Supervisor, files: &Arc<LinuxFiles>, facts: &Facts) -> Trigger {
    let links = Arc::new(LinuxLinks);
    let mut ports = Ports::new(store, "link status");
    let trigger = ports.trigger();
    let controller = LinkStatusController::new(&mut ports, Arc::clone(&links));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "link config");
    let (seeds, desired) = (ports.input(), ports.input());
    let (command_line, last) = (facts.network.clone(), last_reach(&mut ports));
    let layers = Box::new(move || network_layers(command_line.as_ref(), &seeds, &desired, last()));
    let controller = LinkConfigController::new(&mut ports, layers);
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "lease");
    let controller = LeaseController::new(&mut ports, Arc::new(LinuxDhcp));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "link spec");
    let controller = LinkSpecController::new(&mut ports, Arc::clone(&links));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "names");
    let controller = NamesController::new(&mut ports, links, Arc::clone(files));
    start(supervisor, &ports, controller);
    trigger
}

fn start_state(
    store: &Store,
    supervisor: &Supervisor,
    files: &Arc<LinuxFiles>,
    tpm: &Arc<LinuxTpm>,
    healthy: Health,
) -> VolumeInbox {
    let mut ports = Ports::new(store, "volume");
    let (controller, volumes) =
        VolumeController::new(&mut ports, Arc::new(LinuxBlock), (Arc::clone(tpm), Arc::new(TlsPeers)), healthy);
    start(supervisor, &ports, controller);

    let meta = Arc::new(LinuxMeta);
    let mut ports = Ports::new(store, "identity");
    let controller = IdentityController::new(&mut ports, Arc::clone(&meta), Arc::clone(tpm));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "seed");
    let controller = SeedController::new(&mut ports, Arc::clone(&meta));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "reach");
    let controller = ReachController::new(&mut ports, meta);
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "settings");
    let controller = SettingsController::new(&mut ports, Arc::clone(files));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "time");
    let desired: Reader<DesiredMachine> = ports.input();
    let last = last_reach(&mut ports);
    let servers = move || match (desired.get(DesiredMachine::ID), last()) {
        (Some(desired), _) => desired.machine.time_servers,
        (None, last) => last.map(|reach| reach.time_servers).unwrap_or_default(),
    };
    let controller = TimeController::new(&mut ports, Arc::new(LinuxClock), Box::new(servers));
    start(supervisor, &ports, controller);
    volumes
}

/// What upgrades need of the daemon beside the store.
pub(crate) struct UpgradeParts {
    pub(crate) staging: Staging,
    pub(crate) init: Option<Arc<InitSocket>>,
    pub(crate) power: Power,
    pub(crate) permits: AloneOr<ControlPlane>,
    pub(crate) reports: Reports,
}

/// What is measured, and what is merged once it is.
fn start_measured(store: &Store, supervisor: &Supervisor, files: &Arc<LinuxFiles>, tpm: &Arc<LinuxTpm>) {
    let mut ports = Ports::new(store, "measure");
    let controller = MeasureController::new(&mut ports, Arc::clone(files), Arc::clone(tpm));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "extensions");
    let host = Arc::new(LinuxExtensions::default());
    let controller = ExtensionController::new(&mut ports, host, Arc::clone(files), Arc::clone(tpm));
    start(supervisor, &ports, controller);
}

fn start_upgrade(
    store: &Store,
    supervisor: &Supervisor,
    files: &Arc<LinuxFiles>,
    facts: &Facts,
    parts: UpgradeParts,
) -> UpgradeInbox {
    let UpgradeParts { staging, init, power, permits, reports } = parts;
    let mut ports = Ports::new(store, "upgrade");
    let host = LinuxUpgrade::new(staging, init, Box::new(move || power.ask(End::Reboot)));
    let health = Box::new(wellbeing::probe(store, reports));
    let note = facts.note.clone();
    let (controller, upgrades) =
        UpgradeController::new(&mut ports, Arc::new(host), Arc::clone(files), permits, health, note);
    // On a machine that does not run from a slot there is nothing to upgrade.
    if !facts.slot.is_empty() {
        start(supervisor, &ports, controller);
    }
    upgrades
}

/// Starts every controller of the machine.
pub(crate) fn start_all(
    store: &Store,
    supervisor: &Supervisor,
    facts: &Facts,
    tpm: Arc<LinuxTpm>,
    parts: UpgradeParts,
) -> Started {
    let files = Arc::new(LinuxFiles);
    // Network and identity first: the machine API waits for them.
    let links = start_network(store, supervisor, &files, facts);
    let probe = wellbeing::probe(store, parts.reports.clone());
    let healthy = Box::new(move || probe().is_ok());
    let volumes = start_state(store, supervisor, &files, &tpm, healthy);
    start_measured(store, supervisor, &files, &tpm);

    let mut ports = Ports::new(store, "introduction");
    let (controller, introduce) = IntroductionController::new(&mut ports, Arc::clone(&files));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "ledger");
    let (controller, apply) = LedgerController::new(&mut ports, Arc::clone(&files));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "disk shares");
    let (controller, shares) = ShareBookController::new(&mut ports, Arc::clone(&files), Box::new(jiff::Timestamp::now));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "trust");
    let (controller, orders) =
        TrustController::new(&mut ports, Arc::clone(&files), tpm, Box::new(jiff::Timestamp::now));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "presence");
    let (controller, presence) = PresenceController::new(&mut ports, Arc::clone(&files));
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "service config");
    let controller = ServiceConfigController::new(&mut ports);
    start(supervisor, &ports, controller);

    let mut ports = Ports::new(store, "services");
    let services = LinuxServices::new(ports.trigger());
    let (controller, restarts) = ServiceController::new(&mut ports, Arc::new(services.clone()));
    start(supervisor, &ports, controller);

    let upgrades = start_upgrade(store, supervisor, &files, facts, parts);
    Started {
        inboxes: Inboxes { introduce, apply, orders, presence, restarts, upgrades, volumes, shares },
        services,
        links,
    }
}
