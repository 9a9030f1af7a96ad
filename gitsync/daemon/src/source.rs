//! From the repository to machined: look, judge, record, render, hand down. One round; [`crate::run`] repeats it.
//!
//! ```text
//! fetch --> verify --> accept (on disk before anything acts on it) --> what is wanted --> render --> Apply (machined)
//!   |          |                          ^                                  |
//!   |          |       orders, health, time +                                |
//!   +-- error -+-- refusal --> book, condition; what runs keeps running <----+
//! ```
//!
//! The round is told nothing about what changed, and does nothing that is done already: killed anywhere, the next one goes on.
//! `look.rs` asks sources and judges, `desire.rs` hands down what should run, `show.rs` says how things are.

use crate::book::Book;
use crate::cluster::{ClusterNews, Target};
use crate::desire::Pending;
use crate::kept::{Kept, KeptFile};
use crate::look::Sources;
use crate::machine::{Context, Doubt, Machine, MachineError, Reached};
use crate::marks::{self, Marker};
use crate::orders::{self, Rollout};
use crate::peers::Heard;
use crate::report::{Reporter, Topic, condition};
use crate::rollout::RolloutFile;
use crate::run::WallClock;
use crate::statements::{Giver, Here, Pool};
use crate::store::{StateFile, StoreError};
use gitsync_fetch::{FetchError, Fetcher};
use gitsync_plan::DesiredState;
use gitsync_verify::{Clock, Introduction, ObjectSet, Reason, Refusal, TrustState, Wanted};
use jiff::Timestamp;
use machined_ids::{Epoch, Seq, StepId};
use machined_reconcile::Trigger;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
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

/// When a round is.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// By the machine's clock, for people.
    pub(crate) now: String,
    /// By the machine's clock, trusted or not, for figures.
    pub(crate) wall: Timestamp,
    /// As far as the clock can be trusted, for judgements.
    pub(crate) clock: Clock,
    /// For spans.
    pub(crate) instant: Instant,
}

impl Moment {
    /// Now by `time`, as `context` says how good the machine's clock is.
    pub(crate) fn now(time: &WallClock, context: &Context) -> Self {
        let now = time.now();
        let clock = Clock { now: context.time_synchronised.then_some(now) };
        Moment { now: format!("{now:.0}"), wall: now, clock, instant: Instant::now() }
    }
}

/// What the source's side tells and hears.
pub(crate) struct Wires {
    pub(crate) target: watch::Sender<Option<Arc<Target>>>,
    pub(crate) cluster: Trigger,
    pub(crate) news: watch::Receiver<ClusterNews>,
    /// Nothing until they were asked once.
    pub(crate) heard: watch::Receiver<Option<Arc<Heard>>>,
}

/// The source and all that is known about it.
pub(crate) struct Source {
    pub(crate) machine: Machine,
    pub(crate) file: StateFile,
    pub(crate) state: Option<TrustState>,
    pub(crate) sources: Sources,
    pub(crate) pool: Pool,
    /// What accepted steps were accepted with.
    pub(crate) kept: Kept,
    pub(crate) kept_file: KeptFile,
    /// What the other machines had said when it was taken last.
    pub(crate) taken_in: Arc<Heard>,
    pub(crate) marker: Marker,
    /// What was rendered last (what should run, whose people, and how many keys are revoked), so that a refused one is rendered once.
    pub(crate) rendered: Option<(StepId, StepId, usize)>,
    /// Why the accepted step's content cannot be done.
    pub(crate) content: Option<Refusal>,
    /// What was rendered and not handed down yet.
    pub(crate) pending: Option<Pending>,
    /// machined refused the number of the last activation.
    pub(crate) taken: bool,
    /// When this process found a recorded state, until the other machines were heard once: it may be an old copy.
    pub(crate) came_back: Option<Instant>,
    /// What machined took from this process.
    pub(crate) applied: Option<Arc<DesiredState>>,
    /// The step whose rollout is watched, and since when.
    pub(crate) rollout: Option<(StepId, Instant)>,
    pub(crate) rollout_file: RolloutFile,
    pub(crate) book: Book,
    pub(crate) reporter: Reporter,
    pub(crate) wires: Wires,
}

