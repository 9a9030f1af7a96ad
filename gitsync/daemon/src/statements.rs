//! Statements that came beside the commits, from anybody, until they count or are of no use any more. In memory: whoever gave them keeps
//! them, and what counted here is in [`crate::kept`].
//!
//! Nothing in here is believed. Each giver (a repository, a bundle, another machine) has room of its own and a turn of its own, so that
//! a flood of one leaves what the others gave where it is.

use crate::kept::{Kind, age};
use gitsync_fetch::RepositoryUrl;
use gitsync_verify::limits::MAX_STATEMENTS;
use gitsync_verify::{Introduction, SignedStatement, Statement, TrustState};
use machined_ids::{ClusterId, Epoch, MachineName, Seq};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who gave a statement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Giver {
    /// This machine, which kept it.
    Own,
    Repository(RepositoryUrl),
    /// Whoever brought the last bundle.
    Bundle,
    /// Another machine, by the object that it writes to.
    Peer(MachineName),
}

/// Statements of a kind that one giver may have here; beyond it, its own oldest goes.
const fn room(kind: Kind) -> usize {
    match kind {
        Kind::Recovery => 16,
        Kind::Revoke => 128,
        Kind::Beacon => 64,
        Kind::Release => 512,
    }
}

/// Of the statements that one judgement looks at. Approvals have the rest.
const SHARES: [(Kind, usize); 3] = [(Kind::Recovery, 16), (Kind::Revoke, 64), (Kind::Beacon, 32)];

/// How far this machine has come: what is about another cluster, or about what lies behind, is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Here {
    cluster: ClusterId,
    /// Nothing is accepted yet.
    accepted: Option<(Epoch, Seq)>,
}

impl Here {
    pub(crate) fn of(introduction: &Introduction, state: Option<&TrustState>) -> Self {
        let accepted = state.map(|state| (state.epoch(), state.accepted().seq));
        Here { cluster: introduction.cluster, accepted }
    }

    fn needs(&self, signed: &SignedStatement) -> bool {
        let (cluster, ahead) = match signed.statement() {
            Statement::Release(release) => {
                (release.cluster, self.accepted.is_none_or(|here| (release.epoch, release.seq) > here))
            }
            Statement::Beacon(beacon) => (beacon.cluster, self.accepted.is_none_or(|here| beacon.epoch >= here.0)),
            Statement::Revoke(revoke) => (revoke.cluster, self.accepted.is_none_or(|here| revoke.epoch >= here.0)),
            // One of this epoch may contradict the one that it began with.
            Statement::Recovery(recovery) => {
                (recovery.cluster, self.accepted.is_none_or(|here| recovery.new_epoch >= here.0))
            }
        };
        cluster == self.cluster && ahead
    }
}

/// What came, by kind and giver, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pool(BTreeMap<(Kind, Giver), VecDeque<SignedStatement>>);

impl Pool {
    /// Takes a blob; gives the statement's kind when it is one that is of use and that nobody had given.
    pub(crate) fn add(&mut self, giver: &Giver, bytes: &[u8], here: &Here) -> Option<Kind> {
        match SignedStatement::parse(bytes) {
            Ok(signed) => self.put(giver, signed, here),
            Err(refusal) => {
                tracing::debug!(?giver, reason = %refusal.reason, "a blob is no statement");
                None
            }
        }
    }

    /// As [`Pool::add`], of one that was read.
    pub(crate) fn put(&mut self, giver: &Giver, signed: SignedStatement, here: &Here) -> Option<Kind> {
        if !here.needs(&signed) {
            return None;
        }
        let kind = Kind::of(&signed);
        let news = !self.holds(kind, signed.text());
        let queue = self.0.entry((kind, giver.clone())).or_default();
        if queue.contains(&signed) {
            return None;
        }
        if queue.len() >= room(kind) {
            queue.pop_front();
        }
        queue.push_back(signed);
        news.then_some(kind)
    }

    fn holds(&self, kind: Kind, text: &str) -> bool {
        let of_kind = self.0.iter().filter(|((of, _), _)| *of == kind);
        of_kind.flat_map(|(_, queue)| queue).any(|known| known.text() == text)
    }

    /// Takes all that a giver serves now, in the place of what it served before; gives the kinds of what nobody had given. A text that is
    /// known already is not checked again.
    pub(crate) fn serve(&mut self, giver: &Giver, texts: &[String], here: &Here) -> BTreeSet<Kind> {
        let mut known = BTreeMap::new();
        for queue in self.0.iter().filter(|((_, of), _)| of == giver).map(|(_, queue)| queue) {
            known.extend(queue.iter().map(|signed| (signed.text().to_owned(), signed.clone())));
        }
        let mut news = BTreeSet::new();
        for text in texts {
            match known.remove(text) {
                // It stays where it is.
                Some(_) => {}
                None => news.extend(self.add(giver, text.as_bytes(), here)),
            }
        }
        self.0.iter_mut().filter(|((_, of), _)| of == giver).for_each(|(_, queue)| {
            queue.retain(|signed| !known.contains_key(signed.text()));
        });
        self.tidy();
        news
    }

    /// Lets go of what is of no use any more, and of givers that are gone.
    pub(crate) fn keep(&mut self, here: &Here) {
        self.0.values_mut().for_each(|queue| queue.retain(|signed| here.needs(signed)));
        self.tidy();
    }

    /// Lets go of givers that are gone.
    pub(crate) fn keep_givers(&mut self, known: impl Fn(&Giver) -> bool) {
        self.0.retain(|(_, giver), _| known(giver));
    }

