//! From the repository to machined: look, judge, record, render, hand down. One round; [`crate::run`] repeats it.
//!
//! ```text
//! fetch --> verify --> accept (on disk before anything acts on it) --> render --> Apply (machined)
//!   |          |                                                          |
//!   +-- error -+-- refusal --> book, condition; what runs keeps running <-+
//! ```
//!
//! The round is told nothing about what changed, and does nothing that is done already: killed anywhere, the next one goes on.

use crate::book::{Book, Fate};
use crate::cluster::{ClusterNews, Target};
use crate::machine::{Context, DesiredMachine, Machine, MachineError};
use crate::report::{Reporter, Topic, condition};
use crate::store::{StateFile, StoreError};
use gitsync_fetch::{FetchError, Fetched, Fetcher, Folders, RepositoryUrl, Request};
use gitsync_plan::{DesiredState, access, render};
use gitsync_verify::{
    Introduction, ObjectSet, Offer, Position, Reason, Refusal, TrustState, introduce, recall, verify,
};
use machined_access::AccessTable;
use machined_ids::{CommitId, Generation, PrincipalName, StepId};
use machined_reconcile::Trigger;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// A round could not be finished; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read the accepted commit again from the fetch folder")]
    Again(#[source] FetchError),
}

/// Who signed what runs, where nobody did: the commit that the machine was introduced to.
const INTRODUCED: &str = "introduction";

/// What waits to be handed down; its generation once it has one, so that a retry is the same activation.
#[derive(Clone)]
struct Pending {
    desired: Arc<DesiredState>,
    generation: Option<Generation>,
}

/// The source and all that is known about it.
pub(crate) struct Source {
    machine: Machine,
    fetcher: Fetcher,
    folders: Folders,
    file: StateFile,
    state: Option<TrustState>,
    /// The tip of each repository that was judged last; while a branch stays there, nothing is fetched.
    judged: BTreeMap<RepositoryUrl, CommitId>,
    /// The accepted step that was rendered, so that a refused one is rendered once.
    rendered: Option<StepId>,
    /// What was rendered and not handed down yet.
    pending: Option<Pending>,
    /// machined refused the number of the last activation.
    taken: bool,
    /// What machined took from this process.
    applied: Option<Arc<DesiredState>>,
    book: Book,
    reporter: Reporter,
    target: watch::Sender<Option<Arc<Target>>>,
    cluster: Trigger,
    news: watch::Receiver<ClusterNews>,
}

impl Source {
    pub(crate) fn new(
        machine: Machine,
        fetcher: Fetcher,
        folder: PathBuf,
        (target, cluster): (watch::Sender<Option<Arc<Target>>>, Trigger),
        news: watch::Receiver<ClusterNews>,
    ) -> Self {
        let file = StateFile::new(&folder, machine.clone());
        let reporter = Reporter::new(machine.clone());
        Source {
            machine,
            fetcher,
            folders: Folders::new(folder.join("fetch")),
            file,
            state: None,
            judged: BTreeMap::new(),
            rendered: None,
            pending: None,
            taken: false,
            applied: None,
            book: Book::default(),
            reporter,
            target,
            cluster,
            news,
        }
    }

    /// machined may have restarted: what it was told in memory is told again.
    pub(crate) fn machined_is_new(&mut self) {
        self.reporter.forget();
    }

    /// One round.
    ///
    /// # Errors
    /// [`SourceError`]; whatever was recorded before it stays.
    pub(crate) async fn round(&mut self, context: &Context, now: &str) -> Result<(), SourceError> {
        let Some(introduction) = &context.introduction else { return Ok(()) };
        if !self.load(introduction, now).await? {
            return Ok(());
        }
        let objects = self.look(introduction, context, now).await?;
        self.plan(objects, context, now).await?;
        self.hand_down(context, now).await?;
        self.hear(now);
        self.publish(context);
        Ok(self.reporter.book(&self.book).await?)
    }

