//! Trust over time: orders, health, old states, several sources, statements, two stories.

use super::{DEPLOYMENT, Lab, SERVICE, bob, deployment, start};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gitsync_verify::{Mark, SignedMark};
use jiff::{SignedDuration, Timestamp};
use machined_access::IdentityKey;
use machined_api::{Condition, Order};
use machined_ids::{CommitId, StepId};
use serde_json::{Value, json};

const SETTINGS: &str = "/api/v1/namespaces/default/configmaps/settings";

pub(crate) fn settings(number: u32) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  namespace: default\ndata:\n  number: \"{number}\"\n"
    )
}

impl Lab {
    /// A lab whose accepted step is healthy: nothing in it needs a pod.
    pub(crate) async fn calm() -> Self {
        let lab = Lab::new().await;
        lab.until_replicas(2).await;
        lab.repository.remove("apps/web/deployment.yaml");
        lab.repository.remove("apps/web/service.yaml");
        lab.settings(1).await;
        lab.until("the service to go", async || lab.cluster.get(SERVICE).await.is_none().then_some(())).await;
        lab
    }

    /// Pushes a healthy step.
    pub(crate) async fn settings(&self, number: u32) -> CommitId {
        self.repository.write("apps/settings.yaml", &settings(number));
        let commit = self.repository.commit(Some("ada"), &format!("settings {number}"));
        self.until_commit(&commit, "healthy").await;
        commit
    }

    pub(crate) async fn until_condition(&self, kind: &str, status: bool, reason: &str) -> Condition {
        let find = async || self.machined.condition(kind).filter(|c| c.status == status && c.reason == reason);
        self.until(&format!("{kind} to be {status} for {reason:?}"), find).await
    }

    pub(crate) async fn until_applied(&self, commit: &CommitId) {
        let find = async || (self.applied() == commit.as_str()).then_some(());
        self.until(&format!("{} to be handed down", commit.short()), find).await;
    }

    /// The commit that was handed down last.
    pub(crate) fn applied(&self) -> String {
        self.machined.told().applied.last().map(|applied| applied.commit.clone()).unwrap_or_default()
    }

    /// The position that machined was told last.
    pub(crate) fn accepted(&self) -> String {
        let told = self.machined.told();
        told.accepted.last().and_then(|told| told.accepted.as_ref()).map(|p| p.commit.clone()).unwrap_or_default()
    }

    async fn until_number(&self, number: u32) {
        let number = &number.to_string();
        let right = |map: &Value| map["data"]["number"].as_str() == Some(number);
        let find = async || self.cluster.get(SETTINGS).await.filter(right);
        self.until(&format!("settings {number} in the cluster"), find).await;
    }
}

