//! How a machine reaches others before its state volume is open: network and time servers of its document as they were last, on META.
//!
//! Written only on machines whose disk key is with peers, or is to be: elsewhere the document is read before anything needs it. META is in the
//! clear, and nobody has to believe it: whoever changes it can keep a machine waiting, and no more.

use crate::block::{Encryption, Kept};
use crate::identity::{MetaAccessError, MetaHost};
use crate::ledger::DesiredMachine;
use init_boot::MetaKind;
use machined_config::{MachineConfig, MachineNetwork};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Reader, Resource, Writer};
use std::sync::Arc;

/// What META says; the id is [`Reach::ID`]. In the store once META was read, empty when it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Network of the last document.
    pub network: MachineNetwork,
    /// Its time servers.
    pub time_servers: Vec<String>,
}

impl Reach {
    /// The id of the one record.
    pub const ID: &'static str = "reach";

    /// Reads a record's text; nothing when it is damaged, for the machine has other layers.
    fn parse(text: &str) -> Self {
        MachineConfig::parse("reach", text).map_or_else(
            |_| Reach::default(),
            |machine| Reach { network: machine.network, time_servers: machine.time_servers },
        )
    }
}

impl Resource for Reach {
    const KIND: &'static str = "reach";
}

/// The record of a machine: its document without what nobody needs before STATE is open.
fn text(machine: &MachineConfig) -> String {
    let bare = MachineConfig { registries: Vec::new(), image: None, canary: None, ..machine.clone() };
    bare.render()
}

/// Writes [`Reach`], and the record on META.
pub struct ReachController<H> {
    host: Arc<H>,
    desired: Reader<DesiredMachine>,
    encryption: Reader<Encryption>,
    reach: Writer<Reach>,
    /// What META holds.
    record: Option<String>,
}

impl<H: MetaHost> ReachController<H> {
    /// Declares inputs and output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        let (desired, encryption) = (ports.input(), ports.input());
        ReachController { host, desired, encryption, reach: ports.output(), record: None }
    }

    fn is_needed(&self) -> bool {
        let with_peers = |encryption: &Encryption| {
            matches!(encryption, Encryption::Open { kept: Kept::ByPeers { .. } | Kept::InTheClear { .. }, .. })
        };
        self.encryption.all().values().any(with_peers)
    }
}

impl<H: MetaHost> Controller for ReachController<H> {
    type Error = MetaAccessError;

    async fn reconcile(&mut self) -> Result<Outcome, MetaAccessError> {
        if self.reach.current().is_empty() {
            let bytes = self.host.read(MetaKind::Reach).await?;
            self.record = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            self.reach.put(Reach::ID, self.record.as_deref().map(Reach::parse).unwrap_or_default());
        }
        let Some(desired) = self.desired.get(DesiredMachine::ID).filter(|_| self.is_needed()) else {
            return Ok(Outcome::Done);
        };
        let wanted = text(&desired.machine);
        if self.record.as_ref() != Some(&wanted) {
            self.host.write(MetaKind::Reach, wanted.clone().into_bytes()).await?;
            self.record = Some(wanted);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Opener;
    use crate::ledger::sample;
    use machined_runtime::Store;
    use std::sync::Mutex;

    #[derive(Default)]
    struct FakeMeta(Mutex<Option<Vec<u8>>>);

    impl MetaHost for FakeMeta {
        async fn read(&self, _kind: MetaKind) -> Result<Option<Vec<u8>>, MetaAccessError> {
            Ok(self.0.lock().expect("because no test panics with it").clone())
        }
        async fn write(&self, kind: MetaKind, bytes: Vec<u8>) -> Result<(), MetaAccessError> {
            assert_eq!(kind, MetaKind::Reach);
            *self.0.lock().expect("because no test panics with it") = Some(bytes);
            Ok(())
        }
    }

    /// What the next start reads after one with this document and this disk.
    async fn after(meta: &Arc<FakeMeta>, document: &str, kept: Kept) -> Reach {
        for with_document in [true, false] {
            let store = Store::new();
            let mut ports = Ports::new(&store, "reach");
            let mut controller = ReachController::new(&mut ports, Arc::clone(meta));
            if with_document {
                let raw = sample::desired(1, document.to_owned(), sample::access());
                let desired = DesiredMachine::read(raw).expect("because it is a document");
                store.writer().expect("because nobody else writes it").put(DesiredMachine::ID, desired);
                let open = Encryption::Open { by: Opener::Peer, recovery: None, kept: kept.clone() };
                store.writer().expect("because nobody else writes it").put("/state", open);
            }
            controller.reconcile().await.expect("because META works");
            if !with_document {
                return store.reader::<Reach>().get(Reach::ID).expect("because META was read");
            }
        }
        unreachable!("because the second start returns")
    }

    #[tokio::test]
    async fn the_next_start_knows_the_documents_network_where_peers_have_the_disk_key() {
        let meta = Arc::new(FakeMeta::default());
        let identity = machined_ids::Fingerprint::from_sha256(&[1; 32]);
        let plain = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"worker\"\n}}");
        let network = "network { link \"eth0\" { address \"10.0.0.5/24\"; }; }\n time { server \"10.0.0.9\"; }\n}";
        let document = plain.replace("\n}", &format!("\n{network}"));
        let here = after(&meta, &document, Kept::Here).await;
        assert_eq!(here, Reach::default(), "a machine with a TPM writes nothing");
        let kept = Kept::ByPeers { count: 1, note: String::new() };
        let reach = after(&meta, &document, kept.clone()).await;
        assert_eq!((reach.network.links.len(), reach.time_servers), (1, vec!["10.0.0.9".to_owned()]));
        let later = after(&meta, &plain, kept).await;
        assert_eq!(later.network.links, [], "the document says nothing any more");
    }

    #[test]
    fn a_damaged_record_says_nothing() {
        assert_eq!(Reach::parse("machine {"), Reach::default());
    }
}