    /// Reads what was recorded, once. `false`: it cannot be trusted, and nothing moves.
    async fn load(&mut self, introduction: &Introduction, now: &str) -> Result<bool, SourceError> {
        if self.state.is_none() {
            self.state = match self.file.read().await {
                Ok(state) => state,
                Err(StoreError::Machine(error)) => return Err(error.into()),
                Err(error @ (StoreError::File { .. } | StoreError::Seal { .. } | StoreError::State(_))) => {
                    let reason = match &error {
                        StoreError::State(refusal) => refusal.reason,
                        StoreError::File { .. } | StoreError::Seal { .. } | StoreError::Machine(_) => Reason::Parse,
                    };
                    let told = condition(Topic::StateTrusted, false, reason.as_str(), error.to_string());
                    self.reporter.condition(told).await?;
                    return Ok(false);
                }
            };
            if let Some(state) = &self.state {
                self.book = Book::of(state, now);
            }
        }
        if self.state.as_ref().is_some_and(|state| state.check_introduction(introduction).is_err()) {
            let message =
                "machined holds another introduction than the recorded one; only wiping the machine changes it";
            let told = condition(Topic::StateTrusted, false, Reason::IntroductionConflict.as_str(), message);
            self.reporter.condition(told).await?;
            return Ok(false);
        }
        self.reporter.condition(condition(Topic::StateTrusted, true, "", "")).await?;
        Ok(true)
    }

    /// Looks at every repository and takes the longest valid chain that any of them has.
    async fn look(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        now: &str,
    ) -> Result<Option<ObjectSet>, SourceError> {
        let (mut came, mut reached, mut problems) = (None, false, Vec::new());
        for (number, url) in context.repositories.iter().enumerate() {
            match self.fetcher.fetch(&self.request(introduction, number, url)).await {
                Ok(Fetched::Unchanged(_)) => reached = true,
                Ok(Fetched::New(tip, objects, _)) => {
                    reached = true;
                    let refused = self.judge(introduction, context, &tip, &objects, now).await?;
                    let hole = refused.as_ref().is_some_and(|refusal| refusal.reason == Reason::MissingObject);
                    self.tell_refusal(&tip, refused, now).await?;
                    self.remember(number, url, (!hole).then_some(tip));
                    came = Some(objects);
                }
                Err(FetchError::Refused(refusal)) => {
                    reached = true;
                    self.reporter.condition(refusal_condition(&refusal)).await?;
                }
                Err(error) => {
                    tracing::debug!(%url, error = %error, "a repository gave nothing");
                    problems.push(error.to_string());
                }
            }
        }
        let told = if reached {
            condition(Topic::SourceReachable, true, "", "")
        } else if context.repositories.is_empty() {
            condition(Topic::SourceReachable, false, "NoRepository", "the introduction came without a repository URL")
        } else {
            condition(Topic::SourceReachable, false, "Unreachable", problems.join("; "))
        };
        self.reporter.condition(told).await?;
        Ok(came)
    }

    /// Notes which tip of a repository was judged; `None` when what came lacked objects, which an honest answer may bring yet.
    fn remember(&mut self, number: usize, url: &RepositoryUrl, judged: Option<CommitId>) {
        let kept = match judged {
            Some(tip) => {
                self.judged.insert(url.clone(), tip);
                self.folders.whole(number)
            }
            None => {
                self.judged.remove(url);
                self.folders.incomplete(number)
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%url, %error, "a fetch folder cannot be replaced; the next fetch of it may lack objects again");
        }
    }

    fn request(&self, introduction: &Introduction, number: usize, url: &RepositoryUrl) -> Request {
        let stop_at = match &self.state {
            Some(state) => state.history().iter().map(|position| position.commit.clone()).collect(),
            None => vec![introduction.commit.clone()],
        };
        Request {
            folder: self.folders.next(number),
            url: Some(url.clone()),
            deploy_ref: introduction.deploy_ref.clone(),
            tip: self.judged.get(url).cloned(),
            stop_at,
            bundle: None,
            statements: Vec::new(),
        }
    }

    /// Judges a tip; what passes is recorded on disk before this returns. Gives why it stopped, if it did.
    async fn judge(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        tip: &CommitId,
        objects: &ObjectSet,
        now: &str,
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
        let chain = match verify(&state, &Offer::of(tip, objects)) {
            Ok(chain) => chain,
            Err(refusal) => return Ok(Some(refusal)),
        };
        if let Some(first) = &fresh
            && let Some(step) = &context.step
        {
            // The state is gone, but machined knows what ran: history that lacks it is not taken up again.
            let known = [first].into_iter().chain(&chain.steps).any(|commit| commit.position().step == *step);
            if !known {
                let message =
                    "the recorded state is gone, and the source offers a history without the step that runs here";
                return Ok(Some(Refusal::new(Reason::NotDescendant, message).of_commit(tip)));
            }
        }
        let moved = fresh.is_some() || !chain.steps.is_empty();
        if state.learn(&chain) || moved {
            self.file.write(&state).await?;
            let new = fresh.iter().chain(&chain.steps);
            new.for_each(|commit| self.book.position(commit.position(), Fate::Accepted, now));
            if moved {
                let Position { seq, commit, .. } = state.accepted();
                tracing::info!(%seq, %commit, "a commit is accepted");
            }
            self.state = Some(state);
        }
        Ok(chain.refused)
    }

