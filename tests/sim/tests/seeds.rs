//! Seeds that every build runs: the shipped store holds, a run is the same twice, and each way to break the store is noticed.

use tests_sim::{Fault, run};

/// Seeds that once broke something, and what it was: kept for ever.
const BROKE_ONCE: [u64; 2] = [
    2, // a leader came back without an election and answered reads from a state that lagged behind the log
    5, // the same, on another way
];

#[test]
fn seeds_that_broke_something_once_hold() {
    for seed in BROKE_ONCE {
        let report = run(seed, None).unwrap_or_else(|error| panic!("seed {seed} breaks: {error:#}"));
        assert!(report.revisions > 500 && report.watched > 500, "seed {seed} did next to nothing: {report:?}");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    let digests = [1, 2].map(|_| run(7, None).expect("because seed 7 holds").digest);
    assert_eq!(digests[0], digests[1]);
}

/// Runs seeds until one notices the fault; some faults show only when the right things happen.
fn noticed(fault: Fault, by: &str) {
    const SEEDS: std::ops::Range<u64> = 1..6;
    let mut held = Vec::new();
    for seed in SEEDS {
        match run(seed, Some(fault)) {
            Ok(report) => held.push(report),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.starts_with(by), "{fault:?} was noticed as something else: {error}");
                return;
            }
        }
    }
    panic!("nothing noticed {fault:?}: {held:?}");
}

#[test]
fn a_lost_write_is_noticed() {
    noticed(Fault::LosesWrites, "linearizability");
}

#[test]
fn a_stale_read_is_noticed() {
    noticed(Fault::ReadsStale, "linearizability");
}

#[test]
fn a_write_that_is_denied_is_noticed() {
    noticed(Fault::DeniesWrites, "linearizability");
}

#[test]
fn a_repeated_event_is_noticed() {
    noticed(Fault::RepeatsEvents, "watch: ordered and unique");
}

#[test]
fn a_dropped_event_is_noticed() {
    noticed(Fault::DropsEvents, "watch: reliable");
}

#[test]
fn a_split_revision_is_noticed() {
    noticed(Fault::SplitsRevisions, "watch: ordered and unique");
}

#[test]
fn a_promise_too_far_is_noticed() {
    noticed(Fault::PromisesTooMuch, "watch: bookmarks");
}
