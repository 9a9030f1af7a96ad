//! Whose turn it is for an image: tables, and seeded worlds in which machines ask whenever they please, fail, vanish and lie about time.

use super::dice::Dice;
use super::waves::{Hold, Member, held_back, noted, stopped};
use controlplane_types::rollout::{
    CanarySpec, FailedImage, ImageReport, ImageSeen, MachineSpec, RolloutSpec, WantedImage, WaveSpec,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

const NEW: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OLD: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("because the time is in range")
}

/// A machine whose document names the new image, running the old one.
fn member(name: &str) -> Member {
    let role = if name.starts_with("cp") { "control-plane" } else { "worker" };
    Member {
        name: name.to_owned(),
        spec: MachineSpec {
            role: role.to_owned(),
            image: Some(WantedImage { digest: NEW.to_owned(), attempt: 1 }),
            ..MachineSpec::default()
        },
        ready: true,
        report: ImageReport { good: Some(OLD.to_owned()), failed: None },
        seen: None,
    }
}

fn canary(name: &str, pause_seconds: u32) -> Member {
    let mut member = member(name);
    member.spec.canary = Some(CanarySpec { pause_seconds });
    member
}

fn in_class(name: &str, waves: &[(u32, u32)]) -> Member {
    let wave = |(machines, pause_seconds): &(u32, u32)| WaveSpec { machines: *machines, pause_seconds: *pause_seconds };
    let mut member = member(name);
    member.spec.class = Some("workers".to_owned());
    member.spec.rollout = Some(RolloutSpec { unavailable: 1, waves: waves.iter().map(wave).collect() });
    member
}

/// It runs the new image, seen at this second.
fn runs(mut member: Member, since: i64) -> Member {
    member.report.good = Some(NEW.to_owned());
    member.seen = Some(ImageSeen { digest: NEW.to_owned(), since: at(since) });
    member
}

fn failed(mut member: Member, attempt: Option<u32>) -> Member {
    let reason = "no heartbeat".to_owned();
    member.report.failed = Some(FailedImage { digest: NEW.to_owned(), attempt, reason });
    member
}

fn why(members: &[Member], machine: &str, now: i64) -> String {
    let hold = held_back(members, machine, NEW, &[], at(now));
    hold.map(|hold| hold.message().to_owned()).unwrap_or_default()
}

#[test]
fn canaries_go_first_then_the_control_plane_then_workers() {
    let mut members = vec![canary("w1", 600), member("cp1"), member("cp2"), member("w2")];
    let may = |members: &[Member], now: i64| -> Vec<String> {
        let free = members.iter().filter(|one| !one.runs(NEW) && why(members, &one.name, now).is_empty());
        free.map(|one| one.name.clone()).collect()
    };
    assert_eq!(may(&members, 0), ["w1"]);
    assert!(why(&members, "cp1", 0).contains("canary w1 goes first"), "{}", why(&members, "cp1", 0));
    members[0] = runs(canary("w1", 600), 100);
    assert_eq!(may(&members, 699), Vec::<String>::new());
    assert!(why(&members, "cp1", 699).contains("once it did for 600 s"), "{}", why(&members, "cp1", 699));
    assert_eq!(may(&members, 700), ["cp1", "cp2"]);
    members[1] = runs(member("cp1"), 800);
    assert!(why(&members, "w2", 900).contains("control-plane machine cp2"), "{}", why(&members, "w2", 900));
    members[2] = runs(member("cp2"), 900);
    assert_eq!(may(&members, 900), ["w2"]);
}

#[test]
fn what_a_canary_runs_counts_only_while_it_is_ready() {
    let mut members = [runs(canary("w1", 0), 0), member("w2")];
    assert_eq!(why(&members, "w2", 10), "");
    members[0].ready = false;
    assert!(why(&members, "w2", 10).contains("canary w1"));
}

#[test]
fn a_canary_of_another_image_holds_up_nobody() {
    let mut members = [canary("w1", 600), member("w2")];
    members[0].spec.image = Some(WantedImage { digest: OLD.to_owned(), attempt: 1 });
    assert_eq!(why(&members, "w2", 0), "");
}

