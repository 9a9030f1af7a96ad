//! Keys that real members hand on, and that are replaced when a machine that knew them leaves.

use super::{LONG, Running, name, somebody, three};
use crate::keys::{KEY, hand_out, read};
use crate::{
    Birth, Clock, Exposure, GRACE, KeyRecord, Keyring, Knower, Progress, Roles, SERVICE, Stage, Trust, ask_to_join,
    keep_keys,
};
use controlplane_replica::{LEASES, Replica};
use controlplane_store::{Consistency, RangeRequest, Store};
use jiff::{SignedDuration, Timestamp};
use machined_ids::Digest;
use machined_reconcile::{Restart, Supervisor};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// How far the machines' clocks are ahead.
#[derive(Debug, Clone, Default)]
pub(super) struct TestClock(Arc<Mutex<SignedDuration>>);

impl TestClock {
    fn advance(&self, by: SignedDuration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Arc::new(move || Timestamp::now() + *ahead.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keys in memory: 32 random bytes, and what the machine does with them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    held: Mutex<BTreeMap<Digest, Vec<u8>>>,
    roles: Mutex<Option<Roles<Digest>>>,
}

impl Ring {
    /// The first half is public.
    pub(super) fn digest(secret: &[u8]) -> Digest {
        Digest::from_bytes(secret[..32].try_into().expect("because a secret has 64 bytes"))
    }

    fn roles(&self) -> Option<Roles<Digest>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Keyring for Ring {
    fn held(&self) -> BTreeSet<Digest> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn make(&self) -> io::Result<Digest> {
        let key = machined_access::IdentityKey::generate().expect("because the system has randomness");
        let secret = [&key.public_key()[26..58], &[42; 32]].concat();
        let keys = Ring::digest(&secret);
        self.keep(&keys, &secret)?;
        Ok(keys)
    }

    fn reveal(&self, keys: &Digest) -> Option<Vec<u8>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(keys).cloned()
    }

    fn keep(&self, keys: &Digest, secret: &[u8]) -> io::Result<()> {
        assert_eq!(Ring::digest(secret), *keys);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(*keys, secret.to_vec());
        Ok(())
    }

    fn employ(&self, roles: &Roles<Digest>) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(roles.believed.iter().all(|keys| held.contains_key(keys)), "nothing is used that is not here");
        held.retain(|keys, _| roles.believed.contains(keys));
        *self.roles.lock().unwrap_or_else(PoisonError::into_inner) = Some(roles.clone());
        Ok(())
    }
}

/// The task of one member.
pub(super) fn keep(
    supervisor: &Supervisor,
    replica: &Arc<Replica>,
    trust: &Arc<dyn Trust>,
    ring: &Arc<Ring>,
    clock: &TestClock,
) -> watch::Receiver<Option<Exposure>> {
    let (sender, exposure) = watch::channel(None);
    let (replica, trust, ring, clock) = (Arc::clone(replica), Arc::clone(trust), Arc::clone(ring), clock.clock());
    let sender = Arc::new(sender);
    supervisor.spawn("cluster keys", Restart::Never, move |stop| {
        let ring = Arc::clone(&ring) as Arc<dyn Keyring>;
        keep_keys(Arc::clone(&replica), Arc::clone(&trust), ring, Arc::clone(&clock), Arc::clone(&sender), stop)
    });
    exposure
}

impl Running {
    /// Waits until what this member says of exposed keys is as it should be.
    async fn says(&self, what: &str, holds: impl FnMut(&Exposure) -> bool) -> Exposure {
        let (mut exposure, mut holds) = (self.exposure.clone(), holds);
        let found = exposure.wait_for(|known| known.as_ref().is_some_and(&mut holds));
        let found = tokio::time::timeout(LONG, found).await;
        let found = found.unwrap_or_else(|_| panic!("member {} does not say {what}", self.id));
        found.expect("because its task runs").clone().expect("because it was waited for")
    }

