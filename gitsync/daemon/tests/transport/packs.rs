//! Packs that are broken, that lack what they should hold, and that are bombs.

use crate::lab::{Lab, Stopped};
use gitsync_fetch::{FetchError, Limits};
use gitsync_verify::Reason;
use tests_support::hostile::Attack;
use tests_support::hostile::pack::{Kind, Object, Pack, copies, objects, one_more, zlib, zlib_of_zeros};
use tests_support::shattered::{sha1, shattered};

/// A machine that is about to fetch one more step, and all objects of that step.
async fn about_to_fetch() -> (Lab, Vec<Object>) {
    let lab = Lab::new().await;
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: new\n");
    let all = objects(&lab.served(), tip.as_str()).expect("because git lists them");
    (lab, all)
}

/// A quarter of what a child may take on a machine, so that a bomb of a quarter proves the same and a busy computer gets through it.
const QUARTER: Limits =
    Limits { memory_bytes: Limits::MACHINE.memory_bytes / 4, processor_seconds: Limits::MACHINE.processor_seconds / 4 };

/// As [`about_to_fetch`], by a child with a quarter of the limits.
async fn about_to_fetch_a_bomb() -> (Lab, Vec<Object>) {
    let (lab, all) = about_to_fetch().await;
    (lab.limits(QUARTER), all)
}

fn pack(pack: Pack) -> Attack {
    Attack::Pack(pack.finish().into())
}

fn failed(stopped: &Stopped) -> bool {
    matches!(stopped, Stopped::Fetch(FetchError::Transfer(_) | FetchError::Child(_) | FetchError::Deadline { .. }))
}

/// As far as T30 goes on whole git objects: the published collision begins where a file begins, and git puts a head before it.
#[tokio::test]
async fn t30_two_files_made_from_the_published_collision_are_told_apart() {
    let mut lab = Lab::new().await;
    let [one, other] = shattered();
    assert!(one != other && sha1(&one) == sha1(&other), "as files they have one SHA-1");
    std::fs::write(lab.work().join("apps/one.pdf"), &one).expect("because /tmp can be written");
    std::fs::write(lab.work().join("apps/other.pdf"), &other).expect("because /tmp can be written");
    let tip = lab.commit(Some("ada"), "apps/c.yaml", "c: 1\n");
    let honest = objects(&lab.served(), tip.as_str()).expect("because git lists them");
    // A server gives the one where the other was committed, by leaving the other out or by putting the one in its place.
    let without: Vec<_> = honest.iter().filter(|object| object.content != other).cloned().collect();
    let mut twice = honest.clone();
    twice.iter_mut().filter(|object| object.content == other).for_each(|object| object.content = one.clone());
    for lie in [without, twice] {
        let stopped = lab.stops(pack(Pack::of(&lie))).await;
        assert_eq!(stopped.reason(), Some(Reason::MissingObject), "{stopped:?}");
    }
    lab.recovers().await;
    assert_eq!(lab.accepted(), tip);
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
async fn t35_a_blob_half_as_large_again_as_the_child_may_become_is_bounded() {
    let (mut lab, all) = about_to_fetch_a_bomb().await;
    let mut bomb = Pack::of(&all);
    let mebibytes = u32::try_from((QUARTER.memory_bytes * 3 / 2) >> 20).expect("because it is less than 1000");
    bomb.entry(Kind::Blob, u64::from(mebibytes) << 20, &[], &zlib_of_zeros(mebibytes));
    lab.survives(pack(bomb)).await;
    lab.limits(Limits::MACHINE).recovers().await;
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
    let (mut lab, all) = about_to_fetch_a_bomb().await;
    let mut bomb = Pack::of(&all);
    let base = bomb.entry(Kind::Blob, 16 << 20, &[], &zlib_of_zeros(16));
    // Each of them alone becomes eight times what the child may have.
    for _ in 0..8 {
        bomb.delta(base, &copies(16 << 20, 256));
    }
    lab.survives(pack(bomb)).await;
    lab.limits(Limits::MACHINE).recovers().await;
}

#[tokio::test]
async fn t35_a_chain_of_deltas_five_thousand_deep_is_bounded() {
    let (mut lab, all) = about_to_fetch_a_bomb().await;
    let mut bomb = Pack::of(&all);
    let mut at = bomb.entry(Kind::Blob, 4, &[], &zlib(b"base"));
    for depth in 0..5_000 {
        at = bomb.delta(at, &one_more(4 + depth));
    }
    lab.survives(pack(bomb)).await;
    lab.limits(Limits::MACHINE).recovers().await;
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
