//! Leases: keys that end together. Without history and without a clock: whoever has one (the leader) renews and revokes.

use super::apply::delete;
use super::position;
use crate::disk::{Batch, DiskError, Table, View};
use crate::layout::{
    FORMAT_WITH_LEASES, Tenure, decode, encode, lease_key, leased_key, meta, read_counter, split_lease_key,
    write_counter,
};
use crate::limits::{KEY_LIMIT, LEASES_LIMIT};
use crate::{EventBatch, Lease, LeaseId, LeaseProblem};
use bytes::Bytes;
use std::ops::ControlFlow;

/// What a revocation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// For the watchers, when keys were deleted.
    pub events: Option<EventBatch>,
    /// Keys are left; revoke it again.
    pub more: bool,
}

/// Makes a lease that lives for `seconds` without a renewal.
///
/// # Errors
/// [`DiskError`] when the disk fails; inside, [`LeaseProblem`].
pub fn grant(batch: &mut dyn Batch, id: LeaseId, seconds: u32) -> Result<Result<(), LeaseProblem>, DiskError> {
    if batch.get(Table::Lease, &lease_key(id))?.is_some() {
        return Ok(Err(LeaseProblem::Exists));
    }
    let count = read_counter(batch, meta::LEASES)?.unwrap_or(0);
    if count >= LEASES_LIMIT {
        return Ok(Err(LeaseProblem::TooMany));
    }
    let stamp = next_stamp(batch)?;
    write_counter(batch, meta::FORMAT, FORMAT_WITH_LEASES)?;
    write(batch, id, Tenure { seconds, stamp, ending: false })?;
    write_counter(batch, meta::LEASES, count + 1)?;
    Ok(Ok(()))
}

/// Says that a lease is still wanted.
///
/// # Errors
/// [`DiskError`] when the disk fails; inside, [`LeaseProblem`].
pub fn renew(batch: &mut dyn Batch, id: LeaseId) -> Result<Result<(), LeaseProblem>, DiskError> {
    match tenure(batch, id)?.filter(|tenure| !tenure.ending) {
        None => Ok(Err(LeaseProblem::Missing)),
        Some(tenure) => {
            let stamp = next_stamp(batch)?;
            write(batch, id, Tenure { stamp, ..tenure }).map(Ok)
        }
    }
}

/// Ends a lease: nothing can be put with it any more, and its first `limit` keys are deleted, at one revision.
///
/// # Errors
/// [`DiskError`] when the disk fails; inside, [`LeaseProblem`].
pub fn revoke(batch: &mut dyn Batch, id: LeaseId, limit: usize) -> Result<Result<Revoked, LeaseProblem>, DiskError> {
    let Some(tenure) = tenure(batch, id)? else { return Ok(Err(LeaseProblem::Missing)) };
    let mut keys = keys_of(batch, id, limit.saturating_add(1))?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    if more {
        write(batch, id, Tenure { ending: true, ..tenure })?;
    } else {
        batch.remove(Table::Lease, &lease_key(id))?;
        let count = read_counter(batch, meta::LEASES)?.unwrap_or(1);
        write_counter(batch, meta::LEASES, count.saturating_sub(1))?;
    }
    if keys.is_empty() {
        return Ok(Ok(Revoked { events: None, more }));
    }
    let (revision, mut events) = (position(batch)?.revision.next(), Vec::new());
    for key in &keys {
        delete(batch, revision, key, &mut events)?;
    }
    write_counter(batch, meta::REVISION, revision.0)?;
    Ok(Ok(Revoked { events: Some(EventBatch { revision, events }), more }))
}

