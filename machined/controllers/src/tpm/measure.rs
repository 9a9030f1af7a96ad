//! Extends what is applied, and what is about to be merged, into PCR 15, and keeps the log that explains the register.
//!
//! The log is on /run, as short-lived as the register: a restart of the machine clears both, one of machined neither. It is written before
//! the register is extended; machined killed between the two finds the register one entry behind, and goes on.

use super::{TpmAccessError, TpmHost};
use crate::extensions::ToMeasure;
use crate::files::{FileError, FilesHost, Lasting};
use crate::ledger::DesiredMachine;
use init_boot::tpm::{Pcr, PcrValue};
use init_boot::{APPLIED_LOG_BYTES_MAX, AppliedEntry, AppliedLog, LogEntry};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader, Resource, Writer};
use std::path::Path;
use std::sync::Arc;

/// Where the log is.
const LOG: &str = "/run/cairn/applied-log";

/// What was extended since the machine started; the id is [`Measured::ID`]. Not in the store on a machine without a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The log; its value is the register's.
    pub log: AppliedLog,
}

impl Measured {
    /// The id of the one log.
    pub const ID: &'static str = "applied";
}

impl Resource for Measured {
    const KIND: &'static str = "measured";
}

/// Why what is applied is not in the register.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The log.
    #[error("the log of applied commits cannot be kept")]
    File(#[from] FileError),
    /// The TPM.
    #[error("what is applied cannot be extended into PCR 15; until then cairnctl attest does not show it")]
    Tpm(#[from] TpmAccessError),
    /// The TPM answers and does not have the register.
    #[error("the TPM has no PCR 15 in its SHA-256 bank; switch that bank on in the firmware's setup")]
    NoRegister,
}

/// Writes [`Measured`].
pub struct MeasureController<H, T> {
    host: Arc<H>,
    tpm: Arc<T>,
    desired: Reader<DesiredMachine>,
    extensions: Reader<ToMeasure>,
    measured: Writer<Measured>,
}

impl<H: FilesHost, T: TpmHost> MeasureController<H, T> {
    /// Declares its input and output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>, tpm: Arc<T>) -> Self {
        MeasureController { host, tpm, desired: ports.input(), extensions: ports.input(), measured: ports.output() }
    }

    /// The log as a machined before this one left it; what it does not explain is its base.
    async fn load(&self) -> Result<AppliedLog, MeasureError> {
        let bytes = self.host.read(Path::new(LOG), APPLIED_LOG_BYTES_MAX).await?.unwrap_or_default();
        let log = String::from_utf8(bytes).ok().and_then(|text| AppliedLog::parse(&text).ok()).unwrap_or_default();
        let held = self.held().await?;
        if log.value() == held {
            return Ok(log);
        }
        if let Some(last) = log.last().filter(|_| log.value_before_last() == held) {
            self.tpm.extend(Pcr::APPLIED, last.digest()).await?;
            return Ok(log);
        }
        tracing::warn!(register = %held, "something else than machined extended PCR 15; the log begins again behind it");
        Ok(AppliedLog::after(held))
    }

    /// What is not in the log yet: first the commit, then the extensions that it names.
    fn missing(&self, log: &AppliedLog) -> Vec<LogEntry> {
        let Some(raw) = self.desired.get(DesiredMachine::ID).map(|desired| desired.raw) else { return Vec::new() };
        let (step, commit) = (raw.step.to_string(), raw.commit.to_string());
        let applied = AppliedEntry { generation: raw.generation.0, step, commit };
        let known: Vec<_> = log.extensions().collect();
        let merging = self.extensions.get(ToMeasure::ID).unwrap_or_default().extensions.into_iter();
        let merging = merging.filter(|digest| !known.contains(digest)).map(LogEntry::Extension);
        let applied = Some(applied).filter(|applied| log.applied() != Some(applied)).map(LogEntry::Applied);
        applied.into_iter().chain(merging).collect()
    }

    async fn held(&self) -> Result<PcrValue, MeasureError> {
        let registers = self.tpm.registers(vec![Pcr::APPLIED]).await?;
        registers
            .into_iter()
            .find(|(pcr, _)| *pcr == Pcr::APPLIED)
            .map(|(_, value)| value)
            .ok_or(MeasureError::NoRegister)
    }
}

impl<H: FilesHost, T: TpmHost> Controller for MeasureController<H, T> {
    type Error = MeasureError;

