//! Checks the state machine against the simplest thing that could be right: a full copy of the map for every revision.

use super::{
    Applied, FIRST_REVISION, Revoked, Swept, apply, changes, compact, grant, keys_of, leases, position, prepare, range,
    renew, revoke, sweep,
};
use crate::disk::{Batch, Disk, DiskError, Table};
use crate::{
    Condition, Entry, Event, EventBatch, Lease, LeaseId, LeaseProblem, MemDisk, Op, OpAnswer, RangeRequest, StoreError,
    Txn,
};
use bytes::Bytes;
use machined_ids::Revision;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

type Map = BTreeMap<Bytes, Entry>;

/// Every state there ever was, from [`FIRST_REVISION`] on, and the leases of now.
struct Model {
    states: Vec<Map>,
    oldest: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    leased: BTreeMap<Bytes, LeaseId>,
    stamp: u64,
}

impl Model {
    fn new() -> Self {
        let (leases, leased) = (BTreeMap::new(), BTreeMap::new());
        Model { states: vec![Map::new()], oldest: FIRST_REVISION, leases, leased, stamp: 0 }
    }

    fn revision(&self) -> Revision {
        Revision(self.states.len() as u64)
    }

    fn at(&self, revision: Revision) -> &Map {
        &self.states[revision.0 as usize - 1]
    }

    fn living_lease(&self, id: &LeaseId) -> bool {
        self.leases.get(id).is_some_and(|lease| !lease.ending)
    }

    /// Whether the conditions hold, and what each operation finds; or the lease that is not there.
    fn apply(&mut self, txn: &Txn) -> Result<(bool, Vec<OpAnswer>), LeaseId> {
        let mut map = self.at(self.revision()).clone();
        let next = self.revision().next();
        let held = txn.conditions.iter().all(|Condition::Modified(key, revision)| {
            map.get(key).map_or(Revision(0), |entry| entry.modified) == *revision
        });
        let mut wrote = false;
        let mut answers = Vec::new();
        let branch = if held { &txn.then } else { &txn.otherwise };
        let lease = |op: &Op| match op {
            Op::PutLeased(_, _, lease) => Some(*lease),
            Op::Get(_) | Op::Put(..) | Op::Delete(_) => None,
        };
        if let Some(missing) = branch.iter().filter_map(lease).find(|id| !self.living_lease(id)) {
            return Err(missing);
        }
        for op in branch {
            answers.push(match op {
                Op::Get(key) => OpAnswer::Got(map.get(key).cloned()),
                Op::Put(key, value) | Op::PutLeased(key, value, _) => {
                    wrote = true;
                    self.leased.remove(key);
                    self.leased.extend(lease(op).map(|lease| (key.clone(), lease)));
                    let before = map.get(key);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.map_or(next, |entry| entry.created),
                        modified: next,
                        version: before.map_or(1, |entry| entry.version + 1),
                    };
                    map.insert(key.clone(), entry.clone());
                    OpAnswer::Put(entry)
                }
                Op::Delete(key) => {
                    let gone = map.remove(key);
                    self.leased.remove(key);
                    wrote |= gone.is_some();
                    OpAnswer::Deleted(gone)
                }
            });
        }
        if wrote {
            self.states.push(map);
        }
        Ok((held, answers))
    }

    /// Ends a lease; says whether keys are left, and whether any was deleted.
    fn revoke(&mut self, id: LeaseId, limit: usize) -> Option<(bool, bool)> {
        let lease = self.leases.get_mut(&id)?;
        let of = |(key, lease): (&Bytes, &LeaseId)| (*lease == id).then(|| key.clone());
        let keys: Vec<Bytes> = self.leased.iter().filter_map(of).collect();
        let more = keys.len() > limit;
        lease.ending = true;
        if !more {
            self.leases.remove(&id);
        }
        let mut map = self.at(self.revision()).clone();
        let going = &keys[..keys.len().min(limit)];
        for key in going {
            map.remove(key);
            self.leased.remove(key);
        }
        if !going.is_empty() {
            self.states.push(map);
        }
        Some((more, !going.is_empty()))
    }

    /// What a watcher of everything must see of the newest revision.
    fn newest(&self) -> EventBatch {
        let (start, end) = (Bytes::new(), Bytes::from_static(b"\xff\xff"));
        EventBatch { revision: self.revision(), events: self.events(self.revision(), &start, &end) }
    }

    /// What a watcher must see at a revision.
    fn events(&self, revision: Revision, start: &Bytes, end: &Bytes) -> Vec<Event> {
        let (before, now) = (self.at(Revision(revision.0 - 1)), self.at(revision));
        let mut events = Vec::new();
        for key in before.keys().chain(now.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (was, is) = (before.get(key), now.get(key));
            if was == is || key < start || key >= end {
                continue;
            }
            events.push(match is {
                Some(entry) => Event::Put { entry: entry.clone(), previous: was.cloned() },
                None => Event::Delete { previous: was.expect("because it differs from nothing").clone() },
            });
        }
        events
    }
}

