//! Which machines left the control plane and still know keys that somebody believes. Pure.

use super::record::{KeyRecord, KeySet, SetNumber, Stage};
use super::rotation::{GRACE, waits_for};
use crate::Roster;
use controlplane_replica::{Member, MemberId};
use jiff::Timestamp;
use machined_ids::{Fingerprint, MachineName};
use std::collections::BTreeMap;
use std::fmt;

/// A machine that knows keys and is no control-plane machine any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaver {
    /// Its name when it was given them.
    pub machine: MachineName,
    /// Its identity.
    pub identity: Fingerprint,
}

/// What the condition `KeysExposed` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Who knows keys that are believed; empty when all is well.
    pub leavers: Vec<Leaver>,
    /// How far their replacement has come.
    pub progress: Progress,
}

/// How far new keys have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Progress {
    /// There are none yet.
    #[default]
    Waiting,
    /// They go to the members; these are waited for, by machine.
    Moving {
        /// Which set.
        set: SetNumber,
        /// Machines that are waited for.
        waiting: Vec<String>,
    },
    /// They are used, and the old ones believed until then.
    Grace {
        /// Which set.
        set: SetNumber,
        /// The end of the grace.
        until: Timestamp,
    },
}

/// Machines that know a set and that the roster does not have, unless the roster is older than what had them.
pub(crate) fn leavers_of(set: &KeySet, roster: &Roster) -> Vec<Leaver> {
    let stands = |identity: &Fingerprint| roster.machines.values().any(|known| known == identity);
    let left = set.knowers.iter().filter(|(identity, knower)| !stands(identity) && roster.seq >= knower.seq);
    left.map(|(identity, knower)| Leaver { machine: knower.machine.clone(), identity: identity.clone() }).collect()
}

impl Exposure {
    /// Of all sets that are not forgotten: what one member believes still is exposed.
    #[must_use]
    pub fn of(record: &KeyRecord, members: &BTreeMap<MemberId, Member>, roster: &Roster) -> Self {
        let mut leavers: Vec<Leaver> = record.sets.iter().flat_map(|set| leavers_of(set, roster)).collect();
        leavers.sort();
        leavers.dedup();
        if leavers.is_empty() {
            return Exposure::default();
        }
        Exposure { leavers, progress: progress(record, members, roster) }
    }

    /// One word for the condition; empty when it is off.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match (self.leavers.is_empty(), &self.progress) {
            (true, _) => "",
            (false, Progress::Waiting) => "MachineLeft",
            (false, Progress::Moving { .. }) => "Rotating",
            (false, Progress::Grace { .. }) => "OldKeysBelieved",
        }
    }
}

fn progress(record: &KeyRecord, members: &BTreeMap<MemberId, Member>, roster: &Roster) -> Progress {
    let Some(newest) = record.newest().filter(|newest| leavers_of(newest, roster).is_empty()) else {
        return Progress::Waiting;
    };
    if let Stage::Moved { since } = newest.stage {
        return Progress::Grace { set: newest.number, until: since + GRACE };
    }
    let waiting = waits_for(record, &members.keys().copied().collect());
    let machine = |id| members.get(&id).map(|member| member.machine.clone());
    Progress::Moving { set: newest.number, waiting: waiting.into_iter().filter_map(machine).collect() }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.leavers.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = self.leavers.iter().map(|one| format!("{} ({})", one.machine, one.identity)).collect();
        write!(f, "{} left the control plane and knows the cluster's keys; ", list.join(", "))?;
        match &self.progress {
            Progress::Waiting => f.write_str(
                "new ones are made when the store's members are as the repository says: see `cairnctl status` of each machine",
            ),
            Progress::Moving { set, waiting } if waiting.is_empty() => {
                write!(f, "new ones (set {set}) are being taken into use")
            }
            Progress::Moving { set, waiting } => write!(
                f,
                "new ones (set {set}) are on their way; waiting for {}: start it, or remove its machines/ document",
                waiting.join(", ")
            ),
            Progress::Grace { set, until } => write!(
                f,
                "new ones (set {set}) are in use, and old ones believed until {until}: everybody runs `cairnctl kubeconfig` before, and \
                 whatever read the authority at its start is started again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotation::tests::{identity, record, roster};
    use super::*;

    fn members(ids: &[u8]) -> BTreeMap<MemberId, Member> {
        let member = |id: &u8| (MemberId::from(*id), Member { machine: format!("cp{id}"), address: String::new() });
        ids.iter().map(member).collect()
    }

    #[test]
    fn it_names_the_machine_until_nobody_believes_what_it_knows() {
        let since = Timestamp::UNIX_EPOCH;
        let cases = [
            (vec![Stage::Serving], "MachineLeft"),
            (vec![Stage::Serving, Stage::Spreading], "Rotating"),
            (vec![Stage::Serving, Stage::Trusted], "Rotating"),
            (vec![Stage::Serving, Stage::Moved { since }], "OldKeysBelieved"),
            (vec![Stage::Serving, Stage::Serving], "Rotating"),
            (vec![Stage::Retired, Stage::Serving], "Rotating"),
        ];
        for (stages, reason) in cases {
            let mut record = record(&stages, &[1, 2]);
            if let Some(set) = record.sets.get_mut(1) {
                set.knowers.remove(&identity(2));
            }
            assert_eq!(Exposure::of(&record, &members(&[1, 2]), &roster(5, &[1, 2])), Exposure::default());
            let exposure = Exposure::of(&record, &members(&[1]), &roster(5, &[1]));
            assert_eq!(exposure.reason(), reason, "{stages:?}");
            assert_eq!(exposure.leavers.len(), 1, "{stages:?}");
            assert!(exposure.to_string().starts_with("cp2 (SHA256:"), "{exposure}");
        }
        let mut done = record(&[Stage::Serving], &[1, 2]);
        done.sets[0].knowers.remove(&identity(2));
        assert_eq!(Exposure::of(&done, &members(&[1]), &roster(5, &[1])).reason(), "");
    }

    #[test]
    fn it_says_who_is_waited_for_and_until_when() {
        let mut spreading = record(&[Stage::Serving, Stage::Spreading], &[1, 2]);
        spreading.sets[1].knowers.remove(&identity(2));
        spreading.members.insert(1, spreading.roles());
        let text = Exposure::of(&spreading, &members(&[1, 3]), &roster(5, &[1, 3])).to_string();
        assert!(text.contains("waiting for cp3:"), "{text}");
        spreading.sets[1].stage = Stage::Moved { since: Timestamp::UNIX_EPOCH };
        let text = Exposure::of(&spreading, &members(&[1, 3]), &roster(5, &[1, 3])).to_string();
        assert!(text.contains("believed until 1970-01-02T01:00:00Z"), "{text}");
    }

    #[test]
    fn a_step_from_before_a_machine_came_says_nothing_of_it() {
        let mut late = record(&[Stage::Serving], &[1, 2]);
        late.sets[0].knowers.get_mut(&identity(2)).expect("because it knows").seq = machined_ids::Seq(9);
        assert_eq!(Exposure::of(&late, &members(&[1, 2]), &roster(8, &[1])), Exposure::default());
        assert_eq!(Exposure::of(&late, &members(&[1, 2]), &roster(9, &[1])).reason(), "MachineLeft");
    }
}
