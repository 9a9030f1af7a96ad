//! Volumes on disks and a TPM in memory: what is formatted how, what opens it, and what a power cut leaves.

mod sealing_anew;
mod with_peers;

use super::fake::{FakeDisks, Partition};
use super::fake_peers::FakePeers;
use super::*;
use crate::identity::MachineKey;
use crate::introduction::Seed;
use crate::ledger::DesiredMachine;
use crate::tpm::TpmHost as _;
use crate::tpm::fake::{FakeTpm, Power};
use init_boot::tpm::{MODULUS_BYTES, Pcr, PcrValue, PolicyKey, pcr_policy};
use machined_luks::{PolicySignature, RecoveryKey, key_pem, signatures_json};
use machined_reconcile::{Supervisor, story};
use machined_runtime::{Controller, Ports, Store, Writer, start};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BOTH: [&str; 2] = ["CAIRN-STATE", "CAIRN-EPHEMERAL"];

/// The policy of an image that measures to zero, by the key of this number.
fn policy(number: u8) -> SignedPolicy {
    let mut der = include_bytes!("../../../luks/tests/policy-key.der").to_vec();
    der[40] = number;
    let key = PolicyKey::from_der(&der).expect("because only its modulus differs");
    let signed = PolicySignature { policy: pcr_policy(Pcr::UKI, PcrValue::ZERO), signature: [1; MODULUS_BYTES] };
    let (pem, json) = (key_pem(&key), signatures_json(&key, &[signed]));
    SignedPolicy::parse(pem.as_bytes(), json.as_bytes()).expect("because it is well formed")
}

struct Machine {
    disks: Arc<FakeDisks>,
    tpm: Arc<FakeTpm>,
    healthy: Arc<AtomicBool>,
    store: Store,
    seeds: Writer<Seed>,
    keys: Writer<MachineKey>,
    desired: Writer<DesiredMachine>,
    controller: VolumeController<FakeDisks, FakeTpm, FakePeers>,
    inbox: VolumeInbox,
}

impl Machine {
    fn start(disks: &Arc<FakeDisks>, tpm: &Arc<FakeTpm>) -> Self {
        Machine::among(disks, tpm, &Arc::default(), Seed::default())
    }
    /// A machine that may have peers, from an image with this seed.
    fn among(disks: &Arc<FakeDisks>, tpm: &Arc<FakeTpm>, peers: &Arc<FakePeers>, seed: Seed) -> Self {
        let store = Store::new();
        let mut ports = Ports::new(&store, "volume");
        let (disks, tpm) = (Arc::clone(disks), Arc::clone(tpm));
        let healthy = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&healthy);
        let health = Box::new(move || asked.load(Ordering::Relaxed));
        let (controller, inbox) =
            VolumeController::new(&mut ports, Arc::clone(&disks), (Arc::clone(&tpm), Arc::clone(peers)), health);
        let seeds: Writer<Seed> = store.writer().expect("because nobody else writes it");
        seeds.put(Seed::ID, seed);
        let keys = store.writer().expect("because nobody else writes it");
        let desired = store.writer().expect("because nobody else writes it");
        Machine { disks, tpm, healthy, store, seeds, keys, desired, controller, inbox }
    }
    /// A machine whose image has a policy, with an empty disk.
    fn new() -> Self {
        let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
        *disks.policy.lock().expect("because no test panics with it") = Some(policy(1));
        Machine::start(&disks, &Arc::new(FakeTpm::new()))
    }
    /// The machine starts again: registers are zero, nothing is mapped or mounted.
    fn again(&self) -> Self {
        self.disks.restart();
        self.tpm.restart();
        Machine::start(&self.disks, &self.tpm)
    }
    /// The disk in another machine.
    fn in_another(&self) -> Self {
        self.disks.restart();
        Machine::start(&self.disks, &Arc::new(FakeTpm::other()))
    }
    fn image_of(&self, policy: Option<SignedPolicy>) {
        *self.disks.policy.lock().expect("because no test panics with it") = policy;
    }
    async fn up(mut self) -> Self {
        self.controller.reconcile().await.expect("because nothing is wrong");
        assert_eq!(self.store.reader::<Volume>().all().len(), 2);
        self
    }
    async fn refused(&mut self) -> String {
        let refused = self.controller.reconcile().await.expect_err("because the volumes are locked");
        assert!(self.store.reader::<Volume>().all().is_empty());
        story(&refused)
    }
    async fn ask(&mut self, request: VolumeRequest) -> VolumeReply {
        let inbox = self.inbox.clone();
        let (reply, _outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
        reply.expect("because the controller answers")
    }
    async fn recovery_key(&mut self) -> RecoveryKey {
        match self.ask(VolumeRequest::MakeRecoveryKey).await {
            VolumeReply::Made(key) => key,
            other => panic!("because the volumes are open: {other:?}"),
        }
    }
    fn encryption(&self, target: &str) -> Encryption {
        self.store.reader::<Encryption>().get(target).expect("because the volume was looked at")
    }
}