#[derive(Debug, Clone)]
enum Step {
    Txn(Txn),
    Grant(LeaseId, u32),
    Renew(LeaseId),
    /// Deletes at most so many keys.
    Revoke(LeaseId, usize),
    /// Compacts to this share of history, in percent.
    Compact(u64),
    Sweep(usize),
}

fn key() -> impl Strategy<Value = Bytes> {
    const NAMES: [&[u8]; 6] = [b"a", b"a\0", b"a\0\xff", b"ab", b"b", b"\xff"];
    proptest::sample::select(&NAMES[..]).prop_map(Bytes::from_static)
}

fn lease_id() -> impl Strategy<Value = LeaseId> {
    // Neighbours, so that one's keys could be taken for another's.
    proptest::sample::select(&[0_u64, 1, 2, u64::MAX][..]).prop_map(LeaseId)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        1 => Just(None),
        4 => any::<u8>().prop_map(Some),
    ];
    let kind = prop_oneof![
        2 => Just(None),
        1 => lease_id().prop_map(Some),
    ];
    proptest::collection::btree_map(key(), (op, any::<bool>(), kind), 0..4).prop_map(|ops| {
        ops.into_iter()
            .map(|(key, (value, delete, lease))| match (value, lease) {
                (None, _) => Op::Get(key),
                (Some(_), _) if delete => Op::Delete(key),
                (Some(value), None) => Op::Put(key, Bytes::from(vec![value])),
                (Some(value), Some(lease)) => Op::PutLeased(key, Bytes::from(vec![value]), lease),
            })
            .collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let condition = (key(), 0_u64..12).prop_map(|(key, revision)| Condition::Modified(key, Revision(revision)));
    let txn = (proptest::collection::vec(condition, 0..2), ops(), ops())
        .prop_map(|(conditions, then, otherwise)| Step::Txn(Txn { conditions, then, otherwise }));
    prop_oneof![
        10 => txn,
        3 => (lease_id(), 1_u32..9).prop_map(|(id, seconds)| Step::Grant(id, seconds)),
        1 => lease_id().prop_map(Step::Renew),
        2 => (lease_id(), 0_usize..3).prop_map(|(id, limit)| Step::Revoke(id, limit)),
        1 => (0_u64..=100).prop_map(Step::Compact),
        2 => (1_usize..4).prop_map(Step::Sweep),
    ]
}

fn run(disk: &MemDisk, model: &mut Model, step: &Step) {
    let fine = "because memory does not fail";
    match step {
        Step::Txn(txn) => {
            let before = model.revision();
            let expected = model.apply(txn);
            let applied = update(disk, |batch| apply(batch, txn));
            let (held, ops) = match expected {
                Ok(expected) => expected,
                Err(missing) => return assert_eq!(applied, Applied::NoLease(missing)),
            };
            let Applied::Ran { answer, events } = applied else { panic!("all its leases are there: {applied:?}") };
            assert_eq!(answer.succeeded, held);
            assert_eq!(answer.ops, ops);
            assert_eq!(answer.revision, model.revision());
            assert_eq!(events, (before != model.revision()).then(|| model.newest()));
        }
        Step::Grant(id, seconds) => {
            let taken = model.leases.contains_key(id);
            if !taken {
                model.stamp += 1;
                model.leases.insert(*id, Lease { id: *id, seconds: *seconds, stamp: model.stamp, ending: false });
            }
            let expected = if taken { Err(LeaseProblem::Exists) } else { Ok(()) };
            assert_eq!(update(disk, |batch| grant(batch, *id, *seconds)), expected);
        }
        Step::Renew(id) => {
            let lease = model.leases.get_mut(id).filter(|lease| !lease.ending);
            let renewed = lease.map(|lease| {
                model.stamp += 1;
                lease.stamp = model.stamp;
            });
            let expected = renewed.ok_or(LeaseProblem::Missing);
            assert_eq!(update(disk, |batch| renew(batch, *id)), expected);
        }
        Step::Revoke(id, limit) => {
            let expected = model.revoke(*id, *limit).map(|(more, deleted)| {
                let events = deleted.then(|| model.newest());
                Revoked { events, more }
            });
            assert_eq!(update(disk, |batch| revoke(batch, *id, *limit)), expected.ok_or(LeaseProblem::Missing));
        }
        Step::Compact(percent) => {
            let oldest = Revision((model.revision().0 * percent / 100).max(1));
            disk.update(&mut |batch| compact(batch, oldest)).expect(fine);
            model.oldest = model.oldest.max(oldest);
        }
        Step::Sweep(limit) => disk.update(&mut |batch| sweep(batch, *limit).map(|_| ())).expect(fine),
    }
}

pub(super) fn update<T>(disk: &MemDisk, change: impl Fn(&mut dyn Batch) -> Result<T, DiskError>) -> T {
    let mut value = None;
    let updated = disk.update(&mut |batch| change(batch).map(|now| value = Some(now)));
    updated.expect("because memory does not fail");
    value.expect("because the update succeeded")
}

fn check_leases(disk: &MemDisk, model: &Model) {
    let view = disk.view().expect("because memory does not fail");
    let found = leases(&*view).expect("because memory does not fail");
    assert_eq!(found, model.leases.values().copied().collect::<Vec<_>>());
    for id in model.leases.keys() {
        let keys = keys_of(&*view, *id, usize::MAX).expect("because memory does not fail");
        let of = |(key, lease): (&Bytes, &LeaseId)| (lease == id).then(|| key.clone());
        assert_eq!(keys, model.leased.iter().filter_map(of).collect::<Vec<_>>(), "keys of {id}");
    }
}

fn check_reads(disk: &MemDisk, model: &Model) {
    let view = disk.view().expect("because memory does not fail");
    let at = position(&*view).expect("because memory does not fail");
    assert_eq!((at.revision, at.oldest), (model.revision(), model.oldest));
    let (start, end) = (Bytes::from_static(b"a\0"), Bytes::from_static(b"b\0"));
    for asked in 1..=model.revision().0 + 1 {
        let asked = Revision(asked);
        let request = RangeRequest { at: Some(asked), limit: Some(2), ..RangeRequest::new(start.clone(), end.clone()) };
        let answer = range(&*view, &request);
        let history = changes(&*view, (&start, &end), asked, model.revision(), 2);
        if asked < model.oldest {
            let error = StoreError::Compacted { asked, oldest: model.oldest };
            assert_eq!(answer, Err(error.clone()));
            assert_eq!(history, Err(error));
        } else if asked > model.revision() {
            let error = StoreError::Future { asked, current: model.revision() };
            assert_eq!(answer, Err(error.clone()));
            assert_eq!(history, Err(error));
        } else {
            let expected: Vec<&Entry> =
                model.at(asked).range(start.clone()..end.clone()).map(|(_, entry)| entry).collect();
            let answer = answer.expect("because the revision is kept");
            assert_eq!(answer.count, expected.len() as u64);
            assert_eq!(answer.entries.iter().collect::<Vec<_>>(), expected[..expected.len().min(2)]);
            check_history(&*view, model, asked, (&start, &end));
        }
    }
}

fn check_history(view: &dyn crate::View, model: &Model, after: Revision, range: (&Bytes, &Bytes)) {
    let mut seen = BTreeMap::new();
    let mut read = after;
    while read < model.revision() {
        let part = changes(view, range, read, model.revision(), 2).expect("because the revision is kept");
        assert!(part.through > read, "reading history makes progress");
        for batch in part.batches {
            assert!(read < batch.revision && batch.revision <= part.through);
            seen.insert(batch.revision, batch.events);
        }
        read = part.through;
    }
    for revision in after.0 + 1..=model.revision().0 {
        let expected = model.events(Revision(revision), range.0, range.1);
        assert_eq!(seen.remove(&Revision(revision)).unwrap_or_default(), expected);
    }
    assert!(seen.is_empty());
}

proptest! {
    #[test]
    fn the_store_agrees_with_full_copies_of_every_state(steps in proptest::collection::vec(step(), 0..40)) {
        let disk = MemDisk::new();
        disk.update(&mut |batch| prepare(batch)).expect("because memory does not fail");
        let mut model = Model::new();
        for step in &steps {
            run(&disk, &mut model, step);
        }
        check_reads(&disk, &model);
        check_leases(&disk, &model);
    }

    #[test]
    fn compacting_to_now_leaves_one_record_a_living_key(steps in proptest::collection::vec(step(), 0..40)) {
        let disk = MemDisk::new();
        disk.update(&mut |batch| prepare(batch)).expect("because memory does not fail");
        let mut model = Model::new();
        for step in steps.iter().chain([&Step::Compact(100)]) {
            run(&disk, &mut model, step);
        }
        let mut swept = Swept::More;
        while swept == Swept::More {
            disk.update(&mut |batch| sweep(batch, 3).map(|now| swept = now)).expect("because memory does not fail");
        }
        let view = disk.view().expect("because memory does not fail");
        let living = model.at(model.revision()).len();
        for table in [Table::Live, Table::Change, Table::Past] {
            let mut rows = 0;
            view.scan(table, &b""[..]..&[0xff; 16][..], &mut |_, _| { rows += 1; ControlFlow::Continue(()) })
                .expect("because memory does not fail");
            prop_assert_eq!(rows, living, "rows of {:?}", table);
        }
        check_reads(&disk, &model);
    }
}