    async fn reconcile(&mut self) -> Result<Outcome, MeasureError> {
        if !self.tpm.is_present() {
            return Ok(Outcome::Done);
        }
        let known = self.measured.current().get(Measured::ID).cloned();
        let mut log = match known {
            Some(measured) => measured.log,
            None => {
                let log = self.load().await?;
                self.measured.put(Measured::ID, Measured { log: log.clone() });
                log
            }
        };
        for entry in self.missing(&log) {
            log.push(entry.clone());
            self.host.replace(Path::new(LOG), log.render().as_bytes(), Lasting::Boot).await?;
            if let Err(error) = self.tpm.extend(Pcr::APPLIED, entry.digest()).await {
                // Whether it was extended is not known: the register is asked next time.
                self.measured.remove(Measured::ID);
                return Err(error.into());
            }
            self.measured.put(Measured::ID, Measured { log: log.clone() });
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fake::FakeFiles;
    use crate::ledger::sample;
    use crate::tpm::fake::FakeTpm;
    use machined_ids::Fingerprint;
    use machined_runtime::Store;

    struct Machine {
        controller: MeasureController<FakeFiles, FakeTpm>,
        desired: Writer<DesiredMachine>,
        store: Store,
    }

    fn machined(files: &Arc<FakeFiles>, tpm: &Arc<FakeTpm>) -> Machine {
        let store = Store::new();
        let mut ports = Ports::new(&store, "measure");
        let controller = MeasureController::new(&mut ports, Arc::clone(files), Arc::clone(tpm));
        let desired = store.writer().expect("because nobody else writes it");
        Machine { controller, desired, store }
    }

    impl Machine {
        async fn apply(&mut self, generation: u64) -> Result<Outcome, MeasureError> {
            let kdl = format!(
                "machine \"cp1\" {{\n identity \"{}\"\n role \"control-plane\"\n}}",
                Fingerprint::from_sha256(&[1; 32])
            );
            let raw = sample::desired(generation, kdl, sample::access());
            self.desired.put(DesiredMachine::ID, DesiredMachine::read(raw).expect("because the documents are good"));
            self.controller.reconcile().await
        }
        fn log(&self) -> Option<AppliedLog> {
            self.store.reader::<Measured>().get(Measured::ID).map(|measured| measured.log)
        }
    }

    async fn register(tpm: &FakeTpm) -> PcrValue {
        tpm.registers(vec![Pcr::APPLIED]).await.expect("because it does not fail")[0].1
    }

    #[tokio::test]
    async fn each_activation_is_extended_once_and_the_log_explains_the_register() {
        let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
        let mut machine = machined(&files, &tpm);
        for generation in [1, 1, 2] {
            machine.apply(generation).await.expect("because the TPM works");
        }
        let log = machine.log().expect("because there is a TPM");
        assert_eq!((log.entries().len(), log.is_whole(), log.value()), (2, true, register(&tpm).await));
        // machined again, the machine not: nothing is extended twice.
        let mut again = machined(&files, &tpm);
        again.apply(2).await.expect("because the TPM works");
        assert_eq!((again.log(), register(&tpm).await), (Some(log.clone()), log.value()));
    }

    #[tokio::test]
    async fn machined_killed_before_or_after_extending_leaves_a_log_that_explains() {
        // The second activation writes the log, then extends: operations 2 and 3.
        for (operation, heard) in [(2, false), (2, true), (3, false), (3, true)] {
            let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
            files.powered_by(&tpm.power());
            tpm.power().cut(operation, heard);
            let mut machine = machined(&files, &tpm);
            machine.apply(1).await.expect("because nothing is cut yet");
            assert!(machine.apply(2).await.is_err());
            tpm.power().back();
            let mut again = machined(&files, &tpm);
            again.apply(2).await.expect("because the TPM works");
            let log = again.log().expect("because there is a TPM");
            assert_eq!((log.entries().len(), log.is_whole(), log.value()), (2, true, register(&tpm).await));
        }
    }

    #[tokio::test]
    async fn extensions_are_extended_behind_the_commit_that_names_them_and_once() {
        let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
        let mut machine = machined(&files, &tpm);
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64)).parse().expect("because it is a digest");
        let merging: Writer<ToMeasure> = machine.store.writer().expect("because nobody else writes it");
        merging.put(ToMeasure::ID, ToMeasure { extensions: vec![digest("a"), digest("b")] });
        for generation in [1, 1, 2] {
            machine.apply(generation).await.expect("because the TPM works");
        }
        let log = machine.log().expect("because there is a TPM");
        let kinds: Vec<String> = log.entries().iter().map(|entry| entry.to_string()[..8].to_owned()).collect();
        assert_eq!(kinds, ["1 070707", "extensio", "extensio", "2 070707"]);
        assert_eq!(log.extensions().collect::<Vec<_>>(), [digest("a"), digest("b")]);
        assert_eq!(log.value(), register(&tpm).await);
    }

    #[tokio::test]
    async fn what_others_extended_is_not_explained_away() {
        let (files, tpm) = (Arc::new(FakeFiles::default()), Arc::new(FakeTpm::new()));
        tpm.extend(Pcr::APPLIED, [9; 32]).await.expect("because it does not fail");
        let mut machine = machined(&files, &tpm);
        machine.apply(1).await.expect("because the TPM works");
        let log = machine.log().expect("because there is a TPM");
        assert_eq!((log.is_whole(), log.value()), (false, register(&tpm).await));
    }

    #[tokio::test]
    async fn without_a_tpm_nothing_is_measured() {
        let mut machine = machined(&Arc::new(FakeFiles::default()), &Arc::new(FakeTpm::absent()));
        machine.apply(1).await.expect("because there is nothing to do");
        assert_eq!(machine.log(), None);
    }
}
