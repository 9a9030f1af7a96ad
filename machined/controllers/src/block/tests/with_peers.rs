//! Machines without a TPM: volumes whose key lies open until peers have it, and what opens them then.

use super::super::fake_peers::peer;
use super::*;
use crate::ledger::sample;
use machined_access::{IdentityKey, MachineEntry, MachineRole};
use machined_config::Insistence;
use machined_luks::{Header, OPEN_TOKEN, PEERS_TOKEN};

fn insisting(encryption: Insistence) -> Seed {
    Seed { encryption: Some(encryption), ..Seed::default() }
}

/// One machine over its starts: disk, identity and peers stay.
struct Life {
    disks: Arc<FakeDisks>,
    tpm: Arc<FakeTpm>,
    peers: Arc<FakePeers>,
    key: MachineKey,
    role: MachineRole,
}

impl Life {
    fn new(role: MachineRole) -> Self {
        let key = MachineKey::new(IdentityKey::generate().expect("because there is randomness"));
        let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
        Life { disks, tpm: Arc::new(FakeTpm::absent()), peers: Arc::default(), key, role }
    }
    fn start(&self) -> Machine {
        self.disks.restart();
        self.again()
    }
    /// machined alone starts again.
    fn again(&self) -> Machine {
        let machine = Machine::among(&self.disks, &self.tpm, &self.peers, insisting(Insistence::Required));
        machine.keys.put(MachineKey::ID, self.key.clone());
        machine
    }
    /// The machine's step names these peers, which answer.
    fn step(&self, machine: &Machine, peers: &[u8]) {
        for number in peers {
            self.peers.change(*number, |_| {});
        }
        let mut access = sample::access();
        let mut add = |name: String, identity, role| {
            access.machines.insert(name.parse().expect("because it is a name"), MachineEntry { identity, role })
        };
        add("own".to_owned(), self.key.fingerprint.clone(), self.role);
        add("worker".to_owned(), peer(200), MachineRole::Worker);
        for number in peers {
            add(format!("cp{number}"), peer(*number), MachineRole::ControlPlane);
        }
        let identity = &self.key.fingerprint;
        let document = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"worker\"\n}}");
        let mut raw = sample::desired(1, document, access);
        let endpoints: String = peers.iter().map(|number| format!("endpoint \"peer{number}\"\n ")).collect();
        raw.cluster_kdl = raw.cluster_kdl.replace("endpoint \"10.0.2.15\"\n", &endpoints);
        if !peers.is_empty() {
            machine.desired.put(DesiredMachine::ID, DesiredMachine::read(raw).expect("because it is a document"));
        }
    }
    /// Started once with this step, and enrolled as far as that goes.
    async fn enrolled(role: MachineRole, peers: &[u8]) -> Self {
        let life = Life::new(role);
        let machine = life.start();
        life.step(&machine, peers);
        machine.up().await;
        life
    }
    fn tokens(&self, label: &str) -> (usize, usize) {
        let header = Header::parse(&self.disks.partition_of(label).front).expect("because it is a header");
        (header.tokens(OPEN_TOKEN).count(), header.tokens(PEERS_TOKEN).count())
    }
    fn with_peers(&self) -> bool {
        BOTH.iter().all(|label| self.tokens(label) == (0, 1))
    }
}

fn kept(machine: &Machine) -> Kept {
    match machine.encryption(STATE) {
        Encryption::Open { kept, .. } => kept,
        other => panic!("STATE is not open: {other:?}"),
    }
}

fn by(machine: &Machine) -> Opener {
    match machine.encryption(STATE) {
        Encryption::Open { by, .. } => by,
        other => panic!("STATE is not open: {other:?}"),
    }
}

fn by_peers(count: usize) -> Kept {
    Kept::ByPeers { count, note: String::new() }
}

#[tokio::test]
async fn a_first_boot_encrypts_with_an_open_key_and_says_that_it_protects_nothing() {
    let life = Life::new(MachineRole::Worker);
    let machine = life.start().up().await;
    assert!(!life.disks.partition_of(BOTH[0]).ext4, "a file system lies there in clear");
    assert!(matches!(kept(&machine), Kept::InTheClear { .. }));
    // The disk in any machine.
    let thief = Machine::among(&life.disks, &life.tpm, &Arc::default(), Seed::default());
    life.disks.restart();
    assert_eq!(by(&thief.up().await), Opener::OpenKey);
}

#[tokio::test]
async fn once_peers_have_the_key_they_open_the_volumes_and_nobody_else_does() {
    let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
    assert!(life.with_peers());
    let machine = life.start().up().await;
    assert_eq!((by(&machine), kept(&machine)), (Opener::Peer, by_peers(2)));
    // The disk and META in another place, with no peer to ask; and the disk with another identity, with all of them.
    life.disks.restart();
    let mut alone = Machine::among(&life.disks, &life.tpm, &Arc::new(FakePeers::alone()), Seed::default());
    alone.keys.put(MachineKey::ID, life.key.clone());
    let why = alone.refused().await;
    assert!(why.contains("waiting for a peer to release the disk key"), "{why}");
    life.disks.restart();
    let mut other = Machine::among(&life.disks, &life.tpm, &life.peers, Seed::default());
    other.keys.put(MachineKey::ID, MachineKey::new(IdentityKey::generate().expect("because there is randomness")));
    let why = other.refused().await;
    assert!(why.contains("keeps no such share"), "{why}");
}

