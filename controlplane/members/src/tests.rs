//! Real members on loopback: real TLS, real files, real elections.

mod keys;
mod releases;

use crate::{
    Announcement, Birth, Departures, Dialler, Exposure, Joined, Keyring, Roster, SERVICE, Trust, announce, ask_to_join,
    keep_membership, serve,
};
use controlplane_replica::{Folder, LEASES, Member, MemberId, OpenError, Options, Peers, Replica};
use controlplane_store::{Consistency, Op, RangeRequest, Store, StoreError, Txn};
use jiff::Timestamp;
use keys::{Ring, TestClock};
use machined_access::tls::MACHINE_NAME;
use machined_access::{IdentityKey, Leaf, LeafKey};
use machined_ids::{ClusterLevel, Fingerprint, MachineName, Revision, Seq};
use machined_reconcile::{Restart, Stop, Supervisor};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Far longer than anything here takes, on a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(60);

/// The step that all machines have accepted, the time, and whether the disruption gate lets anybody leave.
#[derive(Clone)]
struct Accepted(Arc<Mutex<Roster>>, TestClock, watch::Sender<bool>);

impl Accepted {
    fn new() -> Self {
        let roster = Roster { seq: Seq(1), machines: BTreeMap::new() };
        Accepted(Arc::new(Mutex::new(roster)), TestClock::default(), watch::Sender::new(true))
    }

    /// Gives the turn to whoever is to leave, while the gate is open.
    async fn gate(self, departures: Arc<Departures>, mut stop: Stop) -> Result<(), Infallible> {
        let (mut wanted, mut open) = (departures.wanted(), self.2.subscribe());
        loop {
            let leaver = wanted.borrow_and_update().clone().filter(|_| *open.borrow_and_update());
            if let Some(machine) = leaver {
                departures.permit(&machine);
            }
            tokio::select! {
                _ = wanted.changed() => {}
                _ = open.changed() => {}
                () = stop.requested() => return Ok(()),
            }
        }
    }

    fn step(&self, change: impl FnOnce(&mut BTreeMap<MachineName, Fingerprint>)) {
        let mut roster = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roster.seq = Seq(roster.seq.0 + 1);
        change(&mut roster.machines);
    }
}

struct Circle {
    accepted: Accepted,
    identity: IdentityKey,
    service: &'static str,
    machine: MachineName,
    /// What the repository allows.
    allowed: ClusterLevel,
}

