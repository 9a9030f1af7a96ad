//! What the store remembers of the cluster's keys. Pure; nothing in it is secret.
//!
//! ```text
//! a key set:  Spreading -> Trusted -> Moved -> Serving -> Retired -> forgotten
//! ```
//! Each arrow is one write of the leader, made when every member has said that the one before is in effect on it (or, from `Moved`,
//! when the grace has passed). There is always one that is `Serving`; the first set of a cluster begins there.

use controlplane_replica::MemberId;
use jiff::Timestamp;
use machined_ids::{Digest, Fingerprint, MachineName, Seq};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The form of the record that this release writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Machines that are remembered for each key set: many times the members of any group. More are not given the keys.
pub(crate) const KNOWERS_MAX: usize = 64;

/// Key sets at once: the one that serves, and some that came before it was in effect everywhere. No further one is made meanwhile.
pub(crate) const SETS_MAX: usize = 4;

/// Counts the key sets of a cluster, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetNumber(pub u64);

impl fmt::Display for SetNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a key set has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Stage {
    /// Members get it; what it signs is believed where it has come, and nobody signs with it.
    Spreading,
    /// Every member has it: service-account tokens are signed with it from now on. Certificates are still those of an older authority,
    /// because clients learn of the new one only now.
    Trusted,
    /// Every member signs tokens with it, since then. Clients have the grace to learn the new authority, and old tokens end in it.
    Moved {
        /// When the last member had moved, by the leader's clock.
        since: Timestamp,
    },
    /// API servers show certificates of its authority.
    Serving,
    /// Nothing that it signed is believed any more.
    Retired,
}

/// A machine that was given a key set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knower {
    /// Its name at that time.
    pub machine: MachineName,
    /// The accepted step that had it as part of the control plane.
    pub seq: Seq,
}

/// One set of the cluster's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// Which one.
    pub number: SetNumber,
    /// Digest of its public halves.
    pub keys: Digest,
    /// How far it has come.
    pub stage: Stage,
    /// Who has it or may have it, by identity: written before it is handed out.
    pub knowers: BTreeMap<Fingerprint, Knower>,
    /// The identities because of which it was made, with the step that lacked them. A member whose step is older would not know, and
    /// does not give it to them.
    pub barred: BTreeMap<Fingerprint, Seq>,
}

/// Which sets do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles<T: Ord> {
    /// Its authority signs the API servers' certificates.
    pub serving: T,
    /// Signs service-account tokens.
    pub tokens: T,
    /// What these signed is believed, and clients are told of their authorities.
    pub believed: BTreeSet<T>,
}

/// Everything that the store remembers of the cluster's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    pub(crate) format: u32,
    /// Oldest first.
    pub sets: Vec<KeySet>,
    /// What members have said is in effect on them.
    pub members: BTreeMap<MemberId, Roles<SetNumber>>,
}

/// Why a machine is not given a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Withheld {
    /// It is none of those that are believed.
    #[error("these are not the cluster's keys any more")]
    Unknown,
    /// The machine that is asked lags behind the step that took the asker out.
    #[error(
        "these keys were made because that machine left the control plane, in a step that this machine has not accepted yet"
    )]
    Barred,
    /// The record is full.
    #[error("{KNOWERS_MAX} machines were given these keys, and no more can be remembered")]
    Full,
}

impl KeySet {
    /// Whether what it signed counts.
    pub(crate) const fn is_believed(&self) -> bool {
        match self.stage {
            Stage::Spreading | Stage::Trusted | Stage::Moved { .. } | Stage::Serving => true,
            Stage::Retired => false,
        }
    }

    const fn signs_tokens(&self) -> bool {
        match self.stage {
            Stage::Trusted | Stage::Moved { .. } | Stage::Serving => true,
            Stage::Spreading | Stage::Retired => false,
        }
    }
}

impl KeyRecord {
    /// A cluster whose only keys are these, and are in use on these machines.
    pub(crate) fn first(keys: Digest, knowers: BTreeMap<Fingerprint, Knower>) -> Self {
        let set = KeySet { number: SetNumber(1), keys, stage: Stage::Serving, knowers, barred: BTreeMap::new() };
        KeyRecord { format: FORMAT, sets: vec![set], members: BTreeMap::new() }
    }

    /// What a member does with these sets.
    ///
    /// # Panics
    /// When no set serves, which no step leads to.
    #[must_use]
    pub fn roles(&self) -> Roles<SetNumber> {
        let newest = |of: fn(&KeySet) -> bool| self.sets.iter().rfind(|set| of(set)).map(|set| set.number);
        Roles {
            serving: newest(|set| set.stage == Stage::Serving).expect("because a set retires only when a newer serves"),
            tokens: newest(KeySet::signs_tokens).expect("because the set that serves signs tokens, or a newer one"),
            believed: self.sets.iter().filter(|set| set.is_believed()).map(|set| set.number).collect(),
        }
    }

    /// A set by its number.
    #[must_use]
    pub fn set(&self, number: SetNumber) -> Option<&KeySet> {
        self.sets.iter().find(|set| set.number == number)
    }

    /// The newest set.
    pub(crate) fn newest(&self) -> Option<&KeySet> {
        self.sets.last()
    }

