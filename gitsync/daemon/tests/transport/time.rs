//! Servers that never finish: they hang, trickle, or have always one more thing to say.

use crate::lab::{Lab, Stopped};
use gitsync_fetch::FetchError;
use std::time::{Duration, Instant};
use tests_support::hostile::{Attack, Stage};

/// Short for a test; the bound is the same mechanism as a machine's two minutes.
const DEADLINE: Duration = Duration::from_secs(3);

/// What may pass between the deadline and the answer: killing a child.
const SLACK: Duration = Duration::from_secs(5);

/// Asserts that an attack ends at the deadline and not later, with nothing taken.
async fn ends_at_the_deadline(attack: Attack) {
    let mut lab = Lab::new().await.deadline(DEADLINE);
    lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    let start = Instant::now();
    let stopped = lab.stops(attack.clone()).await;
    assert!(matches!(stopped, Stopped::Fetch(FetchError::Deadline { seconds: 3 })), "{attack:?}: {stopped:?}");
    assert!(start.elapsed() < DEADLINE + SLACK, "{attack:?} took {:?}", start.elapsed());
    lab.deadline(crate::lab::DEADLINE).recovers().await;
}

#[tokio::test]
async fn t37_a_server_that_trickles_is_left_at_the_deadline() {
    for stage in [Stage::Capabilities, Stage::Refs, Stage::Pack] {
        ends_at_the_deadline(Attack::Trickle(stage, 200)).await;
    }
}

#[tokio::test]
async fn t42_a_server_that_hangs_is_left_at_the_deadline() {
    for stage in [Stage::Capabilities, Stage::Refs, Stage::Pack] {
        ends_at_the_deadline(Attack::Hang(stage)).await;
    }
}

#[tokio::test]
async fn t42_a_server_that_reports_progress_for_ever_is_left_at_the_deadline() {
    ends_at_the_deadline(Attack::EndlessProgress).await;
}

#[tokio::test]
async fn t36_a_million_refs_are_bounded() {
    let mut lab = Lab::new().await;
    let tip = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");
    lab.survives(Attack::ManyRefs(1_000_000)).await;
    lab.recovers().await;
    assert_eq!(lab.accepted(), tip);
}
