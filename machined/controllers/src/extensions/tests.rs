//! What is merged at which start, what people are told, and that neither power cuts nor broken extensions keep a machine from starting.

mod fake;

use super::ExtensionState;
use crate::tpm::fake::FakeTpm;
use fake::{KERNEL, Machine, header, line};
use std::time::Duration;

/// More operations than any of these stories has.
const OPERATIONS_MAX: u32 = 60;

fn machine() -> Machine {
    Machine::new(FakeTpm::absent())
}

fn message(machine: &Machine, name: &str) -> String {
    machine.status(name).map(|status| status.message).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn what_the_document_names_is_fetched_and_merged_at_the_next_start() {
    let (mut machine, cni, nic) = (machine(), header("cni", "1", None), header("nic", "1", Some(KERNEL)));
    machine.serve(&cni);
    machine.serve(&nic);
    machine.start_machined();
    assert_eq!(machine.settle().await, None);
    assert!(machine.is_merged(), "a machine without a document starts its services");
    machine.name(&[line(&nic), line(&cni)]);
    assert_eq!(machine.settle().await, None);
    assert_eq!(
        (machine.state("cni"), machine.state("nic")),
        (Some(ExtensionState::Waiting), Some(ExtensionState::Waiting))
    );
    assert!(message(&machine, "cni").contains("cairnctl reboot"), "{}", message(&machine, "cni"));
    assert!(machine.in_use().is_empty(), "nothing changes under what runs");
    machine.restart();
    machine.settle().await;
    assert_eq!(
        (machine.state("cni"), machine.state("nic")),
        (Some(ExtensionState::Merged), Some(ExtensionState::Merged))
    );
    let disk = machine.host.disk();
    let names = |folder: &str| disk.folders[folder].iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (names("cni-plugins"), names("modules")),
        (vec!["cni".to_owned(), "nic".to_owned()], vec!["nic".to_owned()])
    );
    assert_eq!(disk.fetches, 2);
}

#[tokio::test(start_paused = true)]
async fn a_url_that_serves_something_else_is_refused_and_asked_again_later() {
    let (mut machine, named) = (machine(), header("cni", "1", None));
    let mut other = header("cni", "1", None);
    other.manifest.image.sha256 = [9; 32];
    machine.serve(&other);
    machine.name(&[line(&named)]);
    machine.restart();
    let first = machine.settle().await.expect("because it is tried again");
    assert_eq!(machine.state("cni"), Some(ExtensionState::Failed));
    assert!(message(&machine, "cni").contains(&other.manifest.digest().to_string()), "{}", message(&machine, "cni"));
    assert!(machine.is_merged() && machine.host.disk().kept.is_empty());
    tokio::time::advance(first).await;
    let second = machine.settle().await.expect("because it is tried again");
    assert!(second > first && second <= Duration::from_secs(600), "{first:?}, then {second:?}");
    machine.serve(&named);
    tokio::time::advance(second).await;
    assert_eq!(machine.settle().await, None);
    assert_eq!(machine.state("cni"), Some(ExtensionState::Waiting));
}

#[tokio::test(start_paused = true)]
async fn a_file_with_a_changed_byte_is_left_out_told_and_fetched_again() {
    let (mut machine, cni, nic) = (machine(), header("cni", "1", None), header("nic", "1", None));
    machine.serve(&cni);
    machine.serve(&nic);
    machine.name(&[line(&cni), line(&nic)]);
    machine.restart();
    machine.settle().await;
    machine.host.disk().damaged.insert(cni.manifest.digest());
    machine.restart();
    machine.settle().await;
    assert!(machine.is_merged());
    assert_eq!(machine.in_use(), [nic.manifest.digest()]);
    assert_eq!(machine.state("cni"), Some(ExtensionState::Waiting), "a whole one is here by now");
    assert!(message(&machine, "cni").contains("at the start: its file was damaged"), "{}", message(&machine, "cni"));
    machine.restart();
    machine.settle().await;
    assert_eq!((machine.state("cni"), message(&machine, "cni")), (Some(ExtensionState::Merged), String::new()));
}

