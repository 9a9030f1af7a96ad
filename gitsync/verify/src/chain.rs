//! The rule: from accepted to the tip, by first parents, each step by its parent's policy.
//!
//! ```text
//! recoveries due? --> begin a new epoch
//! walk back to a remembered commit --> twins up to accepted --> look (revocations, beacons, marks, by accepted's policy)
//!      --> steps --> drop what came too late --> proof of freshness, where the policy asks
//! ```

use crate::equivocation::{Equivocation, Machines};
use crate::freshness::{self, SeenBeacon};
use crate::introduce::Base;
use crate::limits::{MAX_CHAIN_COMMITS, MAX_IGNORED, MAX_STATEMENTS};
use crate::mark::Mark;
use crate::objects::{ObjectId, ObjectKind};
use crate::offer::Offer;
use crate::policy::Policy;
use crate::raw_commit::RawCommit;
use crate::recovery::{self, PendingRecovery, Recoveries};
use crate::refusal::{Reason, Refusal};
use crate::revocation::{Revocation, revocations};
use crate::state::{TrustState, next_step};
use crate::statement::{SignedStatement, Statement};
use crate::step::{Judged, Parent, Run};
use crate::tree::Trees;
use crate::verified::{Commit, Verified};
use jiff::Timestamp;
use machined_ids::{Fingerprint, Seq, StepId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a judgement of a tip came to. [`TrustState::learn`] takes it over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The steps that passed, oldest first; empty when there was nothing new.
    pub steps: Vec<Verified<Commit>>,
    /// Why the chain ends before the tip, when it does. What passed below stands: it is the longest valid chain.
    pub refused: Option<Refusal>,
    /// What else is known now.
    pub learned: Learned,
    /// Statements that did not count, and why; for people. At most [`crate::limits::MAX_IGNORED`].
    pub ignored: Vec<Refusal>,
    /// Revocations, beacons and recoveries that counted. With the releases of [`Commit::statements`], what a machine keeps and serves to its
    /// peers. At most [`crate::limits::MAX_STATEMENTS`].
    pub counted: Vec<SignedStatement>,
    /// How many of these are about recoveries, which no step's policy judges.
    recoveries_ignored: usize,
}

/// What a judgement came to beside steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// When the judgement was, where the time was known.
    pub at: Option<Timestamp>,
    /// Keys that are revoked now.
    pub revocations: BTreeMap<Fingerprint, Revocation>,
    /// The newest beacon of each key, when it is newer than the recorded one.
    pub beacons: BTreeMap<Fingerprint, SeenBeacon>,
    /// What the clock floor rises to.
    pub clock_floor: Option<Timestamp>,
    /// The recoveries that wait, when they changed.
    pub pending: Option<Vec<PendingRecovery>>,
    /// Two stories.
    pub equivocation: Option<Equivocation>,
}

/// Judges everything from accepted to the offered tip.
///
/// # Errors
/// [`Refusal`] when not even the first step could be looked at: the tip does not continue the chain, or is not all there.
pub fn verify(state: &TrustState, offer: &Offer<'_>) -> Result<Chain, Refusal> {
    let statements = offer.statements.get(..MAX_STATEMENTS).unwrap_or(offer.statements);
    let offer = &Offer { statements, ..*offer };
    let mut chain = Chain { learned: Learned { at: offer.clock.now, ..Learned::default() }, ..Chain::default() };
    let recoveries = Recoveries::of(state, offer, &mut chain.ignored);
    chain.recoveries_ignored = chain.ignored.len();
    chain.counted = recoveries.counted;
    chain.learned.pending = (recoveries.pending != state.pending_recoveries()).then_some(recoveries.pending);
    if let Some(equivocation) = recoveries.equivocation {
        return Ok(stopped(chain, equivocation));
    }
    let due = recoveries.due.filter(|(recovery, _)| offer.objects.contains(&ObjectId::of_commit(&recovery.commit)));
    if let Some(due) = due {
        let (begun, first) = recovery::begin(state, offer.objects, &due).map_err(|r| r.of_commit(&due.0.commit))?;
        chain.learned.pending = None;
        let mut chain = advance(&begun, offer, chain)?;
        chain.steps.insert(0, first);
        return Ok(chain);
    }
    match state.equivocation() {
        Some(equivocation) => Ok(Chain { refused: Some(equivocation.refusal()), ..chain }),
        // What came beside a tip that cannot be followed is learned all the same: a recovery's time runs from now on.
        None => match advance(state, offer, chain.clone()) {
            Err(refusal) if chain.learned.pending.is_some() => Ok(Chain { refused: Some(refusal), ..chain }),
            judged => judged,
        },
    }
}

fn stopped(mut chain: Chain, equivocation: Equivocation) -> Chain {
    chain.refused = Some(equivocation.refusal());
    chain.learned.equivocation = Some(equivocation);
    chain
}

