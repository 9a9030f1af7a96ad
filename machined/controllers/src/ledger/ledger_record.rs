//! Reads the ledger at start, and takes what gitsync hands down.

use super::{DesiredMachine, LedgerRead, RawDesired};
use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use crate::identity::MachineKey;
use crate::introduction::Introduced;
use crate::trust::TrustRecord;
use machined_config::Problems;
use machined_ids::{ClusterId, Fingerprint, Generation, MachineName};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest ledger in bytes: two documents of a megabyte and an access table of thousands of people.
const LEDGER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a desired machine was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state volume, the identity or the introduction is not there.
    #[error("machined is not ready to apply: {missing} is missing; try again in a moment")]
    NotReady {
        /// What is missing.
        missing: &'static str,
    },
    /// Older than what is applied.
    #[error("generation {offered} is refused: generation {applied} is applied")]
    Older {
        /// What came.
        offered: Generation,
        /// What is applied.
        applied: Generation,
    },
    /// The same number with another content.
    #[error("generation {0} was applied with another content; a new activation needs a new generation")]
    Reused(Generation),
    /// The documents are wrong.
    #[error("a document is refused")]
    Documents(#[source] Problems),
    /// The document is another machine's.
    #[error("the document of machine {machine} names the identity {named}; this machine is {own}")]
    OtherMachine {
        /// The machine in the request.
        machine: MachineName,
        /// The identity in its document.
        named: Fingerprint,
        /// This machine's.
        own: Fingerprint,
    },
    /// Another cluster's.
    #[error("it is for cluster {offered}; the machine was introduced to {introduced}")]
    OtherCluster {
        /// What came.
        offered: ClusterId,
        /// Where the machine belongs.
        introduced: ClusterId,
    },
    /// People ordered something that gitsync had not read when it computed this.
    #[error("it was computed from order {offered}, and people gave order {newest} since; gitsync looks again")]
    OlderOrders {
        /// The number that it was computed from.
        offered: u64,
        /// The newest.
        newest: u64,
    },
    /// It could not be kept.
    #[error("the ledger could not be written; nothing was applied")]
    Write(#[source] FileError),
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file failed.
    #[error("the ledger cannot be read")]
    File(#[source] FileError),
    /// The file is damaged.
    #[error("the ledger {path} is damaged; the machine waits for gitsync to hand the documents down again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its documents are not understood.
    #[error("the ledger's documents are not understood by this release")]
    Documents(#[source] Problems),
}

/// Where gitsync's desired machines go in.
pub type ApplyInbox = Inbox<Apply, Result<(), ApplyError>>;

/// A desired machine on its way in.
#[derive(Debug, Clone)]
pub struct Apply {
    /// What the machine should be.
    pub desired: RawDesired,
    /// The number of the newest order of people ([`TrustRecord::orders`]) that it was computed from.
    pub orders: u64,
}

/// Writes [`DesiredMachine`].
pub struct LedgerController<H> {
    host: Arc<H>,
    volumes: Reader<Volume>,
    keys: Reader<MachineKey>,
    introduced: Reader<Introduced>,
    trust: Reader<TrustRecord>,
    desired: Writer<DesiredMachine>,
    read: Writer<LedgerRead>,
    inbox: ApplyInbox,
}

impl<H: FilesHost> LedgerController<H> {
    /// Declares inputs and output at `ports`; gives the inbox for desired machines too.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> (Self, ApplyInbox) {
        let inbox = Inbox::new(ports.trigger());
        let controller = LedgerController {
            host,
            volumes: ports.input(),
            keys: ports.input(),
            introduced: ports.input(),
            trust: ports.input(),
            desired: ports.output(),
            read: ports.output(),
            inbox: inbox.clone(),
        };
        (controller, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/ledger.json")
    }

    fn is_read(&self) -> bool {
        !self.read.current().is_empty()
    }

    async fn load(&mut self) -> Result<(), LedgerError> {
        if self.is_read() || !self.volumes.all().contains_key(STATE) {
            return Ok(());
        }
        let path = Self::path();
        let bytes = self.host.read(&path, LEDGER_BYTES_MAX).await.map_err(LedgerError::File)?;
        let desired = bytes.map(|bytes| understand(path, &bytes)).transpose();
        if let Ok(Some(desired)) = &desired {
            self.desired.put(DesiredMachine::ID, desired.clone());
        }
        // A ledger that cannot be understood is replaced by gitsync, which has the accepted commit; it must not block that.
        self.read.put(LedgerRead::ID, LedgerRead);
        desired.map(|_| ())
    }

    /// Decides whether `raw` may be applied; `None` when it is applied already.
    fn judge(&self, raw: RawDesired) -> Result<Option<DesiredMachine>, ApplyError> {
        let missing = |missing| ApplyError::NotReady { missing };
        if !self.is_read() {
            return Err(missing("the state volume"));
        }
        let own = self.keys.get(MachineKey::ID).ok_or_else(|| missing("the identity"))?.fingerprint;
        let introduced = match self.introduced.get(Introduced::ID) {
            Some(Introduced::As(introduction)) => introduction.cluster,
            Some(Introduced::Not) | None => return Err(missing("the introduction")),
        };
        if let Some(applied) = self.desired.current().get(DesiredMachine::ID) {
            let (offered, applied_generation) = (raw.generation, applied.raw.generation);
            if offered < applied_generation {
                return Err(ApplyError::Older { offered, applied: applied_generation });
            }
            if offered == applied_generation {
                return if raw == applied.raw { Ok(None) } else { Err(ApplyError::Reused(offered)) };
            }
        }
        let desired = DesiredMachine::read(raw).map_err(ApplyError::Documents)?;
        if desired.machine.identity != own {
            let named = desired.machine.identity.clone();
            return Err(ApplyError::OtherMachine { machine: desired.raw.machine, named, own });
        }
        for offered in [desired.cluster.id, desired.raw.access.cluster] {
            if offered != introduced {
                return Err(ApplyError::OtherCluster { offered, introduced });
            }
        }
        Ok(Some(desired))
    }

    /// Whether it was computed knowing everything that people ordered: an order that was answered is in the record.
    fn heeds_orders(&self, offered: u64) -> Result<(), ApplyError> {
        let record = self.trust.get(TrustRecord::ID).ok_or(ApplyError::NotReady { missing: "the trust record" })?;
        let newest = record.orders;
        if offered < newest { Err(ApplyError::OlderOrders { offered, newest }) } else { Ok(()) }
    }

    async fn apply(&self, Apply { desired: raw, orders }: Apply) -> Result<(), ApplyError> {
        self.heeds_orders(orders)?;
        let Some(desired) = self.judge(raw)? else { return Ok(()) };
        let bytes = serde_json::to_vec(&desired.raw).expect("because its map keys are strings");
        // Invariant: on the disk before anything acts on it.
        self.host.replace(&Self::path(), &bytes, Lasting::Durable).await.map_err(ApplyError::Write)?;
        let RawDesired { generation, commit, machine, .. } = &desired.raw;
        tracing::info!(%generation, %commit, %machine, "a desired machine is applied");
        self.desired.put(DesiredMachine::ID, desired);
        Ok(())
    }
}

/// The desired machine in a ledger file.
fn understand(path: PathBuf, bytes: &[u8]) -> Result<DesiredMachine, LedgerError> {
    let raw = serde_json::from_slice(bytes).map_err(|source| LedgerError::Json { path, source })?;
    DesiredMachine::read(raw).map_err(LedgerError::Documents)
}

impl<H: FilesHost> Controller for LedgerController<H> {
    type Error = LedgerError;

    async fn reconcile(&mut self) -> Result<Outcome, LedgerError> {
        let loaded = self.load().await;
        while let Some((apply, answer)) = self.inbox.take() {
            // A caller that went away has its machine applied all the same.
            let _caller_gone = answer.send(self.apply(apply).await);
        }
        loaded.map(|()| Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fake::FakeFiles;
    use crate::introduction::{Introduction, example};
    use crate::ledger::sample;
    use machined_access::IdentityKey;
    use machined_runtime::Store;

    struct Machine {
        controller: LedgerController<FakeFiles>,
        inbox: ApplyInbox,
        store: Store,
        trust: Writer<TrustRecord>,
        own: Fingerprint,
    }

    fn machine(files: &Arc<FakeFiles>, key: IdentityKey) -> Machine {
        let store = Store::new();
        let mut ports = Ports::new(&store, "ledger");
        let (controller, inbox) = LedgerController::new(&mut ports, Arc::clone(files));
        let volume = Volume { device: PathBuf::new(), formatted: false };
        store.writer().expect("because nobody else writes it").put(STATE, volume);
        let introduction = Introduction::parse(example().as_bytes(), vec!["http://a".to_owned()]);
        let introduced = Introduced::As(introduction.expect("because the example is good"));
        store.writer().expect("because nobody else writes it").put(Introduced::ID, introduced);
        let own = key.fingerprint();
        let trust: Writer<TrustRecord> = store.writer().expect("because nobody else writes it");
        trust.put(TrustRecord::ID, TrustRecord::default());
        store.writer().expect("because nobody else writes it").put(MachineKey::ID, MachineKey::new(key));
        Machine { controller, inbox, store, trust, own }
    }

    fn desired(generation: u64, identity: &Fingerprint) -> RawDesired {
        let machine_kdl = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"control-plane\"\n}}");
        sample::desired(generation, machine_kdl, sample::access())
    }

    impl Machine {
        async fn apply(&mut self, raw: RawDesired) -> Result<(), ApplyError> {
            self.apply_knowing(raw, 0).await
        }
        async fn apply_knowing(&mut self, desired: RawDesired, orders: u64) -> Result<(), ApplyError> {
            let raw = Apply { desired, orders };
            let inbox = self.inbox.clone();
            let (answer, outcome) = tokio::join!(biased; inbox.ask(raw), self.controller.reconcile());
            outcome.expect("because nothing is damaged");
            answer.expect("because the controller answers")
        }
        fn generation(&self) -> Option<u64> {
            self.store.reader::<DesiredMachine>().get(DesiredMachine::ID).map(|d| d.raw.generation.0)
        }
    }

    fn key() -> IdentityKey {
        IdentityKey::generate().expect("because the system has randomness")
    }

    #[tokio::test]
    async fn older_generation_is_refused() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files, key());
        let own = machine.own.clone();
        machine.apply(desired(5, &own)).await.expect("because it is the first");
        machine.apply(desired(5, &own)).await.expect("because it is the same again");
        assert!(matches!(machine.apply(desired(4, &own)).await, Err(ApplyError::Older { .. })));
        let mut other = desired(5, &own);
        other.signer = "eve".parse().expect("because it is a name");
        assert!(matches!(machine.apply(other).await, Err(ApplyError::Reused(Generation(5)))));
        assert_eq!(machine.generation(), Some(5));
        assert_eq!(files.lasting("/state/machined/ledger.json"), Some(Lasting::Durable));
    }

    #[tokio::test]
    async fn what_was_computed_before_the_newest_order_is_refused() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files, key());
        let own = machine.own.clone();
        machine.apply(desired(5, &own)).await.expect("because nobody ordered anything");
        machine.trust.put(TrustRecord::ID, TrustRecord { orders: 1, ..TrustRecord::default() });
        let refused = machine.apply(desired(6, &own)).await;
        assert!(matches!(refused, Err(ApplyError::OlderOrders { offered: 0, newest: 1 })), "{refused:?}");
        assert_eq!(machine.generation(), Some(5));
        machine.apply_knowing(desired(6, &own), 1).await.expect("because it knows the order");
        assert_eq!(machine.generation(), Some(6));
    }

    #[tokio::test]
    async fn the_applied_machine_is_there_after_a_reboot() {
        let files = Arc::new(FakeFiles::default());
        let identity = key();
        let pem = identity.to_pem().expect("because it is on the disk");
        let mut first = machine(&files, identity);
        let own = first.own.clone();
        first.apply(desired(5, &own)).await.expect("because it is the first");
        let mut second = machine(&files, IdentityKey::from_pem(&pem).expect("because it was written by us"));
        second.controller.reconcile().await.expect("because nothing is damaged");
        assert_eq!(second.generation(), Some(5));
    }

    #[tokio::test]
    async fn the_document_of_another_machine_or_cluster_is_refused() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files, key());
        let other = key().fingerprint();
        assert!(matches!(machine.apply(desired(1, &other)).await, Err(ApplyError::OtherMachine { .. })));
        let mut foreign = desired(1, &machine.own);
        foreign.access.cluster = "ff".repeat(16).parse().expect("because it is an id");
        assert!(matches!(machine.apply(foreign).await, Err(ApplyError::OtherCluster { .. })));
        assert_eq!(machine.generation(), None);
    }

    #[tokio::test]
    async fn a_damaged_ledger_is_said_and_replaced_by_the_next_apply() {
        let files = Arc::new(FakeFiles::default());
        files.put("/state/machined/ledger.json", "{");
        let mut machine = machine(&files, key());
        assert!(matches!(machine.controller.reconcile().await, Err(LedgerError::Json { .. })));
        let own = machine.own.clone();
        machine.apply(desired(1, &own)).await.expect("because the documents are good");
        assert_eq!(machine.generation(), Some(1));
    }
}
