//! A disk, a boot loader and a firmware in memory, with a power switch; and what the images on the disk do when they start.

use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use crate::ledger::{DesiredMachine, LedgerRead, RawDesired};
use crate::upgrade::{
    ImageNote, SingleMachine, Slots, UpgradeAnswer, UpgradeController, UpgradeHost, UpgradeHostError, UpgradeInbox,
    UpgradeRequest, UpgradeStatus,
};
use init_boot::artefact::{ArtefactHeader, ArtefactManifest, IMAGE_NAMESPACE};
use init_boot::{BootRecord, EMPTY_SLOT_GUID, Guid, MetaKind, RootHash, STARTS_MAX, Slot};
use machined_access::{AccessTable, MachineEntry, MachineRole};
use machined_ids::{Fingerprint, Generation, MachineName, Seq, StepId};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Store, Writer};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const CLUSTER: &str = "00112233445566778899aabbccddeeff";
/// The release number of the image that the machine was flashed with.
pub(super) const OLD: u64 = 1;
/// The release number of the image that it is upgraded to.
const NEW: u64 = 2;
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

fn root(number: u64) -> RootHash {
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

/// What survives a power cut, and what is set for a test.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) running: Slot,
    pub(super) default: Slot,
    pub(super) behaviour: Behaviour,
    pub(super) firmware_forgets: bool,
    pub(super) url_fails: bool,
    pub(super) url_serves_what_runs: bool,
    pub(super) artefact_is_damaged: bool,
    pub(super) slot_was_touched: bool,
    pub(super) told_good: bool,
    pub(super) starts_of_the_new_image: u32,
    guids: [Guid; 2],
    roots: [Option<RootHash>; 2],
    entries: [Option<RootHash>; 2],
    copies: BTreeMap<u64, Vec<u8>>,
    one_shot: Option<Slot>,
    staged: Option<ArtefactHeader>,
    served: ArtefactHeader,
    files: BTreeMap<PathBuf, Vec<u8>>,
    restart: bool,
    dead: bool,
    operations: usize,
    cut: Option<(usize, bool)>,
}

const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

impl Disk {
    pub(super) fn boot_record(&self) -> Option<BootRecord> {
        let place = |kind: MetaKind| {
            let mut bytes = self.copies.get(&kind.offset()).cloned().unwrap_or_default();
            bytes.resize(kind.place_bytes(), 0);
            bytes
        };
        BootRecord::newest(&place(MetaKind::BootFirst), &place(MetaKind::BootSecond))
    }

    fn write_record(&mut self, record: &BootRecord, torn: bool) {
        let (kind, mut bytes) = record.encode();
        if torn {
            bytes.truncate(60);
        }
        self.copies.insert(kind.offset(), bytes);
    }

    /// Counts an operation; `Some(torn)` when power is cut in it.
    fn operation(&mut self) -> Option<bool> {
        self.operations += 1;
        match self.cut {
            Some((at, torn)) if at == self.operations => {
                self.dead = true;
                Some(torn)
            }
            Some(_) | None => None,
        }
    }

    /// The firmware and the boot loader: what starts, and whether it gets as far as machined.
    fn start(&mut self) -> bool {
        (self.dead, self.restart, self.told_good) = (false, false, false);
        let asked = self.one_shot.take().filter(|slot| self.entries[index(*slot)].is_some());
        let slot = asked.unwrap_or(self.default);
        let root = self.entries[index(slot)].expect("because a slot without a boot entry must never be the default");
        // Stage one finds its slot by GUID; what lies there must be whole.
        let found = self.guids.iter().position(|guid| *guid == root.partition_guid());
        let found = found.expect("because a boot entry without its root must never be started");
        assert_eq!(self.roots[found], Some(root), "a slot was named before it was whole");
        self.running = slot;
        let mut record = self.boot_record();
        let attempt = record.as_mut().and_then(|record| record.attempt.as_mut()).filter(|attempt| attempt.root == root);
        if let Some(attempt) = attempt {
            if attempt.ended.is_some() || attempt.starts >= STARTS_MAX {
                self.one_shot = Some(slot.other());
                return false;
            }
            attempt.starts += 1;
            let next = record.expect("because it has the attempt").next();
            self.write_record(&next, false);
        }
        if root == self::root(NEW) {
            self.starts_of_the_new_image += 1;
            assert!(
                self.default == slot || self.boot_record().is_some_and(|record| record.attempt.is_some()),
                "an image that nobody proved was started without being counted"
            );
            return self.behaviour != Behaviour::Panics;
        }
        true
    }