#[tokio::test(start_paused = true)]
async fn another_digest_and_an_end_wait_for_the_next_start_and_leave_nothing_behind() {
    let (mut machine, old, new) = (machine(), header("cni", "1", None), header("cni", "2", None));
    machine.serve(&old);
    machine.serve(&new);
    machine.name(&[line(&old)]);
    machine.restart();
    machine.settle().await;
    machine.restart();
    machine.settle().await;
    machine.name(&[line(&new)]);
    machine.settle().await;
    assert_eq!((machine.state("cni"), machine.in_use()), (Some(ExtensionState::Waiting), vec![old.manifest.digest()]));
    assert_eq!(machine.host.disk().kept.len(), 2, "what is in use is not forgotten");
    machine.restart();
    machine.settle().await;
    assert_eq!((machine.state("cni"), machine.in_use()), (Some(ExtensionState::Merged), vec![new.manifest.digest()]));
    assert_eq!(machine.host.disk().kept.len(), 1, "what nobody names is forgotten");
    machine.name(&[]);
    machine.settle().await;
    assert_eq!((machine.state("cni"), machine.host.disk().kept.len()), (Some(ExtensionState::Leaving), 1));
    machine.restart();
    machine.settle().await;
    assert_eq!((machine.state("cni"), machine.in_use().len(), machine.host.disk().kept.len()), (None, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn modules_for_another_kernel_wait_for_it() {
    let (mut machine, nic) = (machine(), header("nic", "1", Some("6.13.0")));
    machine.serve(&nic);
    machine.name(&[line(&nic)]);
    for _ in 0..2 {
        machine.restart();
        machine.settle().await;
        assert_eq!(machine.state("nic"), Some(ExtensionState::OtherKernel));
    }
    assert!(machine.is_merged() && machine.in_use().is_empty());
    assert!(message(&machine, "nic").contains("6.13.0"), "{}", message(&machine, "nic"));
    assert_eq!(machine.host.disk().fetches, 1, "it is kept for when that kernel runs");
}

#[tokio::test(start_paused = true)]
async fn whatever_step_fails_the_machine_starts_and_says_which() {
    for (broken, in_use) in [
        ("clear up", 0),
        ("attach it", 0),
        ("merge plugins", 1),
        ("merge modules", 1),
        ("load modules", 1),
        ("forget it", 1),
    ] {
        let (mut machine, nic) = (machine(), header("nic", "1", Some(KERNEL)));
        machine.serve(&nic);
        machine.name(&[line(&nic)]);
        machine.restart();
        machine.settle().await;
        machine.host.disk().broken.insert(broken);
        machine.restart();
        machine.settle().await;
        assert!(machine.is_merged(), "{broken}");
        assert_eq!(machine.in_use().len(), in_use, "{broken}");
        if broken != "forget it" {
            assert_eq!(machine.state("nic"), Some(ExtensionState::Failed), "{broken}");
            assert!(message(&machine, "nic").contains(broken), "{}", message(&machine, "nic"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machined_that_is_started_again_merges_nothing_twice() {
    let (mut machine, cni) = (machine(), header("cni", "1", None));
    machine.serve(&cni);
    machine.name(&[line(&cni)]);
    machine.restart();
    machine.settle().await;
    machine.restart();
    machine.settle().await;
    machine.start_machined();
    machine.settle().await;
    assert_eq!((machine.is_merged(), machine.state("cni")), (true, Some(ExtensionState::Merged)));
    assert_eq!(machine.host.disk().cleared, 1, "what is in use was not touched");
}

/// The story of three starts: fetched; merged, and another one named; that one merged.
async fn story_of(machine: &mut Machine) {
    let (old, new) = (header("nic", "1", Some(KERNEL)), header("nic", "2", Some(KERNEL)));
    machine.serve(&old);
    machine.serve(&new);
    machine.name(&[line(&old)]);
    machine.restart();
    machine.settle().await;
    if !machine.power.is_cut() {
        machine.restart();
        machine.settle().await;
    }
    if !machine.power.is_cut() {
        machine.name(&[line(&new)]);
        machine.settle().await;
    }
    if !machine.power.is_cut() {
        machine.restart();
        machine.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_power_is_cut_the_next_starts_end_as_the_document_says() {
    let wanted = header("nic", "2", Some(KERNEL)).manifest.digest();
    for machined_only in [false, true] {
        for takes_effect in [false, true] {
            let mut covered = false;
            for operation in 0..OPERATIONS_MAX {
                let mut machine = machine();
                machine.power.cut(operation, takes_effect);
                story_of(&mut machine).await;
                covered = !machine.power.is_cut();
                machine.power.back();
                if covered {
                    assert!(operation > 8, "the story has more operations than {operation}");
                    break;
                }
                // Either the whole machine went, or machined alone and the mounts stayed.
                if machined_only {
                    machine.start_machined()
                } else {
                    machine.restart()
                }
                machine.settle().await;
                assert!(machine.is_merged(), "cut at operation {operation}");
                machine.name(&[line(&header("nic", "2", Some(KERNEL)))]);
                machine.settle().await;
                machine.restart();
                machine.settle().await;
                assert_eq!(machine.in_use(), [wanted], "cut at operation {operation}");
                assert_eq!(machine.state("nic"), Some(ExtensionState::Merged), "cut at operation {operation}");
                assert_eq!(machine.host.disk().kept.len(), 1, "cut at operation {operation}");
            }
            assert!(covered, "the story never ended without a cut");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_is_measured_before_and_a_silent_tpm_costs_the_extension_only() {
    let (mut machine, cni) = (Machine::new(FakeTpm::new()), header("cni", "1", None));
    machine.serve(&cni);
    machine.name(&[line(&cni)]);
    machine.restart();
    machine.settle().await;
    machine.restart();
    assert_eq!(machine.settle().await, None);
    assert_eq!(machine.in_use(), [cni.manifest.digest()]);
    assert!(!machine.host.disk().unmeasured, "it was merged before the register said so");

    machine.tpm.power().cut(0, false);
    machine.restart();
    let wait = machine.settle().await.expect("because the TPM may still answer");
    assert!(!machine.is_merged());
    tokio::time::advance(wait).await;
    machine.settle().await;
    assert!(machine.is_merged() && machine.in_use().is_empty());
    assert_eq!(machine.state("cni"), Some(ExtensionState::Failed));
    assert!(message(&machine, "cni").contains("TPM"), "{}", message(&machine, "cni"));
}
