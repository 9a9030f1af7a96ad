//! Merges at the start what is whole, then fetches what the document names and forgets what nobody names.

use super::judge::{fits_kernel, judge, layers};
use super::record::{MergeEntry, MergeRecord, RECORD, RECORD_BYTES_MAX};
use super::status::{ExtensionStatus, Known, of_all};
use super::{ExtensionHost, ExtensionHostError, Merged, ToMeasure};
use crate::block::{EPHEMERAL, Volume};
use crate::files::{FilesHost, Lasting};
use crate::ledger::{DesiredMachine, LedgerRead};
use crate::tpm::{Measured, TpmHost};
use init_boot::artefact::{ExtensionDigest, ExtensionHeader, ExtensionManifest};
use machined_config::ExtensionConfig;
use machined_reconcile::{Backoff, Outcome, story};
use machined_runtime::{Controller, Ports, Reader, Writer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the TPM may take to know what is about to be merged. A machine whose TPM does not answer starts without extensions: what
/// nobody could see in a quote is not run, and what keeps the machine useful is.
const MEASURE_WAIT: Duration = Duration::from_secs(30);
/// How soon a server is asked again that did not give what the document names.
const FETCH_BACKOFF: Backoff = Backoff { base: Duration::from_secs(10), limit: Duration::from_secs(600) };

/// Why extensions are not as the document says.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    /// The place for them.
    #[error("the extensions that are kept on this machine cannot be looked at")]
    Host(#[from] ExtensionHostError),
}

/// A fetch that failed.
struct Failure {
    why: String,
    times: u32,
    again: Instant,
}

/// What is about to be merged, while the TPM is told.
struct Plan {
    attachable: Vec<(ExtensionDigest, ExtensionHeader)>,
    record: MergeRecord,
    since: Instant,
}

/// Writes [`ExtensionStatus`], [`ToMeasure`] and [`Merged`].
pub struct ExtensionController<H, F, T> {
    host: Arc<H>,
    files: Arc<F>,
    tpm: Arc<T>,
    volumes: Reader<Volume>,
    ledger: Reader<LedgerRead>,
    desired: Reader<DesiredMachine>,
    measured: Reader<Measured>,
    to_measure: Writer<ToMeasure>,
    merged: Writer<Merged>,
    status: Writer<ExtensionStatus>,
    plan: Option<Plan>,
    record: MergeRecord,
    /// Manifests of what is kept here.
    kept: BTreeMap<ExtensionDigest, ExtensionManifest>,
    failures: BTreeMap<ExtensionDigest, Failure>,
}

impl<H: ExtensionHost, F: FilesHost, T: TpmHost> ExtensionController<H, F, T> {
    /// Declares inputs and outputs at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>, files: Arc<F>, tpm: Arc<T>) -> Self {
        ExtensionController {
            host,
            files,
            tpm,
            volumes: ports.input(),
            ledger: ports.input(),
            desired: ports.input(),
            measured: ports.input(),
            to_measure: ports.output(),
            merged: ports.output(),
            status: ports.output(),
            plan: None,
            record: MergeRecord::default(),
            kept: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    fn wanted(&self) -> Option<Vec<ExtensionConfig>> {
        self.desired.get(DesiredMachine::ID).map(|desired| desired.machine.extensions)
    }

    /// Everything until [`Merged`] is said. Nothing in it may fail for good; gives when to look again.
    async fn start(&mut self) -> Option<Duration> {
        let record = self.files.read(Path::new(RECORD), RECORD_BYTES_MAX).await.unwrap_or_else(|error| {
            tracing::error!(error = story(&error), "what was merged before cannot be read; it is merged again");
            None
        });
        if let Some(bytes) = record {
            // Without its record, what is merged stays so, and is told as not merged until the machine restarts.
            self.record = MergeRecord::parse(&bytes).unwrap_or_default();
            self.merged.put(Merged::ID, Merged);
            return None;
        }
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => self.look().await,
        };
        let wanted: Vec<ExtensionDigest> = plan.attachable.iter().map(|(digest, _)| *digest).collect();
        self.to_measure.put(ToMeasure::ID, ToMeasure { extensions: wanted.clone() });
        let left = MEASURE_WAIT.saturating_sub(plan.since.elapsed());
        let measured = self.is_measured(&wanted);
        if !measured && !left.is_zero() {
            self.plan = Some(plan);
            return Some(left);
        }
        let record = match measured {
            true => self.merge(plan).await,
            false => {
                refuse_all(plan, "the TPM did not take its digest; look at the machine's TPM, then: cairnctl reboot")
            }
        };
        if let Err(error) = self.files.replace(Path::new(RECORD), &record.encode(), Lasting::Boot).await {
            tracing::error!(error = story(&error), "what was merged cannot be written down for the next machined");
        }
        for MergeEntry { name, digest, version, merged, problem, .. } in &record.entries {
            match problem.is_empty() {
                true => tracing::info!(%name, %digest, version, "an extension is merged"),
                false => tracing::error!(%name, %digest, merged, problem, "an extension is not merged as it should be"),
            }
        }
        self.record = record;
        self.to_measure.remove(ToMeasure::ID);
        self.merged.put(Merged::ID, Merged);
        None
    }

    fn is_measured(&self, wanted: &[ExtensionDigest]) -> bool {
        if wanted.is_empty() || !self.tpm.is_present() {
            return true;
        }
        let log = self.measured.get(Measured::ID).map(|measured| measured.log.extensions().collect::<Vec<_>>());
        log.is_some_and(|log| wanted.iter().all(|digest| log.contains(digest)))
    }

    /// Which of the named ones are here and whole. A damaged one is forgotten, to be fetched again.
    async fn look(&self) -> Plan {
        let (mut attachable, mut record) = (Vec::new(), MergeRecord::default());
        let kept = self.host.kept().await.unwrap_or_else(|error| {
            tracing::error!(error = story(&error), "no extension is merged: what is kept cannot be listed");
            Default::default()
        });
        for config in self.wanted().unwrap_or_default().into_iter().filter(|config| kept.contains(&config.digest)) {
            let (problem, damaged) = match self.host.verify(config.digest).await {
                Ok(header) => match judge(&header.manifest, &config) {
                    Ok(()) if fits_kernel(&header.manifest, &self.host.kernel()) => {
                        attachable.push((config.digest, header));
                        continue;
                    }
                    Ok(()) => continue,
                    Err(refusal) => (refusal.to_string(), false),
                },
                Err(error) => {
                    if let Err(error) = self.host.forget(config.digest).await {
                        tracing::error!(error = story(&error), "a damaged extension cannot be removed");
                    }
                    (format!("its file was damaged: {}", story(&error)), true)
                }
            };
            let ExtensionConfig { name, digest, .. } = config;
            record.entries.push(MergeEntry { name, digest, version: String::new(), merged: false, problem, damaged });
        }
        Plan { attachable, record, since: Instant::now() }
    }

    /// Attaches, merges and loads; what goes wrong with one stays with that one.
    async fn merge(&self, plan: Plan) -> MergeRecord {
        if plan.attachable.is_empty() {
            return plan.record;
        }
        if let Err(error) = self.host.clear().await {
            return refuse_all(plan, &format!("{}; restart the machine: cairnctl reboot", story(&error)));
        }
        let Plan { attachable, mut record, .. } = plan;
        for (digest, header) in &attachable {
            let attached = self.host.attach(*digest, header).await;
            record.entries.push(entry_of(*digest, &header.manifest, attached.map_err(|error| story(&error))));
        }
        let attached = |manifest: &&ExtensionManifest| record.of(&manifest.name).is_some_and(|entry| entry.merged);
        let manifests = attachable.iter().map(|(_, header)| &header.manifest);
        let folders = layers(manifests.filter(attached));
        for (folder, names) in folders {
            if let Err(error) = self.host.merge(folder, &names).await {
                for entry in record.entries.iter_mut().filter(|entry| names.contains(&entry.name)) {
                    entry.problem = format!("nothing of it is in {}: {}", folder.path(), story(&error));
                }
            }
        }
        for entry in record.entries.iter_mut().filter(|entry| entry.merged && entry.problem.is_empty()) {
            if let Err(error) = self.host.load_modules(&entry.name).await {
                entry.problem = story(&error);
            }
        }
        record.entries.sort_by(|one, other| one.name.cmp(&other.name));
        record
    }

    /// Learns what is kept, and forgets what nobody names or uses.
    async fn tidy(&mut self, wanted: &[ExtensionConfig]) -> Result<(), ExtensionError> {
        let kept = self.host.kept().await?;
        self.kept.retain(|digest, _| kept.contains(digest));
        for digest in kept {
            let named = wanted.iter().any(|config| config.digest == digest);
            if !named && self.record.uses(digest) {
                continue;
            }
            if !named {
                self.host.forget(digest).await?;
                self.kept.remove(&digest);
                tracing::info!(%digest, "an extension that nobody names is forgotten");
                continue;
            }
            if !self.kept.contains_key(&digest) {
                match self.host.header(digest).await {
                    Ok(header) => drop(self.kept.insert(digest, header.manifest)),
                    // It is fetched again; one that is merged goes on from the file that it holds.
                    Err(error) => {
                        tracing::error!(%digest, error = story(&error), "a kept extension cannot be read");
                        self.host.forget(digest).await?;
                    }
                }
            }
        }
        self.failures.retain(|digest, _| wanted.iter().any(|config| config.digest == *digest));
        Ok(())
    }

    fn report(&self, wanted: &[ExtensionConfig]) {
        let failures = self.failures.iter().map(|(digest, failure)| (*digest, failure.why.clone())).collect();
        let kernel = self.host.kernel();
        let known = Known { record: &self.record, kept: &self.kept, failures: &failures, kernel: &kernel };
        self.status.replace(of_all(wanted, &known));
    }

    /// Fetches one that the document names; ends early when the document changes.
    async fn fetch(&mut self, config: &ExtensionConfig) {
        let fetched = tokio::select! {
            fetched = self.host.fetch(&config.url) => fetched,
            _ = self.desired.changed() => return,
        };
        let judged = match fetched {
            Ok(header) => match judge(&header.manifest, config) {
                Ok(()) => self.host.keep(config.digest).await.map(|()| header).map_err(|error| story(&error)),
                Err(refusal) => Err(refusal.to_string()),
            },
            Err(error) => Err(story(&error)),
        };
        match judged {
            Ok(header) => {
                tracing::info!(name = %config.name, digest = %config.digest, "an extension is here for the next start");
                self.failures.remove(&config.digest);
                self.kept.insert(config.digest, header.manifest);
            }
            Err(why) => {
                let times = self.failures.get(&config.digest).map_or(1, |failure| failure.times.saturating_add(1));
                tracing::warn!(name = %config.name, digest = %config.digest, attempt = times, error = why, "an extension is not taken");
                let again = Instant::now() + FETCH_BACKOFF.delay(times);
                self.failures.insert(config.digest, Failure { why, times, again });
            }
        }
    }

    /// Brings what is kept to what the document names.
    async fn keep_up(&mut self) -> Result<Outcome, ExtensionError> {
        let Some(wanted) = self.wanted() else {
            self.report(&[]);
            return Ok(Outcome::Done);
        };
        self.tidy(&wanted).await?;
        self.report(&wanted);
        let now = Instant::now();
        let due = |digest: &ExtensionDigest| self.failures.get(digest).is_none_or(|failure| failure.again <= now);
        let missing = wanted.iter().filter(|config| !self.kept.contains_key(&config.digest));
        let next = missing.clone().find(|config| due(&config.digest)).cloned();
        if let Some(config) = next {
            self.fetch(&config).await;
            self.report(&wanted);
            return Ok(Outcome::Again(Duration::ZERO));
        }
        let again = missing.filter_map(|config| self.failures.get(&config.digest)).map(|failure| failure.again).min();
        Ok(again.map_or(Outcome::Done, |again| Outcome::Again(again.saturating_duration_since(now))))
    }
}

fn entry_of(digest: ExtensionDigest, manifest: &ExtensionManifest, attached: Result<(), String>) -> MergeEntry {
    let (name, version) = (manifest.name.clone(), manifest.version.clone());
    let merged = attached.is_ok();
    MergeEntry { name, digest, version, merged, problem: attached.err().unwrap_or_default(), damaged: false }
}

fn refuse_all(plan: Plan, why: &str) -> MergeRecord {
    let Plan { attachable, mut record, .. } = plan;
    let refused = |(digest, header): (ExtensionDigest, ExtensionHeader)| {
        entry_of(digest, &header.manifest, Err(format!("it is not merged: {why}")))
    };
    record.entries.extend(attachable.into_iter().map(refused));
    record.entries.sort_by(|one, other| one.name.cmp(&other.name));
    record
}

impl<H: ExtensionHost, F: FilesHost, T: TpmHost> Controller for ExtensionController<H, F, T> {
    type Error = ExtensionError;

    async fn reconcile(&mut self) -> Result<Outcome, ExtensionError> {
        if !self.volumes.all().contains_key(EPHEMERAL) || self.ledger.all().is_empty() {
            return Ok(Outcome::Done);
        }
        if self.merged.current().is_empty()
            && let Some(later) = self.start().await
        {
            return Ok(Outcome::Again(later));
        }
        self.keep_up().await
    }
}
