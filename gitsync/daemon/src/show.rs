//! How things are, as conditions: each with one meaning, on when something needs somebody.

use crate::machine::Context;
use crate::report::{Topic, condition};
use crate::source::{Moment, Source, SourceError};
use gitsync_verify::{Action, Freshness, TrustState, Wanted, freshness};
use machined_api::Condition;

impl Source {
    /// Tells every condition that follows from the recorded state.
    pub(crate) async fn show(&mut self, context: &Context, moment: &Moment) -> Result<(), SourceError> {
        let Some(state) = &self.state else { return Ok(()) };
        let mut told = vec![drift(state, moment), reverted(state, moment), break_glass(state)];
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
            let message = "there is neither a TPM nor another control-plane machine that would notice an old copy of this disk; \
                           guard the disk, or add a machine: cairnctl enroll";
            condition(Topic::RollbackUndetectable, true, "NoWitness", message)
        });
        for condition in told {
            self.reporter.condition(condition).await?;
        }
        Ok(())
    }
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
