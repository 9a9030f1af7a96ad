//! Drives upgrades: takes wishes, does the step that `plan` names, and has each stage on the disk before it acts.

use super::journal::{ImageNote, Journal, Origin, Outcome as End, Stage, Task, Wanted, cut};
use super::judge::{Rules, floor_permits, judge};
use super::permit::Permits;
use super::plan::{Step, next, wants};
use super::{Slots, UpgradeHost, UpgradeHostError, UpgradeStatus, note_of};
use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use crate::ledger::{DesiredMachine, LedgerRead};
use init_boot::{Attempt, DEADLINE_SECONDS, Slot};
use machined_reconcile::{Outcome, story};
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest journal, in bytes: a few notes and reasons take a tenth of it.
const JOURNAL_BYTES_MAX: usize = 64 * 1024;
/// How long an image has to be healthy without a break before it is good: a service that crashes at once shows within this.
const HEALTHY_FOR: Duration = Duration::from_secs(5);
/// How often health is looked at in a try.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// The pause after a fetch that failed; a mirror that is down is down for minutes.
const FETCH_PAUSE: Duration = Duration::from_secs(30);
/// Fetches that may fail for a person's wish before it is given up; a document's wish is never given up.
const FETCHES_FAILED_MAX: u32 = 5;
/// How often a permit is asked for again.
const PERMIT_PAUSE: Duration = Duration::from_secs(60);
/// How long after the kernel's start a document's image must be good, in seconds: twenty times what a healthy start takes.
const DEADLINE_SECONDS_DEFAULT: u64 = 300;

/// A person's wish.
#[derive(Debug, Clone)]
pub enum UpgradeRequest {
    /// An image, fetched from a URL or lying in the place for obtained ones.
    Start {
        /// Who.
        by: String,
        /// Where the artefact is; `None` when it was sent.
        url: Option<String>,
        /// Without a permit.
        without_permit: bool,
        /// Deadline of the try in seconds; 0 for the usual one.
        deadline_seconds: u64,
    },
    /// The other slot's image.
    Rollback {
        /// Who.
        by: String,
        /// Without a permit.
        without_permit: bool,
        /// Deadline of the try in seconds; 0 for the usual one.
        deadline_seconds: u64,
    },
    /// The document's image once more, though it failed.
    Retry,
}

/// Why a wish is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRefused {
    /// The state volume is not there yet, or the slots cannot be read.
    #[error("the machine cannot upgrade yet ({0}); try again in a moment")]
    NotReady(String),
    /// One runs.
    #[error("an upgrade wanted by {by} is {phase}; `cairnctl upgrade status` follows it, ask again when it is over")]
    Busy {
        /// Who wanted the running one.
        by: String,
        /// Where it is.
        phase: &'static str,
    },
    /// A deadline that cannot be.
    #[error("a deadline is {} to {} seconds after the kernel's start", DEADLINE_SECONDS.start(), DEADLINE_SECONDS.end())]
    Deadline,
    /// No image to go back to.
    #[error(
        "the other slot holds no image that proved itself on this machine; `cairnctl upgrade --image FILE` brings one"
    )]
    NothingThere,
    /// The floor.
    #[error("{0}")]
    Floor(String),
    /// Nothing that failed.
    #[error("nothing is held back: no image that the document names has failed")]
    NothingHeldBack,
}

/// What was taken.
pub type UpgradeAnswer = Result<(), UpgradeRefused>;

/// Where people's wishes go in.
pub type UpgradeInbox = Inbox<UpgradeRequest, UpgradeAnswer>;