fn open(by: Opener, recovery: bool) -> Encryption {
    Encryption::Open { by, recovery: Some(recovery), kept: Kept::Here }
}

#[tokio::test]
async fn with_a_tpm_and_a_policy_empty_partitions_are_encrypted_and_open_at_every_start() {
    let machine = Machine::new().up().await;
    for (label, target) in BOTH.into_iter().zip([STATE, EPHEMERAL]) {
        let partition = machine.disks.partition_of(label);
        assert_eq!(partition.contents(), Contents::Luks);
        assert!(!partition.ext4, "a file system lies on {label} in clear");
        assert_eq!(machine.encryption(target), open(Opener::Tpm, false));
        assert!(machine.store.reader::<Volume>().get(target).expect("because it is mounted").formatted);
    }
    let keys = BOTH.map(|label| machine.disks.partition_of(label).inner);
    assert_ne!(keys[0], keys[1], "each volume has a key of its own");
    let later = machine.again().up().await;
    assert_eq!(later.encryption(STATE), open(Opener::Tpm, false));
    assert!(!later.store.reader::<Volume>().get(STATE).expect("because it is mounted").formatted);
}

#[tokio::test]
async fn without_a_tpm_or_a_policy_volumes_stay_in_clear_and_say_so() {
    for (tpm, policy) in [(FakeTpm::absent(), Some(policy(1))), (FakeTpm::new(), None)] {
        let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::empty())));
        *disks.policy.lock().expect("because no test panics with it") = policy;
        let machine = Machine::start(&disks, &Arc::new(tpm)).up().await;
        assert!(machine.disks.partition_of(BOTH[0]).ext4);
        assert_eq!(machine.encryption(STATE), Encryption::Plain);
    }
}

#[tokio::test]
async fn a_volume_that_is_in_clear_stays_so() {
    let disks = FakeDisks::with(&[(BOTH[0], Partition::plain()), (BOTH[1], Partition::empty())]);
    *disks.policy.lock().expect("because no test panics with it") = Some(policy(1));
    let machine = Machine::start(&disks, &Arc::new(FakeTpm::new())).up().await;
    assert_eq!(
        (machine.encryption(STATE), machine.encryption(EPHEMERAL)),
        (Encryption::Plain, open(Opener::Tpm, false))
    );
}

#[tokio::test]
async fn once_the_volumes_are_open_the_tpm_gives_nothing_out_until_the_next_start() {
    let mut machine = Machine::new().up().await;
    let values = machine.tpm.registers(vec![Pcr::UKI]).await.expect("because the TPM works");
    let opened = PcrValue::ZERO.extended(&init_boot::volumes_opened());
    assert_eq!(values, [(Pcr::UKI, opened)]);
    machine.controller.reconcile().await.expect("because nothing is wrong");
    let values = machine.tpm.registers(vec![Pcr::UKI]).await.expect("because the TPM works");
    assert_eq!(values, [(Pcr::UKI, opened)], "it is extended once");
    // machined dies and starts again: the volumes are mounted, and nothing is extended twice.
    let later = Machine::start(&machine.disks, &machine.tpm).up().await;
    assert_eq!(later.encryption(STATE), Encryption::Open { by: Opener::Earlier, recovery: None, kept: Kept::Here });
    let values = machine.tpm.registers(vec![Pcr::UKI]).await.expect("because the TPM works");
    assert_eq!(values, [(Pcr::UKI, opened)]);
}