impl Trust for Circle {
    fn roster(&self) -> Roster {
        self.accepted.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn allowed_level(&self) -> ClusterLevel {
        self.allowed
    }

    fn leaf(&self) -> Leaf {
        let key = LeafKey::generate().expect("because the system has randomness");
        let names = [MACHINE_NAME.to_owned()];
        let chain = self.identity.issue_leaf(&key.spki(), self.service, &names, Timestamp::now());
        key.with_chain(chain.expect("because the names are good"))
    }

    fn machine(&self) -> MachineName {
        self.machine.clone()
    }
}

fn name(text: &str) -> MachineName {
    MachineName::parse(text).expect("because it is a label")
}

/// A machine with an identity of its own; nobody knows it yet.
fn stranger(accepted: &Accepted, service: &'static str) -> Arc<Circle> {
    somebody(accepted, service, "nobody")
}

fn somebody(accepted: &Accepted, service: &'static str, machine: &str) -> Arc<Circle> {
    let identity = IdentityKey::generate().expect("because the system has randomness");
    Arc::new(Circle { accepted: accepted.clone(), identity, service, machine: name(machine), allowed: LEASES })
}

/// What of a member stays when its process ends.
struct Body {
    name: MachineName,
    id: MemberId,
    birth: Birth,
    address: String,
    circle: Arc<Circle>,
    ring: Arc<Ring>,
    folder: TempDir,
}

impl Body {
    async fn run(self, socket: TcpListener, accepted: &Accepted, speaks: ClusterLevel) -> Result<Running, OpenError> {
        let Body { name, id, birth, address, circle, ring, folder } = self;
        let trust = Arc::clone(&circle) as Arc<dyn Trust>;
        let options = Options {
            files: Arc::new(Folder::create(folder.path()).expect("because the folder is there")),
            id,
            member: Member { machine: name.to_string(), address: address.clone() },
            bootstrap: id == crate::FIRST,
            peers: Dialler::new(Arc::clone(&trust)) as Arc<dyn Peers>,
            speaks,
        };
        let replica = Replica::open(options).await?;
        let supervisor = Supervisor::new();
        let (socket, served, believed) = (Arc::new(socket), Arc::clone(&replica), Arc::clone(&trust));
        let revealed = Arc::clone(&ring);
        supervisor.spawn("store peers", Restart::Never, move |stop| {
            let ring = Arc::clone(&revealed) as Arc<dyn Keyring>;
            serve(Arc::clone(&socket), Arc::clone(&served), Arc::clone(&believed), ring, stop)
        });
        let exposure = keys::keep(&supervisor, &replica, &trust, &ring, &accepted.1);
        let (keeping, departures) = (Arc::clone(&replica), Arc::new(Departures::default()));
        let (gate, leaving) = (accepted.clone(), Arc::clone(&departures));
        supervisor.spawn("gate", Restart::Never, move |stop| gate.clone().gate(Arc::clone(&leaving), stop));
        let leaving = Arc::clone(&departures);
        supervisor.spawn("store membership", Restart::Never, move |stop| {
            keep_membership(Arc::clone(&keeping), Arc::clone(&trust), Arc::clone(&leaving), stop)
        });
        Ok(Running { name, id, birth, address, replica, supervisor, circle, ring, exposure, departures, folder })
    }
}

/// A machine that runs a member.
struct Running {
    name: MachineName,
    id: MemberId,
    birth: Birth,
    address: String,
    replica: Arc<Replica>,
    supervisor: Supervisor,
    circle: Arc<Circle>,
    ring: Arc<Ring>,
    exposure: watch::Receiver<Option<Exposure>>,
    departures: Arc<Departures>,
    folder: TempDir,
}

impl Running {
    /// Brings a machine of the repository: the first makes the store, others are taken in by `others`.
    async fn start(accepted: &Accepted, text: &str, others: &[&Running]) -> Running {
        Running::start_as(accepted, text, others, LEASES).await
    }

    /// The same with a release that speaks up to `speaks`.
    async fn start_as(accepted: &Accepted, text: &str, others: &[&Running], speaks: ClusterLevel) -> Running {
        let circle = somebody(accepted, SERVICE, text);
        accepted.step(|machines| drop(machines.insert(name(text), circle.identity.fingerprint())));
        let trust = Arc::clone(&circle) as Arc<dyn Trust>;
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("because a port is free");
        let address = socket.local_addr().expect("because it listens").to_string();
        let birth = Birth(circle.identity.public_key()[..16].try_into().expect("because a key is longer"));
        // All keys begin with the same bytes: what they are a key of.
        let birth = Birth(std::array::from_fn(|at| birth.0[at] ^ text.as_bytes()[at % text.len()]));
        let ring = Arc::new(Ring::default());
        let id = match others {
            [] => {
                ring.make().expect("because it is in memory");
                crate::FIRST
            }
            _ => {
                let addresses: Vec<String> = others.iter().map(|other| other.address.clone()).collect();
                let joined = ask_to_join(&trust, &addresses, birth, &address, speaks).await;
                let Joined { id, welcome } = joined.expect("because the repository names the machine");
                ring.keep(&Ring::digest(&welcome), &welcome).expect("because it is in memory");
                id
            }
        };
        let folder = TempDir::new().expect("because the system has a temporary folder");
        let body = Body { name: name(text), id, birth, address, circle, ring, folder };
        let running = body.run(socket, accepted, speaks).await.expect("because the folder is new");
        if others.is_empty() {
            assert_eq!(running.announce().await, crate::FIRST);
        }
        running
    }

    /// Says what its release speaks, as the daemon does once it is led.
    async fn announce(&self) -> MemberId {
        let from = Announcement {
            birth: self.birth,
            machine: self.name.clone(),
            address: self.address.clone(),
            seq: Seq(1),
            speaks: self.replica.speaks(),
            settled: true,
        };
        announce(&*self.replica, &from).await.expect("because a majority runs and it is not too old")
    }

