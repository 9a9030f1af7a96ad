//! Reset: the machine forgets its cluster, its data and its identity, and comes up as on its first day.
//!
//! ```text
//! confirmed, permitted -> intent on META -> restart -> erase volumes, then identity -> no intent -> an ordinary first boot
//! ```
//!
//! Called by the daemon: [`ask`] while the machine runs, [`carry_out`] before any controller starts. Nothing is erased without a whole
//! intent, and with one nothing is used before all is erased: a power cut anywhere leaves the old machine or a new one.
//! docs/decisions/0014-reset.md has the reasons.

mod order;
#[cfg(test)]
mod tests;

pub use order::{REASON_BYTES_MAX, ResetOrder, ResetOrderError};

use crate::block::BlockError;
use crate::identity::MetaAccessError;
use init_boot::{MetaKind, label};
use std::future::Future;

/// The volumes that are emptied, in this order: what is on STATE says what the machine was, so it goes last.
const VOLUMES: [&str; 2] = [label::EPHEMERAL, label::STATE];

/// Why a machine could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// META failed.
    #[error("META cannot be read or written, so this machine cannot be reset")]
    Meta(#[from] MetaAccessError),
    /// A volume cannot be emptied.
    #[error(
        "the volume {label} cannot be emptied; the machine does not start with what it should have forgotten, and tries again"
    )]
    Volume {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: BlockError,
    },
}

/// The disk of this machine. Every call may be made again after a power cut in it.
pub trait ResetHost: Send + Sync + 'static {
    /// The content of a record; `None` when there is none.
    fn read(&self, kind: MetaKind) -> impl Future<Output = Result<Option<Vec<u8>>, MetaAccessError>> + Send;
    /// Writes a record of one sector, and returns when it is on the disk.
    fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> impl Future<Output = Result<(), MetaAccessError>> + Send;
    /// Makes a record one that was never written, its first sector first, and returns when that is on the disk.
    fn erase(&self, kind: MetaKind) -> impl Future<Output = Result<(), MetaAccessError>> + Send;
    /// Makes a partition one that holds nothing, and returns when that is on the disk. One that is not there is empty.
    fn empty(&self, label: &'static str) -> impl Future<Output = Result<(), BlockError>> + Send;
}

/// Writes down that the machine is to forget everything. It happens at the next start, whoever causes it.
///
/// # Errors
/// When META does not take it; then nothing will happen.
pub async fn ask<H: ResetHost>(host: &H, order: &ResetOrder) -> Result<(), ResetError> {
    Ok(host.write(MetaKind::Reset, order.encode()).await?)
}

/// Forgets everything, if that was asked for. To be called before anything is mounted or read.
///
/// # Errors
/// When something cannot be erased: the machine must not start then, because it would be neither old nor new.
pub async fn carry_out<H: ResetHost>(host: &H) -> Result<Option<ResetOrder>, ResetError> {
    let bytes = match host.read(MetaKind::Reset).await {
        Ok(Some(bytes)) => bytes,
        // A machine that was started from elsewhere has no disk to reset.
        Ok(None) | Err(MetaAccessError::Missing) => return Ok(None),
        // Half a wish is none: nobody confirmed it. It fits one sector, so a power cut does not tear it.
        Err(MetaAccessError::Record { source, .. }) => {
            tracing::warn!(error = %source, "a damaged reset record on META is not carried out");
            return Ok(None);
        }
        Err(error @ MetaAccessError::Access { .. }) => return Err(error.into()),
    };
    let order = match ResetOrder::parse(&bytes) {
        Ok(order) => order,
        Err(error) => {
            tracing::warn!(%error, "a reset record on META is not carried out");
            return Ok(None);
        }
    };
    tracing::warn!(by = order.by, reason = order.reason, "this machine forgets everything, as it was told");
    for label in VOLUMES {
        host.empty(label).await.map_err(|source| ResetError::Volume { label, source })?;
    }
    for kind in MetaKind::OF_THE_MACHINE {
        host.erase(kind).await?;
    }
    host.erase(MetaKind::Reset).await?;
    Ok(Some(order))
}
