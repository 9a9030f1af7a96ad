//! How good a place a node is, of those where the pod may run. Each part is 0 to 100.

use crate::filter::{term_holds, tolerated};
use crate::requests::Requests;
use crate::snapshot::Place;
use k8s_openapi::api::core::v1::{Node, PodSpec};

/// Best score of one part.
const BEST: i64 = 100;

/// How much each part counts; upstream's default weights where it has such a part.
const TAINTS: i64 = 3;
const AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const LEAST_ALLOCATED: i64 = 1;
const BALANCED: i64 = 1;

/// What scores are computed from, for one node.
pub(crate) struct Candidate<'a> {
    pub(crate) node: &'a Node,
    pub(crate) place: &'a Place,
}

/// Scores all candidates; one score each, in their order.
pub(crate) fn scores(
    spec: &PodSpec,
    usual: &Requests,
    manager: Option<&str>,
    candidates: &[Candidate<'_>],
) -> Vec<i64> {
    let disliked: Vec<i64> = candidates.iter().map(|candidate| disliked_taints(spec, candidate.node)).collect();
    let preferred: Vec<i64> = candidates.iter().map(|candidate| preference(spec, candidate.node)).collect();
    let siblings: Vec<i64> = candidates.iter().map(|candidate| siblings(manager, candidate.place)).collect();
    let most = |counts: &[i64]| counts.iter().copied().max().unwrap_or_default();
    let (most_disliked, most_preferred, most_siblings) = (most(&disliked), most(&preferred), most(&siblings));
    let share = |part: i64, whole: i64| if whole == 0 { 0 } else { part * BEST / whole };
    candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            TAINTS * (BEST - share(disliked[index], most_disliked))
                + AFFINITY * share(preferred[index], most_preferred)
                + SPREAD * (BEST - share(siblings[index], most_siblings))
                + LEAST_ALLOCATED * least_allocated(usual, candidate.place)
                + BALANCED * balanced(usual, candidate.place)
        })
        .collect()
}

/// `PreferNoSchedule` taints that the pod does not tolerate.
fn disliked_taints(spec: &PodSpec, node: &Node) -> i64 {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "PreferNoSchedule" && !tolerated(taint, tolerations)).count() as i64
}

/// The weights of preferred node affinity that the node satisfies.
fn preference(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_ref());
    let holding = terms.into_iter().flatten().filter(|term| term_holds(&term.preference, node));
    holding.map(|term| i64::from(term.weight)).sum()
}

/// Pods of the same controller on the node.
fn siblings(manager: Option<&str>, place: &Place) -> i64 {
    manager.and_then(|manager| place.managed.get(manager)).copied().map_or(0, i64::from)
}

/// The share of a resource that would be taken with the pod there, 0.0 to 1.0; `None` when the node has none of it.
fn fraction(name: &str, usual: &Requests, place: &Place) -> Option<f64> {
    let amount = |list: &Requests| list.get(name).copied().unwrap_or_default();
    let total = amount(&place.allocatable);
    let taken = amount(&place.usually_taken).saturating_add(amount(usual));
    (total > 0).then(|| (taken as f64 / total as f64).min(1.0))
}

fn least_allocated(usual: &Requests, place: &Place) -> i64 {
    let free: Vec<f64> =
        ["cpu", "memory"].iter().filter_map(|name| fraction(name, usual, place)).map(|taken| 1.0 - taken).collect();
    if free.is_empty() { 0 } else { (free.iter().sum::<f64>() / free.len() as f64 * BEST as f64) as i64 }
}

fn balanced(usual: &Requests, place: &Place) -> i64 {
    match (fraction("cpu", usual, place), fraction("memory", usual, place)) {
        // The standard deviation of two values is half their distance.
        (Some(cpu), Some(memory)) => ((1.0 - (cpu - memory).abs() / 2.0) * BEST as f64) as i64,
        (None, _) | (_, None) => BEST,
    }
}
