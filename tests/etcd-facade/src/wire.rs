//! etcd's shapes from and to the store's. Pure.

use crate::error::no_key;
use crate::pb;
use bytes::Bytes;
use controlplane_store::{Entry, KEY_LIMIT};
use machined_ids::Revision;
use tonic::Status;

/// The one member and its cluster; clients show them and need them only to stay the same.
pub(crate) const MEMBER: u64 = 1;
const CLUSTER: u64 = 0x0ca1_2000;

pub(crate) fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: CLUSTER, member_id: MEMBER, revision: number(revision.0), raft_term: 1 })
}

/// A revision or a count as etcd has it.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A revision that a client names; below zero is none.
pub(crate) fn revision(number: i64) -> Option<Revision> {
    u64::try_from(number).ok().filter(|number| *number > 0).map(Revision)
}

pub(crate) fn key_value(entry: Entry) -> pb::KeyValue {
    pb::KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: number(entry.created.0),
        mod_revision: number(entry.modified.0),
        version: number(entry.version),
        lease: 0,
    }
}

/// The range of keys that a request names: one key, all from a key on (its end is one zero byte), or up to an end.
pub(crate) fn keys(key: Bytes, end: Bytes) -> Result<(Bytes, Bytes), Status> {
    if key.is_empty() {
        return Err(no_key());
    }
    let end = match end.as_ref() {
        b"" => [&key[..], &[0]].concat().into(),
        // Above every key that the store takes.
        b"\0" => vec![0xff; KEY_LIMIT + 1].into(),
        _ => end,
    };
    Ok((key, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(key: &'static [u8], end: &'static [u8]) -> Option<(Bytes, Bytes)> {
        keys(Bytes::from_static(key), Bytes::from_static(end)).ok()
    }

    #[test]
    fn a_range_is_one_key_or_up_to_an_end_or_all_from_a_key_on() {
        let bytes = |text: &'static [u8]| Bytes::from_static(text);
        assert_eq!(named(b"a", b""), Some((bytes(b"a"), bytes(b"a\0"))));
        assert_eq!(named(b"a", b"c"), Some((bytes(b"a"), bytes(b"c"))));
        let (start, end) = named(b"\0", b"\0").expect("because it is all keys");
        assert!(start.as_ref() == b"\0" && end > vec![0xff; KEY_LIMIT], "no key lies beyond");
        assert_eq!(named(b"", b"c"), None, "etcd wants a key");
    }
}
