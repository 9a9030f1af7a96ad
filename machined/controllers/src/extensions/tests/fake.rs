//! A machine with a power switch: what its disk keeps, what a server serves, and what is merged until it restarts.

use crate::block::{EPHEMERAL, Volume};
use crate::extensions::{
    ExtensionController, ExtensionHost, ExtensionHostError, ExtensionState, ExtensionStatus, Merged,
};
use crate::files::fake::FakeFiles;
use crate::ledger::{DesiredMachine, LedgerRead, sample};
use crate::tpm::MeasureController;
use crate::tpm::fake::{FakeTpm, Fate, Power};
use init_boot::RootHash;
use init_boot::artefact::{ExtensionDigest, ExtensionFolder, ExtensionHeader, ExtensionManifest, ExtensionName, Part};
use machined_ids::Fingerprint;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Store, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The kernel that runs.
pub(super) const KERNEL: &str = "6.12.1";
/// Reconciliations without a pause after which a machine is taken to go round in circles.
const ROUNDS_MAX: usize = 100;

pub(super) fn header(name: &str, version: &str, kernel: Option<&str>) -> ExtensionHeader {
    let mut folders = vec![ExtensionFolder::CniPlugins];
    folders.extend(kernel.map(|_| ExtensionFolder::Modules));
    ExtensionHeader::new(ExtensionManifest {
        name: name.parse().expect("because it is a name"),
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        kernel: kernel.map(str::to_owned),
        folders,
        image: Part { bytes: 8192, sha256: [1; 32] },
        data_blocks: 1,
        root_hash: RootHash::from_bytes([2; 32]),
    })
}

/// The line of a document that names it.
pub(super) fn line(header: &ExtensionHeader) -> String {
    let ExtensionManifest { name, version, .. } = &header.manifest;
    format!("extension \"{name}\" digest=\"{}\" url=\"http://e/{name}/{version}\"", header.manifest.digest())
}

/// What the machine has.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) kept: BTreeMap<ExtensionDigest, ExtensionHeader>,
    incoming: Option<ExtensionHeader>,
    /// Files with a changed byte.
    pub(super) damaged: BTreeSet<ExtensionDigest>,
    /// What the server has, by URL.
    pub(super) served: BTreeMap<String, ExtensionHeader>,
    pub(super) fetches: usize,
    attached: BTreeMap<ExtensionName, ExtensionDigest>,
    pub(super) folders: BTreeMap<&'static str, Vec<ExtensionName>>,
    pub(super) loaded: Vec<ExtensionName>,
    /// Steps that do not work, and how often machined cleared up.
    pub(super) broken: BTreeSet<&'static str>,
    pub(super) cleared: usize,
    /// What was merged before the TPM knew.
    pub(super) unmeasured: bool,
}

pub(super) struct FakeHost {
    disk: Mutex<Disk>,
    power: Arc<Power>,
    tpm: Arc<FakeTpm>,
}

fn failed(doing: &str) -> ExtensionHostError {
    ExtensionHostError { doing: doing.to_owned(), source: "no power".into() }
}

impl FakeHost {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("because no test panics with it")
    }

    fn change(&self, doing: &'static str, change: impl FnOnce(&mut Disk)) -> Result<(), ExtensionHostError> {
        let fate = self.power.operate();
        if self.disk().broken.contains(doing) {
            return Err(ExtensionHostError { doing: doing.to_owned(), source: "it is broken".into() });
        }
        if fate != Fate::Lost {
            change(&mut self.disk());
        }
        if fate == Fate::Done { Ok(()) } else { Err(failed(doing)) }
    }
}

