//! A machine with a power switch: its documents, machined on its fake disk, and what the images do when they start.

use super::disk::{Disk, FakeHost, index};
use crate::block::{EPHEMERAL, STATE, Volume};
use crate::ledger::{DesiredMachine, LedgerRead, sample};
use crate::upgrade::{
    AloneOr, Disruption, ImageNote, PermitRefused, Permits, UpgradeAnswer, UpgradeController, UpgradeInbox,
    UpgradeRequest, UpgradeStatus,
};
use init_boot::artefact::{ArtefactHeader, ArtefactManifest, IMAGE_NAMESPACE};
use init_boot::{EMPTY_SLOT_GUID, RootHash, Slot};
use machined_access::{AccessTable, MachineEntry, MachineRole};
use machined_ids::{Fingerprint, MachineName};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Store, Writer};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The release number of the image that the machine was flashed with.
pub(super) const OLD: u64 = 1;
/// The release number of the image that it is upgraded to.
pub(super) const NEW: u64 = 2;
/// Boots after which a machine that does not come to rest is taken to go round in circles.
const BOOTS_MAX: usize = 20;
/// Reconciliations of one boot after which a machine is taken to go round in circles.
const ROUNDS_MAX: usize = 200;

/// What the new image does when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Healthy,
    NeverHealthy,
    Panics,
}

/// The root hash of the image with this release number.
pub(super) fn root(number: u64) -> RootHash {
    RootHash::from_bytes([u8::try_from(number).expect("because test numbers are small"); 32])
}

/// The header of the image with this release number; nobody signed it.
pub(super) fn header_of(number: u64) -> ArtefactHeader {
    let text = format!(
        "version 0.{number}.0\nnumber {number}\nlevel 1\nprofile cloud\narchitecture amd64\nbuilt 2026-11-01T00:00:00Z\n\
         uki-bytes 5\nuki-sha256 {}\nroot-bytes 8192\nroot-sha256 {}\nroot-hash {}\n",
        "01".repeat(32),
        "02".repeat(32),
        root(number)
    );
    ArtefactHeader::new(ArtefactManifest::parse(&text).expect("because the text is canonical"))
}

fn key(seed: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[seed; 32]).into()
}

/// The fingerprint of a signer.
pub(super) fn signer(seed: u8) -> Fingerprint {
    machined_access::ssh_fingerprint(key(seed).public_key().key_data())
}

/// The same header, signed.
pub(super) fn signed_by(number: u64, seed: u8) -> ArtefactHeader {
    let mut header = header_of(number);
    let text = header.manifest.render();
    let signature = key(seed).sign(IMAGE_NAMESPACE, HashAlg::Sha512, text.as_bytes());
    let armour = signature.and_then(|signature| signature.to_pem(LineEnding::LF)).expect("because ed25519 keys sign");
    header.add_signature(&armour).expect("because it is an armour");
    header
}

/// What the accepted step says.
#[derive(Debug, Clone)]
struct Accepted {
    /// Digest of the image that the document names.
    named: Option<String>,
    floor: u64,
    machines: usize,
    /// Whether a key is an image key.
    signing: bool,
}

/// The machine.
pub(super) struct Fake {
    disk: Arc<Mutex<Disk>>,
    store: Store,
    desired: Writer<DesiredMachine>,
    inbox: std::cell::RefCell<Option<UpgradeInbox>>,
    wishes: std::cell::RefCell<Vec<UpgradeRequest>>,
    boots: Cell<usize>,
    answers: std::cell::RefCell<Vec<UpgradeAnswer>>,
    rules: std::cell::RefCell<Accepted>,
    seen: std::cell::RefCell<Option<UpgradeStatus>>,
}

