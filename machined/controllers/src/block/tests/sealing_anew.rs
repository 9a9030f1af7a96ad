//! A volume that was opened with its recovery key: what is sealed anew, when, and what a power cut leaves.

use super::*;
use machined_luks::{Header, TPM_TOKEN};

impl Machine {
    /// It is healthy, and looks again.
    async fn healthy(&mut self) {
        self.healthy.store(true, Ordering::Relaxed);
        self.controller.reconcile().await.expect("because nothing is wrong");
    }
    fn slots(&self) -> Vec<usize> {
        let count = |label| {
            let header = Header::parse(&self.disks.partition_of(label).front).expect("because it is a header");
            header.slots_of(TPM_TOKEN).len()
        };
        BOTH.map(count).to_vec()
    }
}

/// A machine of policy 1 that started with an image of policy 2 and was opened with its recovery key.
async fn recovered() -> (Machine, RecoveryKey) {
    let mut machine = Machine::new().up().await;
    let key = machine.recovery_key().await;
    machine.image_of(Some(policy(2)));
    let mut machine = machine.again();
    machine.refused().await;
    let reply = machine.ask(VolumeRequest::Recover(key.clone())).await;
    assert!(matches!(reply, VolumeReply::Recovered(2)));
    (machine, key)
}

#[tokio::test]
async fn after_a_recovery_the_next_start_opens_by_the_new_policy_once_the_machine_was_healthy() {
    let (mut machine, _) = recovered().await;
    machine.controller.reconcile().await.expect("because nothing is wrong");
    assert_eq!(machine.slots(), [1, 1], "it was sealed anew before the machine was healthy");
    machine.healthy().await;
    assert_eq!(machine.slots(), [2, 2]);
    let mut later = machine.again().up().await;
    assert_eq!(later.encryption(STATE), open(Opener::Tpm, true));
    assert_eq!(later.slots(), [2, 2], "the old slot went before the machine was healthy");
    later.healthy().await;
    assert_eq!(later.slots(), [1, 1]);
    later.again().up().await;
    later.image_of(Some(policy(1)));
    assert!(later.again().refused().await.contains("another policy key"));
}

#[tokio::test]
async fn the_image_before_opens_by_its_own_slot_until_the_new_one_has_opened_a_start() {
    let (mut machine, _) = recovered().await;
    machine.healthy().await;
    machine.image_of(Some(policy(1)));
    let machine = machine.again().up().await;
    assert_eq!(machine.encryption(STATE), open(Opener::Tpm, true));
}

#[tokio::test]
async fn a_machine_that_never_gets_healthy_is_given_nothing() {
    let mut machine = Machine::new().up().await;
    let key = machine.recovery_key().await;
    let mut thief = machine.in_another();
    assert!(matches!(thief.ask(VolumeRequest::Recover(key)).await, VolumeReply::Recovered(2)));
    thief.controller.reconcile().await.expect("because nothing is wrong");
    assert_eq!(thief.slots(), [1, 1]);
    assert!(thief.again().refused().await.contains("is not the one that wrapped"));
}

#[tokio::test]
async fn with_a_replaced_tpm_the_new_slot_is_found_beside_the_one_of_before() {
    let mut machine = Machine::new().up().await;
    let key = machine.recovery_key().await;
    let mut machine = machine.in_another();
    assert!(matches!(machine.ask(VolumeRequest::Recover(key)).await, VolumeReply::Recovered(2)));
    machine.healthy().await;
    assert_eq!(machine.slots(), [2, 2]);
    let mut later = machine.again().up().await;
    assert_eq!(later.encryption(STATE), open(Opener::Tpm, true));
    later.healthy().await;
    assert_eq!(later.slots(), [1, 1]);
}

#[tokio::test]
async fn without_a_tpm_or_a_policy_a_recovery_changes_nothing() {
    let mut machine = Machine::new().up().await;
    let key = machine.recovery_key().await;
    machine.image_of(None);
    let mut later = machine.again();
    assert!(matches!(later.ask(VolumeRequest::Recover(key)).await, VolumeReply::Recovered(2)));
    later.healthy().await;
    assert_eq!(later.slots(), [1, 1]);
}

#[tokio::test]
async fn a_third_policy_takes_the_place_of_a_slot_that_never_opened() {
    let (mut machine, key) = recovered().await;
    machine.healthy().await;
    machine.image_of(Some(policy(3)));
    let mut machine = machine.again();
    assert!(matches!(machine.ask(VolumeRequest::Recover(key)).await, VolumeReply::Recovered(2)));
    machine.healthy().await;
    assert_eq!(machine.slots(), [2, 2]);
    machine.again().up().await;
}

#[tokio::test]
async fn a_power_cut_at_any_write_leaves_a_volume_that_the_recovery_key_or_the_tpm_opens() {
    for (operation, heard) in (0..8).flat_map(|operation| [(operation, false), (operation, true)]) {
        // While the new slot is written, and while the old one goes.
        for proven in [false, true] {
            let (mut machine, key) = recovered().await;
            if proven {
                machine.healthy().await;
                machine = machine.again().up().await;
            }
            let power = Arc::new(Power::default());
            machine.disks.powered_by(&power);
            power.cut(operation, heard);
            machine.healthy.store(true, Ordering::Relaxed);
            let _cut_or_done = machine.controller.reconcile().await;
            power.back();
            let mut later = machine.again();
            if later.controller.reconcile().await.is_err() {
                assert!(!proven, "cut at {operation}: a slot that opened is gone");
                let reply = later.ask(VolumeRequest::Recover(key)).await;
                assert!(matches!(reply, VolumeReply::Recovered(1 | 2)), "cut at {operation}");
            }
            later.healthy().await;
            let mut last = later.again().up().await;
            last.healthy().await;
            assert_eq!(last.slots(), [1, 1], "cut at {operation}");
        }
    }
}