    /// Ends the process and begins one of another release on the same disk.
    async fn again_as(self, accepted: &Accepted, speaks: ClusterLevel) -> Result<Running, OpenError> {
        self.stop().await;
        let Running { name, id, birth, address, replica, supervisor, circle, ring, folder, .. } = self;
        drop((replica, supervisor));
        let socket = TcpListener::bind(&address).await.expect("because nobody has the port any more");
        Body { name, id, birth, address, circle, ring, folder }.run(socket, accepted, speaks).await
    }

    /// Waits until this member knows exactly these voters.
    async fn sees(&self, voters: &[MemberId]) {
        let voters: BTreeSet<MemberId> = voters.iter().copied().collect();
        let wait = self.replica.raft().wait(Some(LONG));
        let seen = wait.metrics(
            |metrics| {
                metrics.membership_config.membership().voter_ids().collect::<BTreeSet<_>>() == voters
                    && metrics.membership_config == metrics.committed_membership_config
            },
            "the voters are these",
        );
        seen.await.unwrap_or_else(|error| panic!("member {} does not see {voters:?}: {error}", self.id));
    }

    async fn put(&self, key: &str, value: &str) -> Result<Revision, StoreError> {
        let then = vec![Op::Put(key.to_owned().into(), value.to_owned().into())];
        self.replica.txn(Txn { then, ..Txn::default() }).await.map(|answer| answer.revision)
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let answer = self.replica.range(RangeRequest::key(key.to_owned()), Consistency::Linearizable).await?;
        Ok(answer.entries.first().map(|entry| entry.value.to_vec()).unwrap_or_default())
    }