impl Fake {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        let old = root(OLD);
        let disk = Disk {
            running: Slot::A,
            default: Slot::A,
            behaviour,
            firmware_forgets: false,
            url_fails: false,
            url_serves_what_runs: false,
            artefact_is_damaged: false,
            slot_was_touched: false,
            told_good: false,
            starts_of_the_new_image: 0,
            guids: [old.partition_guid(), EMPTY_SLOT_GUID],
            roots: [Some(old), None],
            entries: [Some(old), None],
            copies: BTreeMap::new(),
            one_shot: None,
            staged: None,
            served: header_of(NEW),
            files: BTreeMap::new(),
            restart: false,
            dead: false,
            operations: 0,
            cut: None,
        };
        let store = Store::new();
        let desired = store.writer().expect("because nobody else writes it");
        let fake = Fake {
            disk: Arc::new(Mutex::new(disk)),
            store,
            desired,
            inbox: None.into(),
            wishes: Vec::new().into(),
            boots: Cell::new(0),
            answers: Vec::new().into(),
            rules: Accepted { named: None, floor: 0, machines: 1, signing: false }.into(),
            seen: None.into(),
        };
        fake.apply();
        fake
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("because no holder panics")
    }

    /// The slot that runs, and the one that the boot loader starts by default.
    pub(super) fn running_and_default(&self) -> (Slot, Slot) {
        let disk = self.disk();
        (disk.running, disk.default)
    }

    pub(super) fn status(&self) -> UpgradeStatus {
        self.seen.borrow().clone().expect("because machined ran")
    }

    pub(super) fn boots(&self) -> usize {
        self.boots.get()
    }

    /// Cuts power at the given operation from now on; `torn`: in the middle of it.
    pub(super) fn cut_power_at(&self, operation: usize, torn: bool) {
        let mut disk = self.disk();
        (disk.operations, disk.cut) = (0, Some((operation, torn)));
    }

    pub(super) fn power_was_cut(&self) -> bool {
        let disk = self.disk();
        disk.cut.is_some_and(|(at, _)| disk.operations >= at)
    }

    pub(super) fn document_names_the_new_image(&self) {
        self.rules.borrow_mut().named = Some(header_of(NEW).manifest.digest().to_string());
        self.apply();
    }

    pub(super) fn document_names_what_runs(&self) {
        self.disk().served = header_of(OLD);
        self.rules.borrow_mut().named = Some(header_of(OLD).manifest.digest().to_string());
        self.apply();
    }

    pub(super) fn document_names_nothing(&self) {
        self.rules.borrow_mut().named = None;
        self.apply();
    }

    pub(super) fn floor(&self, floor: u64) {
        self.rules.borrow_mut().floor = floor;
        self.apply();
    }

    pub(super) fn machines(&self, count: usize) {
        self.rules.borrow_mut().machines = count;
        self.apply();
    }

    pub(super) fn image_key_signed(&self) {
        self.disk().served = signed_by(NEW, 1);
        self.rules.borrow_mut().signing = true;
        self.apply();
    }

    pub(super) fn sent(&self) {
        let mut disk = self.disk();
        disk.staged = Some(disk.served.clone());
    }

    /// Puts the desired machine into the store.
    fn apply(&self) {
        let Accepted { named: image, floor, machines, signing } = self.rules.borrow().clone();
        let identity = Fingerprint::from_sha256(&[7; 32]);
        let image = image.map_or(String::new(), |digest| {
            format!("image digest=\"{digest}\" url=\"http://images.example/new.artefact\"")
        });
        let machine = |number: usize| {
            let name = MachineName::parse(&format!("cp{number}")).expect("because it is a label");
            (name, MachineEntry { identity: identity.clone(), role: MachineRole::ControlPlane })
        };
        let access = AccessTable {
            machines: (1..=machines).map(machine).collect(),
            images: machined_access::ImageRules { keys: signing.then(|| signer(1)).into_iter().collect(), floor },
            ..sample::access()
        };
        let kdl = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"control-plane\"\n {image}\n}}");
        let raw = sample::desired(1, kdl, access);
        self.desired.put(DesiredMachine::ID, DesiredMachine::read(raw).expect("because the documents are good"));
    }

    /// A wish that waits for machined.
    pub(super) fn queue(&self, wish: UpgradeRequest) {
        self.wishes.borrow_mut().push(wish);
    }

    /// Asks, lets the machine work until it rests, and gives the answer.
    pub(super) async fn ask(&self, wish: UpgradeRequest) -> UpgradeAnswer {
        self.queue(wish);
        self.boot(3).await;
        self.answers.borrow_mut().pop().expect("because machined answers")
    }

    /// Starts the machine again and again until it has nothing to do.
    pub(super) async fn run_to_rest(&self) {
        for _ in 0..BOOTS_MAX {
            if self.boot(ROUNDS_MAX).await {
                return;
            }
        }
        panic!("the machine never comes to rest: {:?}", self.disk());
    }

    /// Lets machined work for some rounds of one boot.
    pub(super) async fn run_for_a_while(&self) {
        self.boot(5).await;
    }

    /// One start of the machine, or machined's own on one that runs; whether it rests.
    async fn boot(&self, rounds: usize) -> bool {
        let off = {
            let disk = self.disk();
            disk.restart || disk.dead
        };
        let fresh = self.boots.get() == 0 || off;
        if fresh {
            self.boots.set(self.boots.get() + 1);
            let started = self.disk().start();
            if !started {
                self.disk().restart = true;
                return false;
            }
        }
        let store = Store::new();
        let mut ports = Ports::new(&store, "upgrade");
        let host = Arc::new(FakeHost(Arc::clone(&self.disk)));
        let desired: machined_runtime::Reader<DesiredMachine> = store.reader();
        let (behaviour, number) = {
            let disk = self.disk();
            (disk.behaviour, if disk.roots[index(disk.running)] == Some(root(NEW)) { NEW } else { OLD })
        };
        let sick = number == NEW && behaviour == Behaviour::NeverHealthy;
        let health = move || if sick { Err("gitsync is not healthy".to_owned()) } else { Ok(()) };
        let note = ImageNote {
            version: format!("0.{number}.0"),
            number,
            level: 1,
            profile: "cloud".to_owned(),
            ..ImageNote::default()
        };
        let files = Arc::clone(&host);
        let (mut controller, inbox) =
            UpgradeController::new(&mut ports, host, files, AloneOr::new(desired, Nobody), Box::new(health), note);
        let volumes: Writer<Volume> = store.writer().expect("because nobody else writes it");
        for volume in [STATE, EPHEMERAL] {
            volumes.put(volume, Volume { device: PathBuf::new(), formatted: false });
        }
        store.writer().expect("because nobody else writes it").put(LedgerRead::ID, LedgerRead);
        let now = self.store.reader::<DesiredMachine>().get(DesiredMachine::ID).expect("because apply() put it");
        store.writer().expect("because nobody else writes it").put(DesiredMachine::ID, now);
        let status = store.reader::<UpgradeStatus>();
        let rest = self.rounds(&mut controller, &inbox, rounds, sick).await;
        if let Some(seen) = status.get(UpgradeStatus::ID) {
            *self.seen.borrow_mut() = Some(seen);
        }
        *self.inbox.borrow_mut() = Some(inbox);
        rest
    }

    async fn rounds<C: Controller>(&self, controller: &mut C, inbox: &UpgradeInbox, rounds: usize, sick: bool) -> bool {
        for round in 0..rounds {
            let wishes = std::mem::take(&mut *self.wishes.borrow_mut());
            let asked = async {
                for wish in wishes {
                    let answer = inbox.ask(wish).await.expect("because machined answers");
                    self.answers.borrow_mut().push(answer);
                }
            };
            let ((), done) = tokio::join!(biased; asked, controller.reconcile());
            let off = {
                let disk = self.disk();
                disk.dead || disk.restart
            };
            if off {
                return false;
            }
            match done {
                Ok(Outcome::Done) => return true,
                Ok(Outcome::Again(pause)) => tokio::time::sleep(pause).await,
                Err(error) => panic!("with power, nothing fails: {error}"),
            }
            if sick && round == 10 {
                let mut disk = self.disk();
                disk.restart = disk.end_the_try();
                if disk.restart {
                    return false;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        false
    }
}

/// A control plane that does not answer.
struct Nobody;

impl Permits for Nobody {
    async fn permit(&self, _: Disruption) -> Result<(), PermitRefused> {
        Err(PermitRefused::NoAnswer("connection refused".to_owned()))
    }
}