    async fn tell_refusal(&mut self, tip: &CommitId, refused: Option<Refusal>, now: &str) -> Result<(), SourceError> {
        let Some(refusal) = refused else {
            let told = condition(Topic::CommitRefused, false, "", "");
            return Ok(self.reporter.condition(told).await?);
        };
        let commit = refusal.commit.clone().unwrap_or_else(|| tip.clone());
        tracing::warn!(%commit, reason = %refusal.reason, path = refusal.path, rule = refusal.rule, "a commit is refused");
        let history = self.state.as_ref().map(TrustState::history).unwrap_or_default();
        // An older commit that is offered again keeps its place in the book; only the offer is refused.
        let older = |position: &Position| position.commit == commit && refusal.reason == Reason::NotDescendant;
        if !history.iter().any(older) {
            self.book.refused(&commit, &refusal, now);
        }
        Ok(self.reporter.condition(refusal_condition(&refusal)).await?)
    }

    /// Renders the accepted step, once for each.
    async fn plan(&mut self, objects: Option<ObjectSet>, context: &Context, now: &str) -> Result<(), SourceError> {
        let Some(state) = self.state.clone() else { return Ok(()) };
        let accepted = state.accepted();
        if self.rendered == Some(accepted.step) {
            return Ok(());
        }
        let objects = match objects.filter(|objects| recall(&state, objects, accepted.seq).is_ok()) {
            Some(objects) => objects,
            None => self.again(state.introduction(), context, &accepted.commit).await?,
        };
        let commit = recall(&state, &objects, accepted.seq);
        match commit.as_ref().map_err(Refusal::clone).and_then(|commit| render(commit, &objects)) {
            Ok(desired) => self.pending = Some(Pending { desired: Arc::new(desired), generation: None }),
            Err(refusal) => {
                self.tell_refusal(&accepted.commit, Some(refusal), now).await?;
                let people = commit.ok().and_then(|commit| access(&commit, &objects).ok());
                self.keep_applied(&state, context, people).await?;
            }
        }
        self.rendered = Some(accepted.step);
        Ok(())
    }

    /// Objects of a commit that was fetched before.
    async fn again(
        &mut self,
        introduction: &Introduction,
        context: &Context,
        commit: &CommitId,
    ) -> Result<ObjectSet, SourceError> {
        let mut last = FetchError::Local("no repository was ever fetched".to_owned());
        for number in 0..context.repositories.len() {
            let request = Request {
                folder: self.folders.kept(number),
                url: None,
                deploy_ref: introduction.deploy_ref.clone(),
                tip: Some(commit.clone()),
                stop_at: vec![commit.clone()],
                bundle: None,
                statements: Vec::new(),
            };
            match self.fetcher.fetch(&request).await {
                Ok(Fetched::New(_, objects, _)) if !objects.is_empty() => return Ok(objects),
                Ok(Fetched::New(..) | Fetched::Unchanged(_)) => {}
                Err(error) => last = error,
            }
        }
        // The folder lost it: the next look fetches as if nothing had been judged.
        self.judged.clear();
        Err(SourceError::Again(last))
    }

    /// The accepted step cannot be done as a whole: what runs keeps running, with the people of the accepted one.
    async fn keep_applied(
        &mut self,
        state: &TrustState,
        context: &Context,
        people: Option<AccessTable>,
    ) -> Result<(), SourceError> {
        let Some(applied) = state.applied() else { return Ok(()) };
        let desired = match &self.applied {
            Some(desired) => Arc::clone(desired),
            None => {
                let objects = self.again(state.introduction(), context, &applied.commit).await?;
                match recall(state, &objects, applied.seq).and_then(|commit| render(&commit, &objects)) {
                    Ok(desired) => Arc::new(desired),
                    // It was rendered once; if it no longer can be, what machined holds stays.
                    Err(refusal) => {
                        tracing::error!(%refusal, "the applied step cannot be rendered again");
                        return Ok(());
                    }
                }
            }
        };
        let mut kept = DesiredState::clone(&desired);
        if let Some(people) = people {
            kept.access = people;
        }
        if self.applied.as_deref() != Some(&kept) {
            self.pending = Some(Pending { desired: Arc::new(kept), generation: None });
        }
        Ok(())
    }

