//! What the store refuses before it asks anybody. Checked by whoever proposes a transaction, so that every applied one fits.

use crate::{Condition, Op, StoreError, Txn};
use std::collections::BTreeSet;

/// Bytes of a value: Kubernetes' own limit for an object (etcd's default request limit). Larger ones would hold up the log.
pub const VALUE_LIMIT: usize = 1536 * 1024;

/// Bytes of a key: `/registry/`, a group, a resource, a namespace and a name stay far below.
pub const KEY_LIMIT: usize = 4 * 1024;

/// Bytes of all keys and values of a transaction; two full values and change. It must fit one log entry.
pub const TXN_LIMIT: usize = 4 * 1024 * 1024;

/// Operations and conditions of a transaction (etcd's default); more would hold up everybody behind it.
pub const OPS_LIMIT: usize = 128;

/// Revisions waiting for one watcher before it is dropped as too slow: some seconds of a busy cluster, a few MiB at worst usual
/// object sizes.
pub const WATCH_BUFFER_LIMIT: usize = 4096;

/// Leases at once. Kubernetes shares one between the events of a minute.
pub const LEASES_LIMIT: u64 = 10_000;

impl Txn {
    /// Bytes of all its keys and values: what [`TXN_LIMIT`] bounds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Get(key) | Op::Delete(key) => key.len(),
            Op::Put(key, value) | Op::PutLeased(key, value, _) => key.len() + value.len(),
        };
        let conditions = self.conditions.iter().map(|Condition::Modified(key, _)| key.len());
        conditions.chain(self.then.iter().chain(&self.otherwise).map(size)).sum()
    }
}

/// Checks a transaction against the limits, and that it writes no key twice.
///
/// # Errors
/// [`StoreError::TooLarge`] or [`StoreError::Invalid`].
pub fn check(txn: &Txn) -> Result<(), StoreError> {
    for branch in [&txn.then, &txn.otherwise] {
        let mut written = BTreeSet::new();
        for op in branch {
            let (key, value, writes) = match op {
                Op::Get(key) => (key, 0, false),
                Op::Put(key, value) | Op::PutLeased(key, value, _) => (key, value.len(), true),
                Op::Delete(key) => (key, 0, true),
            };
            within("a key", key.len(), KEY_LIMIT)?;
            within("a value", value, VALUE_LIMIT)?;
            if key.is_empty() {
                return Err(StoreError::Invalid { reason: "a key is empty" });
            }
            if writes && !written.insert(key) {
                return Err(StoreError::Invalid { reason: "it writes a key twice" });
            }
        }
    }
    for Condition::Modified(key, _) in &txn.conditions {
        within("a key", key.len(), KEY_LIMIT)?;
    }
    within("the transaction", txn.bytes(), TXN_LIMIT)?;
    if txn.conditions.len() + txn.then.len() + txn.otherwise.len() > OPS_LIMIT {
        return Err(StoreError::Invalid { reason: "it has more than 128 conditions and operations" });
    }
    Ok(())
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: &'static str, size: usize) -> Op {
        Op::Put(Bytes::from_static(key.as_bytes()), Bytes::from(vec![0; size]))
    }

    #[test]
    fn the_largest_value_fits_and_one_more_byte_does_not() {
        let of = |size| Txn { then: vec![put("a", size)], ..Txn::default() };
        assert_eq!(check(&of(VALUE_LIMIT)), Ok(()));
        let error = StoreError::TooLarge { what: "a value", size: VALUE_LIMIT + 1, limit: VALUE_LIMIT };
        assert_eq!(check(&of(VALUE_LIMIT + 1)), Err(error));
    }

    #[test]
    fn a_transaction_is_limited_as_a_whole() {
        let txn =
            Txn { then: vec![put("a", VALUE_LIMIT), put("b", VALUE_LIMIT), put("c", VALUE_LIMIT)], ..Txn::default() };
        assert!(matches!(check(&txn), Err(StoreError::TooLarge { what: "the transaction", .. })));
    }

    #[test]
    fn writing_a_key_twice_is_refused() {
        let txn = Txn { then: vec![put("a", 1), Op::Delete(Bytes::from_static(b"a"))], ..Txn::default() };
        assert_eq!(check(&txn), Err(StoreError::Invalid { reason: "it writes a key twice" }));
        let read_and_write = Txn { then: vec![Op::Get(Bytes::from_static(b"a")), put("a", 1)], ..Txn::default() };
        assert_eq!(check(&read_and_write), Ok(()));
    }
}
