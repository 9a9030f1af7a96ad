//! What must hold when a machine's operating system is upgraded: on real images, real firmware and a power switch.
//!
//! One machine of its own goes through all of it, in the order of a life: upgraded by a commit, gone back, upgraded again, held by a
//! floor, given an image that does not work, and cut off in the middle again and again.

use crate::cluster::{Cluster, demo_manifests};
use crate::faults::Moments;
use crate::images::{Image, Images};
use crate::machine::{Ports, VirtualMachine};
use crate::places::{Places, text};
use crate::scenarios::DEMO_FILE;
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;
use tests_support::git::Server;
use tests_support::wait_for;

/// How long an upgrade may take, from the push to its end: it is fetched, written, started twice at worst, and proves itself.
const UPGRADE_LIMIT: Duration = Duration::from_secs(420);
/// From a push to a cut, in milliseconds: an upgrade takes a minute or so, its try included.
const UPGRADE: Range<u64> = 0..75_000;
/// What the demo answers; the machine serves nothing else all the while.
const GREETING: &str = "Hello through upgrades";

/// A machine that is upgraded, and where its images and its repository are served.
pub(crate) struct Upgrades<'a> {
    places: &'a Places,
    pub(crate) cluster: Cluster,
    pub(crate) machine: VirtualMachine,
    pub(crate) images: Images,
    _repository: Server,
}