    /// PID 1's deadline.
    fn end_the_try(&mut self) -> bool {
        let Some(mut next) = self.boot_record().map(|record| record.next()) else { return false };
        let running = self.roots[index(self.running)];
        match next.attempt.as_mut().filter(|attempt| Some(attempt.root) == running) {
            Some(attempt) => attempt.end("this image is being tried and did not become good in time"),
            None => return false,
        }
        self.write_record(&next, false);
        self.one_shot = Some(self.running.other());
        true
    }
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
    rules: std::cell::RefCell<(Option<(String, u32)>, u64, usize, bool)>,
    seen: std::cell::RefCell<Option<UpgradeStatus>>,
}

struct FakeHost(Arc<Mutex<Disk>>);

fn failed(doing: &str) -> UpgradeHostError {
    UpgradeHostError { doing: doing.to_owned(), source: "it was told to fail".into() }
}

impl FakeHost {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("because no holder panics")
    }

    /// One operation that changes something: nothing, part or all of it is done.
    fn change(&self, part: impl FnOnce(&mut Disk), all: impl FnOnce(&mut Disk)) -> Result<(), UpgradeHostError> {
        let mut disk = self.disk();
        if disk.dead {
            return Err(failed("work without power"));
        }
        match disk.operation() {
            Some(true) => part(&mut disk),
            Some(false) => {}
            None => all(&mut disk),
        }
        if disk.dead { Err(failed("work without power")) } else { Ok(()) }
    }
}

impl UpgradeHost for FakeHost {
    async fn look(&self) -> Result<Slots, UpgradeHostError> {
        let disk = self.disk();
        let running = disk.running;
        Ok(Slots {
            running,
            root: disk.roots[index(running)].expect("because it runs"),
            other: disk.guids[index(running.other())],
            default: Some(disk.default),
            record: disk.boot_record(),
        })
    }

    async fn obtain(&self, _url: &str) -> Result<(), UpgradeHostError> {
        if self.disk().url_fails {
            return Err(failed("fetch"));
        }
        self.change(|_| {}, |disk| disk.staged = Some(disk.served.clone()))
    }

    async fn header(&self) -> Result<Option<ArtefactHeader>, UpgradeHostError> {
        Ok(self.disk().staged.clone())
    }

    async fn verify(&self, _header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        if self.disk().artefact_is_damaged { Err(failed("match the digest")) } else { Ok(()) }
    }

    async fn discard(&self) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.staged = None)
    }

    async fn empty(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        let check = |disk: &mut Disk| {
            assert_ne!(disk.default, slot, "the slot that starts by default must never be emptied");
            assert_ne!(disk.running, slot, "the slot that runs must never be emptied");
            disk.slot_was_touched = true;
            disk.guids[index(slot)] = EMPTY_SLOT_GUID;
        };
        self.change(check, |disk| {
            check(disk);
            disk.entries[index(slot)] = None;
        })
    }

    async fn write(&self, slot: Slot, header: &ArtefactHeader) -> Result<(), UpgradeHostError> {
        let root = header.manifest.root_hash;
        self.change(
            |disk| disk.roots[index(slot)] = None,
            |disk| (disk.roots[index(slot)], disk.entries[index(slot)]) = (Some(root), Some(root)),
        )
    }

    async fn name(&self, slot: Slot, root: &RootHash) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.guids[index(slot)] = root.partition_guid())
    }

    async fn record(&self, record: &BootRecord) -> Result<(), UpgradeHostError> {
        self.change(|disk| disk.write_record(record, true), |disk| disk.write_record(record, false))
    }

    async fn set_default(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.default = slot)
    }

    async fn ask_once(&self, slot: Slot) -> Result<(), UpgradeHostError> {
        self.change(|_| {}, |disk| disk.one_shot = (!disk.firmware_forgets).then_some(slot))
    }

    fn tell_good(&self) {
        self.disk().told_good = true;
    }

    fn restart(&self) {
        self.disk().restart = true;
    }
}

