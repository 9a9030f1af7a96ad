//! What the store remembers of its own members: a number for each birth of a data directory, the machine and where it is.
//!
//! Ordinary entries under a prefix of their own, written by ordinary transactions: they are ordered, replicated and carried in
//! snapshots like everything else.

use controlplane_replica::MemberId;
use controlplane_store::{Condition, Consistency, Op, OpAnswer, RangeRequest, Store, StoreError, Txn, prefix_end};
use machined_ids::{MachineName, Revision, Seq};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where the records are. Kubernetes' objects are under `/registry/`.
const PREFIX: &str = "/cairn/members/";

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

fn damaged(key: &str, error: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable { reason: format!("the store's entry {key} cannot be read: {error}"), sent: false }
}

fn parse<T: for<'de> Deserialize<'de>>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| damaged(key, &error))
}

fn text<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| damaged(key, &error))
}

/// Puts a member on record, and gives the number of its birth: the one that it has, or the next that nobody had, from 1.
///
/// The member that makes a new group does so before it hears any other, and so is number 1.
///
/// # Errors
/// What the store says.
pub async fn announce(
    store: &dyn Store,
    birth: Birth,
    machine: &MachineName,
    address: &str,
    seq: Seq,
) -> Result<MemberId, StoreError> {
    let (own, newest) = (key(birth), NEWEST.to_owned());
    loop {
        let (known, stood) = read::<Record>(store, &own).await?;
        let (given, last) = read::<MemberId>(store, &newest).await?;
        let id = known.as_ref().map_or_else(|| given.unwrap_or(0) + 1, |record| record.id);
        let record = Record { id, machine: machine.clone(), address: address.to_owned(), seq };
        if known.as_ref().is_some_and(|known| Record { seq, ..known.clone() } == record) {
            return Ok(id);
        }
        let mut then = vec![Op::Put(own.clone().into(), text(&own, &record)?.into())];
        let mut conditions = vec![Condition::Modified(own.clone().into(), stood)];
        if known.is_none() {
            then.push(Op::Put(newest.clone().into(), text(&newest, &id)?.into()));
            conditions.push(Condition::Modified(newest.clone().into(), last));
        }
        if store.txn(Txn { conditions, then, otherwise: Vec::new() }).await?.succeeded {
            tracing::info!(%machine, id, address, "a member is on record");
            return Ok(id);
        }
    }
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
    let then = vec![Op::Delete(key(birth).into())];
    let answer = store.txn(Txn { then, ..Txn::default() }).await?;
    debug_assert!(matches!(answer.ops.first(), Some(OpAnswer::Deleted(_))));
    Ok(())
}
