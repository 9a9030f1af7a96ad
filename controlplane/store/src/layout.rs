//! How the state machine's tables look in bytes. Private to this crate; a change here is a new [`FORMAT`].
//!
//! | table  | key                                       | value                                    |
//! |--------|-------------------------------------------|------------------------------------------|
//! | Meta   | name                                      | 8 bytes, big-endian                      |
//! | Live   | key                                       | [`Live`], postcard; its lease (8 bytes)  |
//! | Change | revision (8 bytes, big-endian), key       | [`Change`], postcard                     |
//! | Past   | key (escaped, ended), revision (8 bytes)  | 1 when it was put, 0 when it was deleted |
//! | Lease  | lease (8 bytes, big-endian)               | [`Tenure`], postcard                     |
//! | Leased | lease (8 bytes, big-endian), key          | nothing                                  |
//!
//! A living key without a lease has no bytes for one: before the first lease, everything is as in format 1.

use crate::LeaseId;
use crate::disk::{Batch, DiskError, Table, View};
use bytes::Bytes;
use machined_ids::Revision;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The layout that this crate writes until somebody wants a lease, so that the release before can go on with it.
pub(crate) const FORMAT: u64 = 1;

/// The layout from the first lease on.
pub(crate) const FORMAT_WITH_LEASES: u64 = 2;

/// Names in [`Table::Meta`].
pub(crate) mod meta {
    /// [`super::FORMAT`] of the one who made the tables.
    pub(crate) const FORMAT: &[u8] = b"format";
    /// The newest revision.
    pub(crate) const REVISION: &[u8] = b"revision";
    /// The oldest revision that may be asked for.
    pub(crate) const COMPACTED: &[u8] = b"compacted";
    /// What compaction made superfluous is removed up to this revision.
    pub(crate) const SWEPT: &[u8] = b"swept";
    /// How many leases there are; not there is none.
    pub(crate) const LEASES: &[u8] = b"leases";
    /// Grants and renewals so far.
    pub(crate) const LEASE_STAMP: &[u8] = b"lease-stamp";
}

/// A living key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: u64,
    /// The lease that it ends with.
    #[serde(skip)]
    pub(crate) lease: Option<LeaseId>,
}

impl Live {
    pub(crate) fn to_bytes(self) -> Result<Vec<u8>, DiskError> {
        let mut bytes = encode(&self)?;
        bytes.extend(self.lease.map(lease_key).into_iter().flatten());
        Ok(bytes)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DiskError> {
        let (live, rest) = postcard::take_from_bytes::<Live>(bytes)
            .map_err(|error| DiskError { doing: "decode what is on", source: Box::new(error) })?;
        match (rest, split_lease_key(rest)) {
            ([], _) => Ok(live),
            (_, Ok((lease, []))) => Ok(Live { lease: Some(lease), ..live }),
            _ => Err(damaged("a living key's lease does not have 8 bytes")),
        }
    }
}

/// What is kept of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tenure {
    pub(crate) seconds: u32,
    pub(crate) stamp: u64,
    pub(crate) ending: bool,
}