impl ExtensionHost for FakeHost {
    fn kernel(&self) -> String {
        KERNEL.to_owned()
    }
    async fn kept(&self) -> Result<BTreeSet<ExtensionDigest>, ExtensionHostError> {
        Ok(self.disk().kept.keys().copied().collect())
    }
    async fn fetch(&self, url: &str) -> Result<ExtensionHeader, ExtensionHostError> {
        let served = self.disk().served.get(url).cloned();
        let served = served.ok_or_else(|| failed("fetch it"))?;
        self.change("fetch it", |disk| {
            disk.fetches += 1;
            disk.incoming = Some(served.clone());
        })?;
        Ok(served)
    }
    async fn keep(&self, digest: ExtensionDigest) -> Result<(), ExtensionHostError> {
        self.change("keep it", |disk| {
            let incoming = disk.incoming.take().expect("because something was fetched");
            disk.damaged.remove(&digest);
            disk.kept.insert(digest, incoming);
        })
    }
    async fn header(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, ExtensionHostError> {
        self.disk().kept.get(&digest).cloned().ok_or_else(|| failed("read it"))
    }
    async fn verify(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, ExtensionHostError> {
        let disk = self.disk();
        match disk.damaged.contains(&digest) {
            true => Err(failed("match it with its manifest")),
            false => disk.kept.get(&digest).cloned().ok_or_else(|| failed("read it")),
        }
    }
    async fn forget(&self, digest: ExtensionDigest) -> Result<(), ExtensionHostError> {
        self.change("forget it", |disk| drop(disk.kept.remove(&digest)))
    }
    async fn clear(&self) -> Result<(), ExtensionHostError> {
        self.change("clear up", |disk| {
            disk.cleared += 1;
            disk.attached.clear();
            disk.folders.clear();
        })
    }
    async fn attach(&self, digest: ExtensionDigest, header: &ExtensionHeader) -> Result<(), ExtensionHostError> {
        let register = is_unmeasured(&self.tpm).await;
        self.change("attach it", |disk| {
            assert!(disk.kept.contains_key(&digest) && !disk.damaged.contains(&digest), "a file that is not whole");
            disk.unmeasured |= register;
            let before = disk.attached.insert(header.manifest.name.clone(), digest);
            assert_eq!(before, None, "a name is attached once");
        })
    }
    async fn merge(&self, folder: ExtensionFolder, names: &[ExtensionName]) -> Result<(), ExtensionHostError> {
        let names = names.to_vec();
        let doing = if folder == ExtensionFolder::Modules { "merge modules" } else { "merge plugins" };
        self.change(doing, |disk| {
            assert!(names.iter().all(|name| disk.attached.contains_key(name)), "what is merged is attached");
            assert!(disk.folders.insert(folder.as_str(), names).is_none(), "a folder is merged once");
        })
    }
    async fn load_modules(&self, name: &ExtensionName) -> Result<(), ExtensionHostError> {
        self.change("load modules", |disk| disk.loaded.push(name.clone()))
    }
}

/// Whether a TPM is there and its register holds nothing yet.
async fn is_unmeasured(tpm: &FakeTpm) -> bool {
    use crate::tpm::TpmHost;
    use init_boot::tpm::{Pcr, PcrValue};
    tpm.is_present()
        && tpm
            .registers(vec![Pcr::APPLIED])
            .await
            .is_ok_and(|values| values.iter().all(|(_, value)| *value == PcrValue::ZERO))
}

/// One machine, and machined on it.
pub(super) struct Machine {
    pub(super) host: Arc<FakeHost>,
    pub(super) power: Arc<Power>,
    pub(super) tpm: Arc<FakeTpm>,
    files: Arc<FakeFiles>,
    document: Option<String>,
    running: Option<Running>,
}

struct Running {
    store: Store,
    controller: ExtensionController<FakeHost, FakeFiles, FakeTpm>,
    measure: MeasureController<FakeFiles, FakeTpm>,
    desired: Writer<DesiredMachine>,
}

impl Machine {
    pub(super) fn new(tpm: FakeTpm) -> Self {
        let (power, tpm) = (Arc::<Power>::default(), Arc::new(tpm));
        let host = FakeHost { disk: Mutex::default(), power: Arc::clone(&power), tpm: Arc::clone(&tpm) };
        Machine { host: Arc::new(host), power, tpm, files: Arc::default(), document: None, running: None }
    }

    /// Names extensions in the machine's document; a running machined hears of it.
    pub(super) fn name(&mut self, lines: &[String]) {
        self.document = Some(lines.join("\n "));
        if let Some(running) = &self.running {
            put_document(&running.desired, lines.join("\n "));
        }
    }

    pub(super) fn serve(&self, header: &ExtensionHeader) {
        let ExtensionManifest { name, version, .. } = &header.manifest;
        self.host.disk().served.insert(format!("http://e/{name}/{version}"), header.clone());
    }

    /// Starts machined; what is merged stays.
    pub(super) fn start_machined(&mut self) {
        let store = Store::new();
        let mut ports = Ports::new(&store, "extensions");
        let (host, files, tpm) = (Arc::clone(&self.host), Arc::clone(&self.files), Arc::clone(&self.tpm));
        let controller = ExtensionController::new(&mut ports, host, files, Arc::clone(&self.tpm));
        let measure = MeasureController::new(&mut Ports::new(&store, "measure"), Arc::clone(&self.files), tpm);
        let volume = Volume { device: PathBuf::new(), formatted: false };
        store.writer().expect("because nobody else writes it").put(EPHEMERAL, volume);
        let desired: Writer<DesiredMachine> = store.writer().expect("because nobody else writes it");
        if let Some(document) = &self.document {
            put_document(&desired, document.clone());
        }
        store.writer().expect("because nobody else writes it").put(LedgerRead::ID, LedgerRead);
        self.running = Some(Running { store, controller, measure, desired });
    }

    /// Restarts the machine: only what lasts is left.
    pub(super) fn restart(&mut self) {
        self.files.remove("/run/cairn/extensions.json");
        self.files.remove("/run/cairn/applied-log");
        self.tpm.restart();
        let mut disk = self.host.disk();
        disk.attached.clear();
        disk.folders.clear();
        disk.loaded.clear();
        drop(disk);
        self.start_machined();
    }

    /// Lets machined work until it waits; gives for how long, if it knows.
    pub(super) async fn settle(&mut self) -> Option<Duration> {
        let running = self.running.as_mut().expect("because machined was started");
        for _ in 0..ROUNDS_MAX {
            // A TPM that does not answer is the extensions' matter too.
            let _measured = running.measure.reconcile().await;
            let before = running.store.reader::<crate::extensions::ToMeasure>().all();
            let outcome = running.controller.reconcile().await;
            let after = running.store.reader::<crate::extensions::ToMeasure>().all();
            match outcome {
                Ok(Outcome::Again(Duration::ZERO)) => {}
                // Another list fires the other controller's trigger, and that one this one's.
                Ok(_) if before != after => {}
                Ok(Outcome::Again(later)) => return Some(later),
                Ok(Outcome::Done) => return None,
                Err(_) if self.power.is_cut() => return None,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("machined goes round in circles");
    }

    pub(super) fn is_merged(&self) -> bool {
        let running = self.running.as_ref().expect("because machined was started");
        running.store.reader::<Merged>().get(Merged::ID).is_some()
    }

    pub(super) fn status(&self, name: &str) -> Option<ExtensionStatus> {
        self.running.as_ref().and_then(|running| running.store.reader::<ExtensionStatus>().get(name))
    }

    pub(super) fn state(&self, name: &str) -> Option<ExtensionState> {
        self.status(name).map(|status| status.state)
    }

    /// Digests of what is in use.
    pub(super) fn in_use(&self) -> Vec<ExtensionDigest> {
        self.host.disk().attached.values().copied().collect()
    }
}

fn put_document(desired: &Writer<DesiredMachine>, lines: String) {
    let identity = Fingerprint::from_sha256(&[1; 32]);
    let kdl = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"control-plane\"\n {lines}\n}}");
    let raw = sample::desired(1, kdl, sample::access());
    desired.put(DesiredMachine::ID, DesiredMachine::read(raw).expect("because the documents are good"));
}
