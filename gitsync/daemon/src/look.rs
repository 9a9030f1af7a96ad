//! Looks at every source (repositories and a bundle that somebody brought) and judges what each has.
//!
//! The longest valid chain of any of them counts; one that is dead, behind or lying costs nothing: each is fetched in a child of its own,
//! side by side, and one that takes long is not waited for once another has answered.

use crate::book::Fate;
use crate::kept::Kind;
use crate::machine::{Context, Reached};
use crate::meter::Meter;
use crate::report::{Topic, condition};
use crate::source::{Moment, Source, SourceError};
use crate::statements::{Giver, Here};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use gitsync_fetch::{Answer, Brought, Dialect, FetchError, Fetched, Fetcher, Folders, RepositoryUrl, Request};
use gitsync_verify::{
    Chain, Introduction, ObjectSet, Offer, PendingRecovery, Position, Presence, Reason, Refusal, TrustState, introduce,
    verify,
};
use machined_ids::{CommitId, Digest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a look goes on for slow sources once one has answered; they are heard in a later look.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a recovery that waits for its time, and what a wrong clock may have refused, is judged again.
const RECOVERY_PERIOD: Duration = Duration::from_secs(30);

/// Ids of statements that are remembered for each source: as many as the fetch child looks at.
const MAX_KNOWN: usize = 4 * 1024;

/// Where a chain may come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Repository(RepositoryUrl),
    /// By its SHA-256.
    Bundle(String),
}

/// What is known of one source.
#[derive(Debug, Default)]
struct Seen {
    /// The tip that was judged last; while the branch stays there and no statement is new, nothing is fetched.
    tip: Option<CommitId>,
    statements: Vec<String>,
    /// How it speaks, while it answers: a poll with nothing new is then one request.
    dialect: Option<Dialect>,
    /// Why its tip is not accepted.
    refusal: Option<Refusal>,
}

type Fetch = BoxFuture<'static, (Origin, usize, Result<Answer, FetchError>, Duration)>;

/// The sources and what is under way.
pub(crate) struct Sources {
    fetcher: Fetcher,
    folders: Folders,
    seen: BTreeMap<Origin, Seen>,
    running: FuturesUnordered<Fetch>,
    /// Folders that a running child uses.
    busy: BTreeSet<usize>,
    pub(crate) meter: Meter,
    /// The bundle that was looked at.
    bundle: Option<String>,
    /// Whether the time was trusted at the last look.
    timed: bool,
    /// The recovery that was vouched for at the last look.
    presence: Option<Digest>,
    /// When what waits for its time was judged last.
    recoveries: Option<Instant>,
}

/// What a look came to.
#[derive(Default)]
struct Round {
    reached: bool,
    problems: Vec<String>,
    came: Option<ObjectSet>,
}

impl Sources {
    pub(crate) fn new(fetcher: Fetcher, folder: PathBuf) -> Self {
        Sources {
            fetcher,
            folders: Folders::new(folder),
            seen: BTreeMap::new(),
            running: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            meter: Meter::default(),
            bundle: None,
            timed: false,
            presence: None,
            recoveries: None,
        }
    }

    /// Every source is fetched as if nothing had been judged.
    pub(crate) fn judge_again(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.tip = None);
    }

    /// Whether a tip was refused for the time alone, which goes on, or is put right.
    fn wait_for_time(&self) -> bool {
        let for_time = |refusal: &Refusal| {
            matches!(refusal.reason, Reason::FreshnessUnproven | Reason::Expired | Reason::StaleBeacon)
        };
        self.seen.values().any(|seen| seen.refusal.as_ref().is_some_and(for_time))
    }

    fn start(&mut self, origin: Origin, number: usize, request: Request) {
        if self.busy.insert(number) {
            let fetcher = self.fetcher.clone();
            self.running.push(Box::pin(async move {
                let begun = Instant::now();
                let fetched = fetcher.fetch(&request).await;
                (origin, number, fetched, begun.elapsed())
            }));
        }
    }

    /// Objects of a commit that was fetched before, without any network.
    ///
    /// # Errors
    /// Why the last folder did not have it.
    pub(crate) async fn again(
        &mut self,
        introduction: &Introduction,
        repositories: usize,
        commit: &CommitId,
    ) -> Result<ObjectSet, FetchError> {
        let mut last = FetchError::Local("no repository was ever fetched".to_owned());
        for number in 0..repositories.max(1) {
            let request = Request {
                folder: self.folders.kept(number),
                url: None,
                bundle: None,
                deploy_ref: introduction.deploy_ref.clone(),
                tip: Some(commit.clone()),
                stop_at: vec![commit.clone()],
                statements: Vec::new(),
                dialect: None,
            };
            match self.fetcher.fetch(&request).await.map(|answer| answer.fetched) {
                Ok(Fetched::New(_, objects, _)) if !objects.is_empty() => return Ok(objects),
                Ok(Fetched::New(..) | Fetched::Unchanged(_)) => {}
                Err(error) => last = error,
            }
        }
        // The folders lost it: the next look fetches as if nothing had been judged.
        self.judge_again();
        Err(last)
    }

    /// Notes whether what came was whole; a folder with a hole in it is not built upon.
    fn fetched(&mut self, number: usize, hole: bool) {
        let kept = if hole { self.folders.incomplete(number) } else { self.folders.whole(number) };
        if let Err(error) = kept {
            tracing::warn!(number, %error, "a fetch folder cannot be replaced; the next fetch of it may lack objects again");
        }
    }

    /// Why the branch is not followed: nothing while one source leads cleanly to what is accepted.
    fn refusal(&self, state: Option<&TrustState>) -> Option<&Refusal> {
        let accepted = state.map(|state| &state.accepted().commit);
        let clean = |seen: &&Seen| seen.refusal.is_none() && seen.tip.is_some() && seen.tip.as_ref() == accepted;
        match self.seen.values().find(clean) {
            Some(_) => None,
            None => self.seen.values().find_map(|seen| seen.refusal.as_ref()),
        }
    }
}

