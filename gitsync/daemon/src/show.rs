//! How things are, as conditions: each with one meaning, on when something needs somebody.

use crate::machine::Context;
use crate::report::{Topic, condition};
use crate::source::{Moment, Source, SourceError};
use gitsync_verify::{Action, Freshness, PendingRecovery, TrustState, Wanted, freshness};
use machined_api::{Condition, WaitingRecovery};
use machined_ids::{Digest, Epoch, RecoveryCode};

impl Source {
    /// Tells every condition that follows from the recorded state.
    pub(crate) async fn show(&mut self, context: &Context, moment: &Moment) -> Result<(), SourceError> {
        let Some(state) = &self.state else { return Ok(()) };
        let mut told =
            vec![drift(state, moment), reverted(state, moment), break_glass(state), recovery(state, context.presence)];
        let waiting = waiting(state);
        told.extend(source(state, moment));
        told.push(match state.equivocation() {
            Some(equivocation) => {
                condition(Topic::Equivocation, true, "Equivocation", equivocation.refusal().to_string())
            }
            None => condition(Topic::Equivocation, false, "", ""),
        });
        let own = |mark: &gitsync_verify::SignedMark| mark.mark().machine == context.identity;
        let peers = self.taken_in.marks.iter().any(|mark| !own(mark));
        // A doubt is told as an untrusted state; it was noticed, after all.
        told.push(if peers || context.counted || context.doubt.is_some() {
            condition(Topic::RollbackUndetectable, false, "", "")
        } else {
            let message = "there is neither a TPM nor another machine that would notice an old copy of this disk; \
                           guard the disk, or add a machine: cairnctl enroll";
            condition(Topic::RollbackUndetectable, true, "NoWitness", message)
        });
        for condition in told {
            self.reporter.condition(condition).await?;
        }
        Ok(self.reporter.recoveries(waiting).await?)
    }
}

/// The recoveries that wait, for the console.
fn waiting(state: &TrustState) -> Vec<WaitingRecovery> {
    let of = |recovery: &PendingRecovery| {
        let takes_effect = state.takes_effect(recovery).map(|at| at.to_string()).unwrap_or_default();
        let (commit, Epoch(epoch)) = (recovery.commit()?.to_string(), recovery.epoch()?);
        Some(WaitingRecovery { body_sha256: recovery.digest().to_string(), commit, epoch, takes_effect })
    };
    state.pending_recoveries().iter().filter_map(of).collect()
}

/// Whether a recovery waits, until when, and what to do about it.
fn recovery(state: &TrustState, confirmed: Option<Digest>) -> Condition {
    let Some(recovery) = state.pending_recoveries().first() else {
        return condition(Topic::RecoveryWaits, false, "", "");
    };
    let (digest, commit) = (recovery.digest(), recovery.commit());
    let code = RecoveryCode::of(&digest);
    let where_to = commit.as_ref().map_or("an unknown commit", |commit| commit.short());
    let (reason, when) = match (confirmed == Some(digest), state.takes_effect(recovery)) {
        (true, _) => ("Confirmed", "as soon as a source brings that commit: git push".to_owned()),
        (false, Some(at)) => {
            ("Delay", format!("at {at:.0}, or now if somebody types the code at the machine's console"))
        }
        (false, None) => {
            ("NoTime", "once the time is known, or now if somebody types the code at the machine's console".to_owned())
        }
    };
    let message = format!(
        "a recovery to commit {where_to}, code {code}, takes effect {when}; was it none of yours, find out who holds recovery's keys"
    );
    condition(Topic::RecoveryWaits, true, reason, message)
}

/// Why something else runs than accepted.
fn drift(state: &TrustState, moment: &Moment) -> Condition {
    let (accepted, applied) = (state.accepted(), state.applied());
    let Some(applied) = applied.filter(|applied| applied.step != accepted.step) else {
        return condition(Topic::Drift, false, "", "");
    };
    let (reason, why) = match state.wanted(moment.clock) {
        Wanted::Overridden(_, order) => match &order.action {
            Action::Hold => ("Held", format!("{} holds: {}; end it: cairnctl resume", order.by, order.reason)),
            Action::Pin { .. } => ("Pinned", format!("{} pinned: {}; end it: cairnctl resume", order.by, order.reason)),
            Action::Revert { .. } => ("Reverted", format!("{}; push a correction: git push", order.reason)),
            Action::Resume | Action::BreakGlass { .. } | Action::Recovery { .. } => {
                ("Overridden", order.reason.clone())
            }
        },
        Wanted::NotRatified(_) => {
            ("NotRatified", "nobody ratified the break-glass in time; approve it: cairnctl approve".to_owned())
        }
        Wanted::Accepted(_) => ("NotApplied", "the accepted step cannot be done yet: cairnctl commits".to_owned()),
    };
    let message = format!("step {} runs and step {} is accepted: {why}", applied.seq, accepted.seq);
    condition(Topic::Drift, true, reason, message)
}

/// Whether accepted was reverted by health.
fn reverted(state: &TrustState, moment: &Moment) -> Condition {
    match state.wanted(moment.clock) {
        Wanted::Overridden(position, order) if matches!(order.action, Action::Revert { .. }) => {
            let (bad, good) = (&state.accepted(), position.seq);
            let message = format!(
                "{} (commit {}); step {good} runs until the next step is accepted; push a correction: git push",
                order.reason,
                bad.commit.short()
            );
            condition(Topic::Reverted, true, "Unhealthy", message)
        }
        Wanted::Overridden(..) | Wanted::Accepted(_) | Wanted::NotRatified(_) => {
            condition(Topic::Reverted, false, "", "")
        }
    }
}

fn break_glass(state: &TrustState) -> Condition {
    match state.break_glass() {
        Some(glass) => {
            let message = format!(
                "step {} came by break-glass; ratify it until {} with the approvals that its files need: cairnctl approve",
                glass.seq, glass.until
            );
            condition(Topic::BreakGlass, true, "NotRatified", message)
        }
        None => condition(Topic::BreakGlass, false, "", ""),
    }
}

/// How fresh what is accepted is.
fn source(state: &TrustState, moment: &Moment) -> [Condition; 3] {
    let freshness = freshness(state, moment.clock);
    let message = freshness.refusal().map(|refusal| refusal.message).unwrap_or_default();
    let on = match freshness {
        Freshness::NotAsked | Freshness::Fresh { .. } => None,
        Freshness::Stale { .. } => Some(Topic::SourceStale),
        Freshness::Withheld { .. } => Some(Topic::SourceWithheld),
        Freshness::Unproven => Some(Topic::FreshnessUnproven),
    };
    let each = [
        (Topic::SourceStale, "BeaconEnded"),
        (Topic::SourceWithheld, "StepWithheld"),
        (Topic::FreshnessUnproven, "NoBeacon"),
    ];
    each.map(|(topic, reason)| match on == Some(topic) {
        true => condition(topic, true, reason, message.clone()),
        false => condition(topic, false, "", ""),
    })
}
