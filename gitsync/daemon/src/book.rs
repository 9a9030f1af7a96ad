//! What was judged, newest first: the same facts for machined's status and for `commits.cairn.dev`.

use gitsync_verify::{Position, Refusal, TrustState};
use machined_api::CommitRecord;
use machined_ids::{CommitId, Seq};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Commits remembered; more than anybody scrolls through, and few enough to be objects of the cluster.
const MAX_COMMITS: usize = 100;

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It passed, and waits to be applied.
    Accepted,
    /// It is what should run.
    Applied,
    /// Everything in it runs.
    Healthy,
    /// A later one took its place.
    Superseded,
    /// It passed, and did not become healthy: an earlier one runs until the next one is accepted.
    Reverted,
    /// It did not pass, or what it says cannot be done.
    Refused,
}

impl Fate {
    /// The stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Fate::Accepted => "accepted",
            Fate::Applied => "applied",
            Fate::Healthy => "healthy",
            Fate::Superseded => "superseded",
            Fate::Reverted => "reverted",
            Fate::Refused => "refused",
        }
    }
}

/// One judged commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) commit: CommitId,
    pub(crate) fate: Fate,
    /// Its place in the chain, when it has one.
    pub(crate) position: Option<Position>,
    /// Why not.
    pub(crate) refusal: Option<Refusal>,
    /// What else there is to say, for people.
    pub(crate) note: String,
    /// When this machine judged it, RFC 3339.
    pub(crate) at: String,
}

impl Judged {
    /// As machined shows it.
    pub(crate) fn record(&self) -> CommitRecord {
        let position = self.position.as_ref();
        let refusal = self.refusal.as_ref();
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        CommitRecord {
            commit: self.commit.to_string(),
            seq: position.map_or(0, |p| p.seq.0),
            step: position.map(|p| p.step.to_string()).unwrap_or_default(),
            state: self.fate.as_str().to_owned(),
            signer: text(position.and_then(|p| p.signer.as_ref()).map(|s| s.as_str())),
            key: text(position.and_then(|p| p.key.as_ref()).map(|k| k.as_str())),
            reason: text(refusal.map(|r| r.reason.as_str())),
            path: text(refusal.and_then(|r| r.path.as_deref())),
            rule: text(refusal.and_then(|r| r.rule.as_deref())),
            message: text(refusal.map(|r| r.message.as_str()).or(Some(self.note.as_str()))),
            subject: text(position.map(|p| p.subject.as_str())),
            at: self.at.clone(),
        }
    }
}

/// The commits, newest judgement first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book(VecDeque<Judged>);

impl Book {
    /// What a recorded state still knows.
    pub(crate) fn of(state: &TrustState, now: &str) -> Self {
        let mut book = Book::default();
        for position in state.history() {
            book.position(position, Fate::Superseded, now);
        }
        book.position(state.accepted(), Fate::Accepted, now);
        if let Some(applied) = state.applied() {
            book.applied(applied.seq, now);
        }
        book
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Judged> {
        self.0.iter()
    }

    fn put(&mut self, judged: Judged) {
        self.0.retain(|known| known.commit != judged.commit);
        self.0.push_front(judged);
        self.0.truncate(MAX_COMMITS);
    }

    /// Notes what became of a commit of the chain.
    pub(crate) fn position(&mut self, position: &Position, fate: Fate, now: &str) {
        let (commit, at) = (position.commit.clone(), now.to_owned());
        let note = String::new();
        self.put(Judged { commit, fate, position: Some(position.clone()), refusal: None, note, at });
    }

    /// Notes that a step is what should run: what came before it is superseded, what comes after it waits.
    pub(crate) fn applied(&mut self, seq: Seq, now: &str) {
        for judged in &mut self.0 {
            let Some(position) = &judged.position else { continue };
            let fate = match (position.seq.cmp(&seq), judged.fate) {
                (Ordering::Equal, Fate::Healthy) => Fate::Healthy,
                (Ordering::Equal, _) => Fate::Applied,
                (Ordering::Less, Fate::Applied | Fate::Healthy | Fate::Accepted | Fate::Reverted) => Fate::Superseded,
                (Ordering::Greater, Fate::Applied | Fate::Healthy) => Fate::Accepted,
                (Ordering::Less | Ordering::Greater, fate) => fate,
            };
            if fate != judged.fate {
                (judged.fate, judged.at) = (fate, now.to_owned());
                judged.note.clear();
                if fate == Fate::Applied {
                    judged.refusal = None;
                }
            }
        }
    }

    /// Notes that a step did not become healthy and another one runs instead.
    pub(crate) fn reverted(&mut self, seq: Seq, note: &str, now: &str) {
        let there = |judged: &&mut Judged| judged.position.as_ref().is_some_and(|p| p.seq == seq);
        if let Some(judged) = self.0.iter_mut().find(there)
            && judged.fate != Fate::Reverted
        {
            (judged.fate, judged.refusal) = (Fate::Reverted, None);
            (judged.note, judged.at) = (note.to_owned(), now.to_owned());
        }
    }

    /// Notes that a commit was not taken. One that is part of the chain keeps its place there.
    pub(crate) fn refused(&mut self, commit: &CommitId, refusal: &Refusal, now: &str) {
        let known = self.0.iter().find(|known| known.commit == *commit);
        if known.is_some_and(|known| known.fate == Fate::Refused && known.refusal.as_ref() == Some(refusal)) {
            return;
        }
        let position = known.and_then(|known| known.position.clone());
        let refusal = Some(refusal.clone());
        let (note, at) = (String::new(), now.to_owned());
        self.put(Judged { commit: commit.clone(), fate: Fate::Refused, position, refusal, note, at });
    }

    /// Notes that everything of the applied step runs.
    pub(crate) fn healthy(&mut self, seq: Seq, now: &str) {
        let applied = |judged: &&mut Judged| judged.position.as_ref().is_some_and(|p| p.seq == seq);
        if let Some(judged) = self.0.iter_mut().find(applied)
            && judged.fate != Fate::Healthy
        {
            (judged.fate, judged.refusal, judged.at) = (Fate::Healthy, None, now.to_owned());
        }
    }
}
