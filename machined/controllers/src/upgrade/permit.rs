//! The place where a restart is allowed or not: what other machines would lose by it.
//!
//! A machine that is alone in its cluster takes nothing away from others, so it needs no permit: it must be able to upgrade whatever its
//! pods say. With more machines the control plane is asked, which moves the pods away first. No answer is a refusal: an admin may do
//! without.

use crate::ledger::DesiredMachine;
use init_boot::artefact::ImageDigest;
use machined_runtime::Reader;
use std::future::Future;

/// What takes the machine away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disruption {
    /// It restarts.
    Reboot,
    /// It powers off.
    Shutdown,
    /// It restarts into another image.
    Upgrade {
        /// Which, so that it waits for its turn; none when a person goes back, which waits for no other machine's success.
        image: Option<ImageDigest>,
    },
    /// It restarts and forgets everything.
    Reset,
}

impl Disruption {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Disruption::Reboot => "reboot",
            Disruption::Shutdown => "shutdown",
            Disruption::Upgrade { .. } => "upgrade",
            Disruption::Reset => "reset",
        }
    }

    /// The image that it restarts into, where others are asked whose turn it is.
    #[must_use]
    pub fn image(&self) -> Option<ImageDigest> {
        match self {
            Disruption::Upgrade { image } => *image,
            Disruption::Reboot | Disruption::Shutdown | Disruption::Reset => None,
        }
    }
}

/// Why a machine may not go now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermitRefused {
    /// The control plane says what it waits for.
    #[error("waiting for a permit: {0}")]
    Waiting(String),
    /// Nobody could be asked.
    #[error(
        "waiting for a permit: the control plane does not answer ({0}), and no answer is a refusal; an admin may go on with \
         `--override REASON` of cairnctl reboot, shutdown and reset, `--without-permit` of upgrade and rollback"
    )]
    NoAnswer(String),
}

/// Whoever permits restarts.
pub trait Permits: Send + Sync + 'static {
    /// Whether this machine may go now.
    ///
    /// # Errors
    /// Why it may not; to be asked again every few seconds for as long as it is wanted.
    fn permit(&self, what: Disruption) -> impl Future<Output = Result<(), PermitRefused>> + Send;
}

/// Permits a machine that is alone in its cluster, and asks `others` for any other.
#[derive(Clone)]
pub struct AloneOr<P> {
    desired: Reader<DesiredMachine>,
    others: P,
}

impl<P> AloneOr<P> {
    /// Counts the machines of the accepted step.
    #[must_use]
    pub fn new(desired: Reader<DesiredMachine>, others: P) -> Self {
        AloneOr { desired, others }
    }
}

impl<P: Permits> Permits for AloneOr<P> {
    async fn permit(&self, what: Disruption) -> Result<(), PermitRefused> {
        match self.desired.get(DesiredMachine::ID).map_or(0, |desired| desired.raw.access.machines.len()) {
            0 | 1 => Ok(()),
            _more => self.others.permit(what).await,
        }
    }
}
