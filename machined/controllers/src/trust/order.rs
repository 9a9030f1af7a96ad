//! A hold or a pin: what it is, and the form that one must have.

use jiff::{SignedDuration, Timestamp};
use machined_ids::{CommitId, Fingerprint, PrincipalName, Seq};
use serde::{Deserialize, Serialize};

/// Longest life of an order: who still wants it after a week says so again, or pushes a commit.
pub const ORDER_LIFETIME_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Longest reason in bytes: one line that others read in a condition.
pub const ORDER_REASON_BYTES_MAX: usize = 200;

/// What an order asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", tag = "kind")]
pub enum OrderAction {
    /// What runs stays as it is.
    Hold {},
    /// An older step runs.
    Pin {
        /// The commit, as the machine accepted it.
        commit: CommitId,
        /// Its position.
        seq: Seq,
    },
}

impl OrderAction {
    /// The stable word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            OrderAction::Hold {} => "hold",
            OrderAction::Pin { .. } => "pin",
        }
    }
}

/// An order of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Order {
    /// What it asks for.
    pub action: OrderAction,
    /// When it ends by itself.
    pub until: Timestamp,
    /// Why, in the person's words.
    pub reason: String,
    /// Who gave it.
    pub by: PrincipalName,
    /// The key that the person logged in with.
    pub key: Fingerprint,
    /// When it was given, by this machine's clock.
    pub given: Timestamp,
}

/// Why an order cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderForm {
    /// It would be over already.
    #[error("it ends at {until}, and it is {now}; give a later --until")]
    Past {
        /// The end that was asked for.
        until: Timestamp,
        /// This machine's clock.
        now: Timestamp,
    },
    /// It would live too long.
    #[error("it ends at {until}; an order lives at most 7 days, so give an --until before {latest}, and renew it then")]
    Long {
        /// The end that was asked for.
        until: Timestamp,
        /// The latest that is taken.
        latest: Timestamp,
    },
    /// Nobody could know why.
    #[error("its reason must be one line of 1 to {ORDER_REASON_BYTES_MAX} bytes; say with --reason why it is needed")]
    Reason,
}

impl Order {
    /// Checks end and reason.
    ///
    /// # Errors
    /// [`OrderForm`]
    pub fn check(&self) -> Result<(), OrderForm> {
        let (until, now) = (self.until, self.given);
        if until <= now {
            return Err(OrderForm::Past { until, now });
        }
        let latest = now.saturating_add(ORDER_LIFETIME_MAX).unwrap_or(Timestamp::MAX);
        if until > latest {
            return Err(OrderForm::Long { until, latest });
        }
        let reason = self.reason.trim();
        if reason.is_empty() || self.reason.len() > ORDER_REASON_BYTES_MAX || reason.chars().any(char::is_control) {
            return Err(OrderForm::Reason);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(until: &str, reason: &str) -> Order {
        Order {
            action: OrderAction::Hold {},
            until: until.parse().expect("because it is a time"),
            reason: reason.to_owned(),
            by: "ada".parse().expect("because it is a name"),
            key: Fingerprint::from_sha256(&[1; 32]),
            given: "2026-11-21T12:00:00Z".parse().expect("because it is a time"),
        }
    }

    #[test]
    fn an_order_has_an_end_within_seven_days_and_a_reason() {
        assert_eq!(order("2026-11-28T12:00:00Z", "disk is full").check(), Ok(()));
        assert!(matches!(order("2026-11-28T12:00:01Z", "x").check(), Err(OrderForm::Long { .. })));
        assert!(matches!(order("2099-01-01T00:00:00Z", "x").check(), Err(OrderForm::Long { .. })));
        for past in ["2026-11-21T12:00:00Z", "1970-01-01T00:00:00Z"] {
            assert!(matches!(order(past, "x").check(), Err(OrderForm::Past { .. })), "{past}");
        }
        for reason in ["", "  ", "two\nlines", &"x".repeat(ORDER_REASON_BYTES_MAX + 1)] {
            assert_eq!(order("2026-11-22T12:00:00Z", reason).check(), Err(OrderForm::Reason), "{reason:?}");
        }
    }
}
