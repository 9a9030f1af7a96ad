//! What an audit log says of one call: who, with which key, from where, what, and how it ended. One JSON object on one line.
//!
//! machined writes records of the machine API, the control plane hands over those of the cluster's API. A record never holds a body, a
//! token or a query: whoever may read the log learns who did something, and nothing that they did it with.

use crate::authenticate::Principal;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest text of a record in characters; a resource's path or a refusal's first words fit.
const TEXT_CHARS_MAX: usize = 300;

/// The API that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditApi {
    /// Port 50000, for people and machines.
    Machine,
    /// The cluster's API.
    Cluster,
    /// machined's socket, for services on the machine.
    Local,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// The caller was let in.
    Allowed,
    /// The caller was not let in.
    Refused,
    /// The caller was let in, and what was asked did not happen.
    Failed,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuditRecord {
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// Which API.
    pub api: AuditApi,
    /// Name of the principal, or "service on machine"; empty where nobody was proven.
    pub who: String,
    /// Fingerprint of the SSH key that signed the login, or of the machine's identity.
    pub key: String,
    /// The other end: address and port, or the caller's cgroup on the local socket.
    pub remote: String,
    /// The call: a method of the machine API, or an HTTP method with the path of what it is about, without the query.
    pub method: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Why it was refused or failed; for the cluster's API the status code.
    pub reason: String,
}

impl AuditRecord {
    /// A call that was let in, by nobody yet.
    #[must_use]
    pub fn new(at: Timestamp, api: AuditApi, method: impl Into<String>) -> Self {
        let empty = String::new;
        AuditRecord {
            at,
            api,
            who: empty(),
            key: empty(),
            remote: empty(),
            method: method.into(),
            outcome: AuditOutcome::Allowed,
            reason: empty(),
        }
    }

    /// Names the caller.
    #[must_use]
    pub fn by(mut self, principal: &Principal) -> Self {
        (self.who, self.key) = principal.named();
        self
    }

    /// Says where the call came from.
    #[must_use]
    pub fn from(mut self, remote: impl Into<String>) -> Self {
        self.remote = remote.into();
        self
    }

    /// Says how it ended.
    #[must_use]
    pub fn ended(mut self, outcome: AuditOutcome, reason: impl Into<String>) -> Self {
        (self.outcome, self.reason) = (outcome, reason.into());
        self
    }

    /// The line, with every text cut to a length that callers cannot choose.
    #[must_use]
    pub fn to_json(mut self) -> String {
        for text in [&mut self.who, &mut self.key, &mut self.remote, &mut self.method, &mut self.reason] {
            if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
                text.truncate(end);
            }
        }
        serde_json::to_string(&self).expect("because a record holds only texts")
    }
}

impl Principal {
    /// Name and key as people read them: "ada" with her SSH key, "gitsync on cp1" with the machine's identity.
    #[must_use]
    pub fn named(&self) -> (String, String) {
        match self {
            Principal::Person { name, key, .. } => (name.to_string(), key.to_string()),
            Principal::Machine { name, service, identity, .. } => {
                (format!("{service} on {name}"), identity.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_bounded_line_whatever_a_caller_sends() {
        let at: Timestamp = "2026-11-21T12:00:00Z".parse().expect("because it is a time");
        let record = AuditRecord::new(at, AuditApi::Cluster, format!("GET /a\nb{}", "x".repeat(100_000)));
        let line = record.ended(AuditOutcome::Refused, "401").to_json();
        assert!(!line.contains('\n') && line.len() < 6 * TEXT_CHARS_MAX, "{} bytes", line.len());
        let back: AuditRecord = serde_json::from_str(&line).expect("because it was just written");
        assert_eq!((back.outcome, back.reason.as_str()), (AuditOutcome::Refused, "401"));
        assert!(line.starts_with(r#"{"at":"2026-11-21T12:00:00Z","api":"cluster","who":"","key":"","#), "{line}");
    }
}
