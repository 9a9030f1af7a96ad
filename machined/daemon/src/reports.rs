//! What services reported: judged commits and conditions. In memory; gitsync tells it again after a start.

use machined_api::{CommitRecord, Condition};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Commits kept; more than anybody scrolls through.
const COMMITS_MAX: usize = 500;
/// Conditions kept for each service. Their types are a fixed list, so more is a fault of the service.
const CONDITIONS_MAX: usize = 64;
/// Longest text of a report, in characters; a commit message's first line or a refusal fits.
const TEXT_MAX: usize = 2000;

#[derive(Default)]
struct Inner {
    commits: VecDeque<CommitRecord>,
    conditions: BTreeMap<(String, String), Condition>,
    mark: String,
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
        inner.commits.push_front(record);
        inner.commits.truncate(COMMITS_MAX);
        new
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
    fn a_service_cannot_fill_the_memory_with_conditions() {
        let reports = Reports::default();
        let condition = |n: usize| Condition { r#type: format!("Type{n}"), ..Condition::default() };
        assert!((0..CONDITIONS_MAX).all(|n| reports.condition("gitsync", condition(n))));
        assert!(!reports.condition("gitsync", condition(CONDITIONS_MAX)));
        assert!(reports.condition("gitsync", condition(0)), "a known one may change");
        assert!(reports.condition("controlplane", condition(0)));
    }
}
