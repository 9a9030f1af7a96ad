//! Who vouches for an image, and what no voucher helps against.

use super::fake::{Behaviour, Fake, header_of, signed_by, signer};
use super::{ImageRefusal, Outcome, Rules, UpgradeRequest, judge};
use machined_access::ImageRules;

fn rules(floor: u64) -> Rules {
    Rules { images: ImageRules { keys: [signer(1)].into(), floor }, named: None, level: 1, profile: "cloud".to_owned() }
}

#[test]
fn t90_an_image_that_nobody_named_or_signed_may_not_run() {
    let header = header_of(2);
    let digest = header.manifest.digest();
    assert_eq!(judge(&header, &rules(0)), Err(ImageRefusal::Nobody(digest)));
    assert_eq!(judge(&signed_by(2, 9), &rules(0)), Err(ImageRefusal::Nobody(digest)), "a key that is no image key");
    let other = Rules { named: Some(header_of(3).manifest.digest()), ..rules(0) };
    assert_eq!(judge(&header, &other), Err(ImageRefusal::Nobody(digest)), "another image is named");
    let mut moved = header_of(3);
    moved.add_signature(&signed_by(2, 1).signatures()[0]).expect("because it is an armour");
    assert_eq!(
        judge(&moved, &rules(0)),
        Err(ImageRefusal::Nobody(moved.manifest.digest())),
        "signed for another image"
    );
    assert_eq!(judge(&signed_by(2, 1), &rules(0)), Ok(()));
    assert_eq!(judge(&header, &Rules { named: Some(digest), ..rules(0) }), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn t90_what_nobody_named_or_signed_is_refused_before_a_slot_is_touched() {
    let fake = Fake::new(Behaviour::Healthy);
    fake.sent();
    let wish = UpgradeRequest::Start { by: "eve".to_owned(), url: None, without_permit: true, deadline_seconds: 0 };
    fake.ask(wish).await.expect("because it is taken, and judged then");
    fake.run_to_rest().await;
    let last = fake.status().last.expect("because one ended");
    assert_eq!(last.outcome, Outcome::Refused);
    assert!(last.reason.contains("neither named"), "{}", last.reason);
    assert_eq!((fake.boots(), fake.disk().slot_was_touched), (1, false));
}

#[test]
fn nobody_can_vouch_for_an_image_below_the_floor() {
    let header = signed_by(2, 1);
    assert_eq!(judge(&header, &rules(2)), Ok(()));
    assert_eq!(judge(&header, &rules(3)), Err(ImageRefusal::BelowFloor { number: 2, floor: 3 }));
    let named = Rules { named: Some(header.manifest.digest()), ..rules(3) };
    assert_eq!(judge(&header, &named), Err(ImageRefusal::BelowFloor { number: 2, floor: 3 }));
}

#[test]
fn an_image_for_other_machines_is_refused() {
    let header = signed_by(2, 1);
    assert!(matches!(judge(&header, &Rules { level: 2, ..rules(0) }), Err(ImageRefusal::Level { .. })));
    let metal = Rules { profile: "metal".to_owned(), ..rules(0) };
    assert!(matches!(judge(&header, &metal), Err(ImageRefusal::OtherMachine { .. })));
    assert_eq!(judge(&header, &Rules { profile: String::new(), ..rules(0) }), Ok(()), "nobody knows what runs");
}