#[tokio::test]
async fn a_machine_waits_for_its_identity_and_its_peers_and_says_who_answered_what() {
    let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
    for number in [1, 2] {
        life.peers.change(number, |peer| peer.down = true);
    }
    let mut machine = life.start();
    let why = machine.refused().await;
    assert!(why.contains("10.0.0.1 no connection: nobody answers") && why.contains("10.0.0.2"), "{why}");
    assert!(why.contains("This is tried again"), "{why}");
    assert!(matches!(machine.encryption(STATE), Encryption::Locked { recovery: false, .. }));
    // One is enough.
    life.peers.change(2, |peer| peer.down = false);
    assert_eq!(by(&machine.up().await), Opener::Peer);
    // META is read a moment later than the disk.
    let mut early = life.start();
    early.keys.remove(MachineKey::ID);
    assert!(early.refused().await.contains("identity key is not there"));
    early.keys.put(MachineKey::ID, life.key.clone());
    early.up().await;
}

#[tokio::test]
async fn after_its_removal_every_peer_refuses_and_the_recovery_key_still_opens() {
    let life = Life::new(MachineRole::ControlPlane);
    let mut machine = life.start().up().await;
    let recovery = machine.recovery_key().await;
    life.step(&machine, &[1, 2]);
    machine.up().await;
    assert!(life.with_peers());
    for number in [1, 2] {
        life.peers.change(number, |peer| peer.refuses = [life.key.fingerprint.clone()].into());
    }
    let mut machine = life.start();
    let why = machine.refused().await;
    assert!(why.contains("refused: not in the accepted step"), "{why}");
    assert!(matches!(machine.ask(VolumeRequest::Recover(recovery)).await, VolumeReply::Recovered(2)));
}

#[tokio::test]
async fn a_lying_peer_opens_nothing_and_is_given_no_part_in_the_key() {
    let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
    life.peers.change(1, |peer| peer.lies = true);
    life.peers.change(2, |peer| peer.down = true);
    let why = life.start().refused().await;
    assert!(why.contains("10.0.0.1 gave a share that opens nothing"), "{why}");
    life.peers.change(2, |peer| peer.down = false);
    life.start().up().await;

    let life = Life::new(MachineRole::Worker);
    let machine = life.start();
    life.step(&machine, &[1]);
    life.peers.change(1, |peer| peer.lies = true);
    let machine = machine.up().await;
    assert_eq!(life.tokens(BOTH[0]), (1, 0), "the open key went although nobody could give it back");
    assert!(matches!(kept(&machine), Kept::InTheClear { why } if why.contains("another share than it was given")));
}

#[tokio::test]
async fn a_control_plane_machine_keeps_its_open_key_until_it_has_a_recovery_key() {
    let life = Life::new(MachineRole::ControlPlane);
    let mut machine = life.start();
    life.step(&machine, &[1, 2]);
    machine = machine.up().await;
    assert!(matches!(kept(&machine), Kept::InTheClear { why } if why.contains("cairnctl disk recovery-key")));
    let _key = machine.recovery_key().await;
    machine.controller.reconcile().await.expect("because nothing is wrong");
    assert_eq!(kept(&machine), by_peers(2));
    assert!(life.with_peers());
}

#[tokio::test]
async fn peers_that_come_are_added_when_all_answer_and_those_that_leave_go_at_once() {
    let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
    let machine = life.start().up().await;
    // A third one comes while the first is away: both who have the key keep it.
    life.peers.change(1, |peer| peer.down = true);
    life.step(&machine, &[1, 2, 3]);
    let mut machine = machine.up().await;
    assert!(matches!(kept(&machine), Kept::ByPeers { count: 2, note } if note.contains("10.0.0.1")));
    life.peers.change(1, |peer| peer.down = false);
    machine.controller.reconcile().await.expect("because nothing is wrong");
    assert_eq!(kept(&machine), by_peers(3));
    // The first one leaves while the third is away.
    life.peers.change(3, |peer| peer.down = true);
    life.step(&machine, &[2, 3]);
    let machine = machine.up().await;
    assert!(matches!(kept(&machine), Kept::ByPeers { count: 1, .. }), "{:?}", kept(&machine));
    life.peers.change(2, |peer| peer.down = true);
    let why = life.start().refused().await;
    assert!(!why.contains("10.0.0.1"), "whoever left is still asked: {why}");
}

#[tokio::test]
async fn peers_forget_the_shares_that_no_header_names_any_more() {
    let life = Life::enrolled(MachineRole::Worker, &[1]).await;
    for others in [&[1, 2][..], &[1], &[1, 3]] {
        let machine = life.start();
        life.step(&machine, others);
        machine.up().await;
    }
    // Two volumes, each with one share in its header; the first volume's one of before went with the second volume's.
    assert!((2..=4).contains(&life.peers.get(1).shares()), "{} shares", life.peers.get(1).shares());
}