/// What happened to a key at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Put {
        created: Revision,
        version: u64,
        /// The put before, if the key lived.
        previous: Option<Revision>,
        value: Bytes,
    },
    Delete {
        /// The put before.
        previous: Revision,
    },
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DiskError> {
    postcard::to_stdvec(value).map_err(|error| DiskError { doing: "encode for", source: Box::new(error) })
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DiskError> {
    postcard::from_bytes(bytes).map_err(|error| DiskError { doing: "decode what is on", source: Box::new(error) })
}

pub(crate) fn damaged(what: &str) -> DiskError {
    DiskError { doing: "make sense of", source: what.into() }
}

pub(crate) fn read_counter(view: &dyn View, name: &[u8]) -> Result<Option<u64>, DiskError> {
    let Some(bytes) = view.get(Table::Meta, name)? else { return Ok(None) };
    let bytes = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| damaged("a counter does not have 8 bytes"))?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

pub(crate) fn write_counter(batch: &mut dyn Batch, name: &[u8], value: u64) -> Result<(), DiskError> {
    batch.put(Table::Meta, name, &value.to_be_bytes())
}

/// Where a change is kept.
pub(crate) fn change_key(revision: Revision, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(8 + key.len());
    place.extend_from_slice(&revision.0.to_be_bytes());
    place.extend_from_slice(key);
    place
}

/// The reverse of [`change_key`].
pub(crate) fn split_change_key(place: &[u8]) -> Result<(Revision, &[u8]), DiskError> {
    let (revision, key) = place.split_first_chunk().ok_or_else(|| damaged("a change without a revision"))?;
    Ok((Revision(u64::from_be_bytes(*revision)), key))
}

/// Where a lease is kept.
pub(crate) const fn lease_key(lease: LeaseId) -> [u8; 8] {
    lease.0.to_be_bytes()
}

/// Where it is kept that a key ends with a lease.
pub(crate) fn leased_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    [&lease_key(lease), key].concat()
}

/// The reverse of [`lease_key`] and [`leased_key`].
pub(crate) fn split_lease_key(place: &[u8]) -> Result<(LeaseId, &[u8]), DiskError> {
    let (lease, key) = place.split_first_chunk().ok_or_else(|| damaged("a lease without its number"))?;
    Ok((LeaseId(u64::from_be_bytes(*lease)), key))
}

/// A key so that keys of any bytes sort as they should with a revision behind them: zero becomes 0 255, the end is 0 1.
pub(crate) fn past_prefix(key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(key.len() + 10);
    for byte in key {
        place.push(*byte);
        if *byte == 0 {
            place.push(255);
        }
    }
    place.extend_from_slice(&[0, 1]);
    place
}

/// Where it is kept that a key changed at a revision.
pub(crate) fn past_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut place = past_prefix(key);
    place.extend_from_slice(&revision.0.to_be_bytes());
    place
}

/// The reverse of [`past_key`].
pub(crate) fn split_past_key(place: &[u8]) -> Result<(Vec<u8>, Revision), DiskError> {
    let wrong = || damaged("a past change without its key or revision");
    let (escaped, revision) = place.split_last_chunk().ok_or_else(wrong)?;
    let escaped = escaped.strip_suffix(&[0, 1]).ok_or_else(wrong)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut after_zero = false;
    for byte in escaped {
        if !after_zero {
            key.push(*byte);
        }
        after_zero = *byte == 0 && !after_zero;
    }
    Ok((key, Revision(u64::from_be_bytes(*revision))))
}

/// The first key after all those that begin with `prefix`; the end of a range over them.
///
/// # Panics
/// When the prefix is empty or of 0xff bytes only: nothing comes after those.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let last = prefix.iter().rposition(|byte| *byte != 255).expect("because a prefix has a byte other than 0xff");
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(254), Just(255), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn past_keys_sort_by_key_then_revision_and_split_again(a in key(), b in key(), at in 0_u64..3, bt in 0_u64..3) {
            let (left, right) = (past_key(&a, Revision(at)), past_key(&b, Revision(bt)));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b).then(at.cmp(&bt)));
            prop_assert_eq!(split_past_key(&left).expect("because it was just made"), (a, Revision(at)));
        }
    }

    #[test]
    fn a_living_key_without_a_lease_is_written_as_before_there_were_leases() {
        let live = Live { created: Revision(1), modified: Revision(2), version: 3, lease: None };
        assert_eq!(live.to_bytes().expect("because it is small"), [1, 2, 3]);
        for lease in [None, Some(LeaseId(0)), Some(LeaseId(u64::MAX))] {
            let live = Live { lease, ..live };
            let bytes = live.to_bytes().expect("because it is small");
            assert_eq!(Live::from_bytes(&bytes).expect("because it was just made"), live);
            assert!(Live::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(prefix_end(b"/a/"), Bytes::from_static(b"/a0"));
        assert_eq!(prefix_end(b"a\xff\xff"), Bytes::from_static(b"b"));
    }
}
