//! What services reported: judged commits and conditions. In memory; gitsync tells it again after a start.

use machined_api::{CommitRecord, Condition, ReportSourcesRequest};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Commits kept; more than anybody scrolls through.
const COMMITS_MAX: usize = 500;
/// Conditions kept for each service. Their types are a fixed list, so more is a fault of the service.
const CONDITIONS_MAX: usize = 64;
/// Repositories whose figures are kept; a machine has a few mirrors.
const SOURCES_MAX: usize = 32;
/// Reasons of refusals that are counted apart; they are a fixed list, so more is a fault of gitsync.
const REASONS_MAX: usize = 128;
/// Longest text of a report, in characters; a commit message's first line or a refusal fits.
const TEXT_MAX: usize = 2000;

#[derive(Default)]
struct Inner {
    commits: VecDeque<CommitRecord>,
    conditions: BTreeMap<(String, String), Condition>,
    mark: String,
    refusals: BTreeMap<String, u64>,
    sources: ReportSourcesRequest,
}

/// Reports of all services. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Inner>>);

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
    }
}

impl Reports {
    /// Takes a judged commit; a later report about the same commit replaces the earlier one. Says whether its state is new.
    pub(crate) fn commit(&self, mut record: CommitRecord) -> bool {
        for text in [&mut record.subject, &mut record.message, &mut record.path, &mut record.rule] {
            cut(text);
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.commits.iter().position(|known| known.commit == record.commit);
        let old = known.and_then(|at| inner.commits.remove(at));
        let new = old.is_none_or(|old| (old.state, old.reason) != (record.state.clone(), record.reason.clone()));
        if new
            && record.state == "refused"
            && (inner.refusals.len() < REASONS_MAX || inner.refusals.contains_key(&record.reason))
        {
            *inner.refusals.entry(record.reason.clone()).or_default() += 1;
        }
        inner.commits.push_front(record);
        inner.commits.truncate(COMMITS_MAX);
        new
    }

    /// Refusals since machined started, by reason; a commit counts again when its reason changes.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refusals.clone()
    }

    /// Keeps the newest figures of the sources.
    pub(crate) fn set_sources(&self, mut sources: ReportSourcesRequest) {
        sources.sources.truncate(SOURCES_MAX);
        sources.sources.iter_mut().for_each(|source| cut(&mut source.repository));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sources = sources;
    }

    /// The newest figures of the sources.
    pub(crate) fn sources(&self) -> ReportSourcesRequest {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sources.clone()
    }

    /// Judged commits, newest first.
    pub(crate) fn commits(&self, limit: usize) -> Vec<CommitRecord> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = if limit == 0 { COMMITS_MAX } else { limit };
        inner.commits.iter().take(limit).cloned().collect()
    }

    /// The newest commit that passed here and is the one asked for, whatever became of it since.
    pub(crate) fn accepted(&self, is: impl Fn(&CommitRecord) -> bool) -> Option<CommitRecord> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.commits.iter().find(|record| record.state != "refused" && is(record)).cloned()
    }

    /// Keeps this machine's signed report of what it accepted.
    pub(crate) fn set_mark(&self, mark: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).mark = mark;
    }

    /// The report kept last; empty before the first.
    pub(crate) fn mark(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).mark.clone()
    }

    /// Takes a condition; `false` when the service has too many.
    pub(crate) fn condition(&self, service: &str, mut condition: Condition) -> bool {
        cut(&mut condition.message);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (service.to_owned(), condition.r#type.clone());
        let own = inner.conditions.keys().filter(|(name, _)| name == service).count();
        if own >= CONDITIONS_MAX && !inner.conditions.contains_key(&key) {
            return false;
        }
        inner.conditions.insert(key, condition);
        true
    }

    /// All conditions, by service and type.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).conditions.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commit: &str, state: &str) -> CommitRecord {
        CommitRecord { commit: commit.to_owned(), state: state.to_owned(), ..CommitRecord::default() }
    }

    #[test]
    fn a_commit_has_one_place_and_the_newest_report_is_first() {
        let reports = Reports::default();
        assert!(reports.commit(record("a", "accepted")));
        assert!(reports.commit(record("b", "refused")));
        assert!(reports.commit(record("a", "applied")));
        assert!(!reports.commit(record("a", "applied")), "nothing new in it");
        let states: Vec<_> = reports.commits(0).into_iter().map(|r| (r.commit, r.state)).collect();
        assert_eq!(states, [("a".to_owned(), "applied".to_owned()), ("b".to_owned(), "refused".to_owned())]);
    }

    #[test]
    fn refusals_are_counted_by_reason_and_a_repeated_report_is_none() {
        let reports = Reports::default();
        let refused =
            |commit: &str, reason: &str| CommitRecord { reason: reason.to_owned(), ..record(commit, "refused") };
        for (commit, reason) in [("a", "NoRule"), ("a", "NoRule"), ("b", "NoRule"), ("a", "UnknownKey")] {
            reports.commit(refused(commit, reason));
        }
        reports.commit(record("c", "accepted"));
        assert_eq!(reports.refusals(), BTreeMap::from([("NoRule".to_owned(), 2), ("UnknownKey".to_owned(), 1)]));
        for n in 0..1000 {
            reports.commit(refused("d", &format!("Reason{n}")));
        }
        assert_eq!(reports.refusals().len(), REASONS_MAX);
    }

    #[test]
    fn a_service_cannot_fill_the_memory_with_conditions() {
        let reports = Reports::default();
        let condition = |n: usize| Condition { r#type: format!("Type{n}"), ..Condition::default() };
        assert!((0..CONDITIONS_MAX).all(|n| reports.condition("gitsync", condition(n))));
        assert!(!reports.condition("gitsync", condition(CONDITIONS_MAX)));
        assert!(reports.condition("gitsync", condition(0)), "a known one may change");
        assert!(reports.condition("controlplane", condition(0)));
    }
}
