//! A machine in memory that is upgraded, and whose power is cut at every single step of it.

mod disk;
mod fake;
mod power_cuts;
mod rules;

use super::*;
use fake::{Behaviour, Fake, OLD, header_of};

#[tokio::test(start_paused = true)]
async fn a_document_names_an_image_and_the_machine_runs_it() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    let disk = fake.disk();
    assert_eq!((disk.running, disk.default), (Slot::B, Slot::B));
    assert_eq!(disk.boot_record().expect("because it was written").attempt, None);
    assert!(disk.told_good);
    drop(disk);
    let status = fake.status();
    assert_eq!((status.phase, status.running.number), (UpgradeStatus::IDLE, 2));
    assert_eq!(status.last.expect("because one ended").outcome, Outcome::Good);
    assert_eq!(status.other.expect("because the old image lies there").number, 1);
    assert_eq!(fake.boots(), 2, "one restart, no more");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_never_gets_healthy_ends_where_it_began_and_says_why() {
    let fake = Fake::new(Behaviour::NeverHealthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    assert_eq!(fake.running_and_default(), (Slot::A, Slot::A));
    let last = fake.status().last.expect("because one ended");
    assert_eq!(last.outcome, Outcome::Failed);
    assert!(last.reason.contains("did not become good in time"), "{}", last.reason);
    assert!(last.reason.contains("gitsync is not healthy"), "{}", last.reason);
    let boots = fake.boots();
    fake.run_to_rest().await;
    assert_eq!(fake.boots(), boots, "the same wish does not begin again");
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_kernel_panics_is_started_a_few_times_and_no_more() {
    let fake = Fake::new(Behaviour::Panics);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    assert_eq!(fake.running_and_default(), (Slot::A, Slot::A));
    assert_eq!(fake.disk().starts_of_the_new_image, init_boot::STARTS_MAX);
    let last = fake.status().last.expect("because one ended");
    assert!(last.reason.contains("started 3 times"), "{}", last.reason);
}

#[tokio::test(start_paused = true)]
async fn a_firmware_that_forgets_costs_the_upgrade_and_nothing_else() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.disk().firmware_forgets = true;
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    assert_eq!(fake.running_and_default(), (Slot::A, Slot::A));
    let last = fake.status().last.expect("because one ended");
    assert!(last.reason.contains("firmware forgets"), "{}", last.reason);
}

#[tokio::test(start_paused = true)]
async fn a_failed_image_is_tried_again_when_the_document_or_a_person_says_so() {
    let fake = Fake::new(Behaviour::NeverHealthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    fake.disk().behaviour = Behaviour::Healthy;
    fake.ask(UpgradeRequest::Retry).await.expect("because an image is held back");
    fake.run_to_rest().await;
    assert_eq!(fake.disk().default, Slot::B);
    let refused = fake.ask(UpgradeRequest::Retry).await.expect_err("because nothing failed since");
    assert_eq!(refused, UpgradeRefused::NothingHeldBack);
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_is_told_of_an_image_is_what_was_proven_here() {
    let fake = Fake::new(Behaviour::NeverHealthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    let new = header_of(2).manifest.digest().to_string();
    let status = fake.status();
    let (digest, attempt, reason) = status.failed().expect("because it never was healthy");
    assert_eq!((digest, attempt), (new.as_str(), Some(1)));
    assert!(!reason.is_empty());
    assert_ne!(status.good(), Some(new.as_str()));
    let trying = UpgradeStatus { phase: "trying", running: status.target.clone().unwrap_or_default(), ..status };
    assert_eq!(trying.good(), None, "nothing is proven in a try");

    fake.disk().behaviour = Behaviour::Healthy;
    fake.ask(UpgradeRequest::Retry).await.expect("because an image is held back");
    fake.run_to_rest().await;
    assert_eq!((fake.status().good(), fake.status().failed()), (Some(new.as_str()), None));
    fake.ask(rollback()).await.expect("because the old image proved itself");
    fake.run_to_rest().await;
    assert_eq!(fake.status().failed(), None, "going back is no failure");
    assert_ne!(fake.status().good(), Some(new.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_person_goes_back_and_the_document_does_not_undo_it() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    fake.ask(rollback()).await.expect("because the old image proved itself");
    fake.run_to_rest().await;
    assert_eq!(fake.running_and_default(), (Slot::A, Slot::A));
    assert_eq!(fake.status().running.number, OLD);
    fake.run_to_rest().await;
    assert_eq!(fake.disk().running, Slot::A);
}

#[tokio::test(start_paused = true)]
async fn going_back_below_the_floor_is_refused() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    fake.floor(2);
    let refused = fake.ask(rollback()).await.expect_err("because the old image lies below the floor");
    assert!(matches!(&refused, UpgradeRefused::Floor(reason) if reason.contains("below the floor 2")), "{refused}");
    fake.run_to_rest().await;
    assert_eq!(fake.disk().running, Slot::B);
}

#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_go_back_to_before_an_upgrade_and_after_one_that_failed() {
    let fake = Fake::new(Behaviour::NeverHealthy);
    fake.run_to_rest().await;
    assert_eq!(fake.ask(rollback()).await, Err(UpgradeRefused::NothingThere));
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    assert_eq!(fake.ask(rollback()).await, Err(UpgradeRefused::NothingThere));
}

#[tokio::test(start_paused = true)]
async fn a_second_wish_gets_a_clear_answer_while_one_runs() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.disk().url_fails = true;
    fake.document_names_the_new_image();
    fake.run_for_a_while().await;
    assert_eq!(fake.status().phase, "obtaining");
    assert!(fake.status().message.contains("is tried again"), "{}", fake.status().message);
    let busy = fake.ask(rollback()).await.expect_err("because one runs");
    assert_eq!(busy, UpgradeRefused::Busy { by: "the repository".to_owned(), phase: "obtaining" });
    fake.document_names_nothing();
    fake.run_to_rest().await;
    assert_eq!(fake.status().phase, UpgradeStatus::IDLE, "what the document does not want any more is left");
}

#[tokio::test(start_paused = true)]
async fn more_machines_mean_that_a_permit_is_needed_and_nobody_gives_one() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.machines(3);
    fake.document_names_the_new_image();
    fake.run_for_a_while().await;
    assert_eq!(fake.status().phase, "written");
    assert!(fake.status().message.contains("no answer is a refusal"), "{}", fake.status().message);
    assert_eq!(fake.boots(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_artefact_never_reaches_a_slot() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.disk().artefact_is_damaged = true;
    fake.document_names_the_new_image();
    fake.run_to_rest().await;
    let last = fake.status().last.expect("because one ended");
    assert_eq!(last.outcome, Outcome::Refused);
    assert!(last.reason.contains("damaged"), "{}", last.reason);
    assert!(!fake.disk().slot_was_touched);
}

#[tokio::test(start_paused = true)]
async fn the_image_that_runs_is_recognised_and_nothing_restarts() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.disk().url_serves_what_runs = true;
    fake.document_names_what_runs();
    fake.run_to_rest().await;
    assert_eq!(fake.status().last.expect("because one ended").outcome, Outcome::Good);
    assert_eq!((fake.boots(), fake.disk().slot_was_touched), (1, false));
}

fn rollback() -> UpgradeRequest {
    UpgradeRequest::Rollback { by: "ada".to_owned(), without_permit: false, deadline_seconds: 0 }
}