/// Everything from accepted to the tip, in one epoch.
fn advance(state: &TrustState, offer: &Offer<'_>, mut chain: Chain) -> Result<Chain, Refusal> {
    let (known, path) = walk(state, offer).map_err(|refusal| refusal.of_commit(offer.tip))?;
    let mut trees = Trees::new(offer.objects);
    let (position, policy, tree_id) = Base::read(&mut trees, offer.objects, &state.history()[known])?;
    let mut run = Run {
        state,
        objects: offer.objects,
        statements: offer.statements,
        clock: offer.clock,
        revoked: state.revocations().clone(),
        proven_to: None,
        break_glass: state.break_glass().cloned(),
        trees,
        policies: HashMap::from([(position.policy, Arc::clone(&policy))]),
    };
    let accepted = state.accepted().seq;
    let mut parent = Parent { position, policy, tree_id };
    let (mut judged, mut evidence) = (Vec::<Judged>::new(), None);
    for (done, id) in path.iter().enumerate() {
        if parent.position.seq == accepted && evidence.is_none() {
            evidence = Some(look(&mut run, offer, &parent, &path[done..], &mut chain)?);
            if chain.learned.equivocation.is_some() {
                return Ok(chain);
            }
        }
        match run.step(&parent, id) {
            Ok(step) => {
                parent = Parent::of(&step.commit);
                run.follow(&parent.policy);
                judged.push(step);
            }
            Err(refusal) => {
                chain.refused = Some(refusal.of_commit(&id.to_commit_id()));
                break;
            }
        }
    }
    if parent.position.seq == accepted && evidence.is_none() {
        evidence = Some(look(&mut run, offer, &parent, &[], &mut chain)?);
    }
    // What would become accepted is the target of the fetch: its approvals must not have ended. Below it they may have.
    while let Some(late) = judged.last().and_then(|last| last.late.clone()) {
        let last = judged.pop().expect("because it was just looked at");
        chain.refused = Some(late.of_commit(&last.commit.position().commit));
    }
    let reached = judged.last().map_or(state.history()[known].seq, |last| last.commit.position().seq);
    if chain.refused.is_none() && chain.learned.equivocation.is_none() && reached < accepted {
        return Err(older(state, offer));
    }
    if let Some(refusal) = evidence.and_then(|evidence| evidence.unproven(state, offer, &chain.learned, &judged)) {
        chain.refused = Some(refusal.of_commit(offer.tip));
        judged.clear();
    }
    // Twins that end early move nothing: accepted stays where it is.
    if reached < accepted || chain.learned.equivocation.is_some() {
        judged.clear();
    }
    if let Some(last) = judged.last().filter(|last| last.commit.position().seq > accepted) {
        hear(state, &last.commit.policy, offer, &mut chain);
    }
    chain.steps = judged.into_iter().map(|step| Verified::new(step.commit)).collect();
    chain.ignored.truncate(MAX_IGNORED);
    Ok(chain)
}

/// What the cluster's other machines say, once accepted's own tree could be read.
struct Evidence<'a> {
    machines: Machines,
    newest: Vec<&'a Mark>,
}

/// Reads everything that is judged by the accepted policy and tree: revocations, beacons, marks.
fn look<'a>(
    run: &mut Run<'_>,
    offer: &Offer<'a>,
    accepted: &Parent,
    ahead: &[ObjectId],
    chain: &mut Chain,
) -> Result<Evidence<'a>, Refusal> {
    hear(run.state, &accepted.policy, offer, chain);
    for (key, revocation) in &chain.learned.revocations {
        let known = run.revoked.entry(key.clone()).or_insert(*revocation);
        *known = known.and(*revocation);
    }
    if offer.marks.is_empty() {
        return Ok(Evidence { machines: Machines::default(), newest: Vec::new() });
    }
    let machines = Machines::read(&run.trees, &accepted.tree_id)?;
    let newest = machines.newest(run.state, offer.marks);
    if let Some(equivocation) = machines.equivocation(run.state, offer.marks) {
        *chain = stopped(std::mem::take(chain), equivocation);
    }
    if !run.revoked.is_empty() {
        let positions = steps_ahead(run, accepted, ahead);
        let on_chain = |seq: Seq, step: &StepId| positions.get(&seq) == Some(step);
        run.proven_to = machines.majority(&newest, run.state.epoch(), offer.machine, on_chain);
    }
    Ok(Evidence { machines, newest })
}

/// The steps that the commits ahead would be, as far as they can be read; nothing is said about who may have made them.
fn steps_ahead(run: &mut Run<'_>, accepted: &Parent, ahead: &[ObjectId]) -> BTreeMap<Seq, StepId> {
    let (mut seq, mut step) = (accepted.position.seq, accepted.position.step);
    let mut positions = BTreeMap::from([(seq, step)]);
    for id in ahead {
        let bytes = run.objects.get(id, ObjectKind::Commit);
        let raw = bytes.and_then(|bytes| RawCommit::parse(bytes, run.objects.format()));
        let Ok(tree) = raw.and_then(|raw| run.trees.hash(&raw.tree)) else { break };
        (seq, step) = (seq.next(), next_step(&step, &tree));
        positions.insert(seq, step);
    }
    positions
}

