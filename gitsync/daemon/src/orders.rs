//! What runs instead of accepted, and why: the orders of people, and steps that do not become healthy. Pure; [`crate::source`] writes
//! down what comes of it.

use gitsync_verify::{Action, Clock, Order, Override, Refusal, TrustState};
use machined_ids::StepId;
use std::time::Duration;

/// Who decides that a step is reverted, in the log of overrides.
const HEALTH: &str = "gitsync";

/// Who ends an order, in the log of overrides: machined knows whether a person did or its time was over.
const MACHINED: &str = "machined";

fn same(known: &Override, wish: &Order) -> bool {
    (&known.action, &known.by, known.until, &known.reason) == (&wish.action, &wish.by, wish.until, &wish.reason)
}

/// The newest entry about what people ordered.
fn last(state: &TrustState) -> Option<&Override> {
    let of_people = |entry: &&Override| match entry.action {
        Action::Hold | Action::Pin { .. } | Action::Resume => true,
        Action::Revert { .. } | Action::BreakGlass { .. } | Action::Recovery { .. } => false,
    };
    state.overrides().iter().rev().find(of_people)
}

/// Takes what people ordered, or that they ended it, into the log. Gives whether the log changed. `runs` is the step that machined took
/// last: one that was written down as applied and that machined refused for this very order is not what a hold keeps.
///
/// # Errors
/// Why the order cannot be followed.
pub(crate) fn follow(
    state: &mut TrustState,
    wish: Option<&Order>,
    runs: Option<StepId>,
    clock: Clock,
) -> Result<bool, Refusal> {
    let known = last(state).cloned();
    let order = match (wish, known) {
        (Some(wish), Some(known)) if same(&known, wish) => return Ok(false),
        (Some(wish), _) => wish.clone(),
        (None, Some(known)) if known.action != Action::Resume => {
            let reason = format!("what {} ordered is over", known.by);
            Order { action: Action::Resume, by: MACHINED.to_owned(), until: None, reason: cut(reason) }
        }
        (None, _) => return Ok(false),
    };
    state.order(order, clock)?;
    if let Some(runs) = runs.filter(|runs| state.applied().is_some_and(|applied| applied.step != *runs)) {
        // A step that is no longer remembered cannot be held; what is applied stays.
        let _remembered = state.activate(&runs);
    }
    Ok(true)
}

fn cut(text: String) -> String {
    text.chars().take(200).collect()
}

/// How a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// How long the accepted step has been applied.
    pub(crate) age: Duration,
    /// How long it may take.
    pub(crate) deadline: Duration,
}

/// Goes back from an accepted step that did not become healthy in time, if an earlier one was. Gives whether it did.
pub(crate) fn revert(state: &mut TrustState, rollout: Rollout, clock: Clock) -> bool {
    let accepted = state.accepted().clone();
    let applied = state.applied().is_some_and(|applied| applied.step == accepted.step);
    let (true, true, Some(good)) = (applied, rollout.age >= rollout.deadline, state.last_good()) else { return false };
    let to = good.seq;
    let reason = format!("step {} was not healthy after {} s", accepted.seq, rollout.deadline.as_secs());
    let action = Action::Revert { from: accepted.step, to };
    let order = Order { action, by: HEALTH.to_owned(), until: None, reason };
    match state.order(order, clock) {
        Ok(()) => true,
        Err(refusal) => {
            tracing::error!(%refusal, "a step that is not healthy cannot be reverted");
            false
        }
    }
}