/// All leases, by their numbers.
///
/// # Errors
/// [`DiskError`] when the disk fails.
pub fn leases(view: &dyn View) -> Result<Vec<Lease>, DiskError> {
    let mut found = Vec::new();
    let mut outcome = Ok(());
    view.scan(Table::Lease, &b""[..]..&[0xff; 9][..], &mut |place, bytes| {
        let read = split_lease_key(place).and_then(|(id, _)| Ok(shown(id, decode(bytes)?)));
        match read {
            Ok(lease) => found.push(lease),
            Err(error) => {
                outcome = Err(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    outcome.map(|()| found)
}

/// One lease, if it is there.
///
/// # Errors
/// [`DiskError`] when the disk fails.
pub fn lease(view: &dyn View, id: LeaseId) -> Result<Option<Lease>, DiskError> {
    Ok(tenure(view, id)?.map(|tenure| shown(id, tenure)))
}

/// The first `limit` keys that end with a lease, in their order.
///
/// # Errors
/// [`DiskError`] when the disk fails.
pub fn keys_of(view: &dyn View, id: LeaseId, limit: usize) -> Result<Vec<Bytes>, DiskError> {
    let mut keys = Vec::new();
    // No key is longer, so none comes after this end.
    let (start, end) = (lease_key(id), leased_key(id, &[0xff; KEY_LIMIT + 1]));
    view.scan(Table::Leased, &start[..]..&end[..], &mut |place, _| {
        if keys.len() == limit {
            return ControlFlow::Break(());
        }
        keys.push(Bytes::copy_from_slice(&place[start.len()..]));
        ControlFlow::Continue(())
    })?;
    Ok(keys)
}

fn tenure(view: &dyn View, id: LeaseId) -> Result<Option<Tenure>, DiskError> {
    view.get(Table::Lease, &lease_key(id))?.map(|bytes| decode(&bytes)).transpose()
}

fn next_stamp(batch: &mut dyn Batch) -> Result<u64, DiskError> {
    let stamp = read_counter(batch, meta::LEASE_STAMP)?.unwrap_or(0) + 1;
    write_counter(batch, meta::LEASE_STAMP, stamp)?;
    Ok(stamp)
}

fn write(batch: &mut dyn Batch, id: LeaseId, tenure: Tenure) -> Result<(), DiskError> {
    batch.put(Table::Lease, &lease_key(id), &encode(&tenure)?)
}

const fn shown(id: LeaseId, tenure: Tenure) -> Lease {
    let Tenure { seconds, stamp, ending } = tenure;
    Lease { id, seconds, stamp, ending }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::model::update;
    use crate::machine::{apply, prepare};
    use crate::{MemDisk, Op, Txn};

    #[test]
    fn there_are_only_so_many_leases_and_an_ended_one_makes_room() {
        let disk = MemDisk::new();
        update(&disk, prepare);
        for id in 0..LEASES_LIMIT {
            assert_eq!(update(&disk, |batch| grant(batch, LeaseId(id), 1)), Ok(()));
        }
        let next = LeaseId(LEASES_LIMIT);
        assert_eq!(update(&disk, |batch| grant(batch, next, 1)), Err(LeaseProblem::TooMany));
        let revoked = update(&disk, |batch| revoke(batch, LeaseId(7), 1));
        assert_eq!(revoked, Ok(Revoked { events: None, more: false }));
        assert_eq!(update(&disk, |batch| grant(batch, next, 1)), Ok(()));
    }

    #[test]
    fn the_release_before_can_read_the_tables_until_the_first_lease() {
        let disk = MemDisk::new();
        let format = |disk: &MemDisk| update(disk, |batch| read_counter(batch, meta::FORMAT));
        update(&disk, prepare);
        let put = Txn { then: vec![Op::Put("a".into(), "1".into())], ..Txn::default() };
        update(&disk, |batch| apply(batch, &put));
        assert_eq!(format(&disk), Some(1));
        assert_eq!(update(&disk, |batch| grant(batch, LeaseId(1), 1)), Ok(()));
        assert_eq!(format(&disk), Some(2));
        update(&disk, prepare);
        let leased = Txn { then: vec![Op::PutLeased("a".into(), "2".into(), LeaseId(1))], ..Txn::default() };
        update(&disk, |batch| apply(batch, &leased));
        assert_eq!(update(&disk, |batch| keys_of(batch, LeaseId(1), 9)), [Bytes::from_static(b"a")]);
    }
}