/// Takes in the statements that a policy lets count: revocations and beacons.
fn hear(state: &TrustState, policy: &Policy, offer: &Offer<'_>, chain: &mut Chain) {
    let mut ignored = Vec::new();
    let (found, mut counted) = revocations(state, policy, offer.statements, &mut ignored);
    chain.learned.revocations.extend(found);
    for signed in offer.statements {
        let Statement::Beacon(beacon) = signed.statement() else { continue };
        match freshness::judge(state, policy, offer.clock, signed, beacon) {
            Ok(_) if chain.learned.revocations.contains_key(signed.key()) => {}
            Ok(seen) => {
                let newer = |known: &SeenBeacon| (known.seq, known.issued) < (seen.seq, seen.issued);
                let learned = &mut chain.learned;
                let known = learned.beacons.get(signed.key()).or_else(|| state.trust.beacons.get(signed.key()));
                if known.is_none_or(newer) {
                    learned.clock_floor = learned.clock_floor.max(Some(seen.issued));
                    learned.beacons.insert(signed.key().clone(), seen);
                    counted.push(signed);
                }
            }
            Err(refusal) => ignored.push(refusal),
        }
    }
    for signed in counted {
        if !chain.counted.contains(signed) {
            chain.counted.push(signed.clone());
        }
    }
    // What the newer policy lets count is no longer ignored.
    chain.ignored.truncate(chain.recoveries_ignored);
    chain.ignored.extend(ignored);
}

impl Evidence<'_> {
    /// Why the new steps must not be believed to be the newest there are, where somebody asks.
    fn unproven(&self, state: &TrustState, offer: &Offer<'_>, learned: &Learned, judged: &[Judged]) -> Option<Refusal> {
        let positions = state.history().iter().chain(judged.iter().map(|step| step.commit.position()));
        let positions: BTreeMap<Seq, StepId> = positions.map(|position| (position.seq, position.step)).collect();
        let on_chain = |seq: Seq, step: &StepId| positions.get(&seq) == Some(step);
        let here = (state.epoch(), state.accepted().seq);
        let own = self.newest.iter().find(|mark| offer.machine == Some(&mark.machine) && mark.place() > here);
        if let Some(mark) = own.filter(|mark| mark.epoch != state.epoch() || !on_chain(mark.seq, &mark.step)) {
            let message = format!(
                "this machine had accepted step {} (commit {}), so its disk holds an old copy, and the source does not lead \
                 there; let the source deliver that commit: cairnctl push --bundle",
                mark.seq,
                mark.commit.short()
            );
            return Some(Refusal::new(Reason::FreshnessUnproven, message));
        }
        let moves = judged.iter().any(|step| step.commit.position().seq > state.accepted().seq);
        if !moves || state.beacon_life().is_none() {
            return None;
        }
        let beacons = learned.beacons.values().chain(state.trust.beacons.values());
        let now = freshness::now(state, offer.clock);
        if freshness::proven(beacons, now, on_chain)
            || self.machines.majority(&self.newest, state.epoch(), offer.machine, on_chain).is_some()
        {
            return None;
        }
        freshness::Freshness::Unproven.refusal()
    }
}

fn older(state: &TrustState, offer: &Offer<'_>) -> Refusal {
    let accepted = &state.accepted().commit;
    let message = format!(
        "the source offers an older commit than the accepted {}; push the branch forward again, a revert is a new commit: \
         git revert",
        accepted.short()
    );
    Refusal::new(Reason::NotDescendant, message).of_commit(offer.tip)
}

/// From the tip back to a remembered commit: its place in the history, and the commits above it, oldest first.
fn walk(state: &TrustState, offer: &Offer<'_>) -> Result<(usize, Vec<ObjectId>), Refusal> {
    let (mut path, mut at) = (Vec::new(), ObjectId::of_commit(offer.tip));
    let history: Vec<ObjectId> = state.history().iter().map(|position| ObjectId::of_commit(&position.commit)).collect();
    loop {
        if let Some(known) = history.iter().rposition(|position| *position == at) {
            if path.is_empty() && known + 1 != state.history().len() {
                return Err(older(state, offer));
            }
            path.reverse();
            return Ok((known, path));
        }
        if path.len() >= MAX_CHAIN_COMMITS {
            let message = format!(
                "more than {MAX_CHAIN_COMMITS} commits since the accepted one, or a rewritten branch; introduce the machine \
                 to a newer one: cairnctl introduction"
            );
            return Err(Refusal::new(Reason::Limit, message));
        }
        let commit = RawCommit::parse(offer.objects.get(&at, ObjectKind::Commit)?, offer.objects.format())?;
        path.push(at);
        at = *commit.parents.first().ok_or_else(|| {
            let message = format!(
                "the accepted commit {} is not among its first parents; rebase onto it, or merge with it as first parent: \
                 cairnctl repair",
                state.accepted().commit.short()
            );
            Refusal::new(Reason::NotDescendant, message)
        })?;
    }
}
