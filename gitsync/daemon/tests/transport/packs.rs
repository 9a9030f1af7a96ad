//! Packs that are broken, that lack what they should hold, and that are bombs.

use crate::lab::{Lab, Stopped};
use gitsync_fetch::FetchError;
use gitsync_verify::Reason;
use tests_support::hostile::Attack;
use tests_support::hostile::pack::{Kind, Object, Pack, copies, objects, one_more, zlib, zlib_of_zeros};

/// A machine that is about to fetch one more step, and all objects of that step.
async fn about_to_fetch() -> (Lab, Vec<Object>) {
    let lab = Lab::new().await;
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: new\n");
    let all = objects(&lab.served(), tip.as_str()).expect("because git lists them");
    (lab, all)
}

fn pack(pack: Pack) -> Attack {
    Attack::Pack(pack.finish().into())
}

fn failed(stopped: &Stopped) -> bool {
    matches!(stopped, Stopped::Fetch(FetchError::Transfer(_) | FetchError::Child(_) | FetchError::Deadline { .. }))
}

#[tokio::test]
async fn t31_an_object_with_other_content_is_missed_under_its_name() {
    let (mut lab, mut all) = about_to_fetch().await;
    let blob = all.iter_mut().find(|object| object.content == b"b: new\n").expect("because it was committed");
    blob.content = b"b: bad\n".to_vec();
    let stopped = lab.stops(pack(Pack::of(&all))).await;
    assert_eq!(stopped.reason(), Some(Reason::MissingObject), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t31_damaged_bytes_and_checksums_fail_the_transfer() {
    let (mut lab, all) = about_to_fetch().await;
    let good = Pack::of(&all).finish();
    for at in [good.len() / 2, good.len() - 1, 20] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        let stopped = lab.stops(Attack::Pack(bad.into())).await;
        assert!(failed(&stopped) || stopped.reason() == Some(Reason::MissingObject), "{at}: {stopped:?}");
    }
    let cut = good[..good.len() - 30].to_vec();
    let stopped = lab.stops(Attack::Pack(cut.into())).await;
    assert!(failed(&stopped), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t32_blobs_that_are_only_promised_are_missing_and_nobody_goes_back_for_them() {
    let (mut lab, all) = about_to_fetch().await;
    let without: Vec<_> = all.into_iter().filter(|object| object.content != b"b: new\n").collect();
    let before = lab.server.requests().len();
    let stopped = lab.stops(pack(Pack::of(&without))).await;
    assert_eq!(stopped.reason(), Some(Reason::MissingObject), "{stopped:?}");
    let asked = lab.server.requests().split_off(before);
    assert_eq!(asked.iter().filter(|request| *request == "fetch").count(), 1, "{asked:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t32_a_missing_commit_in_the_middle_is_missing() {
    let (mut lab, _) = about_to_fetch().await;
    let middle = lab.git(&["rev-parse", "HEAD"]);
    let tip = lab.commit(Some("ada"), "apps/c.yaml", "c: 1\n");
    let all = objects(&lab.served(), tip.as_str()).expect("because git lists them");
    let without: Vec<_> = all.into_iter().filter(|object| object.id != middle).collect();
    let stopped = lab.stops(pack(Pack::of(&without))).await;
    assert_eq!(stopped.reason(), Some(Reason::MissingObject), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t35_a_blob_of_three_gibibytes_in_three_mebibytes_is_bounded() {
    let (mut lab, all) = about_to_fetch().await;
    let mut bomb = Pack::of(&all);
    bomb.entry(Kind::Blob, 3 << 30, &[], &zlib_of_zeros(3 << 10));
    lab.survives(pack(bomb)).await;
    lab.recovers().await;
}

#[tokio::test]
async fn t35_a_declared_size_costs_nothing() {
    let (mut lab, all) = about_to_fetch().await;
    for declared in [1 << 33, 1 << 50, u64::MAX] {
        let mut bomb = Pack::of(&all);
        bomb.entry(Kind::Blob, declared, &[], &zlib(b"small"));
        let stopped = lab.stops(pack(bomb)).await;
        assert!(failed(&stopped), "{declared}: {stopped:?}");
    }
    lab.recovers().await;
}

#[tokio::test]
async fn t35_deltas_that_multiply_their_base_are_bounded() {
    let (mut lab, all) = about_to_fetch().await;
    let mut bomb = Pack::of(&all);
    let base = bomb.entry(Kind::Blob, 16 << 20, &[], &zlib_of_zeros(16));
    for _ in 0..8 {
        bomb.delta(base, &copies(16 << 20, 1000));
    }
    lab.survives(pack(bomb)).await;
    lab.recovers().await;
}

#[tokio::test]
async fn t35_a_chain_of_deltas_five_thousand_deep_is_bounded() {
    let (mut lab, all) = about_to_fetch().await;
    let mut bomb = Pack::of(&all);
    let mut at = bomb.entry(Kind::Blob, 4, &[], &zlib(b"base"));
    for depth in 0..5_000 {
        at = bomb.delta(at, &one_more(4 + depth));
    }
    lab.survives(pack(bomb)).await;
    lab.recovers().await;
}

#[tokio::test]
async fn t35_a_pack_that_declares_four_thousand_million_entries_is_refused() {
    let (mut lab, all) = about_to_fetch().await;
    let bomb = Pack::of(&all).finish_as(u32::MAX);
    let stopped = lab.stops(Attack::Pack(bomb.into())).await;
    assert!(failed(&stopped), "{stopped:?}");
    lab.recovers().await;
}

#[tokio::test]
async fn t35_objects_that_nobody_refers_to_are_not_handed_on() {
    let (mut lab, all) = about_to_fetch().await;
    let mut bomb = Pack::of(&all);
    for number in 0..20_000_u32 {
        bomb.entry(Kind::Blob, 4, &[], &zlib(&number.to_be_bytes()));
    }
    lab.server.attack(pack(bomb));
    lab.takes().await;
}
