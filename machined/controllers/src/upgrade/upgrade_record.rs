//! Drives upgrades: takes wishes, does the step that `plan` names, and has each stage on the disk before it acts.

mod steps;

use super::journal::{ImageNote, Journal, Origin, Stage, Task, Wanted};
use super::judge::{Rules, floor_permits};
use super::permit::Permits;
use super::plan::{Step, next, wants};
use super::request::{UpgradeAnswer, UpgradeError, UpgradeInbox, UpgradeRecordError, UpgradeRefused, UpgradeRequest};
use super::{Slots, UpgradeHost, UpgradeStatus};
use crate::block::{EPHEMERAL, STATE, Volume};
use crate::files::{FilesHost, Lasting};
use crate::ledger::{DesiredMachine, LedgerRead};
use init_boot::DEADLINE_SECONDS;
use machined_reconcile::{Outcome, story};
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::Instant;

/// Longest journal, in bytes: a few notes and reasons take a tenth of it.
const JOURNAL_BYTES_MAX: usize = 64 * 1024;
/// How long after the kernel's start a document's image must be good, in seconds: twenty times what a healthy start takes.
const DEADLINE_SECONDS_DEFAULT: u64 = 300;

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
            level: desired.as_ref().and_then(|desired| desired.cluster.level).map_or(0, |level| level.0),
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
            if same || *stage == Stage::Trying {
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
                Step::Obtain { url } => {
                    self.say(slots, format!("fetching {url}"));
                    self.obtain(task, &url).await?;
                }
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
        // Without the ledger nobody knows who vouches for what, and without EPHEMERAL an obtained artefact seems to be gone.
        let volumes = self.volumes.all();
        let mounted = [STATE, EPHEMERAL].iter().all(|volume| volumes.contains_key(*volume));
        let ready = mounted && !self.ledger.all().is_empty();
        if self.restarting || !ready {
            let why = if ready { "the machine restarts" } else { "its volumes and ledger are not read yet" };
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
