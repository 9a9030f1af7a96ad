//! What happened, as the outside saw it: calls with their answers, what members published, what watchers got.
//!
//! Clients, auditors and observers write it while the cluster runs; the invariants read it afterwards.

use controlplane_replica::MemberId;
use controlplane_store::{Answer, EventBatch, RangeAnswer, RangeRequest, StoreError, Txn};
use machined_ids::Revision;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place in the order in which things were seen. Everything is seen on one thread, so there is one order.
pub(crate) type Moment = u64;

/// A call of a client.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Who was asked.
    pub member: MemberId,
    /// When it was sent.
    pub sent: Moment,
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Compare and write.
    Txn(Txn),
    /// A linearizable read.
    Read(RangeRequest),
    /// A read of what the member has applied.
    LocalRead(RangeRequest),
}

/// What came of a call.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The transaction's answer, and when it came.
    Answered(Answer, Moment),
    /// The read's answer, and when it came.
    Read(RangeAnswer, Moment),
    /// The store says that it did nothing.
    Refused(StoreError),
    /// Nobody knows: no answer, or one that says so.
    Unknown,
}

/// What one watcher asked for and got.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// Who was asked.
    pub member: MemberId,
    /// The keys: from, to.
    pub range: (Vec<u8>, Vec<u8>),
    /// After which revision.
    pub after: Revision,
    /// What came, in order.
    pub notes: Vec<Note>,
}

/// One thing that a watcher got.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    /// Changes.
    Batch(EventBatch),
    /// A promise that everything up to here has come.
    Progress(Revision),
}

/// How a member stood when it was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Who.
    pub member: MemberId,
    /// Its term.
    pub term: u64,
    /// Whether it led in that term, as far as it knew.
    pub leads: bool,
    /// The index of the last entry of its log.
    pub last: u64,
    /// The last applied entry: its leader's term, its leader, its index.
    pub applied: Option<(u64, MemberId, u64)>,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Calls, in the order in which they were sent.
    pub calls: Vec<Call>,
    /// What each member published of everything, in its order; one list for each time it was asked.
    pub audits: Vec<Watched>,
    /// What clients watched.
    pub watches: Vec<Watched>,
    /// How members stood.
    pub sights: Vec<Sight>,
    /// What the members hold at the end, with the revision.
    pub ends: Vec<(MemberId, RangeAnswer)>,
    /// The largest size that a member's files had, in bytes.
    pub largest_disk: usize,
}

impl History {
    /// The one history of changes that all audits together tell, by revision. Where two contradict each other, the first counts:
    /// that they do not is an invariant of its own.
    #[must_use]
    pub(crate) fn changes(&self) -> BTreeMap<Revision, EventBatch> {
        let mut changes = BTreeMap::new();
        for batch in self.audits.iter().flat_map(Watched::batches) {
            changes.entry(batch.revision).or_insert_with(|| batch.clone());
        }
        changes
    }
}

impl Watched {
    /// A watch that has got nothing yet.
    #[must_use]
    pub(crate) fn new(member: MemberId, range: (Vec<u8>, Vec<u8>), after: Revision) -> Self {
        Watched { member, range, after, notes: Vec::new() }
    }

    /// The changes that came.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &EventBatch> {
        self.notes.iter().filter_map(|note| match note {
            Note::Batch(batch) => Some(batch),
            Note::Progress(_) => None,
        })
    }

    /// How far it is known to be complete: the last revision that came or was promised.
    #[must_use]
    pub(crate) fn through(&self) -> Revision {
        let reached = self.notes.iter().map(|note| match note {
            Note::Batch(batch) => batch.revision,
            Note::Progress(revision) => *revision,
        });
        reached.max().unwrap_or(self.after).max(self.after)
    }
}

/// Takes down what is seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    moment: Moment,
    history: History,
}

impl Recorder {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next place in the order.
    pub(crate) fn moment(&self) -> Moment {
        let mut pages = self.pages();
        pages.moment += 1;
        pages.moment
    }

    /// Takes down that a call is sent; its outcome is unknown until [`Recorder::settle`].
    pub(crate) fn sent(&self, member: MemberId, request: Request) -> usize {
        let sent = self.moment();
        let mut pages = self.pages();
        pages.history.calls.push(Call { member, sent, request, outcome: Outcome::Unknown });
        pages.history.calls.len() - 1
    }

    /// Takes down what came of a call.
    pub(crate) fn settle(&self, call: usize, outcome: Outcome) {
        self.pages().history.calls[call].outcome = outcome;
    }

    /// Changes the history.
    pub(crate) fn note<T>(&self, write: impl FnOnce(&mut History) -> T) -> T {
        write(&mut self.pages().history)
    }

    /// What was seen so far.
    #[must_use]
    pub(crate) fn history(&self) -> History {
        self.pages().history.clone()
    }
}