/// Why an upgrade cannot go on now.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Disk, boot loader or firmware.
    #[error(transparent)]
    Host(#[from] UpgradeHostError),
    /// The journal.
    #[error(transparent)]
    Record(#[from] UpgradeRecordError),
}

/// Why the journal cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeRecordError {
    /// The file failed.
    #[error("the journal of upgrades cannot be kept")]
    File(#[source] FileError),
    /// The file is damaged.
    #[error(
        "the journal of upgrades {path} is damaged; what it said about a running upgrade is lost, the boot record decides"
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Says what is missing for this machine to be healthy.
pub type HealthProbe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Writes [`UpgradeStatus`].
pub struct UpgradeController<H, F, P> {
    host: Arc<H>,
    files: Arc<F>,
    permits: P,
    health: HealthProbe,
    running: ImageNote,
    volumes: Reader<Volume>,
    ledger: Reader<LedgerRead>,
    desired: Reader<DesiredMachine>,
    status: Writer<UpgradeStatus>,
    inbox: UpgradeInbox,
    journal: Option<Journal>,
    message: String,
    healthy_since: Option<Instant>,
    not_before: Option<Instant>,
    /// The machine is about to restart: nothing more is begun.
    restarting: bool,
    told_good: bool,
}

impl<H: UpgradeHost, F: FilesHost, P: Permits> UpgradeController<H, F, P> {
    /// Declares inputs and output at `ports`; gives the inbox too. `running` is what the running image says of itself.
    pub fn new(
        ports: &mut Ports,
        host: Arc<H>,
        files: Arc<F>,
        permits: P,
        health: HealthProbe,
        running: ImageNote,
    ) -> (Self, UpgradeInbox) {
        let inbox = Inbox::new(ports.trigger());
        let controller = UpgradeController {
            host,
            files,
            permits,
            health,
            running,
            volumes: ports.input(),
            ledger: ports.input(),
            desired: ports.input(),
            status: ports.output(),
            inbox: inbox.clone(),
            journal: None,
            message: String::new(),
            healthy_since: None,
            not_before: None,
            restarting: false,
            told_good: false,
        };
        (controller, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/upgrade.json")
    }

    async fn load(&mut self) -> Result<(), UpgradeRecordError> {
        let path = Self::path();
        let bytes = self.files.read(&path, JOURNAL_BYTES_MAX).await.map_err(UpgradeRecordError::File)?;
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        // A damaged journal is said once; the boot record still knows what is being tried.
        self.journal = Some(read.as_ref().ok().cloned().flatten().unwrap_or_default());
        read.map(drop).map_err(|source| UpgradeRecordError::Json { path, source })
    }

    /// Writes the journal when it changed, and only then lets it count.
    async fn keep(&mut self, journal: Journal) -> Result<(), UpgradeRecordError> {
        if self.journal.as_ref() == Some(&journal) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&journal).expect("because its map keys are strings");
        // Invariant: on the disk before anything acts on it.
        self.files.replace(&Self::path(), &bytes, Lasting::Durable).await.map_err(UpgradeRecordError::File)?;
        self.journal = Some(journal);
        Ok(())
    }

    fn journal(&self) -> Journal {
        self.journal.clone().unwrap_or_default()
    }

    fn rules(&self) -> Rules {
        let desired = self.desired.get(DesiredMachine::ID);
        Rules {
            named: desired.as_ref().and_then(|desired| desired.machine.image.as_ref()).map(|image| image.digest),
            level: desired.as_ref().map_or(0, |desired| desired.cluster.level),
            images: desired.map(|desired| desired.raw.access.images).unwrap_or_default(),
            profile: self.running.profile.clone(),
        }
    }

    fn publish(&self, slots: Option<&Slots>) {
        let journal = self.journal();
        let running =
            slots.and_then(|slots| journal.image(slots.running).cloned()).unwrap_or_else(|| self.running.clone());
        self.status.put(
            UpgradeStatus::ID,
            UpgradeStatus {
                phase: journal.task.as_ref().map_or(UpgradeStatus::IDLE, |task| task.stage.as_str()),
                message: journal.task.as_ref().map(|_| self.message.clone()).unwrap_or_default(),
                target: journal.task.as_ref().and_then(|task| task.image.clone()),
                running,
                slot: slots.map(|slots| slots.running),
                other: slots.and_then(|slots| journal.image(slots.running.other()).cloned()),
                last: journal.last,
            },
        );
    }

    /// Brings journal, boot record and boot loader together, as they may stand after any power cut.
    async fn settle(&mut self, slots: &Slots) -> Result<(), UpgradeError> {
        let (mut journal, record) = (self.journal(), slots.record());
        let root = slots.root.to_string();
        let digest = journal.image(slots.running).filter(|note| note.root == root).and_then(|note| note.digest.clone());
        self.running = ImageNote { root: root.clone(), digest, ..self.running.clone() };
        journal.set_image(slots.running, Some(self.running.clone()));
        let attempt = record.attempt.as_ref();
        if journal.task.is_none() && attempt.is_some_and(|attempt| attempt.root == slots.root) {
            // The journal is gone, and the boot record says that this image must prove itself: so it does.
            let origin = Origin::Request { by: "a lost journal".to_owned(), url: None, without_permit: false };
            let mut task = task_of(origin, Stage::Trying, 0);
            (task.image, task.slot, task.asked) = (Some(self.running.clone()), Some(slots.running.into()), 1);
            journal.task = Some(task);
        }
        let trying = journal.task.as_ref().is_some_and(|task| task.stage == Stage::Trying);
        if !trying && attempt.is_some() {
            let mut next = record.next();
            next.attempt = None;
            self.host.record(&next).await?;
        }
        if !trying && record.good == slots.running && slots.default != Some(slots.running) {
            self.host.set_default(slots.running).await?;
        }
        self.keep(journal).await?;
        if !trying && !std::mem::replace(&mut self.told_good, true) {
            self.host.tell_good();
        }
        Ok(())
    }

    async fn take(&mut self, request: UpgradeRequest, slots: &Slots) -> UpgradeAnswer {
        let mut journal = self.journal();
        if let Some(task) = &journal.task {
            return Err(UpgradeRefused::Busy { by: task.origin.by().to_owned(), phase: task.stage.as_str() });
        }
        let deadline = |seconds: u64| match seconds {
            0 => Ok(DEADLINE_SECONDS_DEFAULT),
            seconds if DEADLINE_SECONDS.contains(&seconds) => Ok(seconds),
            _ => Err(UpgradeRefused::Deadline),
        };
        match request {
            UpgradeRequest::Start { by, url, without_permit, deadline_seconds } => {
                let seconds = deadline(deadline_seconds)?;
                if url.is_some() {
                    self.host.discard().await.map_err(|error| UpgradeRefused::NotReady(story(&error)))?;
                }
                let origin = Origin::Request { by, url, without_permit };
                journal.task = Some(task_of(origin, Stage::Obtaining, seconds));
            }
            UpgradeRequest::Rollback { by, without_permit, deadline_seconds } => {
                let seconds = deadline(deadline_seconds)?;
                let other = slots.running.other();
                let image = journal.image(other).cloned().ok_or(UpgradeRefused::NothingThere)?;
                let mut task = task_of(Origin::Rollback { by, without_permit }, Stage::Written, seconds);
                (task.image, task.slot) = (Some(image.clone()), Some(other.into()));
                if task.root().is_none_or(|root| root.partition_guid() != slots.other) {
                    return Err(UpgradeRefused::NothingThere);
                }
                floor_permits(image.number, &self.rules().images)
                    .map_err(|refusal| UpgradeRefused::Floor(refusal.to_string()))?;
                let desired = self.desired.get(DesiredMachine::ID).and_then(|desired| desired.machine.image);
                journal.avoided = desired.as_ref().map(Wanted::from);
                journal.task = Some(task);
            }
            UpgradeRequest::Retry => {
                journal.avoided.take().ok_or(UpgradeRefused::NothingHeldBack)?;
            }
        }
        self.not_before = None;
        self.keep(journal).await.map_err(|error| UpgradeRefused::NotReady(story(&error)))
    }

    /// Begins what the document wants, and leaves what it does not want any more while nothing of it was tried.
    async fn follow_the_document(&mut self) -> Result<(), UpgradeError> {
        let mut journal = self.journal();
        let image = self.desired.get(DesiredMachine::ID).and_then(|desired| desired.machine.image);
        if let Some(Task { origin: Origin::Document { wanted, .. }, stage, .. }) = &journal.task {
            let same = image.as_ref().map(Wanted::from).as_ref() == Some(wanted);
            if same || *stage == Stage::Trying || self.ledger.all().is_empty() {
                return Ok(());
            }
            tracing::info!(digest = wanted.digest, "the document does not name this image any more");
            journal.task = None;
        }
        if let (None, Some(image)) = (&journal.task, image)
            && wants(&journal, &self.running, &image)
        {
            self.host.discard().await?;
            let origin = Origin::Document { wanted: Wanted::from(&image), url: image.url };
            journal.task = Some(task_of(origin, Stage::Obtaining, DEADLINE_SECONDS_DEFAULT));
            self.not_before = None;
        }
        self.keep(journal).await.map_err(Into::into)
    }

    /// Does steps until one has to wait or none is left.
    async fn drive(&mut self, slots: &Slots) -> Result<Outcome, UpgradeError> {
        loop {
            let Some(task) = self.journal().task else { return Ok(Outcome::Done) };
            if let Some(pause) = self.not_before.map(|at| at.saturating_duration_since(Instant::now()))
                && !pause.is_zero()
            {
                return Ok(Outcome::Again(pause));
            }
            let obtained =
                matches!(task.stage, Stage::Obtaining | Stage::Writing) && self.host.header().await?.is_some();
            let step = next(&task, slots, obtained);
            tracing::debug!(?step, "upgrade");
            match step {
                Step::Obtain { url } => self.obtain(task, &url).await?,
                Step::Judge => self.judge(task, slots).await?,
                Step::Write => self.write(task, slots).await?,
                Step::Try => return self.begin_try(task, slots).await,
                Step::Prove => return self.prove(task, slots).await,
                Step::Fail { reason } => self.fail(&reason, slots).await?,
                Step::Refuse { reason } => self.refuse(reason).await?,
            }
            self.publish(Some(slots));
        }
    }

    fn say(&mut self, slots: &Slots, message: impl Into<String>) {
        self.message = cut(message.into());
        self.publish(Some(slots));
    }

    async fn obtain(&mut self, mut task: Task, url: &str) -> Result<(), UpgradeError> {
        self.message = format!("fetching {url}");
        task.stage = Stage::Obtaining;
        let mut journal = self.journal();
        let Err(error) = self.host.obtain(url).await else {
            journal.task = Some(task);
            return self.keep(journal).await.map_err(Into::into);
        };
        let reason = story(&error);
        tracing::warn!(url, reason, attempt = task.fetches_failed + 1, "the image cannot be fetched");
        task.fetches_failed += 1;
        let lasting = matches!(task.origin, Origin::Document { .. });
        if !lasting && task.fetches_failed >= FETCHES_FAILED_MAX {
            return self.refuse(format!("it cannot be fetched from {url}: {reason}")).await;
        }
        self.message = cut(format!("fetching {url} failed and is tried again: {reason}"));
        self.not_before = Some(Instant::now() + FETCH_PAUSE);
        journal.task = Some(task);
        self.keep(journal).await.map_err(Into::into)
    }

    async fn judge(&mut self, mut task: Task, slots: &Slots) -> Result<(), UpgradeError> {
        let Some(header) = self.host.header().await? else { return Ok(()) };
        let rules = self.rules();
        let (image, digest) = (note_of(&header.manifest), header.manifest.digest());
        task.image = Some(image.clone());
        let mut journal = self.journal();
        journal.task = Some(task.clone());
        self.keep(journal).await?;
        let other_named = rules.named.filter(|named| *named != digest);
        if let Some(named) = other_named {
            let what = match task.origin {
                Origin::Document { .. } => "the URL of the document serves",
                Origin::Request { .. } | Origin::Rollback { .. } => "what was asked for is",
            };
            let reason =
                format!("{what} image {digest}, and this machine's document names {named}; change its image line");
            return self.refuse(reason).await;
        }
        if let Err(refusal) = judge(&header, &rules) {
            return self.refuse(refusal.to_string()).await;
        }
        if header.manifest.root_hash == slots.root {
            let mut journal = self.journal();
            self.running = image.clone();
            journal.set_image(slots.running, Some(image));
            journal.end(End::Good, "this image runs already");
            self.keep(journal).await?;
            return self.host.discard().await.map_err(Into::into);
        }
        self.say(slots, format!("checking image {digest}"));
        if let Err(error) = self.host.verify(&header).await {
            return self.refuse(format!("the artefact is damaged: {}", story(&error))).await;
        }
        task.stage = Stage::Writing;
        task.slot = Some(slots.running.other().into());
        let mut journal = self.journal();
        // From here on the other slot holds nothing that could be gone back to.
        journal.set_image(slots.running.other(), None);
        journal.task = Some(task);
        self.keep(journal).await.map_err(Into::into)
    }

    async fn write(&mut self, mut task: Task, slots: &Slots) -> Result<(), UpgradeError> {
        let Some(header) = self.host.header().await? else { return Ok(()) };
        let slot = slots.running.other();
        if task.root() != Some(header.manifest.root_hash) {
            // Another artefact lies there than the one that was judged.
            task.stage = Stage::Obtaining;
            let mut journal = self.journal();
            journal.task = Some(task);
            return self.keep(journal).await.map_err(Into::into);
        }
        self.say(slots, format!("writing image {} to slot {}", header.manifest.digest(), slot.letter()));
        self.host.empty(slot).await?;
        if let Err(error) = self.host.write(slot, &header).await {
            return self.refuse(story(&error)).await;
        }
        self.host.name(slot, &header.manifest.root_hash).await?;
        task.stage = Stage::Written;
        let mut journal = self.journal();
        journal.task = Some(task);
        self.keep(journal).await.map_err(Into::into)
    }

    async fn begin_try(&mut self, mut task: Task, slots: &Slots) -> Result<Outcome, UpgradeError> {
        let (Some(root), Some(slot), Some(image)) = (task.root(), task.slot.map(Slot::from), task.image.clone()) else {
            self.refuse("the journal does not say which image is to be tried".to_owned()).await?;
            return Ok(Outcome::Done);
        };
        if let Err(refusal) = floor_permits(image.number, &self.rules().images) {
            self.refuse(refusal.to_string()).await?;
            return Ok(Outcome::Done);
        }
        if let (false, Err(refused)) = (task.origin.without_permit(), self.permits.permit()) {
            self.say(slots, refused.to_string());
            return Ok(Outcome::Again(PERMIT_PAUSE));
        }
        task.stage = Stage::Trying;
        task.asked += 1;
        let deadline = Duration::from_secs(task.deadline_seconds);
        let mut journal = self.journal();
        journal.task = Some(task);
        self.keep(journal).await?;
        let mut record = slots.record().next();
        if record.attempt.as_ref().is_none_or(|attempt| attempt.root != root || attempt.ended.is_some()) {
            record.attempt = Some(Attempt { slot, root, starts: 0, deadline, ended: None });
            self.host.record(&record).await?;
        }
        self.host.ask_once(slot).await?;
        tracing::info!(slot = slot.letter(), version = image.version, number = image.number, "the image is tried");
        self.restarting = true;
        self.say(slots, format!("restarting into slot {} to try the image", slot.letter()));
        self.host.restart();
        Ok(Outcome::Done)
    }

    async fn prove(&mut self, mut task: Task, slots: &Slots) -> Result<Outcome, UpgradeError> {
        if let Err(missing) = (self.health)() {
            self.healthy_since = None;
            self.say(slots, format!("this image is being tried; for it to be good: {missing}"));
            if task.unhealthy.as_ref() != Some(&missing) {
                task.unhealthy = Some(cut(missing));
                let mut journal = self.journal();
                journal.task = Some(task);
                self.keep(journal).await?;
            }
            return Ok(Outcome::Again(HEALTH_PERIOD));
        }
        let since = *self.healthy_since.get_or_insert_with(Instant::now);
        if since.elapsed() < HEALTHY_FOR {
            return Ok(Outcome::Again(HEALTH_PERIOD));
        }
        // In this order: a cut behind the first leaves a try that is still counted, a cut behind the second a good image whose
        // journal lags.
        self.host.set_default(slots.running).await?;
        let mut record = slots.record().next();
        (record.good, record.attempt) = (slots.running, None);
        self.host.record(&record).await?;
        let mut journal = self.journal();
        if let Some(image) = &task.image {
            self.running.digest.clone_from(&image.digest);
            journal.set_image(slots.running, Some(image.clone()));
        }
        journal.end(End::Good, "it proved itself healthy");
        self.keep(journal).await?;
        tracing::info!(slot = slots.running.letter(), "the image is good");
        self.host.tell_good();
        self.told_good = true;
        self.publish(Some(slots));
        self.host.discard().await?;
        Ok(Outcome::Done)
    }

    async fn fail(&mut self, reason: &str, slots: &Slots) -> Result<(), UpgradeError> {
        if slots.default != Some(slots.running) {
            self.host.set_default(slots.running).await?;
        }
        let mut record = slots.record().next();
        (record.good, record.attempt) = (slots.running, None);
        self.host.record(&record).await?;
        let mut journal = self.journal();
        // What failed is nothing to go back to.
        journal.set_image(slots.running.other(), None);
        journal.end(End::Failed, format!("{reason}; the machine runs slot {} as before", slots.running.letter()));
        tracing::error!(reason, "the image failed, the machine is back");
        self.keep(journal).await?;
        self.host.discard().await.map_err(Into::into)
    }

    async fn refuse(&mut self, reason: String) -> Result<(), UpgradeError> {
        tracing::warn!(reason, "the image is refused");
        let mut journal = self.journal();
        journal.end(End::Refused, reason);
        self.keep(journal).await?;
        self.host.discard().await.map_err(Into::into)
    }

    async fn go_on(&mut self) -> Result<Outcome, UpgradeError> {
        if self.journal.is_none() {
            self.load().await?;
        }
        let slots = self.host.look().await?;
        self.settle(&slots).await?;
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(self.take(request, &slots).await);
        }
        self.follow_the_document().await?;
        self.publish(Some(&slots));
        let next = self.drive(&slots).await?;
        self.publish(Some(&slots));
        Ok(next)
    }
}

fn task_of(origin: Origin, stage: Stage, deadline_seconds: u64) -> Task {
    let deadline_seconds = if deadline_seconds == 0 { DEADLINE_SECONDS_DEFAULT } else { deadline_seconds };
    Task { origin, stage, image: None, slot: None, deadline_seconds, fetches_failed: 0, asked: 0, unhealthy: None }
}

impl<H: UpgradeHost, F: FilesHost, P: Permits> Controller for UpgradeController<H, F, P> {
    type Error = UpgradeError;

    async fn reconcile(&mut self) -> Result<Outcome, UpgradeError> {
        let ready = self.volumes.all().contains_key(STATE);
        if self.restarting || !ready {
            let why = if ready { "the machine restarts" } else { "its state volume is not mounted" };
            while let Some((_, answer)) = self.inbox.take() {
                let _caller_gone = answer.send(Err(UpgradeRefused::NotReady(why.to_owned())));
            }
            return Ok(Outcome::Done);
        }
        let done = self.go_on().await;
        // What failed with a wish in hand is answered too.
        if let Err(error) = &done {
            while let Some((_, answer)) = self.inbox.take() {
                let _caller_gone = answer.send(Err(UpgradeRefused::NotReady(story(error))));
            }
        }
        done
    }
}
