//! The task that keeps one member's keys as the record says, and on the leader takes the next step.
//!
//! ```text
//! record -> fetch what is missing from other members -> employ -> report what is in effect -> (leader) plan -> step
//! ```
//! Every round begins from the record and from what lies on the disk: a cut anywhere is finished by the next one.

use super::record::{KeyRecord, Knower, Roles, SetNumber};
use super::rotation::{Group, Step, plan};
use super::store::{amend, begin, hand_out, read};
use super::{Exposure, HandOut, Keyring};
use crate::client::connect_lazily;
use crate::wire::{KeysRequest, failure};
use crate::{Roster, Trust};
use controlplane_replica::{Member, MemberId, Members, Replica};
use controlplane_store::{Consistency, StoreError};
use jiff::Timestamp;
use machined_ids::{Digest, Fingerprint, MachineName, Seq};
use machined_reconcile::{Stop, story};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a member looks. A step of the rotation takes about this long.
const PERIOD: Duration = Duration::from_secs(1);

/// How long one member may take to give its keys: it writes down first to whom.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// The machine's clock, by which the grace is measured.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A round was not finished.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("the record of the cluster's keys cannot be read or written")]
    Store(#[from] StoreError),
    #[error("{doing} failed")]
    Folder {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no member gives the keys of set {set}")]
    Nobody {
        set: SetNumber,
        #[source]
        source: Option<io::Error>,
    },
    #[error(transparent)]
    HandOut(#[from] HandOut),
}

/// Keeps this member's keys until the process stops, and says in `exposure` who knows keys that should not. The first value is sent when
/// the keys are in use: before that, nothing may be served with them.
///
/// # Errors
/// None; what fails is tried again.
pub async fn keep_keys(
    replica: Arc<Replica>,
    trust: Arc<dyn Trust>,
    ring: Arc<dyn Keyring>,
    clock: Clock,
    exposure: Arc<watch::Sender<Option<Exposure>>>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    let mut keeper = Keeper { replica, trust, ring, clock, employed: None };
    let mut period = tokio::time::interval(PERIOD);
    let mut said = String::new();
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = stop.requested() => return Ok(()),
        }
        match keeper.round().await {
            Ok(found) => {
                said.clear();
                exposure.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&found);
                    *known = Some(found);
                    changed
                });
            }
            Err(error) => {
                let text = story(&error);
                if text != said {
                    tracing::warn!(error = text, "the cluster's keys stay as they are for now");
                    said = text;
                }
            }
        }
    }
}

struct Keeper {
    replica: Arc<Replica>,
    trust: Arc<dyn Trust>,
    ring: Arc<dyn Keyring>,
    clock: Clock,
    /// What is in effect here.
    employed: Option<Roles<Digest>>,
}

impl Keeper {
    async fn round(&mut self) -> Result<Exposure, KeysError> {
        let leads = self.replica.is_leader();
        // A follower's own copy only lags; what is decided is decided from the newest.
        let fresh = leads || self.employed.is_none();
        let consistency = if fresh { Consistency::Linearizable } else { Consistency::Local };
        let record = match read(&*self.replica, consistency).await?.0 {
            Some(record) => record,
            None => begin(&self.replica, &*self.trust, &*self.ring).await?,
        };
        let record = self.take_in(record).await?;
        let (members, roster) = (self.replica.members(), self.trust.roster());
        let record = if leads { self.step(record, &members, &roster).await? } else { record };
        Ok(Exposure::of(&record, &everybody(&members), &roster))
    }

    /// Brings this member to what the record says, and says so there.
    async fn take_in(&mut self, record: KeyRecord) -> Result<KeyRecord, KeysError> {
        let wanted = record.roles();
        let mut held = self.ring.held();
        for set in wanted.believed.iter().filter_map(|number| record.set(*number)) {
            if !held.contains(&set.keys) {
                self.fetch(set.number, set.keys).await?;
                held.insert(set.keys);
            }
        }
        let keys = |number: SetNumber| record.set(number).expect("because a record's roles are its sets").keys;
        let roles = Roles {
            serving: keys(wanted.serving),
            tokens: keys(wanted.tokens),
            believed: wanted.believed.iter().copied().map(keys).collect(),
        };
        if self.employed.as_ref() != Some(&roles) {
            let (ring, employed) = (Arc::clone(&self.ring), roles.clone());
            blocking("using the cluster's keys", move || ring.employ(&employed)).await?;
            tracing::info!(serving = wanted.serving.0, tokens = wanted.tokens.0, "the cluster's keys are in use");
            self.employed = Some(roles);
        }
        self.report(record, &wanted).await
    }