    fn tidy(&mut self) {
        self.0.retain(|_, queue| !queue.is_empty());
    }

    /// The statements for one judgement: what stops something first, newest first, then approvals of the next steps. Givers take turns.
    pub(crate) fn offer(&self) -> Vec<SignedStatement> {
        let mut offered = Vec::new();
        for (kind, share) in SHARES {
            self.turns(kind, share, &mut offered);
        }
        let rest = MAX_STATEMENTS - offered.len();
        self.turns(Kind::Release, rest, &mut offered);
        offered
    }

    fn turns(&self, kind: Kind, share: usize, offered: &mut Vec<SignedStatement>) {
        let of_kind = self.0.iter().filter(|((of, _), _)| *of == kind);
        let mut givers: Vec<VecDeque<&SignedStatement>> = of_kind
            .map(|(_, queue)| {
                // What came last first; then by what each says of itself, which is stable.
                let mut turn: Vec<_> = queue.iter().rev().collect();
                match kind {
                    Kind::Release => turn.sort_by_key(|signed| (age(signed).0, age(signed).1)),
                    Kind::Recovery | Kind::Revoke | Kind::Beacon => turn.sort_by_key(|signed| Reverse(age(signed))),
                }
                turn.into()
            })
            .collect();
        let (mut taken, mut texts) = (0, BTreeSet::new());
        while taken < share && givers.iter().any(|turn| !turn.is_empty()) {
            for turn in &mut givers {
                // What another giver gave as well costs no turn.
                let next = std::iter::from_fn(|| turn.pop_front()).find(|signed| texts.insert(signed.text()));
                if let Some(signed) = next.filter(|_| taken < share) {
                    offered.push(signed.clone());
                    taken += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{OURS, beacon, cluster, recovery, release, revoke};
    use std::slice::from_ref;

    fn here(seq: u64) -> Here {
        Here { cluster: cluster(OURS), accepted: Some((Epoch(0), Seq(seq))) }
    }

    fn peer(name: &str) -> Giver {
        Giver::Peer(MachineName::parse(name).expect("because it is a name"))
    }

    fn texts(signed: &[SignedStatement]) -> Vec<String> {
        signed.iter().map(|signed| signed.text().to_owned()).collect()
    }

    #[test]
    fn a_flood_of_one_giver_pushes_out_nothing_of_another() {
        let mut pool = Pool::default();
        let (host, hostile) = (Giver::Bundle, peer("cp2"));
        let honest = [release(1, OURS, 6, 1), revoke(1, 9, 0), beacon(1, 5, 0), recovery(1, 1)];
        for signed in &honest {
            assert_eq!(pool.put(&host, signed.clone(), &here(5)), Some(Kind::of(signed)));
        }
        // More of each kind than there is room for, each newer (or nearer) than the honest one.
        let mut flood: Vec<_> = (0..600).map(|step| release(7, OURS, 6, 100 + step)).collect();
        flood.extend((0..150_u8).map(|key| revoke(7, key, 1000)));
        flood.extend((0..80).map(|second| beacon(7, 900, 1000 + second)));
        flood.extend((0..40).map(|epoch| recovery(7, 50 + epoch)));
        for signed in &flood {
            pool.put(&hostile, signed.clone(), &here(5));
        }
        let offered = pool.offer();
        assert_eq!(offered.len(), MAX_STATEMENTS);
        for signed in &honest {
            assert!(offered.contains(signed), "{:?} was pushed out", signed.statement());
        }
        assert!(pool.0.iter().all(|((kind, _), queue)| queue.len() <= room(*kind)), "every queue is bounded");
    }

    #[test]
    fn what_is_not_about_what_comes_next_here_is_not_kept() {
        let mut pool = Pool::default();
        let giver = peer("cp2");
        let useless = [release(1, OURS, 5, 1), release(1, 2, 6, 1)];
        assert!(pool.serve(&giver, &texts(&useless), &here(5)).is_empty());
        let forged = release(1, OURS, 6, 1).text().replace("seq 6\n", "seq 7\n");
        let garbage = ["".to_owned(), "x".repeat(100_000), "\u{1F600}".to_owned(), forged];
        assert!(pool.serve(&giver, &garbage, &here(5)).is_empty());
        assert_eq!(pool.offer(), []);
        let next = release(1, OURS, 6, 1);
        assert_eq!(pool.serve(&giver, &texts(from_ref(&next)), &here(5)), [Kind::Release].into());
        pool.keep(&here(6));
        assert_eq!(pool.offer(), [], "it is accepted, and of no use any more");
    }

    #[test]
    fn a_giver_has_what_it_serves_now_and_what_is_known_is_no_news() {
        let mut pool = Pool::default();
        let (one, other) = (release(1, OURS, 6, 1), release(2, OURS, 6, 1));
        assert_eq!(pool.serve(&peer("cp2"), &texts(from_ref(&one)), &here(5)).len(), 1);
        assert!(pool.serve(&peer("cp3"), &texts(from_ref(&one)), &here(5)).is_empty(), "cp2 gave it before");
        assert_eq!(pool.offer(), from_ref(&one), "and it is offered once");
        assert_eq!(pool.serve(&peer("cp2"), &texts(from_ref(&other)), &here(5)).len(), 1);
        pool.keep_givers(|giver| *giver == peer("cp2"));
        assert_eq!(pool.offer(), [other]);
    }
}
