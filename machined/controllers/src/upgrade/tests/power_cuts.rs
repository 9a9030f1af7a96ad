//! Power is cut before, and in the middle of, every single thing that an upgrade asks of the machine.

use super::fake::{Behaviour, Fake};
use super::{Outcome, UpgradeRequest, rollback};
use init_boot::Slot;

/// More operations than any of these upgrades has; a run that ends without a cut shows that all were covered.
const OPERATIONS_MAX: usize = 400;
/// Fewer than any of them has: a run that ends earlier was no upgrade.
const OPERATIONS_MIN: usize = 8;

/// Runs `begin` on fresh machines, cutting power at one operation later each time, until a run ends without a cut.
async fn at_every_operation(behaviour: Behaviour, torn: bool, begin: impl AsyncFn(&Fake), end: impl Fn(&Fake, usize)) {
    for cut in 1..OPERATIONS_MAX {
        let fake = Fake::new(behaviour);
        begin(&fake).await;
        fake.cut_power_at(cut, torn);
        fake.run_to_rest().await;
        end(&fake, cut);
        if !fake.power_was_cut() {
            assert!(cut > OPERATIONS_MIN, "an upgrade has more operations than {cut}");
            return;
        }
    }
    panic!("the upgrade never ended without a cut");
}

#[tokio::test(start_paused = true)]
async fn a_good_image_becomes_the_default_whenever_power_is_cut() {
    for torn in [false, true] {
        let begin = async |fake: &Fake| fake.document_names_the_new_image();
        at_every_operation(Behaviour::Healthy, torn, begin, |fake, cut| {
            assert_eq!(fake.running_and_default(), (Slot::B, Slot::B), "cut at operation {cut}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_image_never_becomes_the_default_whenever_power_is_cut() {
    for behaviour in [Behaviour::NeverHealthy, Behaviour::Panics] {
        let begin = async |fake: &Fake| fake.document_names_the_new_image();
        at_every_operation(behaviour, true, begin, |fake, cut| {
            assert_eq!(fake.running_and_default(), (Slot::A, Slot::A), "cut at operation {cut}");
            let last = fake.status().last.unwrap_or_else(|| panic!("nothing is said after a cut at operation {cut}"));
            assert_eq!(last.outcome, Outcome::Failed, "cut at operation {cut}: {}", last.reason);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn going_back_ends_on_one_of_two_good_images_whenever_power_is_cut() {
    let begin = async |fake: &Fake| {
        fake.document_names_the_new_image();
        fake.run_to_rest().await;
        fake.queue(rollback());
    };
    at_every_operation(Behaviour::Healthy, true, begin, |fake, cut| {
        let disk = fake.disk();
        assert_eq!(disk.running, disk.default, "cut at operation {cut}");
        assert_eq!(disk.boot_record().and_then(|record| record.attempt), None, "cut at operation {cut}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sent_artefact_is_installed_or_asked_for_again_whenever_power_is_cut() {
    let begin = async |fake: &Fake| {
        fake.image_key_signed();
        fake.sent();
        fake.queue(UpgradeRequest::Start {
            by: "ada".to_owned(),
            url: None,
            without_permit: false,
            deadline_seconds: 0,
        });
    };
    at_every_operation(Behaviour::Healthy, true, begin, |fake, cut| {
        let (running, default) = fake.running_and_default();
        assert_eq!(running, default, "cut at operation {cut}");
    })
    .await;
}