    async fn report(&self, record: KeyRecord, wanted: &Roles<SetNumber>) -> Result<KeyRecord, KeysError> {
        let mut record = record;
        // Whoever has them says so too: one that a release without records let in is on record like this.
        if let Some((identity, knower)) = self.own() {
            for keys in record.sets.iter().filter(|set| set.is_believed()).map(|set| set.keys).collect::<Vec<_>>() {
                if matches!(record.with_knower(&keys, &identity, &knower), Ok(Some(_)))
                    && !known(&record, &keys, &identity)
                {
                    hand_out(&*self.replica, &keys, &identity, &knower).await?;
                }
            }
        }
        let own = *self.replica.raft().node_id();
        if record.with_report(own, wanted).is_some() {
            let told = amend(&*self.replica, |known: Option<&KeyRecord>| -> Result<_, KeysError> {
                Ok(known.and_then(|known| known.with_report(own, wanted)))
            });
            record = told.await?.unwrap_or(record);
        }
        Ok(record)
    }

    /// This machine as the record names it, while the roster has it.
    fn own(&self) -> Option<(Fingerprint, Knower)> {
        let (roster, machine) = (self.trust.roster(), self.trust.machine());
        let identity = roster.machines.get(&machine)?.clone();
        Some((identity, Knower { machine, seq: roster.seq }))
    }

    /// Gets a set from whichever member has it.
    async fn fetch(&self, set: SetNumber, keys: Digest) -> Result<(), KeysError> {
        let own = *self.replica.raft().node_id();
        let mut last = None;
        for (id, member) in everybody(&self.replica.members()) {
            if id == own {
                continue;
            }
            match self.ask(&member, keys).await {
                Ok(secret) => {
                    let ring = Arc::clone(&self.ring);
                    blocking("keeping keys", move || ring.keep(&keys, &secret)).await?;
                    tracing::info!(set = set.0, from = member.machine, "got a set of the cluster's keys");
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        Err(KeysError::Nobody { set, source: last })
    }

    async fn ask(&self, member: &Member, keys: Digest) -> io::Result<Vec<u8>> {
        let machine = member.machine.clone();
        let pinned = move |roster: &Roster, identity: &Fingerprint| {
            MachineName::parse(&machine).is_ok_and(|name| roster.machines.get(&name) == Some(identity))
        };
        let mut client = connect_lazily(Arc::clone(&self.trust), member.address.clone(), pinned);
        let asked = client.keys(KeysRequest { keys: keys.as_bytes().to_vec() });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{} did not answer in time", member.machine));
        let reply = tokio::time::timeout(ASK_LIMIT, asked).await.map_err(late)?.map_err(failure)?;
        Ok(reply.into_inner().secret)
    }

    /// The leader's next step.
    async fn step(&self, record: KeyRecord, members: &Members, roster: &Roster) -> Result<KeyRecord, KeysError> {
        let group = Group { members: everybody(members).into_keys().collect(), settled: settled(members, roster) };
        let now = (self.clock)();
        let step = plan(&record, &group, roster, now);
        match &step {
            Step::Nothing => return Ok(record),
            Step::Make(barred) => return self.make(record, barred).await,
            Step::Trust(_) | Step::Begin(_) | Step::Serve(_) | Step::Retire(_) | Step::Forget(_) => {}
        }
        let stepped = amend(&*self.replica, |newest: Option<&KeyRecord>| -> Result<_, KeysError> {
            // Planned anew: what it was planned from may have changed.
            let newest = newest.filter(|newest| plan(newest, &group, roster, now) == step);
            Ok(newest.and_then(|newest| newest.after(&step, &group.members, now)))
        });
        let stepped = stepped.await?.unwrap_or(record);
        tracing::info!(?step, "the replacement of the cluster's keys went on");
        Ok(stepped)
    }

    async fn make(&self, record: KeyRecord, barred: &BTreeMap<Fingerprint, Seq>) -> Result<KeyRecord, KeysError> {
        let Some(own) = self.own() else { return Ok(record) };
        let ring = Arc::clone(&self.ring);
        let keys = blocking("making keys", move || ring.make()).await?;
        let newest = record.newest().map(|set| set.number);
        let made = amend(&*self.replica, |known: Option<&KeyRecord>| -> Result<_, KeysError> {
            let known = known.filter(|known| known.newest().map(|set| set.number) == newest);
            Ok(known.and_then(|known| known.with_set(keys, barred.clone(), own.clone())))
        });
        let made = made.await?.unwrap_or(record);
        let left: Vec<&str> = barred.keys().map(Fingerprint::as_str).collect();
        tracing::warn!(left = left.join(", "), "a machine that knew the cluster's keys left: new ones are made");
        Ok(made)
    }
}

fn known(record: &KeyRecord, keys: &Digest, identity: &Fingerprint) -> bool {
    record.sets.iter().any(|set| set.keys == *keys && set.knowers.contains_key(identity))
}

fn everybody(members: &Members) -> BTreeMap<MemberId, Member> {
    members.voters.iter().chain(&members.learners).map(|(id, member)| (*id, member.clone())).collect()
}

/// Whether no member has to go, and none is on its way.
fn settled(members: &Members, roster: &Roster) -> bool {
    let names: BTreeSet<&str> = roster.machines.keys().map(MachineName::as_str).collect();
    !members.changing && everybody(members).values().all(|member| names.contains(member.machine.as_str()))
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, KeysError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| KeysError::Folder { doing, source })
}