/// Runs all of it on a machine of its own, and cuts power `cuts` times at moments that follow from `seed`.
///
/// # Errors
/// What did not hold.
pub async fn upgrades(places: &Places, steps: &mut Steps, cuts: u32, seed: u64) -> Result<()> {
    let stage = Upgrades::set_up(places, VirtualMachine::new(places, "cp1", Ports::free()?)).await?;
    let held = stage.life(steps, cuts, seed).await;
    if held.is_err() {
        let serial = stage.machine.serial();
        let lines: Vec<&str> = serial.lines().collect();
        println!("the console of the upgraded machine ends:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        println!("its upgrade status: {:?}", stage.status());
    }
    stage.machine.cut_power().await?;
    held
}

impl<'a> Upgrades<'a> {
    /// Begins to serve repository and images.
    pub(crate) async fn set_up(places: &'a Places, machine: VirtualMachine) -> Result<Self> {
        std::fs::create_dir_all(places.home("served"))?;
        let repository =
            tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let images = Images::serve(places).await?;
        let cluster = Cluster::new(places, repository.address().port());
        Ok(Upgrades { places, cluster, machine, images, _repository: repository })
    }

    /// Folders and programs.
    pub(crate) fn places(&self) -> &Places {
        self.places
    }
}

impl Upgrades<'_> {
    async fn life(&self, steps: &mut Steps, cuts: u32, seed: u64) -> Result<()> {
        let new = steps.take("an image 0.2.0", self.images.build("0.2.0", None)).await?;
        steps.take("a machine with the old image", self.begin()).await?;
        steps.take("a commit upgrades the machine", self.a_commit_upgrades_the_machine(&new)).await?;
        steps.take("a rollback goes back", self.a_rollback_goes_back()).await?;
        steps.take("a retry upgrades again", self.a_retry_upgrades_again(&new)).await?;
        let floor = self.a_rollback_below_the_floor_is_refused(&new);
        steps.take("a rollback below the floor is refused", floor).await?;
        let broken = steps.take("an image whose machined ends", self.images.build("0.3.0", Some("machined"))).await?;
        let unsigned = self.an_image_that_nobody_named_or_signed_is_refused(&broken);
        steps.take("an unsigned and a damaged image are refused", unsigned).await?;
        let back = self.an_image_that_never_gets_healthy_goes_back_by_itself(&broken);
        steps.take("a broken image goes back by itself", back).await?;
        if cuts > 0 {
            let newer = steps.take("an image 0.4.0", self.images.build("0.4.0", None)).await?;
            let mut moments = Moments::new(seed);
            for cut in 1..=cuts {
                let (after, image) = (moments.next_in(&UPGRADE), if cut % 2 == 1 { &newer } else { &new });
                let step = self.a_power_cut_in_an_upgrade_converges(image, after, cut);
                steps.take(&format!("power is cut {after:?} into upgrade {cut}"), step).await?;
            }
        }
        Ok(())
    }

    async fn begin(&self) -> Result<()> {
        self.cluster.create()?;
        self.machine.power_on(self.places).await?;
        self.cluster.enroll(&self.machine).await?;
        self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, GREETING))], "Run hello, twice")?;
        self.cluster.log_in().await?;
        self.cluster.answer(&self.machine, GREETING).await.map(drop)
    }

    fn status(&self) -> Result<Value> {
        self.cluster.cairnctl_json(&["upgrade", "status"])
    }

    /// Waits until the upgrade status is as it should be; a machine that restarts does not answer for a while.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let look = async || match self.status() {
            Ok(status) if is(&status) => Ok(status),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        Ok(wait_for(what.to_owned(), UPGRADE_LIMIT, look).await?)
    }

    pub(crate) async fn until_runs(&self, version: &str) -> Result<Value> {
        let is = |status: &Value| status["phase"] == "idle" && status["running"]["version"] == version;
        self.until(&format!("version {version} to run"), is).await
    }

    /// Names an image in the machine's document, signed and pushed.
    pub(crate) fn name(&self, image: &Image, attempt: u32) -> Result<String> {
        let (path, document) = self.images.document(&self.cluster, self.machine.name(), image, attempt)?;
        self.cluster.push(&[(&path, &document)], &format!("Run image {}", image.version))
    }

    async fn a_commit_upgrades_the_machine(&self, image: &Image) -> Result<()> {
        let before = self.until("the first status", |status| status["phase"] == "idle").await?;
        ensure!(before["slot"] == "a" && before["last"].is_null(), "it begins in slot a: {before}");
        self.name(image, 1)?;
        let after = self.until_runs(&image.version).await?;
        ensure!(after["slot"] == "b" && after["last"]["outcome"] == "good", "it ends in slot b: {after}");
        ensure!(after["running"]["digest"] == image.digest.as_str(), "it knows what runs: {after}");
        self.cluster.answer(&self.machine, GREETING).await?;
        // What was the default before must not come back with the next power cut.
        self.machine.cut_power().await?;
        self.machine.power_on(self.places).await?;
        let again = self.until_runs(&image.version).await?;
        ensure!(again["slot"] == "b", "the default moved: {again}");
        Ok(())
    }

    async fn a_rollback_goes_back(&self) -> Result<()> {
        self.cluster.cairnctl(&["rollback"])?;
        let after =
            self.until("the old image to run", |status| status["phase"] == "idle" && status["slot"] == "a").await?;
        ensure!(after["last"]["outcome"] == "good" && after["last"]["by"] == "ada", "it says who went back: {after}");
        self.cluster.answer(&self.machine, GREETING).await.map(drop)
    }

    async fn a_retry_upgrades_again(&self, image: &Image) -> Result<()> {
        self.cluster.cairnctl(&["upgrade", "--retry"])?;
        let after = self.until_runs(&image.version).await?;
        ensure!(after["slot"] == "b", "it ends in slot b: {after}");
        Ok(())
    }

    async fn a_rollback_below_the_floor_is_refused(&self, image: &Image) -> Result<()> {
        let path = "trust/root.kdl";
        let policy = std::fs::read_to_string(self.cluster.checkout().join(path)).context("reading the policy")?;
        let raised = format!("{policy}\nfloor image={}\n", image.number);
        let commit = self.cluster.push(&[(path, &raised)], "Never run an older image")?;
        self.cluster.judged(&commit, &["applied", "healthy"]).await?;
        let refused = self.cluster.cairnctl(&["rollback"]).err().context("a rollback below the floor was taken")?;
        ensure!(format!("{refused:#}").contains("below the floor"), "it says why: {refused:#}");
        ensure!(self.status()?["slot"] == "b", "nothing was tried");
        Ok(())
    }

    async fn an_image_that_nobody_named_or_signed_is_refused(&self, image: &Image) -> Result<()> {
        let whole = std::fs::read(&image.file).context("reading an artefact")?;
        let half = self.places.home("half.artefact");
        std::fs::write(&half, &whole[..whole.len() / 2])?;
        let refused = self.cluster.cairnctl(&["upgrade", "--image", &text(&half)?]).err();
        let refused = format!("{:#}", refused.context("half an artefact was taken")?);
        ensure!(refused.contains("header says"), "it says why: {refused}");
        self.cluster.cairnctl(&["upgrade", "--image", &text(&image.file)?])?;
        let is = |status: &Value| status["phase"] == "idle" && status["last"]["outcome"] == "refused";
        let status = self.until("the refusal", is).await?;
        ensure!(status["slot"] == "b", "nothing was tried: {status}");
        Ok(())
    }

    async fn an_image_that_never_gets_healthy_goes_back_by_itself(&self, image: &Image) -> Result<()> {
        self.name(image, 1)?;
        let is = |status: &Value| status["phase"] == "idle" && status["last"]["outcome"] == "failed";
        let status = self.until("the broken image to be given up", is).await?;
        let reason = status["last"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("machined failed"), "it says why: {status}");
        ensure!(status["slot"] == "b" && status["running"]["version"] == "0.2.0", "it is back: {status}");
        self.cluster.answer(&self.machine, GREETING).await.map(drop)
    }

    /// Whatever the moment, the machine starts, and ends up with what its document names.
    async fn a_power_cut_in_an_upgrade_converges(&self, image: &Image, after: Duration, attempt: u32) -> Result<()> {
        self.name(image, attempt + 1)?;
        // The moment is the point here: it is not waited for anything.
        tokio::time::sleep(after).await;
        self.machine.cut_power().await?;
        self.machine.power_on(self.places).await?;
        self.until_runs(&image.version).await?;
        self.cluster.answer(&self.machine, GREETING).await.map(drop)
    }
}