#[tokio::test]
async fn the_disk_in_another_machine_stays_locked_until_its_recovery_key_is_typed() {
    let mut machine = Machine::new().up().await;
    let key = machine.recovery_key().await;
    assert_eq!(machine.encryption(EPHEMERAL), open(Opener::Tpm, true));
    let mut other = machine.in_another();
    let why = other.refused().await;
    assert!(why.contains("is not the one that wrapped") && why.contains("type its recovery key"), "{why}");
    assert!(matches!(other.encryption(STATE), Encryption::Locked { recovery: true, .. }));
    let wrong = RecoveryKey::generate(&mut |bytes| bytes.fill(9));
    assert!(matches!(other.ask(VolumeRequest::Recover(wrong)).await, VolumeReply::Recovered(0)));
    assert!(matches!(other.ask(VolumeRequest::Recover(key)).await, VolumeReply::Recovered(2)));
    assert_eq!(other.encryption(STATE), open(Opener::RecoveryKey, true));
    assert_eq!(other.store.reader::<Volume>().all().len(), 2);
}

#[tokio::test]
async fn a_new_recovery_key_replaces_the_one_before() {
    let mut machine = Machine::new().up().await;
    let (first, second) = (machine.recovery_key().await, machine.recovery_key().await);
    let third = machine.recovery_key().await;
    let mut other = machine.in_another();
    for old in [first, second] {
        assert!(matches!(other.ask(VolumeRequest::Recover(old)).await, VolumeReply::Recovered(0)));
    }
    assert!(matches!(other.ask(VolumeRequest::Recover(third)).await, VolumeReply::Recovered(2)));
    machine.again().up().await;
}

#[tokio::test]
async fn without_a_recovery_key_the_refusal_says_what_is_left() {
    let machine = Machine::new().up().await;
    let why = machine.in_another().refused().await;
    assert!(why.contains("install the machine again"), "{why}");
}

#[tokio::test]
async fn an_image_of_another_policy_key_or_of_none_opens_nothing_and_changes_nothing() {
    let machine = Machine::new().up().await;
    let before = machine.disks.partition_of(BOTH[0]).front;
    for (image, why) in [(Some(policy(2)), "another policy key"), (None, "without one")] {
        machine.image_of(image);
        let told = machine.again().refused().await;
        assert!(told.contains(why), "{told}");
    }
    assert!(machine.disks.partition_of(BOTH[0]).front == before);
    machine.image_of(Some(policy(1)));
    machine.again().up().await;
}

#[tokio::test]
async fn a_recovery_key_is_made_only_while_the_volumes_keys_are_known() {
    let machine = Machine::new().up().await;
    let mut later = Machine::start(&machine.disks, &machine.tpm).up().await;
    let VolumeReply::Refused(why) = later.ask(VolumeRequest::MakeRecoveryKey).await else { panic!("it made one") };
    assert!(why.contains("cairnctl reboot"), "{why}");
    let disks = FakeDisks::with(&BOTH.map(|label| (label, Partition::plain())));
    let mut plain = Machine::start(&disks, &machine.tpm).up().await;
    let VolumeReply::Refused(why) = plain.ask(VolumeRequest::MakeRecoveryKey).await else { panic!("it made one") };
    assert!(why.contains("no volume of this machine is encrypted"), "{why}");
}