#[tokio::test]
async fn nobody_is_asked_when_nothing_is_due() {
    let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
    let machine = life.start();
    life.step(&machine, &[1, 2]);
    let mut machine = machine.up().await;
    let calls = *life.peers.calls.lock().expect("because no test panics with it");
    machine.controller.reconcile().await.expect("because nothing is wrong");
    life.step(&machine, &[1, 2]);
    let _machine = machine.up().await;
    assert_eq!(*life.peers.calls.lock().expect("because no test panics with it"), calls);
}

#[tokio::test]
async fn machined_that_starts_again_goes_on_where_it_was() {
    let life = Life::new(MachineRole::Worker);
    life.start().up().await;
    assert!(matches!(kept(&life.again().up().await), Kept::InTheClear { .. }));
    let machine = life.again();
    life.step(&machine, &[1]);
    let machine = machine.up().await;
    assert_eq!((by(&machine), kept(&machine)), (Opener::Earlier, by_peers(1)));
    life.start().up().await;
}

#[tokio::test]
async fn a_power_cut_at_any_write_of_the_enrolment_leaves_volumes_that_open_and_no_open_key_after_the_next() {
    // Both volumes: key slot, two copies, the old area.
    for (operation, heard) in (0..10).flat_map(|operation| [(operation, false), (operation, true)]) {
        let life = Life::new(MachineRole::Worker);
        let machine = life.start().up().await;
        let power = Arc::new(Power::default());
        life.disks.powered_by(&power);
        life.step(&machine, &[1, 2]);
        power.cut(operation, heard);
        let mut machine = machine;
        let _cut_or_done = machine.controller.reconcile().await;
        power.back();
        let machine = life.start();
        life.step(&machine, &[1, 2]);
        let machine = machine.up().await;
        assert_eq!(kept(&machine), by_peers(2), "cut at {operation}");
        for label in BOTH {
            let front = life.disks.partition_of(label).front;
            let text = String::from_utf8_lossy(&front[..32 * 1024]).into_owned();
            assert!(!text.contains("cairn-open"), "cut at {operation}: a copy still holds the open key");
        }
        assert_eq!(by(&life.start().up().await), Opener::Peer, "cut at {operation}");
    }
}

#[tokio::test]
async fn a_power_cut_while_peers_change_leaves_volumes_that_open() {
    for (operation, heard) in (0..10).flat_map(|operation| [(operation, false), (operation, true)]) {
        let life = Life::enrolled(MachineRole::Worker, &[1, 2]).await;
        let mut machine = life.start().up().await;
        let power = Arc::new(Power::default());
        life.disks.powered_by(&power);
        life.step(&machine, &[2, 3]);
        power.cut(operation, heard);
        let _cut_or_done = machine.controller.reconcile().await;
        power.back();
        let machine = life.start();
        life.step(&machine, &[2, 3]);
        assert_eq!(kept(&machine.up().await), by_peers(2), "cut at {operation}");
        life.peers.change(1, |peer| peer.down = true);
        life.start().up().await;
    }
}

#[tokio::test]
async fn a_seed_that_insists_makes_no_plain_volume() {
    let (none, some) = (None, Some(policy(1)));
    for (tpm, image, seed, why) in [
        (FakeTpm::absent(), some.clone(), Insistence::Tpm, "has no TPM"),
        (FakeTpm::new(), none.clone(), Insistence::Tpm, "without a policy key"),
        (FakeTpm::new(), none, Insistence::Required, "without a policy key"),
    ] {
        let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
        *disks.policy.lock().expect("because no test panics with it") = image;
        let mut machine = Machine::among(&disks, &Arc::new(tpm), &Arc::default(), insisting(seed));
        let told = machine.refused().await;
        assert!(told.contains("the seed insists on encryption") && told.contains(why), "{told}");
        assert!(matches!(machine.encryption(STATE), Encryption::Unmade { .. }));
        assert_eq!(disks.partition_of(BOTH[0]).contents(), Contents::Empty);
    }
    let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
    *disks.policy.lock().expect("because no test panics with it") = some;
    let sealed = Machine::among(&disks, &Arc::new(FakeTpm::new()), &Arc::default(), insisting(Insistence::Required));
    assert_eq!(sealed.up().await.encryption(STATE), open(Opener::Tpm, false));
}

#[tokio::test]
async fn nothing_is_formatted_before_the_seed_was_read() {
    let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
    let mut machine = Machine::start(&disks, &Arc::new(FakeTpm::absent()));
    machine.seeds.remove(Seed::ID);
    machine.controller.reconcile().await.expect("because it waits");
    assert_eq!(disks.partition_of(BOTH[0]).contents(), Contents::Empty);
    machine.seeds.put(Seed::ID, Seed::default());
    assert_eq!(machine.up().await.encryption(STATE), Encryption::Plain);
}
