//! The steps of an upgrade, one function each; `drive` in the parent calls the one that `plan` names.
//!
//! Each has the journal on the disk before it acts on it, and may be done again after a power cut anywhere in it.

use super::super::journal::{Origin, Outcome as End, Stage, Task, cut};
use super::super::judge::{floor_permits, judge};
use super::super::permit::{Disruption, Permits};
use super::super::request::UpgradeError;
use super::super::{Slots, UpgradeHost, note_of};
use super::UpgradeController;
use crate::files::FilesHost;
use init_boot::{Attempt, Slot};
use machined_reconcile::{Outcome, story};
use std::time::Duration;
use tokio::time::Instant;

/// How long an image has to be healthy without a break before it is good: a service that crashes at once shows within this.
const HEALTHY_FOR: Duration = Duration::from_secs(5);
/// How often health is looked at in a try.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// The pause after a fetch that failed; a mirror that is down is down for minutes.
const FETCH_PAUSE: Duration = Duration::from_secs(30);
/// Fetches that may fail for a person's wish before it is given up; a document's wish is never given up.
const FETCHES_FAILED_MAX: u32 = 5;
/// How often a permit is asked for again: who stops asking for some minutes no longer wants it.
const PERMIT_PAUSE: Duration = Duration::from_secs(5);

impl<H: UpgradeHost, F: FilesHost, P: Permits> UpgradeController<H, F, P> {
    pub(super) fn say(&mut self, slots: &Slots, message: impl Into<String>) {
        self.message = cut(message.into());
        self.publish(Some(slots));
    }

    pub(super) async fn obtain(&mut self, mut task: Task, url: &str) -> Result<(), UpgradeError> {
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

    pub(super) async fn judge(&mut self, mut task: Task, slots: &Slots) -> Result<(), UpgradeError> {
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

    pub(super) async fn write(&mut self, mut task: Task, slots: &Slots) -> Result<(), UpgradeError> {
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

    pub(super) async fn begin_try(&mut self, mut task: Task, slots: &Slots) -> Result<Outcome, UpgradeError> {
        let (Some(root), Some(slot), Some(image)) = (task.root(), task.slot.map(Slot::from), task.image.clone()) else {
            self.refuse("the journal does not say which image is to be tried".to_owned()).await?;
            return Ok(Outcome::Done);
        };
        if let Err(refusal) = floor_permits(image.number, &self.rules().images) {
            self.refuse(refusal.to_string()).await?;
            return Ok(Outcome::Done);
        }
        let named = match task.origin {
            Origin::Document { .. } | Origin::Request { .. } => {
                image.digest.as_ref().and_then(|text| text.parse().ok())
            }
            Origin::Rollback { .. } => None,
        };
        if !task.origin.without_permit()
            && let Err(refused) = self.permits.permit(Disruption::Upgrade { image: named }).await
        {
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

    pub(super) async fn prove(&mut self, mut task: Task, slots: &Slots) -> Result<Outcome, UpgradeError> {
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

    pub(super) async fn fail(&mut self, reason: &str, slots: &Slots) -> Result<(), UpgradeError> {
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

    pub(super) async fn refuse(&mut self, reason: String) -> Result<(), UpgradeError> {
        tracing::warn!(reason, "the image is refused");
        let mut journal = self.journal();
        journal.end(End::Refused, reason);
        self.keep(journal).await?;
        self.host.discard().await.map_err(Into::into)
    }
}
