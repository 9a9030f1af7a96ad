//! Figures of the source's side: how fetching goes, and how long it takes from the first sight of a commit until it is healthy.
//!
//! Kept in memory, told to machined now and then, shown by its `GET /metrics`. The time of a push is not known (a commit's own time is
//! anybody's word); what is measured begins with the fetch that showed the commit.

use gitsync_fetch::{Answer, FetchError, Fetched, RepositoryUrl};
use gitsync_verify::TrustState;
use jiff::Timestamp;
use machined_api::{ReportSourcesRequest, SourceReport};
use machined_ids::CommitId;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How often machined is told: more often than anybody scrapes.
const PERIOD: Duration = Duration::from_secs(5);

/// Commits that were seen and did not become healthy; the oldest is forgotten then.
const MAX_WAITING: usize = 64;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sources: BTreeMap<RepositoryUrl, SourceReport>,
    /// Commits on their way to healthy, and when they were seen first.
    waiting: VecDeque<(CommitId, Instant)>,
    healthy: u64,
    healthy_time: Duration,
    told: Option<Instant>,
}

impl Meter {
    /// A fetch ended.
    pub(crate) fn fetched(
        &mut self,
        url: &RepositoryUrl,
        outcome: &Result<Answer, FetchError>,
        took: Duration,
        now: Timestamp,
    ) {
        let fresh = || SourceReport { repository: url.to_string(), ..SourceReport::default() };
        let report = self.sources.entry(url.clone()).or_insert_with(fresh);
        report.seconds += took.as_secs_f64();
        match outcome.as_ref().map(|answer| &answer.fetched) {
            Ok(Fetched::Unchanged(_)) => report.unchanged += 1,
            Ok(Fetched::New(..)) => report.changed += 1,
            Err(_) => report.failed += 1,
        }
        if outcome.is_ok() {
            report.answered = seconds(now);
        }
    }

    /// A commit is offered. One that is accepted already was seen by an earlier process, or was seen here.
    pub(crate) fn seen(&mut self, commit: &CommitId, state: Option<&TrustState>, at: Instant) {
        let accepted = state.is_some_and(|state| state.history().iter().any(|known| known.commit == *commit));
        if !accepted && !self.waiting.iter().any(|(known, _)| known == commit) {
            self.waiting.push_back((commit.clone(), at));
            let excess = self.waiting.len().saturating_sub(MAX_WAITING);
            self.waiting.drain(..excess);
        }
    }

    /// Everything of a commit runs. Those that were seen before it are not waited for any longer.
    pub(crate) fn healthy(&mut self, commit: &CommitId, at: Instant) {
        let Some(place) = self.waiting.iter().position(|(known, _)| known == commit) else { return };
        let Some((_, seen)) = self.waiting.drain(..=place).next_back() else { return };
        self.healthy += 1;
        self.healthy_time += at.saturating_duration_since(seen);
    }

    /// What to tell machined, when it is time: only of repositories that are looked at still.
    pub(crate) fn due(
        &mut self,
        repositories: &[RepositoryUrl],
        state: Option<&TrustState>,
        now: Instant,
    ) -> Option<ReportSourcesRequest> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < PERIOD) {
            return None;
        }
        self.told = Some(now);
        self.sources.retain(|url, _| repositories.contains(url));
        let (issued, expires) = state.and_then(TrustState::newest_beacon).unzip();
        Some(ReportSourcesRequest {
            sources: self.sources.values().cloned().collect(),
            beacon_issued: issued.map_or(0.0, seconds),
            beacon_expires: expires.map_or(0.0, seconds),
            healthy: self.healthy,
            healthy_seconds: self.healthy_time.as_secs_f64(),
        })
    }
}

/// Seconds since 1970, as metrics have times.
fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(number: usize) -> CommitId {
        CommitId::parse(&format!("{number:040x}")).expect("because it is hex")
    }

    #[test]
    fn the_time_to_healthy_begins_with_the_first_sight_and_counts_once() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        meter.seen(&commit(1), None, start);
        meter.seen(&commit(2), None, after(3));
        meter.seen(&commit(2), None, after(5));
        meter.healthy(&commit(2), after(10));
        meter.healthy(&commit(2), after(20));
        meter.healthy(&commit(1), after(30));
        meter.healthy(&commit(3), after(30));
        let told = meter.due(&[], None, after(30)).expect("because nothing was told yet");
        assert_eq!((told.healthy, told.healthy_seconds), (1, 7.0), "the commit before it was overtaken");
    }

    #[test]
    fn commits_that_never_become_healthy_do_not_pile_up() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        (0..1000).for_each(|number| meter.seen(&commit(number), None, start));
        assert_eq!(meter.waiting.len(), MAX_WAITING);
        assert_eq!(meter.waiting.back().map(|(commit, _)| commit.clone()), Some(commit(999)));
    }

    #[test]
    fn fetches_are_counted_for_each_repository_and_told_now_and_then() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let [here, gone] =
            ["http://a/b", "http://a/gone"].map(|url| RepositoryUrl::parse(url).expect("because it is a URL"));
        let ok = |fetched| Ok(Answer { fetched, dialect: None });
        let (at, second) = (Timestamp::UNIX_EPOCH, Duration::from_millis(250));
        let later = at + jiff::SignedDuration::from_secs(60);
        meter.fetched(&here, &ok(Fetched::Unchanged(commit(1))), second, at);
        meter.fetched(&here, &ok(Fetched::Unchanged(commit(1))), second, later);
        meter.fetched(
            &here,
            &Err(FetchError::Deadline { seconds: 1 }),
            second,
            later + jiff::SignedDuration::from_secs(1),
        );
        meter.fetched(&gone, &Err(FetchError::Deadline { seconds: 1 }), second, at);
        let told = report_of(&mut meter, &here, start).expect("because nothing was told yet");
        let expected = SourceReport {
            repository: "http://a/b".into(),
            unchanged: 2,
            failed: 1,
            seconds: 0.75,
            answered: 60.0,
            ..SourceReport::default()
        };
        assert_eq!(told.sources, [expected]);
        assert_eq!(report_of(&mut meter, &here, start + PERIOD / 2), None, "it was told just now");
        assert!(report_of(&mut meter, &here, start + PERIOD).is_some());
    }

    fn report_of(meter: &mut Meter, url: &RepositoryUrl, at: Instant) -> Option<ReportSourcesRequest> {
        meter.due(std::slice::from_ref(url), None, at)
    }
}