#[tokio::test]
async fn a_power_cut_at_any_write_of_the_first_boot_leaves_what_the_next_one_finishes() {
    // Both partitions: note, seal, header, file system, note; the order between the two does not matter.
    for (operation, heard) in (0..12).flat_map(|operation| [(operation, false), (operation, true)]) {
        let mut machine = Machine::new();
        let power = Arc::new(Power::default());
        machine.disks.powered_by(&power);
        machine.tpm.powered_by(&power);
        power.cut(operation, heard);
        let _cut_or_done = machine.controller.reconcile().await;
        power.back();
        let later = machine.again().up().await;
        assert_eq!(later.encryption(STATE), open(Opener::Tpm, false), "cut at {operation}");
        assert_eq!(later.encryption(EPHEMERAL), open(Opener::Tpm, false), "cut at {operation}");
        later.again().up().await;
    }
}

#[tokio::test]
async fn a_power_cut_while_a_recovery_key_is_made_leaves_volumes_that_open() {
    for (operation, heard) in (0..8).flat_map(|operation| [(operation, false), (operation, true)]) {
        let mut machine = Machine::new().up().await;
        machine.recovery_key().await;
        let power = Arc::new(Power::default());
        machine.disks.powered_by(&power);
        power.cut(operation, heard);
        let _refused_or_made = machine.ask(VolumeRequest::MakeRecoveryKey).await;
        power.back();
        let mut later = machine.again().up().await;
        let key = later.recovery_key().await;
        let opened = later.in_another().ask(VolumeRequest::Recover(key)).await;
        assert!(matches!(opened, VolumeReply::Recovered(2)), "cut at {operation}");
    }
}

#[tokio::test]
async fn a_tpm_that_does_not_give_back_what_it_sealed_encrypts_nothing() {
    let mut machine = Machine::new();
    // Something else was started than what the key signed.
    machine.tpm.extend(Pcr::UKI, [3; 32]).await.expect("because the TPM works");
    let refused = machine.controller.reconcile().await.expect_err("because it would never open again");
    assert!(story(&refused).contains("cannot be encrypted"), "{}", story(&refused));
    assert_eq!(machine.disks.partition_of(BOTH[0]).contents(), Contents::Empty);
}

#[tokio::test(start_paused = true)]
async fn empty_partitions_are_formatted_and_old_ones_checked() {
    let disks = FakeDisks::with(&[(BOTH[0], Partition::plain()), (BOTH[1], Partition::empty())]);
    *disks.late.lock().expect("because no test panics with it") = 3;
    let store = Store::new();
    let mut ports = Ports::new(&store, "volume");
    let seeds: Writer<Seed> = store.writer().expect("because nobody else writes it");
    let (disks_, tpm, peers) = (Arc::clone(&disks), Arc::new(FakeTpm::new()), Arc::new(FakePeers::default()));
    let (controller, _inbox) = VolumeController::new(&mut ports, disks_, (tpm, peers), Box::new(|| true));
    seeds.put(Seed::ID, Seed::default());
    let supervisor = Supervisor::new();
    start(&supervisor, &ports, controller);
    let volumes = store.reader::<Volume>().wait_for(|set| set.len() == 2).await;
    supervisor.stop(Duration::from_secs(1)).await;
    assert!(volumes[EPHEMERAL].formatted && !volumes[STATE].formatted);
    let mut done = disks.done.lock().expect("because no test panics with it").clone();
    done.sort();
    let expected =
        ["check CAIRN-STATE", "format CAIRN-EPHEMERAL", "mount CAIRN-EPHEMERAL /var", "mount CAIRN-STATE /state"];
    assert_eq!(done, expected);
}

#[tokio::test]
async fn unknown_data_is_left_alone() {
    let disks = FakeDisks::with(&[(BOTH[0], Partition::somebodys()), (BOTH[1], Partition::plain())]);
    let mut machine = Machine::start(&disks, &Arc::new(FakeTpm::new()));
    let refused = machine.controller.reconcile().await;
    assert!(matches!(refused, Err(VolumeError::Unknown { label: "CAIRN-STATE", .. })));
    assert!(machine.store.reader::<Volume>().get(EPHEMERAL).is_some(), "the other volume does not wait for a person");
    assert!(!disks.done.lock().expect("because no test panics with it").iter().any(|done| done.contains(BOTH[0])));
}
