//! Members of neighbouring releases in one group: forward, back, and forward for good.

use super::{Accepted, LONG, Running, name, somebody, three_as};
use crate::{Birth, SERVICE, Trust, ask_to_join};
use controlplane_replica::{LEASES, LEVEL_KEY, OpenError};
use controlplane_store::{LeaseId, Store, StoreError, prefix_end};
use machined_ids::{ClusterLevel, Revision};
use std::error::Error;
use std::sync::Arc;

/// The release before: it knows no leases.
const BEFORE: ClusterLevel = ClusterLevel::FIRST;

const LEASE: LeaseId = LeaseId(7);

fn too_early() -> Result<(), StoreError> {
    Err(StoreError::Level { needed: LEASES, level: BEFORE })
}

/// Waits until a member has applied the level, which is raised in one step here.
async fn reached(running: &Running, level: ClusterLevel) {
    let watched = running.replica.watch(LEVEL_KEY.into(), prefix_end(LEVEL_KEY.as_bytes()), Revision(1)).await;
    let mut raised = watched.expect("because all history is kept");
    let raised = tokio::time::timeout(LONG, raised.next()).await.expect("because all members speak more");
    raised.expect("because the store runs");
    assert_eq!(running.replica.level(), Ok(level), "at member {}", running.id);
}

/// All of `members` in the order of their numbers, the one at `at` as another release.
async fn replace(members: Vec<Running>, at: usize, accepted: &Accepted, speaks: ClusterLevel) -> Vec<Running> {
    let mut next = Vec::new();
    for (number, running) in members.into_iter().enumerate() {
        let running = match number == at {
            true => running.again_as(accepted, speaks).await.expect("because the cluster is not beyond it"),
            false => running,
        };
        next.push(running);
    }
    next[at].sees(&[1, 2, 3]).await;
    next[at].replica.led().await;
    assert_eq!(next[at].announce().await, next[at].id);
    next
}

/// A value written at one member and read at the next, all the way round.
async fn works(members: &[Running], round: &str) {
    for (number, writer) in members.iter().enumerate() {
        writer.put("/a/x", round).await.unwrap_or_else(|error| panic!("{round}, written at {}: {error}", writer.id));
        let reader = &members[(number + 1) % members.len()];
        assert_eq!(reader.get("/a/x").await, Ok(round.as_bytes().to_vec()), "{round}, read at {}", reader.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_go_forward_and_back_until_all_speak_more_and_then_only_forward() {
    let (accepted, members) = three_as(BEFORE).await;
    let mut members = Vec::from(members);
    works(&members, "three of the release before").await;
    for at in [2, 0] {
        members = replace(members, at, &accepted, LEASES).await;
        works(&members, "a newer one among them").await;
        assert_eq!(members[at].replica.grant(LEASE, 60).await, too_early(), "the oldest would not understand it");
    }
    members = replace(members, 2, &accepted, BEFORE).await;
    works(&members, "one went back").await;
    for at in [1, 2] {
        assert_eq!(members[0].replica.grant(LEASE, 60).await, too_early());
        members = replace(members, at, &accepted, LEASES).await;
    }
    for running in &members {
        reached(running, LEASES).await;
    }
    members[1].replica.grant(LEASE, 60).await.expect("because every member knows leases");
    works(&members, "three of the newer release").await;

    let last = members.pop().expect("because there are three");
    last.replica.leases().await.expect("because it catches up: what it holds is at the new level");
    let refused = last.again_as(&accepted, BEFORE).await.err().expect("because there is no way back");
    assert!(matches!(refused, OpenError::State { .. }), "{refused}");
    let why = refused.source().and_then(Error::source).map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("level 2") && why.contains("newer release"), "{why}");
    members[0].put("/a/x", "without it").await.expect("because two of three run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_an_older_release_than_the_cluster_is_not_taken_in() {
    let accepted = Accepted::new();
    let first = Running::start(&accepted, "cp1", &[]).await;
    reached(&first, LEASES).await;
    let circle = somebody(&accepted, SERVICE, "cp2");
    accepted.step(|machines| drop(machines.insert(name("cp2"), circle.identity.fingerprint())));
    let trust = circle as Arc<dyn Trust>;
    let ask = |speaks| ask_to_join(&trust, std::slice::from_ref(&first.address), Birth([5; 16]), "127.0.0.1:1", speaks);
    let refused = ask(BEFORE).await.expect_err("because it speaks less");
    let why = refused.source().map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("level 2"), "{why}");
    assert_eq!(ask(LEASES).await.map(|joined| joined.id).ok(), Some(2));
}
