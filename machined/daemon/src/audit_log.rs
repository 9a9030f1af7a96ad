//! The audit log: every call on the machine API and the cluster's API, as one line of JSON in the log called `audit`.
//!
//! It is kept like every log (a ring in memory, two files on the disk), and never in another one: nobody should be able to push
//! machined's own lines out of its log by calling.

use crate::log_book::LogBook;
use jiff::{SignedDuration, Timestamp};
use machined_access::{AuditApi, AuditOutcome, AuditRecord};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The name under which the log is read.
pub(crate) const AUDIT_LOG: &str = "audit";

/// Refusals of callers that nobody knows, written in one minute. What comes beyond is counted: strangers must not push out of the log
/// what people did.
const STRANGERS_MAX: u32 = 120;

/// The span that [`STRANGERS_MAX`] is about.
const SPAN: SignedDuration = SignedDuration::from_mins(1);

struct Strangers {
    since: Timestamp,
    written: u32,
    left_out: u32,
}

/// Takes records. Clones write to the same log.
#[derive(Clone)]
pub(crate) struct AuditLog {
    logs: LogBook,
    strangers: Arc<Mutex<Strangers>>,
    counts: Arc<Mutex<Counts>>,
}

/// Records by API, method (of the machine API only: paths of the cluster's have no end) and outcome.
pub(crate) type Counts = BTreeMap<(&'static str, String, &'static str), u64>;

impl AuditLog {
    /// Writes into `logs`.
    pub(crate) fn new(logs: LogBook) -> Self {
        logs.open(AUDIT_LOG);
        let strangers = Strangers { since: Timestamp::UNIX_EPOCH, written: 0, left_out: 0 };
        AuditLog { logs, strangers: Arc::new(Mutex::new(strangers)), counts: Arc::default() }
    }

    /// Writes a record.
    pub(crate) fn add(&self, record: AuditRecord) {
        self.count(&record);
        if record.who.is_empty() && record.outcome == AuditOutcome::Refused && !self.has_place(record.at) {
            return;
        }
        self.write(record);
    }

    /// How many records came since machined started, those that were not written too.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, record: &AuditRecord) {
        let (api, method) = match record.api {
            AuditApi::Machine => ("machine", record.method.clone()),
            AuditApi::Cluster => ("cluster", String::new()),
            AuditApi::Local => ("local", String::new()),
        };
        let outcome = match record.outcome {
            AuditOutcome::Allowed => "allowed",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Failed => "failed",
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((api, method, outcome)).or_default() += 1;
    }

    fn write(&self, record: AuditRecord) {
        self.logs.add(AUDIT_LOG, record.at, record.to_json().into_bytes());
    }

    /// Whether another refusal of a stranger is written; says how many were not when a new span begins.
    fn has_place(&self, now: Timestamp) -> bool {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.duration_since(strangers.since);
        if age >= SPAN || age < SignedDuration::ZERO {
            let left_out =
                std::mem::replace(&mut *strangers, Strangers { since: now, written: 0, left_out: 0 }).left_out;
            if left_out > 0 {
                let reason = format!("{left_out} more calls by strangers were refused in the minute before");
                let record = AuditRecord::new(now, AuditApi::Machine, "").ended(AuditOutcome::Refused, reason);
                self.write(record);
            }
        }
        let place = strangers.written < STRANGERS_MAX;
        if place {
            strangers.written += 1;
        } else {
            strangers.left_out = strangers.left_out.saturating_add(1);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("because it is within the years")
    }

    fn lines(logs: &LogBook) -> Vec<AuditRecord> {
        let past = logs.tail(AUDIT_LOG).expect("because it was opened").past;
        let read = |line: &Arc<crate::log_book::Line>| serde_json::from_slice(&line.bytes);
        past.iter().map(read).collect::<Result<_, _>>().expect("because every line is a record")
    }

    #[test]
    fn strangers_cannot_push_people_out_of_the_log() {
        let logs = LogBook::default();
        let audit = AuditLog::new(logs.clone());
        let mut known = AuditRecord::new(at(0), AuditApi::Machine, "Reboot");
        known.who = "ada".to_owned();
        audit.add(known.clone());
        for _ in 0..50_000 {
            audit.add(
                AuditRecord::new(at(1), AuditApi::Machine, "Status").ended(AuditOutcome::Refused, "not logged in"),
            );
        }
        let mut refused = known.clone();
        (refused.outcome, refused.at) = (AuditOutcome::Refused, at(2));
        audit.add(refused.clone());
        let written = lines(&logs);
        assert_eq!(written.len(), 2 + STRANGERS_MAX as usize);
        assert_eq!((&written[0], written.last()), (&known, Some(&refused)), "who is known is always written");
        audit.add(AuditRecord::new(at(62), AuditApi::Machine, "Status").ended(AuditOutcome::Refused, "not logged in"));
        let written = lines(&logs);
        assert!(written[written.len() - 2].reason.starts_with("49880 more calls"), "{written:?}");
    }
}