fn order(kind: &str, seq: u64) -> Order {
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    Order {
        kind: kind.to_owned(),
        seq,
        until: until.to_string(),
        reason: "the disk is full".to_owned(),
        by: "ada".to_owned(),
        ..Order::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_keeps_what_runs_and_people_are_still_accepteds() {
    let lab = Lab::calm().await;
    let held = lab.repository.head();
    lab.machined.order(Some(order("hold", 0)));
    // The condition was on before; that the order lies on the disk is what the commit below must find.
    let file = lab.places.folder.join("trust-state");
    let kept = async || std::fs::read_to_string(&file).ok().filter(|state| state.contains("the disk is full"));
    lab.until("the hold in the recorded state", kept).await;
    lab.repository.write("apps/settings.yaml", &settings(2));
    lab.repository.write("trust/bob.kdl", &bob(&lab));
    let next = lab.repository.commit(Some("ada"), "two, and bob");
    let drift = lab.until_condition("Drift", true, "Held").await;
    assert!(
        drift.message.contains("the disk is full") && drift.message.contains("cairnctl resume"),
        "{}",
        drift.message
    );
    lab.until_commit(&next, "accepted").await;
    assert_eq!((lab.applied(), lab.accepted()), (held.to_string(), next.to_string()));
    let people: Value = {
        let told = lab.machined.told();
        let applied = told.applied.last().expect("because it was handed down");
        serde_json::from_slice(&applied.access).expect("because gitsync wrote it")
    };
    assert!(people["people"].get("bob").is_some(), "a hold keeps nobody out and lets nobody stay");
    assert_eq!(lab.cluster.get(SETTINGS).await.expect("because it still runs")["data"]["number"], "1");
    lab.machined.order(None);
    lab.until_commit(&next, "healthy").await;
    lab.until_condition("Drift", false, "").await;
    lab.until_number(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_came_before_the_handing_down_never_sees_that_step_applied() {
    let mut lab = Lab::calm().await;
    let held = lab.repository.head();
    lab.machined.order_meanwhile(order("hold", 0));
    lab.repository.write("apps/settings.yaml", &settings(2));
    let next = lab.repository.commit(Some("ada"), "two");
    lab.until_condition("Drift", true, "Held").await;
    let handed: Vec<_> = lab.machined.told().applied.iter().map(|applied| applied.commit.clone()).collect();
    assert!(!handed.contains(&next.to_string()), "the step was applied under a hold: {handed:?}");
    let late = lab.machined.told().late;
    assert_eq!((late, lab.applied(), lab.accepted()), (1, held.to_string(), next.to_string()));
    // gitsync had written the step down as the next to run; a restart must not take it for what the hold keeps.
    lab.machined.forget();
    lab.restart().await;
    lab.until_condition("Drift", true, "Held").await;
    assert_eq!(lab.applied(), held.as_str());
    assert_eq!(lab.cluster.get(SETTINGS).await.expect("because it still runs")["data"]["number"], "1");
    lab.machined.order(None);
    lab.until_commit(&next, "healthy").await;
    lab.until_number(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_runs_a_healthy_ancestor_and_no_other() {
    let mut lab = Lab::calm().await;
    let old = lab.repository.head();
    let seq = lab.until_commit(&old, "healthy").await.seq;
    let new = lab.settings(2).await;
    lab.machined.order(Some(order("pin", 1)));
    let refused = lab.until_condition("OrderFollowed", false, "Limit").await;
    assert!(refused.message.contains("never was healthy"), "{}", refused.message);
    assert_eq!(lab.applied(), new.as_str());
    lab.machined.order(Some(order("pin", seq)));
    lab.until_condition("Drift", true, "Pinned").await;
    lab.until_number(1).await;
    assert_eq!((lab.applied(), lab.accepted()), (old.to_string(), new.to_string()));
    // A restart follows the same order again.
    lab.machined.forget();
    lab.restart().await;
    lab.until_condition("Drift", true, "Pinned").await;
    assert_eq!(lab.applied(), old.as_str());
    lab.machined.order(None);
    lab.until_number(2).await;
    lab.until_commit(&new, "healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t73_a_step_that_is_not_healthy_is_reverted_and_who_it_removed_stays_out() {
    let lab = Lab::calm().await;
    let cluster = std::fs::read_to_string(lab.repository.path().join("work/cluster.kdl")).expect("because it is there");
    lab.repository.write("cluster.kdl", &cluster.replace("level 1", "level 1\n    rollout deadline=\"1s\""));
    let good = lab.settings(2).await;
    let policy =
        std::fs::read_to_string(lab.repository.path().join("work/trust/root.kdl")).expect("because it is there");
    lab.repository.write("trust/root.kdl", &policy.replace("use \"commit\" \"login\"", "use \"commit\""));
    lab.repository.write("trust/bob.kdl", &bob(&lab));
    lab.repository.write("apps/web/deployment.yaml", &deployment(1));
    lab.repository.write("apps/settings.yaml", &settings(3));
    let bad = lab.repository.commit(Some("ada"), "a deployment that nobody runs, and ada is gone");
    let record = lab.until_commit(&bad, "reverted").await;
    assert!(record.message.contains("was not healthy after 1 s"), "{}", record.message);
    lab.until_applied(&good).await;
    lab.until_condition("Reverted", true, "Unhealthy").await;
    lab.until_condition("Drift", true, "Reverted").await;
    let people: Value = {
        let told = lab.machined.told();
        let applied = told.applied.last().expect("because it was handed down");
        serde_json::from_slice(&applied.access).expect("because gitsync wrote it")
    };
    assert!(people["people"].get("ada").is_none() && people["people"].get("bob").is_some(), "{people}");
    assert_eq!(lab.accepted(), bad.as_str(), "accepted does not go back");
    lab.until_number(2).await;
    lab.until("the deployment to go", async || lab.cluster.get(DEPLOYMENT).await.is_none().then_some(())).await;
    let event = format!("/api/v1/namespaces/default/events/{}.reverted", bad.short());
    lab.until("the event", async || lab.cluster.get(&event).await).await;
    // It stays out until the next step, which is tried.
    lab.repository.remove("apps/web/deployment.yaml");
    let fix = lab.repository.commit(Some("ada"), "no deployment");
    lab.until_commit(&fix, "healthy").await;
    lab.until_condition("Reverted", false, "").await;
    lab.until_number(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t71_a_key_that_was_revoked_by_a_statement_lets_nobody_in() {
    let lab = Lab::calm().await;
    lab.repository.write("trust/bob.kdl", &bob(&lab));
    let commit = lab.repository.commit(Some("ada"), "bob may log in");
    lab.until_commit(&commit, "healthy").await;
    let people = || {
        let told = lab.machined.told();
        let applied = told.applied.last().expect("because it was handed down");
        let table: Value = serde_json::from_slice(&applied.access).expect("because gitsync wrote it");
        (applied.commit.clone(), table["people"].as_object().map(|people| people.keys().cloned().collect::<Vec<_>>()))
    };
    assert_eq!(people().1, Some(vec!["ada".to_owned(), "bob".to_owned()]));
    lab.repository.revoke_own("mallory");
    let gone = async || (people().1 == Some(vec!["ada".to_owned()])).then_some(());
    lab.until("bob's key to let nobody in", gone).await;
    assert_eq!(people().0, commit.as_str(), "no step was needed for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t45_an_old_state_put_back_moves_nothing_until_a_source_leads_to_what_was_accepted() {
    let mut lab = Lab::calm().await;
    lab.stop().await;
    let file = lab.places.folder.join("trust-state");
    let old = std::fs::read(&file).expect("because gitsync wrote it");
    lab.gitsync = start(&lab.places);
    let new = lab.settings(2).await;
    lab.stop().await;
    std::fs::write(&file, old).expect("because the folder is there");
    lab.machined.forget();
    lab.repository.reset_to("HEAD~1");
    let generation = lab.generation();
    lab.gitsync = start(&lab.places);
    let told = lab.until_condition("StateTrusted", false, "FreshnessUnproven").await;
    assert!(told.message.contains("an old copy"), "{}", told.message);
    // Another branch from there on is no way forward either.
    lab.repository.write("apps/settings.yaml", &settings(7));
    let other = lab.repository.commit(Some("ada"), "seven, instead of two");
    lab.until_commit(&other, "refused").await;
    assert_eq!((lab.generation(), lab.applied()), (generation, new.to_string()));
    lab.repository.reset(&new);
    lab.until_condition("StateTrusted", true, "").await;
    lab.until_commit(&new, "healthy").await;
    assert_eq!(lab.accepted(), new.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t88_a_newer_state_is_kept_and_nothing_moves() {
    let mut lab = Lab::calm().await;
    lab.stop().await;
    let file = lab.places.folder.join("trust-state");
    let text = std::fs::read_to_string(&file).expect("because gitsync wrote it");
    let mut state: Value = serde_json::from_str(text.split_once('\n').expect("because the seal is a line").1)
        .expect("because the rest is JSON");
    state["version"] = json!(99);
    state["more"] = json!("that this release does not know");
    let state = state.to_string();
    let seal = lab.machined.identity.seal(state.as_bytes()).expect("because its key is on the disk");
    let newer = format!("{}\n{state}", STANDARD.encode(seal));
    std::fs::write(&file, &newer).expect("because the folder is there");
    lab.machined.forget();
    let generation = lab.generation();
    lab.repository.write("apps/settings.yaml", &settings(2));
    lab.repository.commit(Some("ada"), "two");
    lab.gitsync = start(&lab.places);
    let told = lab.until_condition("StateTrusted", false, "NewerState").await;
    assert!(told.message.contains("boot the newer slot"), "{}", told.message);
    assert_eq!(lab.generation(), generation);
    assert_eq!(std::fs::read_to_string(&file).expect("because it is there"), newer, "the newer state is not touched");
    assert_eq!(lab.cluster.get(SETTINGS).await.expect("because it still runs")["data"]["number"], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t41_the_longest_valid_chain_wins_and_a_dead_a_stale_and_a_lying_mirror_cost_nothing() {
    let lab = Lab::calm().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports");
    let hanging = format!("http://{}/demo.git", silent.local_addr().expect("because it is bound"));
    let stale = lab.repository.mirror("stale.git");
    let new = lab.settings(2).await;
    let lying = lab.repository.mirror("lying.git");
    let lie = lab.repository.deface("lying.git");
    let honest = lab.repository.url();
    let mirrors = ["http://127.0.0.1:1/demo.git".to_owned(), hanging, lying, stale, honest];
    lab.machined.introduce(&lab.repository.introduction(), &mirrors);
    let record = lab.until_commit(&lie, "refused").await;
    assert_eq!(record.reason, "UnderThreshold");
    assert_eq!(lab.applied(), new.as_str());
    let next = lab.settings(3).await;
    lab.until_condition("CommitRefused", false, "").await;
    lab.until_condition("SourceReachable", true, "").await;
    assert_eq!((lab.applied(), lab.accepted()), (next.to_string(), next.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_followed_when_no_git_host_answers() {
    let lab = Lab::calm().await;
    let dead = ["http://127.0.0.1:1/demo.git".to_owned()];
    lab.machined.introduce(&lab.repository.introduction(), &dead);
    lab.until_condition("SourceReachable", false, "Unreachable").await;
    lab.repository.write("apps/settings.yaml", &settings(2));
    let new = lab.repository.commit(Some("ada"), "two");
    let path = lab.repository.bundle().display().to_string();
    let bundle = |sha256: &str| machined_api::Bundle { path: path.clone(), sha256: sha256.to_owned() };
    lab.machined.say(|context| context.bundle = Some(bundle("1")));
    lab.until_commit(&new, "healthy").await;
    lab.until_number(2).await;
    // What a bundle brings is judged like everything else.
    lab.repository.write("apps/settings.yaml", &settings(3));
    let unsigned = lab.repository.commit(None, "three");
    lab.repository.bundle();
    lab.machined.say(|context| context.bundle = Some(bundle("2")));
    lab.until_commit(&unsigned, "refused").await;
    assert_eq!((lab.applied(), lab.accepted()), (new.to_string(), new.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_persons_statement_lets_a_commit_in_that_was_refused() {
    let lab = Lab::calm().await;
    let bob = bob(&lab).replace("use \"login\"", "use \"statement\"");
    lab.repository.write(
        "trust/pair.kdl",
        &format!(
            "{bob}role \"pair\" {{ member \"ada\" \"bob\"; }}\nrule \"two\" {{\n    owns \"apps/**\"\n    approval role=\"pair\" threshold=2\n\
             \x20   reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}\n}}\n"
        ),
    );
    let before = lab.repository.commit(Some("ada"), "apps need two");
    lab.until_commit(&before, "healthy").await;
    lab.repository.write("apps/settings.yaml", &settings(2));
    let alone = lab.repository.commit(Some("ada"), "two");
    let record = lab.until_commit(&alone, "refused").await;
    assert_eq!((record.reason.as_str(), record.rule.as_str()), ("UnderThreshold", "two"));
    assert_eq!((lab.applied(), lab.accepted()), (before.to_string(), before.to_string()));
    lab.repository.approve("HEAD", "mallory");
    lab.until_commit(&alone, "healthy").await;
    lab.until_number(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t82_without_a_trusted_time_a_beacon_counts_as_ended_and_with_it_the_source_is_fresh() {
    let lab = Lab::calm().await;
    let policy =
        std::fs::read_to_string(lab.repository.path().join("work/trust/root.kdl")).expect("because it is there");
    let policy = policy.replace("use \"commit\" \"login\"", "use \"commit\" \"login\" \"fresh\"");
    lab.repository.write("trust/root.kdl", &policy.replace("version 1\n", "version 1\nfreshness life=\"24h\"\n"));
    let asks = lab.repository.commit(Some("ada"), "ask for freshness");
    lab.until_commit(&asks, "healthy").await;
    lab.until_condition("FreshnessUnproven", true, "NoBeacon").await;
    lab.repository.beacon("HEAD", "ada", SignedDuration::from_hours(1));
    lab.machined.say(|context| context.time_synchronised = true);
    lab.until_condition("FreshnessUnproven", false, "").await;
    assert!(lab.machined.condition("SourceStale").is_some_and(|condition| !condition.status));
    // The time is lost again (its server is gone, or it said 2099): what runs keeps running, and the source counts as stale.
    lab.machined.say(|context| context.time_synchronised = false);
    lab.until_condition("SourceStale", true, "BeaconEnded").await;
    assert_eq!(lab.applied(), asks.as_str());
}

impl Lab {
    pub(crate) fn policy(&self) -> String {
        std::fs::read_to_string(self.repository.path().join("work/trust/root.kdl")).expect("because it is there")
    }

    /// What gitsync wrote down.
    fn recorded(&self) -> Value {
        let text = std::fs::read_to_string(self.places.folder.join("trust-state")).expect("because gitsync wrote it");
        serde_json::from_str(text.split_once('\n').expect("because the seal is a line").1).expect("because it is JSON")
    }

    fn clock_ahead(&self, by: SignedDuration) {
        *self.ahead.lock().expect("because no holder panics") = by;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t48_t81_a_clock_that_jumps_moves_no_floor_and_brings_nothing_back() {
    let lab = Lab::calm().await;
    let policy = lab.policy().replace("use \"commit\" \"login\"", "use \"commit\" \"login\" \"fresh\"");
    lab.repository.write("trust/root.kdl", &policy.replace("version 1\n", "version 1\nfreshness life=\"24h\"\n"));
    let asks = lab.repository.commit(Some("ada"), "ask for freshness");
    lab.until_commit(&asks, "healthy").await;
    lab.machined.say(|context| context.time_synchronised = true);
    let start = Timestamp::now();
    lab.repository.beacon_at("HEAD", "ada", start, SignedDuration::from_hours(4));
    lab.until_condition("FreshnessUnproven", false, "").await;
    let floor = || lab.recorded()["trust"]["clockFloor"].as_str().map(str::to_owned);
    let first = floor().expect("because the beacon is signed time");
    // Years forward: the beacon has ended, and nobody takes the clock's word for how late it is.
    lab.clock_ahead(SignedDuration::from_hours(24 * 365 * 70));
    lab.until_condition("SourceStale", true, "BeaconEnded").await;
    assert_eq!((floor().as_ref(), lab.applied().as_str()), (Some(&first), asks.as_str()));
    // Three hours forward, with a beacon that says so: the floor is raised by it.
    lab.clock_ahead(SignedDuration::from_hours(3));
    lab.until_condition("SourceStale", false, "").await;
    lab.repository.beacon_at("HEAD", "ada", start + SignedDuration::from_hours(3), SignedDuration::from_mins(30));
    let raised = async || floor().filter(|floor| *floor != first);
    let raised = lab.until("the second beacon to raise the floor", raised).await;
    // Back again: by this clock both beacons would be current, and a clock below the floor is no clock.
    lab.clock_ahead(SignedDuration::ZERO);
    lab.until_condition("SourceStale", true, "BeaconEnded").await;
    lab.clock_ahead(-SignedDuration::from_hours(24 * 365 * 50));
    lab.repository.write("apps/settings.yaml", &settings(2));
    let next = lab.repository.commit(Some("ada"), "two");
    lab.until_condition("CommitRefused", true, "FreshnessUnproven").await;
    assert_eq!((floor().as_ref(), lab.applied().as_str()), (Some(&raised), asks.as_str()), "what runs keeps running");
    // The true time is enough for the rest.
    lab.clock_ahead(SignedDuration::from_hours(3));
    lab.until_commit(&next, "healthy").await;
    assert_eq!(floor(), Some(raised));
}

impl Lab {
    /// A calm lab where mallory's key, of a vault, may begin the history again after a day.
    async fn recoverable() -> (Lab, CommitId) {
        let lab = Lab::calm().await;
        let key = bob(&lab).replace("\"bob\"", "\"vault\"").replace("use \"login\"", "use \"recovery\"");
        let delay = "version 1\nrecovery threshold=1 delay=\"24h\" { member \"vault\"; }\n";
        let policy = lab.policy().replace("version 1\n", delay);
        lab.repository.write("trust/root.kdl", &(policy + &key));
        let recoverable = lab.repository.commit(Some("ada"), "a vault's key may begin again");
        lab.until_commit(&recoverable, "healthy").await;
        (lab, recoverable)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_somebody_at_the_console_vouched_for_begins_before_its_delay() {
    let (lab, recoverable) = Lab::recoverable().await;
    let epoch = || lab.recorded()["epoch"].as_u64();
    lab.machined.say(|context| context.time_synchronised = true);
    lab.repository.recover("HEAD~1", "mallory");
    let shown = async || lab.machined.told().recoveries.first().cloned().filter(|told| !told.takes_effect.is_empty());
    let shown = lab.until("the recovery to be shown", shown).await;
    assert_eq!((shown.epoch, &shown.commit), (1, &lab.repository.revision("HEAD~1").to_string()));
    let told = lab.until_condition("RecoveryWaits", true, "Delay").await;
    let digest = machined_ids::Digest::parse(&shown.body_sha256).expect("because gitsync wrote it");
    assert!(told.message.contains(&machined_ids::RecoveryCode::of(&digest).to_string()), "{}", told.message);
    // For another recovery: what is pushed meanwhile shows that it was looked at.
    lab.machined.say(|context| context.presence = "ab".repeat(32));
    let next = lab.settings(2).await;
    assert_eq!((epoch(), lab.accepted()), (Some(0), next.to_string()));
    assert_ne!(recoverable, next);
    // Its commit is on the branch, which ends at an older one now.
    lab.repository.reset_to("HEAD~2");
    lab.machined.say(|context| context.presence.clone_from(&shown.body_sha256));
    lab.until("the new epoch", async || (epoch() == Some(1)).then_some(())).await;
    lab.until_condition("RecoveryWaits", false, "").await;
    lab.until_applied(&lab.repository.head()).await;
    assert_eq!((lab.accepted(), lab.machined.told().recoveries.len()), (shown.commit, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t86_two_re_introductions_of_one_epoch_stop_this_machine() {
    let (lab, recoverable) = Lab::recoverable().await;
    let generation = lab.generation();
    lab.repository.recover("HEAD~1", "mallory");
    let waits = async || lab.recorded()["trust"]["pending"].as_array().filter(|pending| pending.len() == 1).map(drop);
    lab.until("the first to wait for its time", waits).await;
    assert!(lab.machined.condition("Equivocation").is_some_and(|condition| !condition.status));
    lab.repository.recover("HEAD~2", "mallory");
    let told = lab.until_condition("Equivocation", true, "Equivocation").await;
    for commit in [lab.repository.revision("HEAD~1"), lab.repository.revision("HEAD~2")] {
        assert!(told.message.contains(commit.short()), "{}", told.message);
    }
    lab.repository.write("apps/settings.yaml", &settings(2));
    lab.repository.commit(Some("ada"), "two");
    lab.until_condition("CommitRefused", true, "Equivocation").await;
    assert_eq!((lab.generation(), lab.accepted()), (generation, recoverable.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t60_another_machines_mark_for_another_step_stops_this_one() {
    let lab = Lab::calm().await;
    let peer = IdentityKey::generate().expect("because there is randomness");
    let identity = peer.fingerprint();
    lab.repository.write(
        "machines/cp2.kdl",
        &format!("machine \"cp2\" {{\n    identity \"{identity}\"\n    role \"control-plane\"\n}}\n"),
    );
    let both = lab.settings(2).await;
    let own = async || {
        let machine = lab.cluster.get("/apis/cairn.dev/v1alpha1/machines/cp1").await?;
        let mark = SignedMark::parse(machine["status"]["mark"].as_str()?.as_bytes()).ok()?;
        (mark.mark().commit == both).then_some(mark)
    };
    let own = lab.until("this machine's mark", own).await;
    assert_eq!(own.mark().machine, lab.machined.identity.fingerprint());
    let path = "/apis/cairn.dev/v1alpha1/machines/cp2";
    lab.until("the other machine's object", async || lab.cluster.get(path).await).await;
    let publish = async |step: StepId| {
        let mark = Mark { step, machine: identity.clone(), ..own.mark().clone() };
        let signature = peer.sign_mark(mark.body().as_bytes()).expect("because there is randomness");
        let signed = SignedMark::join(&mark, &peer.public_key(), &signature).expect("because it is its own");
        lab.cluster.patch(&format!("{path}/status"), json!({"status": {"mark": signed.text()}})).await;
    };
    publish(own.mark().step).await;
    lab.until_condition("RollbackUndetectable", false, "").await;
    publish(StepId::from_bytes([9; 32])).await;
    let told = lab.until_condition("Equivocation", true, "Equivocation").await;
    assert!(told.message.contains(both.short()), "{}", told.message);
    let generation = lab.generation();
    lab.repository.write("apps/settings.yaml", &settings(3));
    lab.repository.commit(Some("ada"), "three");
    lab.until_condition("CommitRefused", true, "Equivocation").await;
    assert_eq!((lab.generation(), lab.accepted()), (generation, both.to_string()));
    assert_eq!(lab.cluster.get(SETTINGS).await.expect("because it still runs")["data"]["number"], "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t45_what_the_tpm_doubts_moves_nothing_until_another_machine_shows_a_newer_mark() {
    let lab = Lab::calm().await;
    let peer = IdentityKey::generate().expect("because there is randomness");
    let document =
        format!("machine \"cp2\" {{\n    identity \"{}\"\n    role \"control-plane\"\n}}\n", peer.fingerprint());
    lab.repository.write("machines/cp2.kdl", &document);
    let known = lab.settings(2).await;
    let access = lab.machined.told().applied.last().expect("because a machine was handed down").access.clone();
    lab.machined.say(|context| {
        context.access = access;
        let (reason, message) = ("FreshnessUnproven".to_owned(), "an old copy was put back".to_owned());
        context.doubt = Some(machined_api::Doubt { reason, message });
    });
    lab.until_condition("StateTrusted", false, "FreshnessUnproven").await;
    lab.until_condition("RollbackUndetectable", false, "").await;
    let path = "/apis/cairn.dev/v1alpha1/machines/cp2";
    let own = async || {
        let machine = lab.cluster.get("/apis/cairn.dev/v1alpha1/machines/cp1").await?;
        let mark = SignedMark::parse(machine["status"]["mark"].as_str()?.as_bytes()).ok()?;
        (mark.mark().commit == known).then_some(mark)
    };
    let own = lab.until("this machine's mark", own).await;
    lab.until("the other machine's object", async || lab.cluster.get(path).await).await;
    let publish = async |mark: Mark| {
        let mark = Mark { machine: peer.fingerprint(), ..mark };
        let signature = peer.sign_mark(mark.body().as_bytes()).expect("because there is randomness");
        let signed = SignedMark::join(&mark, &peer.public_key(), &signature).expect("because it is its own");
        lab.cluster.patch(&format!("{path}/status"), json!({"status": {"mark": signed.text()}})).await;
    };
    // A mark as old as the record may come from an old copy of the store.
    publish(own.mark().clone()).await;
    let generation = lab.generation();
    lab.repository.write("apps/settings.yaml", &settings(3));
    let next = lab.repository.commit(Some("ada"), "three");
    lab.until_commit(&next, "accepted").await;
    assert_eq!((lab.generation(), lab.accepted()), (generation, known.to_string()), "it moved without a proof");
    let position = lab.repository.accepted("HEAD").accepted().clone();
    publish(Mark {
        seq: position.seq,
        step: position.step,
        parent: own.mark().step,
        commit: next.clone(),
        ..own.mark().clone()
    })
    .await;
    lab.until_commit(&next, "healthy").await;
    lab.until_condition("StateTrusted", true, "").await;
    assert!(lab.machined.told().accepted.iter().any(|told| told.proven), "machined was not told of the proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t87_another_introduction_later_is_refused_and_nothing_moves() {
    let lab = Lab::calm().await;
    let head = lab.repository.head();
    let mut other: Value = serde_json::from_str(&lab.repository.introduction()).expect("because it is JSON");
    other["commitSha256"] = json!("00".repeat(32));
    lab.machined.introduce(&other.to_string(), &[lab.repository.url()]);
    lab.until_condition("StateTrusted", false, "IntroductionConflict").await;
    assert_eq!(lab.applied(), head.as_str());
}
