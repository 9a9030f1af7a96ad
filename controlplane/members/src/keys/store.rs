//! Reads and amends the record in the store; every write says what it was made from.

use super::Keyring;
use super::record::{FORMAT, KeyRecord, Knower, Withheld};
use crate::{Trust, records};
use controlplane_replica::Replica;
use controlplane_store::{Condition, Consistency, Op, RangeRequest, Store, StoreError, Txn};
use machined_ids::{Digest, Fingerprint, MachineName, Revision};

/// Where the record is. Kubernetes' objects are under `/registry/`.
pub(crate) const KEY: &str = "/cairn/keys";

/// Tries of one change: others write here only when something changed for them too.
const TRIES: usize = 16;

fn damaged(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable { reason: format!("the store's entry {KEY} cannot be used: {error}"), sent: false }
}

/// The record and the revision at which it was put; zero when there is none.
pub(crate) async fn read(
    store: &dyn Store,
    consistency: Consistency,
) -> Result<(Option<KeyRecord>, Revision), StoreError> {
    let answer = store.range(RangeRequest::key(KEY), consistency).await?;
    let Some(entry) = answer.entries.first() else { return Ok((None, Revision(0))) };
    let record: KeyRecord = serde_json::from_slice(&entry.value).map_err(|error| damaged(&error))?;
    if record.format != FORMAT {
        return Err(damaged(&format!("it has format {}, this release reads {FORMAT}", record.format)));
    }
    Ok((Some(record), entry.modified))
}

/// Changes the record as `change` says, which sees the newest one; gives the one that stands afterwards.
pub(crate) async fn amend<E: From<StoreError>>(
    store: &dyn Store,
    mut change: impl FnMut(Option<&KeyRecord>) -> Result<Option<KeyRecord>, E>,
) -> Result<Option<KeyRecord>, E> {
    for _ in 0..TRIES {
        let (record, stood) = read(store, Consistency::Linearizable).await?;
        let Some(next) = change(record.as_ref())? else { return Ok(record) };
        let value = serde_json::to_vec(&next).map_err(|error| damaged(&error))?;
        let txn = Txn {
            conditions: vec![Condition::Modified(KEY.into(), stood)],
            then: vec![Op::Put(KEY.into(), value.into())],
            otherwise: Vec::new(),
        };
        if store.txn(txn).await?.succeeded {
            return Ok(Some(next));
        }
    }
    Err(StoreError::Unavailable { reason: format!("others kept changing {KEY}"), sent: false }.into())
}

/// Why keys are not handed out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOut {
    #[error("who is given the cluster's keys cannot be written down")]
    Store(#[from] StoreError),
    #[error("this machine has {0} sets of keys, and the store no record of which is the cluster's")]
    Unclear(usize),
    #[error(transparent)]
    Withheld(#[from] Withheld),
}

/// Writes down that a machine is given a set. Only when this returns well may it be given.
pub(crate) async fn hand_out(
    store: &dyn Store,
    keys: &Digest,
    identity: &Fingerprint,
    knower: &Knower,
) -> Result<(), HandOut> {
    let known = amend(store, |record| {
        let next = record.map(|record| record.with_knower(keys, identity, knower)).transpose()?;
        next.ok_or(HandOut::Withheld(Withheld::Unknown))
    });
    known.await.map(drop)
}

/// The first record of a cluster, or of one that is older than records: whoever is a member by the roster knows its keys.
pub(crate) async fn begin(replica: &Replica, trust: &dyn Trust, ring: &dyn Keyring) -> Result<KeyRecord, HandOut> {
    let held = ring.held();
    let [keys] = held.iter().collect::<Vec<_>>()[..] else { return Err(HandOut::Unclear(held.len())) };
    let (roster, own) = (trust.roster(), trust.machine());
    let on_record = records::all(replica).await?;
    let is_member = |name: &MachineName| *name == own || on_record.iter().any(|(_, one)| one.machine == *name);
    let members = roster.machines.iter().filter(|(name, _)| is_member(name));
    let knower = |name: &MachineName| Knower { machine: name.clone(), seq: roster.seq };
    let first = KeyRecord::first(*keys, members.map(|(name, identity)| (identity.clone(), knower(name))).collect());
    let stands = amend(replica, |known| -> Result<_, HandOut> { Ok(known.is_none().then(|| first.clone())) }).await?;
    tracing::info!("who knows the cluster's keys is on record from now on");
    Ok(stands.unwrap_or(first))
}

/// The set that API servers show certificates of: what a machine that joins begins with.
pub(crate) async fn serving(replica: &Replica, trust: &dyn Trust, ring: &dyn Keyring) -> Result<Digest, HandOut> {
    let record = match read(replica, Consistency::Linearizable).await?.0 {
        Some(record) => record,
        None => begin(replica, trust, ring).await?,
    };
    Ok(record.set(record.roles().serving).expect("because a record's roles are its sets").keys)
}