impl FilesHost for FakeHost {
    async fn read(&self, path: &Path, _limit: usize) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.disk().files.get(path).cloned())
    }
    async fn replace(&self, path: &Path, bytes: &[u8], lasting: Lasting) -> Result<(), FileError> {
        assert_eq!(lasting, Lasting::Durable);
        let done = self.change(|_| {}, |disk| drop(disk.files.insert(path.to_owned(), bytes.to_vec())));
        done.map_err(|_| FileError { doing: "write", path: path.to_owned(), source: std::io::ErrorKind::Other.into() })
    }
    async fn set(&self, _: &Path, _: &str) -> Result<bool, FileError> {
        Ok(false)
    }
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
            rules: (None, 0, 1, false).into(),
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
        self.rules.borrow_mut().0 = Some((header_of(NEW).manifest.digest().to_string(), 1));
        self.apply();
    }

    pub(super) fn document_names_what_runs(&self) {
        self.disk().served = header_of(OLD);
        self.rules.borrow_mut().0 = Some((header_of(OLD).manifest.digest().to_string(), 1));
        self.apply();
    }

    pub(super) fn document_names_nothing(&self) {
        self.rules.borrow_mut().0 = None;
        self.apply();
    }

    pub(super) fn floor(&self, floor: u64) {
        self.rules.borrow_mut().1 = floor;
        self.apply();
    }

    pub(super) fn machines(&self, count: usize) {
        self.rules.borrow_mut().2 = count;
        self.apply();
    }

    pub(super) fn image_key_signed(&self) {
        self.disk().served = signed_by(NEW, 1);
        self.rules.borrow_mut().3 = true;
        self.apply();
    }

    pub(super) fn sent(&self) {
        let mut disk = self.disk();
        disk.staged = Some(disk.served.clone());
    }

    /// Puts the desired machine into the store.
    fn apply(&self) {
        let (image, floor, machines, signing) = self.rules.borrow().clone();
        let identity = Fingerprint::from_sha256(&[7; 32]);
        let image = image.map_or(String::new(), |(digest, attempt)| {
            format!("image digest=\"{digest}\" url=\"http://images.example/new.artefact\" attempt={attempt}")
        });
        let machine = |number: usize| {
            let name = MachineName::parse(&format!("cp{number}")).expect("because it is a label");
            (name, MachineEntry { identity: identity.clone(), role: MachineRole::ControlPlane })
        };
        let step = StepId::from_bytes([7; 32]);
        let access = AccessTable {
            cluster: CLUSTER.parse().expect("because it is an id"),
            seq: Seq(1),
            step,
            people: Default::default(),
            roles: Default::default(),
            machines: (1..=machines).map(machine).collect(),
            images: machined_access::ImageRules { keys: signing.then(|| signer(1)).into_iter().collect(), floor },
        };
        let raw = RawDesired {
            generation: Generation(1),
            step,
            commit: "c".repeat(40).parse().expect("because it is an id"),
            seq: Seq(1),
            signer: "ada".parse().expect("because it is a name"),
            machine: "cp1".parse().expect("because it is a name"),
            cluster_kdl: format!(
                "cluster {{\n id \"{CLUSTER}\"\n name \"demo\"\n level 1\n bootstrap \"cp1\"\n endpoint \"10.0.2.15\"\n network {{\n pods \"10.244.0.0/16\"\n services \"10.96.0.0/12\"\n domain \"cluster.local\"\n }}\n}}"
            ),
            machine_kdl: format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"control-plane\"\n {image}\n}}"),
            access,
        };
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
            UpgradeController::new(&mut ports, host, files, SingleMachine::new(desired), Box::new(health), note);
        store
            .writer()
            .expect("because nobody else writes it")
            .put(STATE, Volume { device: PathBuf::new(), formatted: false });
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
                    self.answers.borrow_mut().push(inbox.ask(wish).await.expect("because machined answers"));
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