impl Origin {
    fn giver(&self) -> Giver {
        match self {
            Origin::Repository(url) => Giver::Repository(url.clone()),
            Origin::Bundle(_) => Giver::Bundle,
        }
    }
}

impl Source {
    /// Looks at every source and takes the longest valid chain that any of them has.
    pub(crate) async fn look(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
    ) -> Result<Option<ObjectSet>, SourceError> {
        let waits = self.state.as_ref().is_some_and(|state| !state.pending_recoveries().is_empty())
            || self.sources.wait_for_time();
        let looked = |at: Instant| moment.instant.saturating_duration_since(at) < RECOVERY_PERIOD;
        let due = waits && !self.sources.recoveries.is_some_and(looked);
        if due {
            self.sources.recoveries = Some(moment.instant);
        }
        // With a trusted time, beacons count that did not before.
        let timed = moment.clock.now.is_some();
        let time_came = timed && !std::mem::replace(&mut self.sources.timed, timed);
        let vouched = std::mem::replace(&mut self.sources.presence, context.presence) != context.presence;
        let heard = self.hear_peers(introduction, context, moment).await?;
        if due || time_came || vouched || heard {
            self.sources.judge_again();
        }
        self.start(introduction, context);
        let (mut round, mut patience) = (Round::default(), None);
        while !self.sources.running.is_empty() {
            let next = match patience {
                None => self.sources.running.next().await,
                Some(until) => match tokio::time::timeout_at(until, self.sources.running.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some((origin, number, fetched, took)) = next else { break };
            self.sources.busy.remove(&number);
            if let Origin::Repository(url) = &origin {
                self.sources.meter.fetched(url, &fetched, took, moment.wall);
            }
            self.take(introduction, context, moment, (origin, number, fetched), &mut round).await?;
            if round.reached {
                patience.get_or_insert(tokio::time::Instant::now() + PATIENCE);
            }
        }
        self.tell_sources(context, round.reached, &round.problems).await?;
        if let Some(report) = self.sources.meter.due(&context.repositories, self.state.as_ref(), moment.instant) {
            // Figures only: what machined does not take of them stops nothing.
            if let Err(error) = self.machine.report_sources(report).await {
                tracing::debug!(%error, "figures of the sources were not told");
            }
        }
        Ok(round.came)
    }

    /// Starts a child for each source that none works for.
    fn start(&mut self, introduction: &Introduction, context: &Context) {
        if let Some(bundle) = &context.bundle
            && self.sources.bundle.as_ref() != Some(&bundle.sha256)
            && !self.sources.busy.contains(&0)
        {
            // In the first repository's folder, where the commits are that it builds on.
            self.sources.seen.retain(|origin, _| matches!(origin, Origin::Repository(_)));
            let origin = Origin::Bundle(bundle.sha256.clone());
            let request = Request { bundle: Some(bundle.path.clone()), ..self.request(introduction, 0, &origin) };
            self.sources.start(origin, 0, request);
        }
        for (number, url) in context.repositories.iter().enumerate() {
            let origin = Origin::Repository(url.clone());
            let request = Request { url: Some(url.clone()), ..self.request(introduction, number, &origin) };
            self.sources.start(origin, number, request);
        }
    }

    fn request(&self, introduction: &Introduction, number: usize, origin: &Origin) -> Request {
        let mut stop_at: Vec<CommitId> = match &self.state {
            Some(state) => state.history().iter().map(|position| position.commit.clone()).collect(),
            None => vec![introduction.start().clone()],
        };
        // Of those alone that recovery's threshold signed: the walk ends at each of these commits.
        stop_at.extend(self.state.iter().flat_map(TrustState::pending_recoveries).filter_map(PendingRecovery::commit));
        let seen = self.sources.seen.get(origin);
        Request {
            folder: self.sources.folders.next(number),
            url: None,
            bundle: None,
            deploy_ref: introduction.deploy_ref.clone(),
            tip: seen.and_then(|seen| seen.tip.clone()),
            stop_at,
            statements: seen.map(|seen| seen.statements.clone()).unwrap_or_default(),
            dialect: seen.and_then(|seen| seen.dialect),
        }
    }

    /// Takes what one source gave.
    async fn take(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
        (origin, number, fetched): (Origin, usize, Result<Answer, FetchError>),
        round: &mut Round,
    ) -> Result<(), SourceError> {
        if let Origin::Bundle(sha256) = &origin {
            self.sources.bundle = Some(sha256.clone());
        }
        // A server that failed is asked from the start.
        let dialect = fetched.as_ref().ok().and_then(|answer| answer.dialect);
        self.sources.seen.entry(origin.clone()).or_default().dialect = dialect;
        match fetched.map(|answer| answer.fetched) {
            Ok(Fetched::Unchanged(_)) => round.reached = true,
            Ok(Fetched::New(tip, objects, brought)) => {
                round.reached = true;
                self.sources.meter.seen(&tip, self.state.as_ref(), moment.instant);
                let here = Here::of(introduction, self.state.as_ref());
                let again = self.absorb(&origin, brought, &here);
                let refused = self.judge(introduction, context, moment, (&tip, &objects)).await?;
                if let Some(refusal) = &refused {
                    self.note_refusal(&tip, refusal, &moment.now);
                }
                // What came lacked objects: an honest answer may bring them yet.
                let hole = refused.as_ref().is_some_and(|refusal| refusal.reason == Reason::MissingObject);
                self.sources.fetched(number, hole);
                let seen = self.sources.seen.entry(origin).or_default();
                (seen.tip, seen.refusal) = ((!again && !hole).then_some(tip), refused);
                round.came = Some(objects);
            }
            Err(FetchError::Refused(refusal)) => {
                round.reached = true;
                self.sources.seen.entry(origin).or_default().refusal = Some(refusal);
            }
            Err(error) => {
                match &origin {
                    Origin::Repository(url) => tracing::debug!(%url, error = %error, "a repository gave nothing"),
                    Origin::Bundle(sha256) => tracing::warn!(sha256, error = %error, "a bundle was not taken"),
                }
                round.problems.push(error.to_string());
            }
        }
        Ok(())
    }

    /// Takes statements. What is new may let another source's tip pass, and a recovery needs other objects: both are looked at again.
    /// Gives whether this source is.
    fn absorb(&mut self, origin: &Origin, brought: Vec<Brought>, here: &Here) -> bool {
        let (mut news, mut recovery) = (false, false);
        let giver = origin.giver();
        let seen = self.sources.seen.entry(origin.clone()).or_default();
        for Brought { id, bytes } in brought {
            if let Some(kind) = self.pool.add(&giver, &bytes, here) {
                news = true;
                recovery |= kind == Kind::Recovery;
            }
            seen.statements.push(id);
        }
        let excess = seen.statements.len().saturating_sub(MAX_KNOWN);
        seen.statements.drain(..excess);
        if news {
            self.sources.judge_again();
            // A bundle's tip may pass now as well; what the bundle itself brought is judged with it.
            if matches!(origin, Origin::Repository(_)) {
                self.sources.bundle = None;
            }
        }
        recovery
    }

    /// Judges a tip; what passes is recorded on disk before this returns. Gives why it stopped, if it did.
    pub(crate) async fn judge(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        moment: &Moment,
        (tip, objects): (&CommitId, &ObjectSet),
    ) -> Result<Option<Refusal>, SourceError> {
        let mut fresh = None;
        let mut state = match &self.state {
            Some(state) => state.clone(),
            None => match introduce(introduction, objects) {
                Ok((state, first)) => {
                    fresh = Some(first);
                    state
                }
                Err(refusal) => return Ok(Some(refusal)),
            },
        };
        let (statements, heard) = (self.pool.offer(), Arc::clone(&self.taken_in));
        let offer = Offer {
            tip,
            objects,
            statements: &statements,
            clock: moment.clock,
            marks: &heard.marks,
            machine: Some(&context.identity),
            presence: context.presence.as_ref().map_or(Presence::None, Presence::For),
        };
        let chain = match verify(&state, &offer) {
            Ok(chain) => chain,
            Err(refusal) => return Ok(Some(refusal)),
        };
        for refusal in &chain.ignored {
            tracing::debug!(reason = %refusal.reason, message = refusal.message, "a statement does not count");
        }
        let missing = missing(&state, &chain, context, fresh.is_some());
        if let Some(refusal) = missing {
            return Ok(Some(refusal.of_commit(tip)));
        }
        // First, so that what this machine acts on is there for the others as well.
        let counted = chain.steps.iter().flat_map(|step| step.statements()).chain(&chain.counted);
        if self.kept.take(counted) {
            self.kept_file.write(&self.kept)?;
        }
        let moved = fresh.is_some() || !chain.steps.is_empty();
        if state.learn(&chain) || fresh.is_some() {
            self.file.write(&state).await?;
            let new = fresh.iter().chain(&chain.steps);
            new.for_each(|commit| self.book.position(commit.position(), Fate::Accepted, &moment.now));
            if moved {
                let Position { seq, commit, signer, .. } = state.accepted();
                let signer = signer.as_ref().map(|name| name.as_str());
                tracing::info!(epoch = %state.epoch(), %seq, %commit, signer, "a commit is accepted");
            }
            self.pool.keep(&Here::of(introduction, Some(&state)));
            self.state = Some(state);
        }
        Ok(chain.refused)
    }

    /// Shows a refused tip in the book.
    pub(crate) fn note_refusal(&mut self, tip: &CommitId, refusal: &Refusal, now: &str) {
        let commit = refusal.commit.clone().unwrap_or_else(|| tip.clone());
        tracing::warn!(%commit, reason = %refusal.reason, path = refusal.path, rule = refusal.rule, "a commit is refused");
        let history = self.state.as_ref().map(TrustState::history).unwrap_or_default();
        // An older commit that is offered again keeps its place in the book; only the offer is refused.
        let older = |position: &Position| position.commit == commit && refusal.reason == Reason::NotDescendant;
        if !history.iter().any(older) {
            self.book.refused(&commit, refusal, now);
        }
    }

    /// Says whether sources answer, and why the branch is not followed.
    async fn tell_sources(&mut self, context: &Context, reached: bool, problems: &[String]) -> Result<(), SourceError> {
        let known: BTreeSet<_> = context.repositories.iter().cloned().map(Origin::Repository).collect();
        self.sources.seen.retain(|origin, _| known.contains(origin) || matches!(origin, Origin::Bundle(_)));
        let heard = Arc::clone(&self.taken_in);
        self.pool.keep_givers(|giver| match giver {
            Giver::Own | Giver::Bundle => true,
            Giver::Repository(url) => context.repositories.contains(url),
            Giver::Peer(name) => heard.statements.contains_key(name),
        });
        let told = if reached {
            condition(Topic::SourceReachable, true, "", "")
        } else if context.repositories.is_empty() {
            condition(Topic::SourceReachable, false, "NoRepository", "the introduction came without a repository URL")
        } else {
            condition(Topic::SourceReachable, false, "Unreachable", problems.join("; "))
        };
        self.reporter.condition(told).await?;
        let told = match self.content.as_ref().or(self.sources.refusal(self.state.as_ref())) {
            Some(refusal) => condition(Topic::CommitRefused, true, refusal.reason.as_str(), refusal.to_string()),
            None => condition(Topic::CommitRefused, false, "", ""),
        };
        Ok(self.reporter.condition(told).await?)
    }
}

/// Why a chain is not taken up although it is valid: it lacks what machined remembers of this machine.
fn missing(state: &TrustState, chain: &Chain, context: &Context, fresh: bool) -> Option<Refusal> {
    let known = |reached: &Reached| {
        let here = state.history().iter().any(|known| known.seq == reached.seq && known.step == reached.step);
        let later = chain.steps.iter().any(|commit| {
            let position = commit.position();
            commit.epoch() > reached.epoch || (position.seq == reached.seq && position.step == reached.step)
        });
        (here && state.epoch() == reached.epoch) || later
    };
    let behind = context.accepted.filter(|reached| !reached.is_held_by(state));
    let lost = behind.filter(|reached| !known(reached)).map(|reached| (reached.seq, reached.step));
    let ran = context.step.filter(|step| {
        let runs = |position: &Position| position.step == *step;
        fresh && !state.history().iter().any(runs) && !chain.steps.iter().any(|commit| runs(commit.position()))
    });
    let what = match (lost, ran) {
        (Some((seq, step)), _) => format!("step {seq} ({step}), which this machine had accepted"),
        (None, Some(_)) => "the step that runs here".to_owned(),
        (None, None) => return None,
    };
    let message = format!(
        "the recorded state is gone or old, and the source offers a history without {what}; let a source lead there: \
         cairnctl push --bundle"
    );
    Some(Refusal::new(Reason::NotDescendant, message))
}
