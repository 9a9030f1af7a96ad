//! What the store remembers of its own members: a number for each birth of a data directory, the machine and where it is.
//!
//! Ordinary entries under a prefix of their own, written by ordinary transactions: they are ordered, replicated and carried in
//! snapshots like everything else.

use controlplane_replica::{LEVEL_KEY, MemberId, TooOld};
use controlplane_store::{Condition, Consistency, Op, OpAnswer, RangeRequest, Store, StoreError, Txn, prefix_end};
use machined_ids::{ClusterLevel, MachineName, Revision, Seq};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Where the records are. Kubernetes' objects are under `/registry/`.
const PREFIX: &str = "/cairn/members/";

/// Where members say which level their release speaks. Apart from the records, so that these look the same to every release.
const SPEAKS: &str = "/cairn/speaks/";

/// The newest number that was given.
const NEWEST: &str = "/cairn/newest-member";

/// The birth of a data directory: random, drawn when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Birth(pub [u8; 16]);

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A member, as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number.
    pub id: MemberId,
    /// The machine that it runs on.
    pub machine: MachineName,
    /// Address and port where its peers reach it.
    pub address: String,
    /// The accepted step that named the machine when it came.
    pub seq: Seq,
}

fn key(birth: Birth) -> String {
    format!("{PREFIX}{birth}")
}

fn speaks_key(birth: Birth) -> String {
    format!("{SPEAKS}{birth}")
}

fn damaged(key: &str, error: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable { reason: format!("the store's entry {key} cannot be read: {error}"), sent: false }
}

fn parse<T: for<'de> Deserialize<'de>>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| damaged(key, &error))
}

fn text<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| damaged(key, &error))
}

/// What a machine says of its member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The birth of its data directory.
    pub birth: Birth,
    /// The machine.
    pub machine: MachineName,
    /// Address and port where its peers reach it.
    pub address: String,
    /// The accepted step.
    pub seq: Seq,
    /// The newest level that its release speaks.
    pub speaks: ClusterLevel,
    /// Whether that release stays. One on trial may give way to the one before at any moment, so it is believed no more than that was.
    pub settled: bool,
}

/// Why a member was not put on record.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its release is older than what the cluster speaks.
    #[error(transparent)]
    TooOld(#[from] TooOld),
}

/// Puts a member on record with what it speaks, and gives the number of its birth: the one that it has, or the next that nobody had, from 1.
///
/// The member that makes a new group does so before it hears any other, and so is number 1.
///
/// # Errors
/// [`AnnounceError`].
pub async fn announce(store: &dyn Store, from: &Announcement) -> Result<MemberId, AnnounceError> {
    let (own, newest, said) = (key(from.birth), NEWEST.to_owned(), speaks_key(from.birth));
    loop {
        let (level, raised) = read::<ClusterLevel>(store, LEVEL_KEY).await?;
        let level = level.unwrap_or(ClusterLevel::FIRST);
        if from.speaks < level {
            return Err(TooOld { level, speaks: from.speaks }.into());
        }
        let (known, stood) = read::<Record>(store, &own).await?;
        let (given, last) = read::<MemberId>(store, &newest).await?;
        let (spoke, spoken_at) = read::<ClusterLevel>(store, &said).await?;
        let id = known.as_ref().map_or_else(|| given.unwrap_or(0) + 1, |record| record.id);
        let record = Record { id, machine: from.machine.clone(), address: from.address.clone(), seq: from.seq };
        let speaks = if from.settled { from.speaks } else { from.speaks.min(spoke.unwrap_or(ClusterLevel::FIRST)) };
        let stands = known.as_ref().is_some_and(|known| Record { seq: from.seq, ..known.clone() } == record);
        if stands && spoke == Some(speaks) {
            return Ok(id);
        }
        let mut then = vec![Op::Put(said.clone().into(), text(&said, &speaks)?.into())];
        // Whoever raises the level meanwhile has not heard of this one.
        let mut conditions = vec![
            Condition::Modified(LEVEL_KEY.into(), raised),
            Condition::Modified(own.clone().into(), stood),
            Condition::Modified(said.clone().into(), spoken_at),
        ];
        if !stands {
            then.push(Op::Put(own.clone().into(), text(&own, &record)?.into()));
        }
        if known.is_none() {
            then.push(Op::Put(newest.clone().into(), text(&newest, &id)?.into()));
            conditions.push(Condition::Modified(newest.clone().into(), last));
        }
        if store.txn(Txn { conditions, then, otherwise: Vec::new() }).await?.succeeded {
            let Announcement { machine, address, .. } = from;
            tracing::info!(%machine, id, address, %speaks, "a member is on record");
            return Ok(id);
        }
    }
}

/// What each birth on record said that it speaks, with the condition that it still says so.
pub(crate) async fn spoken(
    store: &dyn Store,
    records: &[(Birth, Record)],
) -> Result<(BTreeMap<Birth, ClusterLevel>, Vec<Condition>), StoreError> {
    let (mut levels, mut conditions) = (BTreeMap::new(), Vec::new());
    for (birth, _) in records {
        let key = speaks_key(*birth);
        let (level, at) = read::<ClusterLevel>(store, &key).await?;
        levels.insert(*birth, level.unwrap_or(ClusterLevel::FIRST));
        conditions.push(Condition::Modified(key.into(), at));
    }
    // The next birth changes this one.
    let (_, newest) = read::<MemberId>(store, NEWEST).await?;
    conditions.push(Condition::Modified(NEWEST.into(), newest));
    Ok((levels, conditions))
}

/// An entry and the revision at which it was put; zero when there is none.
async fn read<T: for<'de> Deserialize<'de>>(store: &dyn Store, key: &str) -> Result<(Option<T>, Revision), StoreError> {
    let answer = store.range(RangeRequest::key(key.to_owned()), Consistency::Linearizable).await?;
    match answer.entries.first() {
        None => Ok((None, Revision(0))),
        Some(entry) => Ok((Some(parse(key, &entry.value)?), entry.modified)),
    }
}

/// Every record.
pub(crate) async fn all(store: &dyn Store) -> Result<Vec<(Birth, Record)>, StoreError> {
    let request = RangeRequest::new(PREFIX, prefix_end(PREFIX.as_bytes()));
    let answer = store.range(request, Consistency::Linearizable).await?;
    let read = |entry: &controlplane_store::Entry| {
        let name = String::from_utf8_lossy(&entry.key).into_owned();
        let mut birth = [0; 16];
        hex::decode_to_slice(name.trim_start_matches(PREFIX), &mut birth).map_err(|error| damaged(&name, &error))?;
        Ok((Birth(birth), parse(&name, &entry.value)?))
    };
    answer.entries.iter().map(read).collect()
}

/// Forgets a birth whose member is gone for good. Its number is not given again.
pub(crate) async fn forget(store: &dyn Store, birth: Birth) -> Result<(), StoreError> {
    let then = vec![Op::Delete(key(birth).into()), Op::Delete(speaks_key(birth).into())];
    let answer = store.txn(Txn { then, ..Txn::default() }).await?;
    debug_assert!(matches!(answer.ops.first(), Some(OpAnswer::Deleted(_))));
    Ok(())
}