    /// Writes down that a machine of the roster gets to know a set; `None` when it stands there already.
    pub(crate) fn with_knower(
        &self,
        keys: &Digest,
        identity: &Fingerprint,
        knower: &Knower,
    ) -> Result<Option<KeyRecord>, Withheld> {
        let mut next = self.clone();
        let set = next.sets.iter_mut().find(|set| set.keys == *keys && set.is_believed()).ok_or(Withheld::Unknown)?;
        if set.barred.get(identity).is_some_and(|barred| knower.seq < *barred) {
            return Err(Withheld::Barred);
        }
        let known = set.knowers.get(identity);
        if known.is_some_and(|known| known.machine == knower.machine && known.seq >= knower.seq) {
            return Ok(None);
        }
        if known.is_none() && set.knowers.len() >= KNOWERS_MAX {
            return Err(Withheld::Full);
        }
        set.knowers.insert(identity.clone(), knower.clone());
        Ok(Some(next))
    }

    /// Writes down what is in effect on a member; `None` when it stands there already.
    pub(crate) fn with_report(&self, member: MemberId, roles: &Roles<SetNumber>) -> Option<KeyRecord> {
        if self.members.get(&member) == Some(roles) {
            return None;
        }
        let mut next = self.clone();
        next.members.insert(member, roles.clone());
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::rotation::tests::{digest, identity, knower, record};

    #[test]
    fn the_newest_set_of_each_stage_does_its_work() {
        let numbers = |list: &[u64]| list.iter().map(|number| SetNumber(*number)).collect::<BTreeSet<_>>();
        let roles = |serving, tokens, believed: &[u64]| Roles {
            serving: SetNumber(serving),
            tokens: SetNumber(tokens),
            believed: numbers(believed),
        };
        let since = Timestamp::UNIX_EPOCH;
        let cases = [
            (vec![Stage::Serving], roles(1, 1, &[1])),
            (vec![Stage::Serving, Stage::Spreading], roles(1, 1, &[1, 2])),
            (vec![Stage::Serving, Stage::Trusted], roles(1, 2, &[1, 2])),
            (vec![Stage::Serving, Stage::Moved { since }, Stage::Spreading], roles(1, 2, &[1, 2, 3])),
            (vec![Stage::Serving, Stage::Serving], roles(2, 2, &[1, 2])),
            (vec![Stage::Retired, Stage::Serving], roles(2, 2, &[2])),
            (vec![Stage::Serving, Stage::Retired, Stage::Spreading], roles(1, 1, &[1, 3])),
        ];
        for (stages, expected) in cases {
            assert_eq!(record(&stages, &[1]).roles(), expected, "{stages:?}");
        }
    }

    #[test]
    fn who_is_given_keys_is_written_down_once_and_newly_when_the_step_is_newer() {
        let first = record(&[Stage::Serving], &[1]);
        let with = first.with_knower(&digest(1), &identity(2), &knower(2, 5)).expect("because it may").expect("new");
        assert_eq!(with.sets[0].knowers.get(&identity(2)), Some(&knower(2, 5)));
        assert_eq!(with.with_knower(&digest(1), &identity(2), &knower(2, 5)), Ok(None));
        assert_eq!(
            with.with_knower(&digest(1), &identity(2), &knower(2, 4)),
            Ok(None),
            "an older step says nothing new"
        );
        let later = with.with_knower(&digest(1), &identity(2), &knower(2, 9)).expect("because it may").expect("newer");
        assert_eq!(later.sets[0].knowers.get(&identity(2)), Some(&knower(2, 9)));
    }

    #[test]
    fn nobody_is_given_what_is_not_believed_or_was_made_because_of_them() {
        let mut two = record(&[Stage::Retired, Stage::Serving], &[1]);
        two.sets[1].barred.insert(identity(3), Seq(7));
        let ask = |keys, who, seq| two.with_knower(&digest(keys), &identity(who), &knower(who, seq)).map(|_| ());
        assert_eq!(ask(1, 2, 9), Err(Withheld::Unknown), "it is retired");
        assert_eq!(ask(9, 2, 9), Err(Withheld::Unknown));
        assert_eq!(ask(2, 2, 1), Ok(()));
        assert_eq!(ask(2, 3, 6), Err(Withheld::Barred), "the member that is asked has not heard that it left");
        assert_eq!(ask(2, 3, 8), Ok(()), "a later step has it again");
    }

    #[test]
    fn the_record_of_who_knows_is_bounded() {
        let mut full = record(&[Stage::Serving], &[]);
        let many = u8::try_from(KNOWERS_MAX).expect("because it is small");
        full.sets[0].knowers.extend((0..many).map(|at| (identity(at), knower(at, 1))));
        assert_eq!(full.with_knower(&digest(1), &identity(200), &knower(200, 1)), Err(Withheld::Full));
        assert!(
            full.with_knower(&digest(1), &identity(3), &knower(3, 2)).is_ok(),
            "who is known already is no one more"
        );
    }

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_else_is() {
        let record = record(&[Stage::Serving, Stage::Moved { since: Timestamp::UNIX_EPOCH }], &[1, 2]);
        let reported = record.with_report(3, &record.roles()).expect("because it is new");
        let text = serde_json::to_string(&reported).expect("because its map keys are text");
        assert_eq!(serde_json::from_str::<KeyRecord>(&text).expect("because it was just written"), reported);
        assert!(serde_json::from_str::<KeyRecord>(&text.replace("\"sets\"", "\"more\"")).is_err());
    }
}