#[test]
fn after_a_failure_nobody_goes_until_the_repository_or_a_person_says_so() {
    type Change = fn(&mut Member);
    let report = failed(member("w1"), Some(1));
    let stops = |first: Member| stopped(&[first, member("w2")], "w2", NEW).is_some();
    assert!(stops(report.clone()));
    let message = why(&[report.clone(), member("w2")], "w2", 0);
    for part in ["sha256:aaaaaaaaaaaa ", "failed on w1: no heartbeat", "cairnctl upgrade --retry"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let with = |change: Change| {
        let mut changed = report.clone();
        change(&mut changed);
        stops(changed)
    };
    let cases: [(&str, bool, Change); 5] = [
        ("another attempt", false, |it| it.spec.image.as_mut().expect("because it has one").attempt = 2),
        ("another image", false, |it| it.spec.image.as_mut().expect("because it has one").digest = OLD.to_owned()),
        ("no image any more", false, |it| it.spec.image = None),
        ("it is good, or another wish ended there", false, |it| it.report.failed = None),
        ("it is not ready", true, |it| it.ready = false),
    ];
    for (case, expected, change) in cases {
        assert_eq!(with(change), expected, "{case}");
    }
    assert_eq!(
        stopped(&[report.clone(), member("w2")], "w1", NEW),
        None,
        "a person may have it tried again where it failed"
    );
    assert_eq!(stopped(&[report, member("w2")], "w2", OLD), None, "another image is not stopped");
}

#[test]
fn what_a_person_tried_stops_as_well_where_no_document_names_another_image() {
    let mut first = failed(member("w1"), None);
    assert!(stopped(&[first.clone(), member("w2")], "w2", NEW).is_some());
    first.spec.image = None;
    assert!(stopped(&[first.clone(), member("w2")], "w2", NEW).is_some());
    first.spec.image = Some(WantedImage { digest: OLD.to_owned(), attempt: 1 });
    assert!(stopped(&[first, member("w2")], "w2", NEW).is_none());
}

#[test]
fn a_class_goes_in_its_waves() {
    let class = |name: &str| in_class(name, &[(1, 600), (3, 0)]);
    let mut members: Vec<Member> = (1..=5).map(|n| class(&format!("w{n}"))).collect();
    let going = |members: &[Member], going: &[&str], now| held_back(members, "w5", NEW, going, at(now)).is_none();
    assert!(going(&members, &[], 0), "the first wave takes whoever asks first");
    assert!(!going(&members, &["w1"], 0), "one is on its way");
    members[0] = runs(class("w1"), 0);
    assert!(!going(&members, &[], 599));
    let told = why(&members, "w5", 599);
    assert!(told.contains("wave 1 of class workers") && told.contains("600 s"), "{told}");
    assert!(going(&members, &[], 600), "the second wave");
    assert!(going(&members, &["w2"], 600));
    assert!(!going(&members, &["w2", "w3"], 600), "three in all");
    members[1] = runs(class("w2"), 700);
    members[2] = runs(class("w3"), 700);
    assert!(going(&members, &["w4"], 701), "the rest");
}

#[test]
fn a_class_of_another_name_is_not_counted() {
    let mut members = vec![runs(in_class("w1", &[(1, 600)]), 0), in_class("w2", &[(1, 600)])];
    assert!(!why(&members, "w2", 1).is_empty());
    members[0].spec.class = Some("others".to_owned());
    assert_eq!(why(&members, "w2", 1), "");
}

#[test]
fn the_gate_notes_by_its_own_clock_since_when_an_image_runs() {
    let now = at(50);
    let mut one = member("w1");
    assert_eq!(noted(&one, now), Some(Some(ImageSeen { digest: OLD.to_owned(), since: now })));
    one.seen = Some(ImageSeen { digest: OLD.to_owned(), since: at(1) });
    assert_eq!(noted(&one, now), None);
    one.report.good = Some(NEW.to_owned());
    assert_eq!(noted(&one, now), Some(Some(ImageSeen { digest: NEW.to_owned(), since: now })));
    one.ready = false;
    assert_eq!(noted(&one, now), Some(None), "its time begins anew");
    one.seen = None;
    assert_eq!(noted(&one, now), None);
}

const CANARY_PAUSE: u32 = 300;
const WAVES: [(u32, u32); 2] = [(1, 120), (3, 60)];

/// All machines ask all the time, in any order; each that is let go is away for a while and comes back good, failed, or not at all.
struct World {
    members: Vec<Member>,
    away: BTreeSet<usize>,
    /// When each began to run the image, Ready without a break since; what really happened.
    good_since: Vec<Option<i64>>,
    failures: u64,
    now: i64,
}

impl World {
    fn new(failures: u64) -> Self {
        let mut members = vec![canary("w0", CANARY_PAUSE)];
        members.extend(["cp1", "cp2", "cp3"].map(member));
        members.extend((1..=5).map(|n| in_class(&format!("w{n}"), &WAVES)));
        let good_since = vec![None; members.len()];
        World { members, away: BTreeSet::new(), good_since, failures, now: 0 }
    }

    fn comes_back(&mut self, n: usize, dice: &mut Dice) {
        self.away.remove(&n);
        let member = &mut self.members[n];
        member.ready = true;
        match dice.roll(100) < self.failures {
            true => *member = failed(member.clone(), Some(1)),
            false => {
                member.report.good = Some(NEW.to_owned());
                self.good_since[n] = Some(self.now);
            }
        }
    }

    fn happens(&mut self, dice: &mut Dice) {
        self.now += i64::try_from(dice.roll(90)).expect("because it is small");
        let n = dice.index(self.members.len());
        match dice.roll(12) {
            // Somebody crashes and comes back; what runs on it stays.
            0 if !self.away.contains(&n) => {
                self.members[n].ready = !self.members[n].ready;
                let runs = self.members[n].runs(NEW);
                self.good_since[n] = runs.then_some(self.now);
            }
            1..=5 if self.away.contains(&n) => self.comes_back(n, dice),
            _ => {}
        }
        for member in &mut self.members {
            if let Some(seen) = noted(member, at(self.now)) {
                member.seen = seen;
            }
        }
    }

    fn since(&self, n: usize, pause: u32) -> bool {
        self.good_since[n].is_some_and(|since| self.now - since >= i64::from(pause))
    }

    /// Somebody asks; if it is let go, everything that must hold is looked at in what really happened.
    fn asks(&mut self, dice: &mut Dice, story: &str) -> bool {
        let n = dice.index(self.members.len());
        if self.away.contains(&n) || self.members[n].runs(NEW) || self.members[n].report.failed.is_some() {
            return false;
        }
        let name = self.members[n].name.clone();
        let going: Vec<&str> = self.away.iter().map(|n| self.members[*n].name.as_str()).collect();
        let hold = held_back(&self.members, &name, NEW, &going, at(self.now));
        let failed = self.members.iter().find(|member| member.report.failed.is_some());
        assert_eq!(matches!(hold, Some(Hold::Stopped { .. })), failed.is_some(), "{story}: {name}: {hold:?}");
        if hold.is_some() {
            return false;
        }
        if name != "w0" {
            assert!(self.since(0, CANARY_PAUSE), "{story}: {name} goes before the canary ran it long enough");
        }
        if let Some(number) = name.strip_prefix('w').filter(|number| *number != "0") {
            assert!((1..=3).all(|cp| self.members[cp].runs(NEW)), "{story}: w{number} goes before the control plane");
            let begun = (4..9).filter(|n| self.away.contains(n) || self.members[*n].runs(NEW)).count();
            for (target, pause) in WAVES {
                let target = usize::try_from(target).expect("because it is small");
                let settled = (4..9).filter(|n| self.since(*n, pause)).count();
                assert!(settled >= target || begun < target, "{story}: {name} goes before its wave");
                if settled < target {
                    break;
                }
            }
        }
        self.away.insert(n);
        self.members[n].ready = false;
        self.good_since[n] = None;
        true
    }
}

#[test]
fn in_no_world_does_anybody_jump_the_order_or_follow_a_failure() {
    let (mut went, mut whole, mut stops) = (0, 0, 0);
    for seed in 1..=400_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut world = World::new(if seed % 2 == 0 { 10 } else { 0 });
        for turn in 0..600 {
            world.happens(&mut dice);
            went += usize::from(world.asks(&mut dice, &format!("seed {seed}, turn {turn}")));
        }
        whole += usize::from(world.members.iter().all(|member| member.report.good.as_deref() == Some(NEW)));
        stops += usize::from(world.members.iter().any(|member| member.report.failed.is_some()));
    }
    assert!(whole > 100 && stops > 50, "rollouts end, and some stop: {went} went, {whole} whole, {stops} stopped");
}

#[test]
fn every_image_without_a_failure_reaches_every_machine() {
    let mut world = World::new(0);
    let mut dice = Dice(7);
    for _ in 0..2_000 {
        world.now += 30;
        for n in 0..world.members.len() {
            if world.away.contains(&n) {
                world.comes_back(n, &mut dice);
            }
        }
        for member in &mut world.members {
            if let Some(seen) = noted(member, at(world.now)) {
                member.seen = seen;
            }
        }
        world.asks(&mut dice, "in turn");
    }
    assert!(world.members.iter().all(|member| member.runs(NEW)), "{:?}", world.members);
    assert_eq!(SignedDuration::from_secs(CANARY_PAUSE.into()), SignedDuration::from_mins(5));
}
