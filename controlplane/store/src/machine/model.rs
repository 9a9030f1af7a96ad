//! Checks the state machine against the simplest thing that could be right: a full copy of the map for every revision.

use super::{Applied, FIRST_REVISION, Swept, apply, changes, compact, position, prepare, range, sweep};
use crate::disk::{Disk, Table};
use crate::{Condition, Entry, Event, EventBatch, MemDisk, Op, OpAnswer, RangeRequest, StoreError, Txn};
use bytes::Bytes;
use machined_ids::Revision;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

type Map = BTreeMap<Bytes, Entry>;

/// Every state there ever was, from [`FIRST_REVISION`] on.
struct Model {
    states: Vec<Map>,
    oldest: Revision,
}

impl Model {
    fn new() -> Self {
        Model { states: vec![Map::new()], oldest: FIRST_REVISION }
    }

    fn revision(&self) -> Revision {
        Revision(self.states.len() as u64)
    }

    fn at(&self, revision: Revision) -> &Map {
        &self.states[revision.0 as usize - 1]
    }

    fn apply(&mut self, txn: &Txn) -> (bool, Vec<OpAnswer>) {
        let mut map = self.at(self.revision()).clone();
        let next = self.revision().next();
        let held = txn.conditions.iter().all(|Condition::Modified(key, revision)| {
            map.get(key).map_or(Revision(0), |entry| entry.modified) == *revision
        });
        let mut wrote = false;
        let mut answers = Vec::new();
        for op in if held { &txn.then } else { &txn.otherwise } {
            answers.push(match op {
                Op::Get(key) => OpAnswer::Got(map.get(key).cloned()),
                Op::Put(key, value) => {
                    wrote = true;
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
                    wrote |= gone.is_some();
                    OpAnswer::Deleted(gone)
                }
            });
        }
        if wrote {
            self.states.push(map);
        }
        (held, answers)
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
    /// Compacts to this share of history, in percent.
    Compact(u64),
    Sweep(usize),
}

fn key() -> impl Strategy<Value = Bytes> {
    const NAMES: [&[u8]; 6] = [b"a", b"a\0", b"a\0\xff", b"ab", b"b", b"\xff"];
    proptest::sample::select(&NAMES[..]).prop_map(Bytes::from_static)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        1 => Just(None),
        4 => any::<u8>().prop_map(Some),
    ];
    proptest::collection::btree_map(key(), (op, any::<bool>()), 0..4).prop_map(|ops| {
        ops.into_iter()
            .map(|(key, (value, delete))| match value {
                None => Op::Get(key),
                Some(_) if delete => Op::Delete(key),
                Some(value) => Op::Put(key, Bytes::from(vec![value])),
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
        1 => (0_u64..=100).prop_map(Step::Compact),
        2 => (1_usize..4).prop_map(Step::Sweep),
    ]
}

fn run(disk: &MemDisk, model: &mut Model, step: &Step) {
    let fine = "because memory does not fail";
    match step {
        Step::Txn(txn) => {
            let before = model.revision();
            let (held, ops) = model.apply(txn);
            let mut applied: Option<Applied> = None;
            disk.update(&mut |batch| apply(batch, txn).map(|now| applied = Some(now))).expect(fine);
            let applied = applied.expect("because the update succeeded");
            assert_eq!(applied.answer.succeeded, held);
            assert_eq!(applied.answer.ops, ops);
            assert_eq!(applied.answer.revision, model.revision());
            let (start, end) = (Bytes::new(), Bytes::from_static(b"\xff\xff"));
            let expected = (before != model.revision()).then(|| EventBatch {
                revision: model.revision(),
                events: model.events(model.revision(), &start, &end),
            });
            assert_eq!(applied.events, expected);
        }
        Step::Compact(percent) => {
            let oldest = Revision((model.revision().0 * percent / 100).max(1));
            disk.update(&mut |batch| compact(batch, oldest)).expect(fine);
            model.oldest = model.oldest.max(oldest);
        }
        Step::Sweep(limit) => disk.update(&mut |batch| sweep(batch, *limit).map(|_| ())).expect(fine),
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