    async fn stop(&self) {
        self.supervisor.stop(Duration::from_secs(1)).await;
        self.replica.close().await.expect("because the disk works");
    }
}

async fn three() -> (Accepted, [Running; 3]) {
    three_as(LEASES).await
}

/// Three members of a release that speaks up to `speaks`.
async fn three_as(speaks: ClusterLevel) -> (Accepted, [Running; 3]) {
    let accepted = Accepted::new();
    let first = Running::start_as(&accepted, "cp1", &[], speaks).await;
    let second = Running::start_as(&accepted, "cp2", &[&first], speaks).await;
    let third = Running::start_as(&accepted, "cp3", &[&first, &second], speaks).await;
    assert_eq!([first.id, second.id, third.id], [1, 2, 3]);
    for running in [&first, &second, &third] {
        running.sees(&[1, 2, 3]).await;
    }
    (accepted, [first, second, third])
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_three_members_takes_writes_and_fresh_reads() {
    let (_accepted, members) = three().await;
    for (number, writer) in members.iter().enumerate() {
        let value = format!("from {}", writer.id);
        writer.put("/a/x", &value).await.expect("because a majority runs");
        let reader = &members[(number + 1) % members.len()];
        assert_eq!(reader.get("/a/x").await, Ok(value.into_bytes()), "read at {} from {}", reader.id, writer.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_go_on_without_the_one_that_led() {
    let (_accepted, members) = three().await;
    let before = members[1].put("/a/x", "1").await.expect("because all run");
    let leader = members.iter().position(|running| running.replica.is_leader()).expect("because somebody leads");
    members[leader].stop().await;
    let left: Vec<&Running> = (0..3).filter(|number| *number != leader).map(|number| &members[number]).collect();
    let led = left[0].replica.raft().wait(Some(LONG));
    let lost = members[leader].id;
    let elected = led.metrics(|metrics| metrics.current_leader.is_some_and(|id| id != lost), "another leads").await;
    elected.expect("because two of three elect one of them");
    let after = left[1].put("/a/x", "2").await.expect("because a majority runs");
    assert_eq!(after, before.next());
    assert_eq!(left[0].get("/a/x").await, Ok(b"2".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_the_whole_state() {
    let accepted = Accepted::new();
    let first = Running::start(&accepted, "cp1", &[]).await;
    for number in 0..20 {
        first.put(&format!("/a/{number:02}"), &"x".repeat(200_000)).await.expect("because it is alone");
    }
    let raft = first.replica.raft();
    raft.trigger().snapshot().await.expect("because it runs");
    let built = raft.wait(Some(LONG)).metrics(|metrics| metrics.snapshot.is_some(), "a snapshot").await;
    let upto = built.expect("because the disk works").snapshot.expect("because it was waited for").index;
    raft.trigger().purge_log(upto).await.expect("because it runs");
    let purged = raft.wait(Some(LONG)).metrics(|metrics| metrics.purged.is_some(), "the log is gone").await;
    purged.expect("because the disk works");

    let second = Running::start(&accepted, "cp2", &[&first]).await;
    second.sees(&[1, 2]).await;
    assert_eq!(second.get("/a/19").await.map(|value| value.len()), Ok(200_000));
    let counted = second.replica.range(RangeRequest::new("/a/", "/a0"), Consistency::Linearizable).await;
    assert_eq!(counted.map(|answer| (answer.count, answer.revision)), Ok((20, first.replica.revision())));
    let left = std::fs::read_dir(second.folder.path()).expect("because it is there").flatten();
    assert!(left.into_iter().all(|file| file.file_name() != "incoming.redb"), "what it came in is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_birth_has_one_number_and_another_birth_another() {
    let accepted = Accepted::new();
    let first = Running::start(&accepted, "cp1", &[]).await;
    let circle = stranger(&accepted, SERVICE);
    accepted.step(|machines| drop(machines.insert(name("cp2"), circle.identity.fingerprint())));
    let trust = circle as Arc<dyn Trust>;
    let mut given = Vec::new();
    for birth in [7, 7, 8] {
        let joined =
            ask_to_join(&trust, std::slice::from_ref(&first.address), Birth([birth; 16]), "127.0.0.1:1", LEASES).await;
        given.push(joined.expect("because the repository names the machine").id);
    }
    assert_eq!(given, [2, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_control_planes_own_service_is_heard() {
    let accepted = Accepted::new();
    let first = Running::start(&accepted, "cp1", &[]).await;
    let address = [first.address.clone()];
    let ask = |circle: Arc<Circle>| {
        let address = address.clone();
        async move { ask_to_join(&(circle as Arc<dyn Trust>), &address, Birth([9; 16]), "127.0.0.1:1", LEASES).await }
    };
    let refusal = |asked: Result<Joined, crate::JoinError>| {
        let error = asked.expect_err("because it is nobody");
        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
    };
    let unknown = stranger(&accepted, SERVICE);
    assert!(refusal(ask(Arc::clone(&unknown)).await).contains("only control-plane machines"));
    accepted.step(|machines| drop(machines.insert(name("cp2"), unknown.identity.fingerprint())));
    assert_eq!(ask(unknown).await.map(|joined| joined.id).ok(), Some(2), "it was the roster that was missing");
    let other = stranger(&accepted, "gitsync");
    accepted.step(|machines| drop(machines.insert(name("cp3"), other.identity.fingerprint())));
    assert!(refusal(ask(other).await).contains("only control-plane machines"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_left_the_repository_is_out_and_not_heard_any_more() {
    let (accepted, members) = three().await;
    members[0].put("/a/x", "1").await.expect("because all run");
    let gone = members.iter().rposition(|running| !running.replica.is_leader()).expect("because one leads");
    let left: Vec<&Running> = (0..3).filter(|number| *number != gone).map(|number| &members[number]).collect();
    accepted.2.send_replace(false);
    accepted.step(|machines| drop(machines.remove(&members[gone].name)));
    let leader = left.iter().find(|running| running.replica.is_leader()).expect("because another one leads");
    let mut wanted = leader.departures.wanted();
    let asked = tokio::time::timeout(LONG, wanted.wait_for(Option::is_some)).await.expect("because it asks");
    assert_eq!(asked.expect("because it runs").as_deref(), Some(members[gone].name.as_str()));
    assert_eq!(leader.replica.members().voters.len(), 3, "it waits for its turn");
    accepted.2.send_replace(true);
    let voters: Vec<MemberId> = left.iter().map(|running| running.id).collect();
    left[0].sees(&voters).await;
    left[1].sees(&voters).await;
    assert!(matches!(members[gone].put("/a/x", "2").await, Err(StoreError::Unavailable { .. })));
    let trust = Arc::clone(&members[gone].circle) as Arc<dyn Trust>;
    let again =
        ask_to_join(&trust, std::slice::from_ref(&left[0].address), Birth([3; 16]), "127.0.0.1:1", LEASES).await;
    assert!(again.is_err());
    assert_eq!(left[0].get("/a/x").await, Ok(b"1".to_vec()));
}
