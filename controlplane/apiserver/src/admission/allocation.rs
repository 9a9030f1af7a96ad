//! Numbers of which each may be given out once: cluster IPs and node ports.
//!
//! A number is taken by a key of its own, written in the transaction of the Service that takes it on the condition that it does
//! not exist, and deleted with the Service. So two API servers can never give out the same one, and nothing has to be repaired.

use super::Extra;
use crate::failure::Failure;
use crate::random;
use crate::storage::whole;
use bytes::Bytes;
use controlplane_store::{Condition, Consistency, Op, RangeRequest, Store};
use machined_ids::Revision;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Node ports that may be given out, as upstream's default.
pub(super) const NODE_PORTS: std::ops::RangeInclusive<u32> = 30000..=32767;

/// Random tries before looking for the first free number: beyond these the range is nearly full.
const TRIES: usize = 32;

/// A kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    ClusterIp,
    NodePort,
}

impl Pool {
    fn prefix(self) -> &'static str {
        match self {
            Pool::ClusterIp => "/cairn/allocations/clusterips/",
            Pool::NodePort => "/cairn/allocations/nodeports/",
        }
    }

    fn key(self, number: u32) -> Bytes {
        Bytes::from(match self {
            Pool::ClusterIp => format!("{}{}", self.prefix(), Ipv4Addr::from(number)),
            Pool::NodePort => format!("{}{number}", self.prefix()),
        })
    }

    fn parse(self, key: &[u8]) -> Option<u32> {
        let text = std::str::from_utf8(key).ok()?.strip_prefix(self.prefix())?;
        match self {
            Pool::ClusterIp => text.parse::<Ipv4Addr>().ok().map(u32::from),
            Pool::NodePort => text.parse().ok(),
        }
    }
}

/// Takes a number for `owner`, as part of a write.
pub(super) fn take(pool: Pool, number: u32, owner: &str) -> Extra {
    let key = pool.key(number);
    Extra {
        conditions: vec![Condition::Modified(key.clone(), Revision(0))],
        ops: vec![Op::Put(key, Bytes::from(owner.to_owned()))],
    }
}

/// Gives a number back, as part of a write.
pub(super) fn give_back(pool: Pool, number: u32) -> Extra {
    Extra { conditions: vec![], ops: vec![Op::Delete(pool.key(number))] }
}

/// All numbers of a pool that are taken.
pub(super) async fn taken(store: &dyn Store, pool: Pool) -> Result<BTreeSet<u32>, Failure> {
    let (start, end) = whole(pool.prefix());
    let answer = store.range(RangeRequest::new(start, end), Consistency::Linearizable).await?;
    Ok(answer.entries.iter().filter_map(|entry| pool.parse(&entry.key)).collect())
}

/// A free number in `range`, spread randomly so that concurrent writers seldom meet.
pub(super) fn choose(range: std::ops::RangeInclusive<u32>, taken: &BTreeSet<u32>) -> Option<u32> {
    let (first, size) = (*range.start(), range.end().checked_sub(*range.start())?.saturating_add(1));
    let random = (0..TRIES).map(|_| first + u32::from_be_bytes(random::bytes::<4>()) % size);
    let mut candidates = random.chain(range);
    candidates.find(|number| !taken.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_number_is_found_and_then_none() {
        let mut taken: BTreeSet<u32> = (1..=200).filter(|n| *n != 77).collect();
        assert_eq!(choose(1..=200, &taken), Some(77));
        taken.insert(77);
        assert_eq!(choose(1..=200, &taken), None);
    }

    #[test]
    fn keys_can_be_read_back() {
        for (pool, number) in [(Pool::ClusterIp, u32::from(Ipv4Addr::new(10, 96, 0, 1))), (Pool::NodePort, 30080)] {
            assert_eq!(pool.parse(&pool.key(number)), Some(number));
        }
    }
}