    /// The record, as soon as it is as it should be.
    async fn record(&self, what: &str, mut holds: impl FnMut(&KeyRecord) -> bool) -> KeyRecord {
        let wait = async {
            let from = self.replica.revision();
            let watcher = self.replica.watch(KEY.into(), format!("{KEY}\0").into(), from).await;
            let mut watcher = watcher.expect("because nothing is compacted");
            loop {
                let record = read_record(self).await;
                if let Some(record) = record.filter(&mut holds) {
                    return record;
                }
                watcher.next().await.expect("because the store runs");
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("member {}: no record {what}", self.id))
    }
}

async fn read_record(running: &Running) -> Option<KeyRecord> {
    read(&*running.replica, Consistency::Linearizable).await.expect("because a majority runs").0
}

fn stages(record: &KeyRecord) -> Vec<Stage> {
    record.sets.iter().map(|set| set.stage).collect()
}

/// Who knows a set, by name.
fn knowers(record: &KeyRecord, at: usize) -> BTreeSet<String> {
    record.sets[at].knowers.values().map(|knower| knower.machine.to_string()).collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_given_the_keys_is_on_record_before_and_so_is_who_made_them() {
    let (accepted, members) = three().await;
    let told = |record: &KeyRecord| record.members.len() == 3;
    let record = members[1].record("of three members", told).await;
    assert_eq!(stages(&record), [Stage::Serving]);
    assert_eq!(knowers(&record, 0), names(&["cp1", "cp2", "cp3"]));
    for running in &members {
        running.says("that all is well", |exposure| exposure.leavers.is_empty()).await;
        assert_eq!(running.ring.held(), [record.sets[0].keys].into(), "one set everywhere");
    }
    // One that asked and never became a member knows them as well.
    let asked = somebody(&accepted, SERVICE, "cp4");
    accepted.step(|machines| drop(machines.insert(name("cp4"), asked.identity.fingerprint())));
    let trust = asked as Arc<dyn Trust>;
    let address = std::slice::from_ref(&members[2].address);
    ask_to_join(&trust, address, Birth([4; 16]), "127.0.0.1:1", LEASES).await.expect("because the repository names it");
    let record = read_record(&members[0]).await.expect("because it is there");
    assert_eq!(knowers(&record, 0), names(&["cp1", "cp2", "cp3", "cp4"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_in_the_store() {
    let (_accepted, members) = three().await;
    members[0].record("of three members", |record: &KeyRecord| record.members.len() == 3).await;
    let all = members[0].replica.range(RangeRequest::new("\0", "\u{7f}"), Consistency::Linearizable).await;
    let all = all.expect("because all run");
    let secret = members[0].ring.reveal(&members[0].ring.held().pop_first().expect("because it has one"));
    let secret = secret.expect("because it is here")[32..].to_vec();
    assert!(all.entries.iter().any(|entry| entry.key == KEY));
    for entry in &all.entries {
        assert!(!entry.value.windows(secret.len()).any(|part| part == secret), "{:?}", entry.key);
        assert!(!String::from_utf8_lossy(&entry.value).contains(&hex::encode(&secret)), "{:?}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_left_has_the_keys_replaced_and_is_given_no_new_ones() {
    let (accepted, members) = three().await;
    members[0].record("of three members", |record: &KeyRecord| record.members.len() == 3).await;
    let gone = members.iter().rposition(|running| !running.replica.is_leader()).expect("because one leads");
    let left: Vec<&Running> = (0..3).filter(|at| *at != gone).map(|at| &members[at]).collect();
    let old = members[gone].ring.held();
    accepted.step(|machines| drop(machines.remove(&members[gone].name)));

    let is_grace = |exposure: &Exposure| matches!(exposure.progress, Progress::Grace { .. });
    for running in &left {
        let exposure = running.says("that old keys are believed", is_grace).await;
        assert_eq!(exposure.reason(), "OldKeysBelieved");
        let leavers: Vec<_> = exposure.leavers.iter().map(|leaver| leaver.machine.clone()).collect();
        assert_eq!(leavers, [members[gone].name.clone()]);
    }
    let record = left[0].record("in its grace", |record| matches!(stages(record)[..], [_, Stage::Moved { .. }])).await;
    let [first, second] = [record.sets[0].keys, record.sets[1].keys];
    assert_eq!(old, [first].into());
    for running in &left {
        let roles = running.ring.roles().expect("because they are in use");
        assert_eq!((roles.serving, roles.tokens), (first, second), "tokens are new, certificates are not yet");
        assert_eq!(roles.believed, [first, second].into());
    }
    // Neither asking to join nor asking for the keys gives it the new ones.
    assert_eq!(knowers(&record, 1), left.iter().map(|running| running.name.to_string()).collect());
    let trust = Arc::clone(&members[gone].circle) as Arc<dyn Trust>;
    let again =
        ask_to_join(&trust, std::slice::from_ref(&left[0].address), Birth([9; 16]), "127.0.0.1:1", LEASES).await;
    assert!(again.is_err());
    assert_eq!(members[gone].ring.held(), old);

    accepted.1.advance(GRACE);
    for running in &left {
        running.says("that all is well again", |exposure| exposure.leavers.is_empty()).await;
        let roles = running.ring.roles().expect("because they are in use");
        assert_eq!((roles.serving, roles.tokens, roles.believed), (second, second, [second].into()));
        assert_eq!(running.ring.held(), [second].into(), "the old ones lie nowhere any more");
    }
    let record = read_record(left[1]).await.expect("because it is there");
    assert_eq!(stages(&record), [Stage::Serving]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_not_heard_of_the_step_gives_the_new_keys_to_nobody_who_left_in_it() {
    let (accepted, members) = three().await;
    members[0].record("of three members", |record: &KeyRecord| record.members.len() == 3).await;
    let gone = members.iter().rposition(|running| !running.replica.is_leader()).expect("because one leads");
    let identity = members[gone].circle.identity.fingerprint();
    let before = accepted.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    accepted.step(|machines| drop(machines.remove(&members[gone].name)));
    let left: Vec<&Running> = (0..3).filter(|at| *at != gone).map(|at| &members[at]).collect();
    let record = left[0].record("with new keys", |record| record.sets.len() == 2).await;
    // As a member of the older step would ask the store to note it.
    let knower = Knower { machine: members[gone].name.clone(), seq: before.seq };
    let refused = hand_out(&*left[1].replica, &record.sets[1].keys, &identity, &knower).await;
    let refused = refused.expect_err("because these keys were made because of it").to_string();
    assert!(refused.contains("left the control plane"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_joins_in_the_grace_gets_both_and_nothing_begins_anew() {
    let (accepted, members) = three().await;
    members[0].record("of three members", |record: &KeyRecord| record.members.len() == 3).await;
    let gone = members.iter().rposition(|running| !running.replica.is_leader()).expect("because one leads");
    let left: Vec<&Running> = (0..3).filter(|at| *at != gone).map(|at| &members[at]).collect();
    accepted.step(|machines| drop(machines.remove(&members[gone].name)));
    let is_grace = |exposure: &Exposure| matches!(exposure.progress, Progress::Grace { .. });
    let before = left[0].says("that old keys are believed", is_grace).await;
    let fourth = Running::start(&accepted, "cp4", &left).await;
    let after = fourth.says("that old keys are believed", is_grace).await;
    assert_eq!(after, before, "the grace is the same");
    assert_eq!(fourth.ring.held().len(), 2);
    assert_eq!(fourth.ring.roles(), left[0].ring.roles());
}
