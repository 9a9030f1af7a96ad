//! The leader's next step towards keys that no machine knows which left. Pure: a cut between any two steps is answered by planning again.

use super::exposure::leavers_of;
use super::record::{KeyRecord, KeySet, Knower, Roles, SETS_MAX, SetNumber, Stage};
use crate::Roster;
use controlplane_replica::MemberId;
use jiff::{SignedDuration, Timestamp};
use machined_ids::{Digest, Fingerprint, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// How long old keys are believed after the last member has moved to new ones: as long as a service-account token lives at most, and an
/// hour for whoever is late. People fetch the new authority within it (`cairnctl kubeconfig`).
pub const GRACE: SignedDuration = SignedDuration::from_hours(25);

/// What the leader does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Make a new set, because of these machines.
    Make(BTreeMap<Fingerprint, Seq>),
    /// Every member has it: sign tokens with it.
    Trust(SetNumber),
    /// Every member signs tokens with it: the grace begins.
    Begin(SetNumber),
    /// The grace has passed: show certificates of its authority.
    Serve(SetNumber),
    /// Every member shows those of a newer one: believe it no more.
    Retire(SetNumber),
    /// No member believes it any more.
    Forget(SetNumber),
}

/// Those who keep the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Voters and learners.
    pub(crate) members: BTreeSet<MemberId>,
    /// Whether the group is as the roster wants it: no change under way, and nobody in it whose machine left.
    pub(crate) settled: bool,
}

/// The next step.
pub(crate) fn plan(record: &KeyRecord, group: &Group, roster: &Roster, now: Timestamp) -> Step {
    let all = |holds: &dyn Fn(&Roles<SetNumber>) -> bool| {
        group.members.iter().all(|member| record.members.get(member).is_some_and(holds))
    };
    let gone = |set: &&KeySet| set.stage == Stage::Retired && all(&|roles| !roles.believed.contains(&set.number));
    if let Some(set) = record.sets.iter().find(gone) {
        return Step::Forget(set.number);
    }
    // The membership comes first: a member that leaves would be waited for.
    if group.settled
        && record.sets.len() < SETS_MAX
        && let Some(newest) = record.newest()
    {
        let left = leavers_of(newest, roster);
        if !left.is_empty() {
            return Step::Make(left.into_iter().map(|leaver| (leaver.identity, roster.seq)).collect());
        }
    }
    let next = record.sets.iter().find_map(|set| match set.stage {
        Stage::Spreading => all(&|roles| roles.believed.contains(&set.number)).then_some(Step::Trust(set.number)),
        Stage::Trusted => all(&|roles| roles.tokens >= set.number).then_some(Step::Begin(set.number)),
        Stage::Moved { since } => (now.duration_since(since) >= GRACE).then_some(Step::Serve(set.number)),
        Stage::Serving => {
            let replaced = record.roles().serving > set.number && all(&|roles| roles.serving > set.number);
            replaced.then_some(Step::Retire(set.number))
        }
        Stage::Retired => None,
    });
    next.unwrap_or(Step::Nothing)
}

/// Members that the rotation waits for: what they said is in effect is not what the record wants.
pub(crate) fn waits_for(record: &KeyRecord, members: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
    let wanted = record.roles();
    members.iter().copied().filter(|member| record.members.get(member) != Some(&wanted)).collect()
}

impl KeyRecord {
    /// The record after a step other than [`Step::Make`]; `None` when it is not one that can be made from here.
    pub(crate) fn after(&self, step: &Step, members: &BTreeSet<MemberId>, now: Timestamp) -> Option<KeyRecord> {
        let stepped = match step {
            Step::Nothing | Step::Make(_) => None,
            Step::Trust(number) => {
                self.with_stage(*number, |from| (from == Stage::Spreading).then_some(Stage::Trusted))
            }
            Step::Begin(number) => {
                self.with_stage(*number, |from| (from == Stage::Trusted).then_some(Stage::Moved { since: now }))
            }
            Step::Serve(number) => {
                self.with_stage(*number, |from| matches!(from, Stage::Moved { .. }).then_some(Stage::Serving))
            }
            Step::Retire(number) => self.with_stage(*number, |from| (from == Stage::Serving).then_some(Stage::Retired)),
            Step::Forget(number) => self.without(*number),
        };
        let mut next = stepped?;
        next.members.retain(|member, _| members.contains(member));
        Some(next)
    }

