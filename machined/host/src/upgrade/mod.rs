//! Slots, boot loader and boot record of this machine's disk, and the place for obtained artefacts.
//!
//! `slots` finds the disk and changes its partition table and records, `esp` its boot entries, `staging` keeps what was obtained. Each
//! call may be made again after a power cut in it; what is written is read back before it counts.

mod esp;
mod slots;
mod staging;

pub use staging::{ARTEFACT_BYTES_MAX, Incoming, Staging, StagingError};

use crate::init::InitSocket;
use init_boot::artefact::ArtefactHeader;
use init_boot::{BootRecord, RootHash, Slot, ToInit};
use machined_controllers::upgrade::{Slots, UpgradeHost, UpgradeHostError};
use std::sync::Arc;

/// Upgrades on Linux.
pub struct LinuxUpgrade {
    staging: Staging,
    init: Option<Arc<InitSocket>>,
    restart: Box<dyn Fn() + Send + Sync>,
}

impl LinuxUpgrade {
    /// `init`: where PID 1 is told; `restart` asks for the machine's end in order.
    #[must_use]
    pub fn new(staging: Staging, init: Option<Arc<InitSocket>>, restart: Box<dyn Fn() + Send + Sync>) -> Self {
        LinuxUpgrade { staging, init, restart }
    }
}

/// An error of this host, with what was being done.
fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> UpgradeHostError {
    let doing = doing.into();
    move |source| UpgradeHostError { doing, source: source.into() }
}

/// Disk work on a thread of its own; a panic in it is an error like any other.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, UpgradeHostError> + Send + 'static,
) -> Result<T, UpgradeHostError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(failed(doing)(panic)))
}

impl UpgradeHost for LinuxUpgrade {
    async fn look(&self) -> Result<Slots, UpgradeHostError> {
        blocking("look at the slots", slots::look).await
    }

    async fn obtain(&self, url: &str) -> Result<(), UpgradeHostError> {
        self.staging.fetch(url).await.map_err(failed(format!("fetch {url}")))
    }

    async fn header(&self) -> Result<Option<ArtefactHeader>, UpgradeHostError> {
        let staging = self.staging.clone();
        blocking("read the artefact's header", move || staging.header().map_err(failed("read the obtained artefact")))
            .await
    }

    async fn verify(&self, header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        let (staging, header) = (self.staging.clone(), header.clone());
        blocking("check the artefact", move || {
            staging.verify(&header).map_err(failed("match the artefact with its manifest"))
        })
        .await
    }

    async fn discard(&self) -> Result<(), UpgradeHostError> {
        let staging = self.staging.clone();
        blocking("discard the artefact", move || staging.discard().map_err(failed("remove the obtained artefact")))
            .await
    }

    async fn empty(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        blocking("empty a slot", move || slots::empty(slot)).await
    }

    async fn write(&self, slot: Slot, header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        let (staging, header) = (self.staging.clone(), header.clone());
        blocking("write a slot", move || slots::write(slot, &staging, &header)).await
    }

    async fn name(&self, slot: Slot, root: &RootHash) -> Result<(), UpgradeHostError> {
        let root = *root;
        blocking("name a slot", move || slots::set_guid(slot, root.partition_guid())).await
    }

    async fn record(&self, record: &BootRecord) -> Result<(), UpgradeHostError> {
        let record = record.clone();
        blocking("write the boot record", move || slots::write_record(&record)).await
    }

    async fn set_default(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        blocking("set the default slot", move || slots::set_default(slot)).await
    }

    async fn ask_once(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        blocking("ask the boot loader", move || slots::ask_once(slot)).await
    }

    fn tell_good(&self) {
        match self.init.as_ref().map(|init| init.send(ToInit::Good)) {
            Some(Ok(())) => {}
            // The default is moved already: what PID 1 would restart is a good image.
            Some(Err(error)) => tracing::warn!(%error, "PID 1 does not hear that this image is good"),
            None => tracing::debug!("there is no PID 1 to tell that this image is good"),
        }
    }

    fn restart(&self) {
        (self.restart)();
    }
}