impl Source {
    pub(crate) fn new(machine: Machine, fetcher: Fetcher, folder: PathBuf, wires: Wires) -> Self {
        let file = StateFile::new(&folder, machine.clone());
        let reporter = Reporter::new(machine.clone());
        let rollout_file = RolloutFile::new(&folder);
        Source {
            machine,
            sources: Sources::new(fetcher, folder.join("fetch")),
            file,
            state: None,
            pool: Pool::default(),
            kept: Kept::default(),
            kept_file: KeptFile::new(&folder),
            taken_in: Arc::default(),
            marker: Marker::default(),
            rendered: None,
            content: None,
            pending: None,
            taken: false,
            came_back: None,
            applied: None,
            rollout: None,
            rollout_file,
            book: Book::default(),
            reporter,
            wires,
        }
    }

    /// machined may have restarted: what it was told in memory is told again.
    pub(crate) fn machined_is_new(&mut self) {
        self.reporter.forget();
        self.marker.forget();
    }

    /// One round. `newest` is asked once sources have answered, which may take seconds: a hold that was given meanwhile counts.
    ///
    /// # Errors
    /// [`SourceError`]; whatever was recorded before it stays.
    pub(crate) async fn round(
        &mut self,
        context: &Context,
        newest: impl Fn() -> Context,
        moment: &Moment,
    ) -> Result<(), SourceError> {
        let Some(introduction) = &context.introduction else { return Ok(()) };
        if !self.load(introduction, moment).await? {
            return Ok(());
        }
        if !self.waits_for_peers(context, moment).await? {
            let objects = self.look(introduction, context, moment).await?;
            self.follow(objects, &newest(), moment).await?;
        }
        self.show(context, moment).await?;
        Ok(self.reporter.book(&self.book).await?)
    }

    /// Has what is accepted done: on disk, at machined, in the cluster.
    pub(crate) async fn follow(
        &mut self,
        objects: Option<ObjectSet>,
        context: &Context,
        moment: &Moment,
    ) -> Result<(), SourceError> {
        if self.may_move(context).await? {
            self.follow_order(context, moment).await?;
            if let Some(state) = &self.state {
                // machined remembers it before anything acts on it, so that an older state is noticed later.
                self.marker.tell(&self.machine, state, context).await?;
            }
            self.desire(objects, context, moment).await?;
            self.hand_down(context, moment).await?;
            self.hear(moment).await?;
            self.publish(context);
        }
        Ok(())
    }

