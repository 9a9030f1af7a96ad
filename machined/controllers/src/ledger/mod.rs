//! The ledger: the desired machine that gitsync handed down last, kept on the state volume.
//!
//! machined alone writes it. A generation only grows; the documents are read again by `machined/config` before they count, so
//! that what lies in the store is always whole and valid.

mod ledger_record;
#[cfg(test)]
pub(crate) mod sample;

pub use ledger_record::{Apply, ApplyError, ApplyInbox, LedgerController, LedgerError};

use machined_access::AccessTable;
use machined_config::{ClusterConfig, MachineConfig, Problems};
use machined_ids::{CommitId, Generation, MachineName, PrincipalName, Seq, StepId};
use machined_runtime::Resource;
use serde::{Deserialize, Serialize};

/// What a machine should be, as gitsync handed it down; also the form of the ledger file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDesired {
    /// Counts activations on this machine.
    pub generation: Generation,
    /// The applied step.
    pub step: StepId,
    /// The commit that the step came in.
    pub commit: CommitId,
    /// The step's number since the introduction.
    pub seq: Seq,
    /// Who signed it.
    pub signer: PrincipalName,
    /// The machine's name.
    pub machine: MachineName,
    /// Text of `cluster.kdl`.
    pub cluster_kdl: String,
    /// Text of `machines/<name>.kdl`.
    pub machine_kdl: String,
    /// People, roles and machines of the accepted step.
    pub access: AccessTable,
}

/// A desired machine whose documents were read; the id is [`DesiredMachine::ID`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredMachine {
    /// As it came.
    pub raw: RawDesired,
    /// `cluster.kdl`.
    pub cluster: ClusterConfig,
    /// `machines/<name>.kdl`.
    pub machine: MachineConfig,
}

impl DesiredMachine {
    /// The id of the one desired machine.
    pub const ID: &'static str = "desired";

    /// Reads the documents.
    ///
    /// # Errors
    /// Every mistake in the first document that has some.
    pub fn read(raw: RawDesired) -> Result<Self, Problems> {
        let cluster = ClusterConfig::parse("cluster.kdl", &raw.cluster_kdl)?;
        let machine = MachineConfig::parse(&format!("machines/{}.kdl", raw.machine), &raw.machine_kdl)?;
        Ok(DesiredMachine { raw, cluster, machine })
    }
}

impl Resource for DesiredMachine {
    const KIND: &'static str = "desired machine";
}

/// The ledger was read, whatever was in it; the id is [`LedgerRead::ID`]. Before that nobody can say what the machine should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerRead;

impl LedgerRead {
    /// The id of the one mark.
    pub const ID: &'static str = "read";
}

impl Resource for LedgerRead {
    const KIND: &'static str = "ledger read";
}
