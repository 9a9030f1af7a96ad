//! The book on files in memory: who gets what, who does not any more, and what a power cut leaves.

use super::*;
use crate::files::fake::FakeFiles;
use crate::identity::MachineKey;
use crate::ledger::sample;
use crate::tpm::fake::Power;
use machined_access::{IdentityKey, MachineEntry, MachineRole};
use machined_runtime::{Store, Writer};
use std::sync::Mutex;

fn share(number: u8) -> Secret {
    Zeroizing::new([number; 32])
}

fn id(number: u8) -> ShareId {
    ShareId::from_bytes(&[number; 16]).expect("because it has 16 bytes")
}

fn machine(number: u8) -> Fingerprint {
    Fingerprint::from_sha256(&[number; 32])
}

struct Peer {
    controller: ShareBookController<FakeFiles>,
    inbox: ShareInbox,
    clock: Arc<Mutex<Timestamp>>,
    own: Fingerprint,
    desired: Writer<DesiredMachine>,
    volumes: Writer<Volume>,
    _keys: Writer<MachineKey>,
    /// Dropped last: writers are of it.
    _store: Store,
}

impl Peer {
    /// A machine with this role in a step that names machines 1 and 2.
    fn start(files: &Arc<FakeFiles>, role: MachineRole) -> Self {
        let store = Store::new();
        let mut ports = Ports::new(&store, "disk shares");
        let clock = Arc::new(Mutex::new(Timestamp::UNIX_EPOCH));
        let read = Arc::clone(&clock);
        let now = Box::new(move || *read.lock().expect("because no test panics with it"));
        let (controller, inbox) = ShareBookController::new(&mut ports, Arc::clone(files), now);
        let keys: Writer<MachineKey> = store.writer().expect("because nobody else writes it");
        let key = MachineKey::new(IdentityKey::generate().expect("because there is randomness"));
        let own = key.fingerprint.clone();
        keys.put(MachineKey::ID, key);
        let desired = store.writer().expect("because nobody else writes it");
        let volumes: Writer<Volume> = store.writer().expect("because nobody else writes it");
        volumes.put(STATE, Volume { device: PathBuf::new(), formatted: false });
        let peer = Peer { controller, inbox, clock, own, desired, volumes, _keys: keys, _store: store };
        peer.step(role, &[1, 2]);
        peer
    }
    fn step(&self, role: MachineRole, machines: &[u8]) {
        let mut access = sample::access();
        let others = machines.iter().map(|number| (machine(*number), MachineRole::Worker));
        for (number, (identity, role)) in others.chain([(self.own.clone(), role)]).enumerate() {
            let name = format!("m{number}").parse().expect("because it is a name");
            access.machines.insert(name, MachineEntry { identity, role });
        }
        let document = format!("machine \"cp1\" {{\n identity \"{}\"\n role \"control-plane\"\n}}", self.own);
        let desired = DesiredMachine::read(sample::desired(1, document, access)).expect("because it is a document");
        self.desired.put(DesiredMachine::ID, desired);
    }
    fn later(&self, seconds: i64) {
        *self.clock.lock().expect("because no test panics with it") += SignedDuration::from_secs(seconds);
    }
    async fn ask(&mut self, request: ShareRequest) -> Result<Option<Secret>, ShareRefusal> {
        let inbox = self.inbox.clone();
        let (answer, _outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
        answer.expect("because the controller answers")
    }
    async fn keep(&mut self, of: u8, number: u8, held: &[u8]) -> Result<Option<Secret>, ShareRefusal> {
        let held = held.iter().map(|number| id(*number)).collect();
        self.ask(ShareRequest::Keep { machine: machine(of), id: id(number), share: share(number), held }).await
    }
    async fn release(&mut self, of: u8, number: u8) -> Result<Option<Secret>, ShareRefusal> {
        self.ask(ShareRequest::Release { machine: machine(of), id: id(number) }).await
    }
    async fn gives(&mut self, of: u8, number: u8) -> bool {
        self.release(of, number).await.ok().flatten() == Some(share(number))
    }
}

fn files() -> Arc<FakeFiles> {
    Arc::default()
}

#[tokio::test]
async fn a_share_is_given_to_its_machine_after_a_restart_too_and_to_no_other() {
    let files = files();
    let mut peer = Peer::start(&files, MachineRole::ControlPlane);
    peer.keep(1, 7, &[]).await.expect("because the machine is in the step");
    assert_eq!(files.lasting("/state/machined/disk-shares.json"), Some(Lasting::Durable));
    let mut peer = Peer::start(&files, MachineRole::ControlPlane);
    assert!(peer.gives(1, 7).await);
    assert!(matches!(peer.release(2, 7).await, Err(ShareRefusal::Unknown(_))), "another machine's share was given");
    assert!(matches!(peer.release(3, 7).await, Err(ShareRefusal::Stranger(_))));
}

#[tokio::test]
async fn only_an_open_control_plane_machine_with_a_step_keeps_shares() {
    let mut worker = Peer::start(&files(), MachineRole::Worker);
    assert!(matches!(worker.keep(1, 7, &[]).await, Err(ShareRefusal::NoPeer)));
    let mut locked = Peer::start(&files(), MachineRole::ControlPlane);
    locked.volumes.remove(STATE);
    assert!(matches!(locked.release(1, 7).await, Err(ShareRefusal::NotReady)));
    let mut without = Peer::start(&files(), MachineRole::ControlPlane);
    without.desired.remove(DesiredMachine::ID);
    assert!(matches!(without.keep(1, 7, &[]).await, Err(ShareRefusal::NotReady)));
}

#[tokio::test]
async fn a_machine_that_left_gets_nothing_and_is_forgotten_a_week_later() {
    let files = files();
    let mut peer = Peer::start(&files, MachineRole::ControlPlane);
    peer.keep(1, 7, &[]).await.expect("because the machine is in the step");
    peer.step(MachineRole::ControlPlane, &[2]);
    assert!(matches!(peer.release(1, 7).await, Err(ShareRefusal::Stranger(_))));
    // Taken back in time.
    peer.later(6 * 24 * 3600);
    peer.step(MachineRole::ControlPlane, &[1, 2]);
    assert!(peer.gives(1, 7).await);
    peer.step(MachineRole::ControlPlane, &[2]);
    peer.controller.reconcile().await.expect("because files work");
    peer.later(8 * 24 * 3600);
    peer.controller.reconcile().await.expect("because files work");
    peer.step(MachineRole::ControlPlane, &[1, 2]);
    assert!(matches!(peer.release(1, 7).await, Err(ShareRefusal::Unknown(_))));
    let text = files.text("/state/machined/disk-shares.json").expect("because it was written");
    assert!(!text.contains(machine(1).as_str()), "{text}");
}

#[tokio::test]
async fn what_a_machine_no_longer_holds_goes_and_more_than_it_needs_is_refused() {
    let mut peer = Peer::start(&files(), MachineRole::ControlPlane);
    peer.keep(1, 1, &[]).await.expect("because there is room");
    peer.keep(1, 2, &[1]).await.expect("because there is room");
    peer.keep(2, 3, &[]).await.expect("because there is room");
    peer.keep(1, 4, &[2]).await.expect("because there is room");
    assert!(!peer.gives(1, 1).await && peer.gives(1, 2).await && peer.gives(2, 3).await && peer.gives(1, 4).await);
    let all: Vec<u8> = (0..=60).collect();
    let mut kept = 0;
    for number in 10..60 {
        kept += usize::from(peer.keep(1, number, &all).await.is_ok());
    }
    assert_eq!(kept, SHARES_MAX - 2);
}

#[tokio::test]
async fn a_machine_that_asks_without_end_is_slowed_down_and_no_other_with_it() {
    let mut peer = Peer::start(&files(), MachineRole::ControlPlane);
    peer.keep(1, 7, &[]).await.expect("because there is room");
    peer.keep(2, 8, &[]).await.expect("because there is room");
    for _ in 0..RELEASES_MAX {
        assert!(peer.gives(1, 7).await);
    }
    assert!(matches!(peer.release(1, 7).await, Err(ShareRefusal::TooOften)));
    assert!(peer.gives(2, 8).await);
    peer.later(RELEASE_PERIOD.as_secs());
    assert!(peer.gives(1, 7).await);
    assert!(matches!(peer.release(1, 7).await, Err(ShareRefusal::TooOften)));
}

#[tokio::test]
async fn a_share_that_was_answered_is_there_after_a_power_cut() {
    for (heard, takes_effect) in [(true, true), (false, true), (false, false)] {
        let files = files();
        let mut peer = Peer::start(&files, MachineRole::ControlPlane);
        let power = Arc::new(Power::default());
        files.powered_by(&power);
        if !heard {
            power.cut(0, takes_effect);
        }
        let kept = peer.keep(1, 7, &[]).await;
        assert_eq!(kept.is_ok(), heard, "a share was answered that may not be on the disk");
        power.back();
        let mut later = Peer::start(&files, MachineRole::ControlPlane);
        assert_eq!(later.gives(1, 7).await, takes_effect);
    }
}

#[tokio::test]
async fn a_book_that_cannot_be_understood_is_left_alone() {
    let files = files();
    files.put("/state/machined/disk-shares.json", "{\"version\":2}");
    let mut peer = Peer::start(&files, MachineRole::ControlPlane);
    assert!(matches!(peer.keep(1, 7, &[]).await, Err(ShareRefusal::NotReady)));
    assert!(matches!(peer.controller.reconcile().await, Err(ShareBookError::Form { .. })));
    assert_eq!(files.text("/state/machined/disk-shares.json").as_deref(), Some("{\"version\":2}"));
}