    /// Reads what was recorded, once. `false`: it cannot be trusted, and nothing moves.
    async fn load(&mut self, introduction: &Introduction, moment: &Moment) -> Result<bool, SourceError> {
        if self.state.is_none() {
            self.state = match self.file.read().await {
                Ok(state) => state,
                Err(StoreError::Machine(error)) => return Err(error.into()),
                Err(error @ (StoreError::File { .. } | StoreError::Seal { .. } | StoreError::State(_))) => {
                    let reason = match &error {
                        StoreError::State(refusal) => refusal.reason,
                        StoreError::File { .. } | StoreError::Seal { .. } | StoreError::Machine(_) => Reason::Parse,
                    };
                    let message = match &error {
                        StoreError::State(refusal) => refusal.to_string(),
                        StoreError::File { .. } | StoreError::Seal { .. } | StoreError::Machine(_) => error.to_string(),
                    };
                    let told = condition(Topic::StateTrusted, false, reason.as_str(), message);
                    self.reporter.condition(told).await?;
                    return Ok(false);
                }
            };
            self.kept = self.kept_file.read();
            let here = Here::of(introduction, self.state.as_ref());
            for signed in self.kept.iter() {
                self.pool.put(&Giver::Own, signed.clone(), &here);
            }
            if let Some(state) = &self.state {
                self.book = Book::of(state, &moment.now);
                self.came_back = Some(moment.instant);
            }
        }
        let conflict = self.state.as_ref().and_then(|state| state.check_introduction(introduction).err());
        if let Some(refusal) = conflict {
            let told = condition(Topic::StateTrusted, false, refusal.reason.as_str(), refusal.to_string());
            self.reporter.condition(told).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether the recorded state is at least as far as machined and the others remember, and the cluster was told one story. If not, what runs keeps
    /// running and nothing is handed down.
    async fn may_move(&mut self, context: &Context) -> Result<bool, SourceError> {
        let Some(state) = &self.state else { return Ok(true) };
        let proven = marks::prove_newest(state, context, &self.taken_in.marks);
        let own = Heard::newest_of(&self.taken_in, &context.identity, state).map(|mark| Reached {
            epoch: mark.epoch,
            seq: mark.seq,
            step: mark.step,
        });
        let known = context
            .accepted
            .into_iter()
            .chain(own)
            .max_by_key(Reached::place)
            .filter(|reached| !reached.is_held_by(state));
        let told = match (context.doubt.as_ref().filter(|_| !proven), known) {
            (Some(Doubt { reason, message }), _) => condition(Topic::StateTrusted, false, reason, message.clone()),
            (None, Some(reached)) => {
                let message = format!(
                    "this machine had accepted step {} of epoch {}, and its recorded state ends at step {} of epoch {}: an old copy \
                     was put back; nothing moves until a source leads there: cairnctl push --bundle",
                    reached.seq,
                    reached.epoch,
                    state.accepted().seq,
                    state.epoch()
                );
                condition(Topic::StateTrusted, false, Reason::FreshnessUnproven.as_str(), message)
            }
            (None, None) => condition(Topic::StateTrusted, true, "", ""),
        };
        let may = told.status && state.equivocation().is_none();
        self.reporter.condition(told).await?;
        Ok(may)
    }

    /// Takes what people ordered into the log of overrides, on disk before anything follows it.
    async fn follow_order(&mut self, context: &Context, moment: &Moment) -> Result<(), SourceError> {
        let Some(mut state) = self.state.clone() else { return Ok(()) };
        let told = match orders::follow(&mut state, context.order.as_ref(), context.step, moment.clock) {
            Ok(false) => condition(Topic::OrderFollowed, true, "", ""),
            Ok(true) => {
                self.keep(state).await?;
                condition(Topic::OrderFollowed, true, "", "")
            }
            Err(refusal) => condition(Topic::OrderFollowed, false, refusal.reason.as_str(), refusal.to_string()),
        };
        Ok(self.reporter.condition(told).await?)
    }

    /// Records a state; when this returns, it is on the disk and counts.
    pub(crate) async fn keep(&mut self, state: TrustState) -> Result<(), SourceError> {
        self.file.write(&state).await?;
        self.state = Some(state);
        Ok(())
    }

    /// What the cluster's side came to; an accepted step that does not become healthy in time is reverted.
    async fn hear(&mut self, moment: &Moment) -> Result<(), SourceError> {
        let news = self.wires.news.borrow_and_update().clone();
        let Some(mut state) = self.state.clone() else { return Ok(()) };
        let Some(applied) = state.applied().cloned() else { return Ok(()) };
        let heard = news.step == Some(applied.step);
        match &news.refusal {
            Some(refusal) if heard => self.book.refused(&applied.commit, refusal, &moment.now),
            None if heard && news.healthy => {
                self.book.healthy(applied.seq, &moment.now);
                self.sources.meter.healthy(&applied.commit, moment.instant);
                self.rollout = None;
                if state.healthy() {
                    self.keep(state).await?;
                }
                return Ok(());
            }
            Some(_) | None => {}
        }
        let (Some((step, since)), Some(desired)) = (self.rollout, &self.applied) else { return Ok(()) };
        let wanted = matches!(state.wanted(moment.clock), Wanted::Accepted(_));
        if step != applied.step || news.elsewhere || !wanted {
            return Ok(());
        }
        let age = moment.instant.saturating_duration_since(since);
        let deadline = desired.documents.cluster.rollout_deadline.get();
        if orders::revert(&mut state, Rollout { age, deadline }, moment.clock) {
            tracing::warn!(seq = %applied.seq, commit = %applied.commit, "a step was not healthy in time and is reverted");
            self.rollout = None;
            self.keep(state).await?;
        }
        Ok(())
    }
}

impl Reached {
    fn place(&self) -> (Epoch, Seq) {
        (self.epoch, self.seq)
    }

    /// Whether a state has come here, or further.
    pub(crate) fn is_held_by(&self, state: &TrustState) -> bool {
        self.place() <= (state.epoch(), state.accepted().seq)
    }
}
