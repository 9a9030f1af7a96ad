//! The place where a restart is allowed or not: what other machines would lose by it.
//!
//! There is one honest answer so far. A machine that is alone in its cluster takes nothing away from others, so it needs no
//! permit. With more machines nobody counts quorum yet, and no answer is a refusal: an admin may do without.

use crate::ledger::DesiredMachine;
use machined_runtime::Reader;

/// Why a machine may not restart now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster has {machines} machines, and no gate counts yet what the others would lose by a restart; an admin may go on with \
     `cairnctl upgrade --image URL --without-permit`"
)]
pub struct PermitRefused {
    /// Machines of the accepted step.
    pub machines: usize,
}

/// Whoever permits restarts.
pub trait Permits: Send + Sync + 'static {
    /// Whether this machine may restart now.
    ///
    /// # Errors
    /// Why it may not; it is asked again later.
    fn permit(&self) -> Result<(), PermitRefused>;
}

/// Permits a machine that is alone in its cluster.
pub struct SingleMachine {
    desired: Reader<DesiredMachine>,
}

impl SingleMachine {
    /// Counts the machines of the accepted step.
    #[must_use]
    pub fn new(desired: Reader<DesiredMachine>) -> Self {
        SingleMachine { desired }
    }
}

impl Permits for SingleMachine {
    fn permit(&self) -> Result<(), PermitRefused> {
        match self.desired.get(DesiredMachine::ID).map_or(0, |desired| desired.raw.access.machines.len()) {
            0 | 1 => Ok(()),
            machines => Err(PermitRefused { machines }),
        }
    }
}
