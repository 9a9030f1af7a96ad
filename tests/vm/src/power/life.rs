//! A machine's life, recorded: first boot, joining, an upgrade, a rollback, a reset, all on one disk that notes every write.
//!
//! Installing a machine from other media belongs here too, as one more step before the first boot: a disk that is served empty.

use super::Ready;
use super::disk::Disk;
use super::nbd::{Served, Shared, URL};
use super::recording::{Known, Recorder};
use crate::faults::Moments;
use crate::machine::{Ports, VirtualMachine};
use crate::places::Places;
use crate::steps::Steps;
use crate::upgrades::Upgrades;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tests_support::wait_for;

/// How much of a life is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// The first boot, joining a cluster and a reset: no second image is built.
    Short,
    /// An upgrade and a rollback too.
    Whole,
}

/// What a recording needs beside its bytes to start its machine again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) extent: Extent,
    pub(crate) ports: Ports,
    pub(crate) git_port: u16,
    /// Folders of the images that slots may hold.
    pub(crate) images: Vec<PathBuf>,
}

/// Where a recording lies.
pub(crate) struct Files {
    pub(crate) disk: PathBuf,
    pub(crate) recording: PathBuf,
    pub(crate) machine: PathBuf,
    pub(crate) results: PathBuf,
}

impl Files {
    pub(crate) fn of(places: &Places) -> Self {
        Files {
            disk: places.home("disk.raw"),
            recording: places.home("recording"),
            machine: places.home("recording.json"),
            results: places.home("results.jsonl"),
        }
    }
}

/// The version of the image that the machine is upgraded to.
const NEWER: &str = "0.2.0";

/// How long a reset may take: a restart, and volumes that are erased and made.
const RESET_LIMIT: Duration = Duration::from_secs(240);

/// Lives a life and records it.
pub(crate) async fn record(places: &Places, steps: &mut Steps, extent: Extent) -> Result<Machine> {
    let files = Files::of(places);
    crate::artefacts::raw_disk(&places.image("disk.qcow2"), &files.disk).await?;
    let machine = VirtualMachine::new(places, "cp1", Ports::free()?).with_served_disk(URL);
    let recorder = Arc::new(Mutex::new(Recorder::create(&files.recording, machine.variables())?));
    let served = Served::start(machine.folder(), Disk::open(&files.disk)?, Some(Arc::clone(&recorder)))?;
    let stage = Upgrades::set_up(places, machine).await?;
    let life = Life { stage: &stage, recorder: &recorder };
    let lived = life.live(steps, extent).await;
    if lived.is_err() {
        println!("the console of the recorded machine ends:\n{}", stage.machine.end_of_serial());
    }
    stage.machine.cut_power().await?;
    served.stop()?;
    let images = lived?;
    let recorder = Arc::into_inner(recorder).context("nobody else records")?;
    recorder.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
    let machine = Machine { extent, ports: stage.machine.ports(), git_port: stage.cluster.git_port(), images };
    std::fs::write(&files.machine, serde_json::to_vec(&machine)?)?;
    // Results of another recording say nothing of this one.
    let _none = std::fs::remove_file(&files.results);
    Ok(machine)
}

struct Life<'a> {
    stage: &'a Upgrades<'a>,
    recorder: &'a Shared,
}

impl Life<'_> {
    async fn live(&self, steps: &mut Steps, extent: Extent) -> Result<Vec<PathBuf>> {
        let Upgrades { cluster, machine, .. } = self.stage;
        let mut known = Known { doing: "first boot".to_owned(), slots: slots(&["a"]), ..Known::default() };
        self.mark(&known)?;
        let begun = async {
            machine.power_on(self.stage.places()).await?;
            machine.identity().await
        };
        let identity = steps.take("a first boot is recorded", begun).await?;
        known = Known { doing: "joining".to_owned(), identity: Some(identity.as_str().to_owned()), ..known };
        self.mark(&known)?;
        let joined = async {
            cluster.create()?;
            cluster.enroll(machine).await?;
            cluster.log_in().await?;
            cluster.cairnctl_json(&["status"])
        };
        let status = steps.take("joining a cluster is recorded", joined).await?;
        let generation = status["generation"].as_u64().filter(|generation| *generation > 0);
        known = Known { doing: "running".to_owned(), generation, ..known };
        ensure!(generation.is_some(), "a machine with a login has a generation: {status}");
        self.mark(&known)?;
        let mut images = vec![self.stage.places().image("")];
        if extent == Extent::Whole {
            images.push(self.upgrade_and_back(steps, &mut known).await?);
        }
        self.reset(steps, known).await?;
        Ok(images)
    }

    async fn reset(&self, steps: &mut Steps, known: Known) -> Result<()> {
        let Upgrades { cluster, machine, .. } = self.stage;
        self.mark(&Known { doing: "reset".to_owned(), new: true, ..known.clone() })?;
        let forgotten = async {
            // It says so while an upgrade is not quite over.
            let asked =
                async || cluster.cairnctl(&["reset", "--yes-really", "cp1"]).map_err(|error| format!("{error:#}"));
            wait_for("a machine that takes a reset", RESET_LIMIT, asked).await?;
            let new = async || match Ready::read(&machine.serial()) {
                Some(ready) if Some(&ready.identity) != known.identity.as_ref() => Ok(ready),
                Some(_) | None => Err("the console shows no other identity"),
            };
            anyhow::Ok(wait_for("a new machine", RESET_LIMIT, new).await?)
        };
        let ready = steps.take("a reset is recorded", forgotten).await?;
        ensure!(ready.is_nobodys(), "a machine that forgot everything is {}", ready.phase);
        let identity = ready.identity;
        let (identity, generation) = (Some(identity), None);
        self.mark(&Known { doing: "forgotten".to_owned(), identity, generation, ..known })
    }

    async fn upgrade_and_back(&self, steps: &mut Steps, known: &mut Known) -> Result<PathBuf> {
        let image = steps.take("an image 0.2.0", self.stage.images.build(NEWER, None)).await?;
        *known = Known { doing: "upgrade".to_owned(), slots: slots(&["a", "b"]), ..known.clone() };
        self.mark(known)?;
        let upgraded = async {
            self.stage.until("the first status", |status| status["phase"] == "idle").await?;
            self.stage.name(&image, 1)?;
            self.stage.until_runs(&image.version).await
        };
        steps.take("an upgrade is recorded", upgraded).await?;
        *known = Known { doing: "upgraded".to_owned(), slots: slots(&["b"]), ..known.clone() };
        self.mark(known)?;
        *known = Known { doing: "rollback".to_owned(), slots: slots(&["a", "b"]), ..known.clone() };
        self.mark(known)?;
        let back = async {
            self.stage.cluster.cairnctl(&["rollback"])?;
            let is = |status: &serde_json::Value| status["phase"] == "idle" && status["slot"] == "a";
            self.stage.until("the old image to run", is).await
        };
        steps.take("a rollback is recorded", back).await?;
        *known = Known { doing: "gone back".to_owned(), slots: slots(&["a"]), ..known.clone() };
        self.mark(known)?;
        Ok(self.stage.places().home("images").join(NEWER))
    }

    fn mark(&self, known: &Known) -> Result<()> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).mark(known)
    }
}

fn slots(letters: &[&str]) -> Vec<String> {
    letters.iter().map(|letter| (*letter).to_owned()).collect()
}

/// A number that differs for each cut and follows from the seed.
pub(crate) fn luck(seed: u64, number: u32) -> Moments {
    Moments::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(u64::from(number) << 17))
}