    fn with_stage(&self, number: SetNumber, to: impl Fn(Stage) -> Option<Stage>) -> Option<KeyRecord> {
        let mut next = self.clone();
        let set = next.sets.iter_mut().find(|set| set.number == number)?;
        set.stage = to(set.stage)?;
        next.sets.iter().any(|set| set.stage == Stage::Serving).then_some(next)
    }

    fn without(&self, number: SetNumber) -> Option<KeyRecord> {
        let mut next = self.clone();
        next.sets.retain(|set| set.number != number || set.stage != Stage::Retired);
        (next.sets.len() < self.sets.len()).then_some(next)
    }

    /// The record with a new set, made by a machine. What was spreading is given up: nobody signs with it yet.
    pub(crate) fn with_set(
        &self,
        keys: Digest,
        barred: BTreeMap<Fingerprint, Seq>,
        maker: (Fingerprint, Knower),
    ) -> Option<KeyRecord> {
        let mut next = self.clone();
        let number = SetNumber(self.newest()?.number.0.checked_add(1)?);
        if self.sets.len() >= SETS_MAX {
            return None;
        }
        for set in next.sets.iter_mut().filter(|set| set.stage == Stage::Spreading) {
            set.stage = Stage::Retired;
        }
        let knowers = BTreeMap::from([maker]);
        next.sets.push(KeySet { number, keys, stage: Stage::Spreading, knowers, barred });
        Some(next)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use machined_ids::MachineName;

    pub(crate) fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    pub(crate) fn identity(byte: u8) -> Fingerprint {
        Fingerprint::from_sha256(&[byte; 32])
    }

    pub(crate) fn name(byte: u8) -> MachineName {
        MachineName::parse(&format!("cp{byte}")).expect("because it is a label")
    }

    pub(crate) fn knower(byte: u8, seq: u64) -> Knower {
        Knower { machine: name(byte), seq: Seq(seq) }
    }

    pub(crate) fn roster(seq: u64, machines: &[u8]) -> Roster {
        Roster { seq: Seq(seq), machines: machines.iter().map(|byte| (name(*byte), identity(*byte))).collect() }
    }

    /// Sets 1, 2, ... in these stages; the machines know all of them since step 1.
    pub(crate) fn record(stages: &[Stage], knowers: &[u8]) -> KeyRecord {
        let mut record = KeyRecord::first(digest(1), BTreeMap::new());
        record.sets.clear();
        for (number, stage) in (1..).zip(stages) {
            record.sets.push(KeySet {
                number: SetNumber(u64::from(number)),
                keys: digest(number),
                stage: *stage,
                knowers: knowers.iter().map(|byte| (identity(*byte), knower(*byte, 1))).collect(),
                barred: BTreeMap::new(),
            });
        }
        record
    }

    fn group(members: &[MemberId]) -> Group {
        Group { members: members.iter().copied().collect(), settled: true }
    }

    fn reported(mut record: KeyRecord, members: &[MemberId]) -> KeyRecord {
        record.members = members.iter().map(|member| (*member, record.roles())).collect();
        record
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn nothing_is_to_be_done_while_all_who_know_the_keys_are_there() {
        let record = reported(record(&[Stage::Serving], &[1, 2, 3]), &[1, 2, 3]);
        assert_eq!(plan(&record, &group(&[1, 2, 3]), &roster(5, &[1, 2, 3]), NOW), Step::Nothing);
        assert_eq!(plan(&record, &group(&[1, 2, 3]), &roster(5, &[1, 2, 3, 4]), NOW), Step::Nothing, "one more");
    }

    #[test]
    fn a_machine_that_left_has_new_keys_made_but_only_when_the_group_is_settled() {
        let record = reported(record(&[Stage::Serving], &[1, 2, 3]), &[1, 2]);
        let made = Step::Make(BTreeMap::from([(identity(3), Seq(5))]));
        assert_eq!(plan(&record, &group(&[1, 2]), &roster(5, &[1, 2]), NOW), made);
        let leaving = Group { settled: false, ..group(&[1, 2, 3]) };
        assert_eq!(plan(&record, &leaving, &roster(5, &[1, 2]), NOW), Step::Nothing);
    }

    #[test]
    fn another_identity_under_the_name_and_another_role_count_as_leaving_and_an_older_step_as_nothing() {
        let record = reported(record(&[Stage::Serving], &[1, 2]), &[1, 2]);
        let mut other = roster(5, &[1, 2]);
        other.machines.insert(name(2), identity(9));
        assert_eq!(plan(&record, &group(&[1, 2]), &other, NOW), Step::Make([(identity(2), Seq(5))].into()));
        assert_eq!(plan(&record, &group(&[1, 2]), &roster(0, &[1]), NOW), Step::Nothing, "the step is older than 2");
        let mut renamed = roster(5, &[1]);
        renamed.machines.insert(name(7), identity(2));
        assert_eq!(plan(&record, &group(&[1, 2]), &renamed, NOW), Step::Nothing, "the machine is its identity");
    }

    #[test]
    fn every_step_waits_for_every_member_and_is_made_once() {
        let (group, roster) = (group(&[1, 2]), roster(5, &[1, 2]));
        let stages = [
            (vec![Stage::Serving, Stage::Spreading], NOW, Step::Trust(SetNumber(2))),
            (vec![Stage::Serving, Stage::Trusted], NOW, Step::Begin(SetNumber(2))),
            (vec![Stage::Serving, Stage::Serving], NOW, Step::Retire(SetNumber(1))),
            (vec![Stage::Retired, Stage::Serving], NOW, Step::Forget(SetNumber(1))),
        ];
        for (stages, now, step) in stages {
            let bare = record(&stages, &[1, 2]);
            assert_eq!(plan(&bare, &group, &roster, now), Step::Nothing, "{stages:?}: nobody has said anything");
            let mut half = reported(bare.clone(), &[1]);
            // The second member is where it was before the newest change.
            let before = Roles { serving: SetNumber(1), tokens: SetNumber(1), believed: [SetNumber(1)].into() };
            half.members.insert(2, before);
            assert_eq!(plan(&half, &group, &roster, now), Step::Nothing, "{stages:?}: one has not");
            let all = reported(bare, &[1, 2]);
            assert_eq!(plan(&all, &group, &roster, now), step, "{stages:?}");
            let after = all.after(&step, &group.members, now).expect("because the step was planned");
            assert_eq!(after.after(&step, &group.members, now), None, "{step:?} is made once");
        }
    }

    #[test]
    fn the_grace_is_waited_for_whoever_leads_and_whatever_the_clock_did() {
        let since = Timestamp::from_second(1_000_000).expect("because it is a time");
        let record = reported(record(&[Stage::Serving, Stage::Moved { since }], &[1]), &[1]);
        let at = |now| plan(&record, &group(&[1]), &roster(5, &[1]), now);
        assert_eq!(at(since), Step::Nothing);
        assert_eq!(at(since - SignedDuration::from_hours(1000)), Step::Nothing, "a clock that was put back");
        assert_eq!(at(since + GRACE - SignedDuration::from_secs(1)), Step::Nothing);
        assert_eq!(at(since + GRACE), Step::Serve(SetNumber(2)));
    }

    #[test]
    fn a_machine_that_leaves_meanwhile_has_the_spreading_keys_given_up() {
        let record = reported(record(&[Stage::Serving, Stage::Spreading], &[1, 2, 3]), &[1, 2]);
        let step = plan(&record, &group(&[1, 2]), &roster(6, &[1, 2]), NOW);
        let Step::Make(barred) = step else { panic!("not made: {step:?}") };
        let next = record.with_set(digest(3), barred, (identity(1), knower(1, 6))).expect("because there is room");
        let stages: Vec<Stage> = next.sets.iter().map(|set| set.stage).collect();
        assert_eq!(stages, [Stage::Serving, Stage::Retired, Stage::Spreading]);
        assert_eq!(next.sets[2].barred, BTreeMap::from([(identity(3), Seq(6))]));
        let full = self::record(&[Stage::Serving; SETS_MAX], &[1]);
        assert_eq!(full.with_set(digest(9), BTreeMap::new(), (identity(1), knower(1, 6))), None, "there is no room");
    }

    /// Members of a model cluster: what each has in effect; whether it has told.
    struct Model {
        record: KeyRecord,
        group: Group,
        roster: Roster,
        now: Timestamp,
        steps: Vec<Step>,
    }

    impl Model {
        /// The leader looks once. Whether its write got through is `cut`'s business: a cut before it leaves everything as it was.
        fn look(&mut self, cut: bool) {
            let step = plan(&self.record, &self.group, &self.roster, self.now);
            let next = match &step {
                Step::Nothing => return,
                Step::Make(barred) => {
                    // A cut leaves a set on a disk that nobody knows of.
                    let number = u8::try_from(self.record.sets.len() + 1).expect("because they are few");
                    self.record.with_set(digest(number), barred.clone(), (identity(1), knower(1, self.roster.seq.0)))
                }
                other => self.record.after(other, &self.group.members, self.now),
            };
            if !cut {
                self.record = next.expect("because it was planned");
                self.steps.push(step);
            }
        }

        /// A member takes the record in and says so, unless it is cut before.
        fn take_in(&mut self, member: MemberId, cut: bool) {
            let roles = self.record.roles();
            if !cut && let Some(next) = self.record.with_report(member, &roles) {
                self.record = next;
            }
            // What a member does never names keys that another one does not believe yet.
            for (other, in_effect) in &self.record.members {
                assert!(in_effect.believed.contains(&roles.tokens), "member {other} does not believe {}", roles.tokens);
                assert!(roles.believed.contains(&in_effect.tokens), "{} of member {other}", in_effect.tokens);
                assert!(in_effect.believed.contains(&roles.serving), "member {other} does not know {}", roles.serving);
            }
        }
    }

    /// Cuts at every place in turn: the rotation ends all the same, in the same steps.
    #[test]
    fn a_cut_at_any_step_leads_to_the_same_end() {
        let expected = [
            Step::Make(BTreeMap::from([(identity(3), Seq(5))])),
            Step::Trust(SetNumber(2)),
            Step::Begin(SetNumber(2)),
            Step::Serve(SetNumber(2)),
            Step::Retire(SetNumber(1)),
            Step::Forget(SetNumber(1)),
        ];
        for cut_at in 0..40 {
            let mut model = Model {
                record: reported(record(&[Stage::Serving], &[1, 2, 3]), &[1, 2]),
                group: group(&[1, 2]),
                roster: roster(5, &[1, 2]),
                now: NOW,
                steps: Vec::new(),
            };
            let mut happening = 0;
            let mut cut = || {
                happening += 1;
                happening == cut_at
            };
            for _ in 0..20 {
                model.look(cut());
                model.take_in(1, cut());
                model.take_in(2, cut());
                model.now += SignedDuration::from_hours(2);
            }
            assert_eq!(model.steps, expected, "cut at {cut_at}");
            assert_eq!(model.record.sets.len(), 1);
            assert!(leavers_of(&model.record.sets[0], &model.roster).is_empty());
        }
    }
}