    /// Hands what is pending to machined. Recorded first, so that a generation never means two things.
    async fn hand_down(&mut self, context: &Context, now: &str) -> Result<(), SourceError> {
        let (Some(pending), Some(state)) = (self.pending.clone(), self.state.clone()) else { return Ok(()) };
        let desired = pending.desired;
        let Some((name, machine)) = desired.documents.by_identity(&context.identity) else {
            let message = format!(
                "no document in machines/ names {}; enrol this machine with `cairnctl enroll`",
                context.identity
            );
            return Ok(self.reporter.condition(condition(Topic::Enrolled, false, "NotEnrolled", message)).await?);
        };
        let source = &desired.source;
        let generation = match pending.generation {
            Some(generation) => generation,
            None => self.number(state, &desired, context).await?,
        };
        let down = desired_machine(generation, &desired, name.clone(), machine.text.clone());
        if let Err(error) = self.machine.apply(&down).await {
            // Another content had this number: the next round takes a new one.
            let taken = error.is_refused_generation();
            let generation = (!taken).then_some(generation);
            self.taken = taken;
            self.pending = Some(Pending { desired, generation });
            return Err(error.into());
        }
        self.reporter.condition(condition(Topic::Enrolled, true, "", "")).await?;
        if desired.access.step == source.step {
            self.book.applied(source.seq, now);
        }
        self.applied = Some(desired);
        self.pending = None;
        Ok(())
    }

    /// The number of an activation, on disk before it is used.
    async fn number(
        &mut self,
        mut state: TrustState,
        desired: &DesiredState,
        context: &Context,
    ) -> Result<Generation, SourceError> {
        let step = &desired.source.step;
        let same_step = state.applied().is_some_and(|applied| applied.step == *step);
        let same_people = desired.access.step == *step;
        // After a restart: the same activation, told again. Should it not be the same, machined says so.
        if same_step && same_people && self.applied.is_none() && !self.taken && state.generation() >= context.generation
        {
            return Ok(state.generation());
        }
        let mut generation = state.reactivate(context.generation);
        if !same_step {
            generation = state.activate(step).unwrap_or(generation);
        }
        self.file.write(&state).await?;
        self.state = Some(state);
        Ok(generation)
    }

    /// What the cluster's side came to.
    fn hear(&mut self, now: &str) {
        let news = self.news.borrow_and_update().clone();
        let Some(applied) = self.state.as_ref().and_then(TrustState::applied) else { return };
        if news.step.as_ref() != Some(&applied.step) {
            return;
        }
        match &news.refusal {
            Some(refusal) => self.book.refused(&applied.commit, refusal, now),
            None if news.healthy => self.book.healthy(applied.seq, now),
            None => {}
        }
    }

    /// Tells the cluster's side what should be.
    fn publish(&self, context: &Context) {
        let Some(desired) = &self.applied else { return };
        let Some((name, machine)) = desired.documents.by_identity(&context.identity) else { return };
        let target = Target {
            desired: Arc::clone(desired),
            machine: name.clone(),
            role: machine.config.role,
            identity: context.identity.clone(),
            book: self.book.clone(),
        };
        let changed = self.target.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&target);
            if changed {
                *known = Some(Arc::new(target));
            }
            changed
        });
        if changed {
            self.cluster.fire();
        }
    }
}

fn refusal_condition(refusal: &Refusal) -> machined_api::Condition {
    condition(Topic::CommitRefused, true, refusal.reason.as_str(), refusal.to_string())
}

fn desired_machine(
    generation: Generation,
    desired: &DesiredState,
    machine: machined_ids::MachineName,
    machine_kdl: String,
) -> DesiredMachine {
    let Position { seq, step, commit, signer, .. } = desired.source.clone();
    let nobody = || PrincipalName::parse(INTRODUCED).expect("because the word is a name");
    DesiredMachine {
        generation,
        step,
        commit,
        seq,
        signer: signer.unwrap_or_else(nobody),
        machine,
        cluster_kdl: desired.documents.cluster_text.clone(),
        machine_kdl,
        access: desired.access.clone(),
    }
}
