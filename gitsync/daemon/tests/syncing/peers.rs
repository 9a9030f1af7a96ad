//! Two machines with a git host each, and one control plane: what one host withholds, the other machine has.

use super::{Lab, MIRROR, bob, start};
use crate::trust::settings;
use jiff::SignedDuration;
use machined_ids::CommitId;
use serde_json::{Value, json};

pub(crate) const MACHINES: &str = "/apis/cairn.dev/v1alpha1/machines";

/// Bob's key is mallory's; he and ada must both approve what is in apps/.
pub(crate) fn pair(lab: &Lab) -> String {
    let bob = bob(lab).replace("use \"login\"", "use \"statement\" \"login\"");
    format!(
        "{bob}role \"pair\" {{ member \"ada\" \"bob\"; }}\nrule \"two\" {{\n    owns \"apps/**\"\n    approval role=\"pair\" threshold=2\n\
         \x20   reach {{ namespace \"*\"; kind \"*\"; cluster-scoped #true; }}\n}}\n"
    )
}

impl Lab {
    /// A calm lab with a policy of two and a second machine, both at the same commit.
    async fn with_peer() -> (Lab, Lab, CommitId) {
        let lab = Lab::calm().await;
        lab.repository.write("trust/pair.kdl", &pair(&lab));
        let mut second = lab.second().await;
        let base = lab.repository.head();
        second.gitsync = start(&second.places);
        lab.until_commit(&base, "healthy").await;
        second.until_applied(&base).await;
        (lab, second, base)
    }

    /// What a machine serves to its peers.
    pub(crate) async fn shown(&self, name: &str) -> Vec<String> {
        let object = self.cluster.get(&format!("{MACHINES}/{name}")).await.unwrap_or_default();
        let texts = object["status"]["statements"].as_array().cloned().unwrap_or_default();
        texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Waits until a machine's object holds its mark of a commit.
    pub(crate) async fn until_mark(&self, name: &str, commit: &CommitId) {
        let line = format!("\ncommit {commit}\n");
        let find = async || {
            let object = self.cluster.get(&format!("{MACHINES}/{name}")).await?;
            object["status"]["mark"].as_str().filter(|mark| mark.contains(&line)).map(drop)
        };
        self.until(&format!("the mark of {name} at {}", commit.short()), find).await;
    }

    pub(crate) async fn until_serves(&self, name: &str, word: &str) {
        let find = async || self.shown(name).await.iter().any(|text| text.contains(word)).then_some(());
        self.until(&format!("{name} to serve {word:?}"), find).await;
    }

    /// A change that takes two, signed by ada alone.
    pub(crate) fn half_approved(&self, number: u32) -> CommitId {
        self.repository.write("apps/settings.yaml", &settings(number));
        self.repository.commit(Some("ada"), &format!("settings {number}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_that_one_host_withholds_come_from_a_peer_and_outlive_a_restart() {
    let (mut lab, second, base) = Lab::with_peer().await;
    let next = lab.half_approved(2);
    lab.repository.catch_up(MIRROR);
    let refused = second.until_commit(&next, "refused").await;
    assert_eq!((refused.reason.as_str(), refused.rule.as_str()), ("UnderThreshold", "two"));
    assert_eq!(second.applied(), base.as_str());
    lab.repository.approve("HEAD", "mallory");
    lab.until_commit(&next, "healthy").await;
    second.until_applied(&next).await;
    assert_eq!(second.accepted(), next.as_str());
    // Both serve it now, also when the first host lost it and its machine was started again.
    second.until_serves("cp2", "intent release").await;
    lab.repository.drop_statements();
    lab.stop().await;
    lab.cluster.patch(&format!("{MACHINES}/cp1/status"), json!({"status": {"statements": null, "mark": null}})).await;
    assert_eq!(lab.shown("cp1").await, Vec::<String>::new());
    lab.gitsync = start(&lab.places);
    lab.until_serves("cp1", "intent release").await;
    // And when somebody takes it away under a machine that runs.
    lab.cluster.patch(&format!("{MACHINES}/cp1/status"), json!({"status": {"statements": null}})).await;
    lab.until_serves("cp1", "intent release").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_one_host_withholds_stops_the_key_at_its_machine_too() {
    let (lab, second, base) = Lab::with_peer().await;
    let people = |lab: &Lab| -> Value {
        let told = lab.machined.told();
        let applied = told.applied.last().expect("because a step was applied");
        serde_json::from_slice(&applied.access).expect("because gitsync wrote it")
    };
    assert!(people(&second)["people"].get("bob").is_some());
    // The second machine's git host is down from now on: nothing that it says is needed.
    second.machined.introduce(&lab.repository.introduction(), &["http://127.0.0.1:1/demo.git".to_owned()]);
    lab.repository.revoke_own("mallory");
    let out = async |lab: &Lab| people(lab)["people"].get("bob").is_none().then_some(());
    lab.until("bob to be out", async || out(&lab).await).await;
    second.until("bob to be out at the second machine", async || out(&second).await).await;
    assert_eq!(second.applied(), base.as_str());
    // Its host is back, and serves what bob approved without the revocation.
    let next = lab.half_approved(2);
    lab.repository.approve("HEAD", "mallory");
    let both = lab.repository.mirror_with_approvals("both.git");
    second.machined.introduce(&lab.repository.introduction(), &[both]);
    let refused = second.until_commit(&next, "refused").await;
    assert_eq!(refused.reason, "Revoked");
    assert_eq!((second.applied(), second.accepted()), (base.to_string(), base.to_string()));
    // The machine serves on what it heard.
    second.until_serves("cp2", "last-good").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beacon_that_one_host_withholds_comes_from_a_peer() {
    let lab = Lab::calm().await;
    let policy = lab.policy().replace("use \"commit\" \"login\"", "use \"commit\" \"login\" \"fresh\"");
    lab.repository.write("trust/root.kdl", &policy.replace("version 1\n", "version 1\nfreshness life=\"24h\"\n"));
    let mut second = lab.second().await;
    second.gitsync = start(&second.places);
    second.until_applied(&lab.repository.head()).await;
    lab.until_commit(&lab.repository.head(), "healthy").await;
    [&lab, &second].iter().for_each(|lab| lab.machined.say(|context| context.time_synchronised = true));
    second.until_condition("FreshnessUnproven", true, "NoBeacon").await;
    lab.repository.beacon("HEAD", "ada", SignedDuration::from_hours(1));
    lab.until_condition("FreshnessUnproven", false, "").await;
    second.until_condition("FreshnessUnproven", false, "").await;
    assert!(second.machined.condition("SourceStale").is_some_and(|condition| !condition.status));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hostile_machine_serves_costs_nothing() {
    let (lab, mut second, _) = Lab::with_peer().await;
    let next = lab.half_approved(2);
    lab.repository.approve("HEAD", "mallory");
    lab.until_commit(&next, "healthy").await;
    lab.until_serves("cp1", "intent release").await;
    let good = lab.shown("cp1").await;
    // cp2 is broken into: its gitsync serves what its master likes.
    second.stop().await;
    let mut served: Vec<Value> = (0..3000).map(|number| json!(format!("statement {number}"))).collect();
    let other_cluster = good[0].replace("cluster 0011", "cluster ff11");
    served.extend([json!(""), json!("x".repeat(200_000)), json!(7), json!({"a": []}), json!(other_cluster)]);
    for status in [json!(served), json!("no list"), json!({"a": 1})] {
        let status = json!({"status": {"statements": status, "mark": "no mark"}});
        lab.cluster.patch(&format!("{MACHINES}/cp2/status"), status).await;
    }
    lab.cluster.patch(&format!("{MACHINES}/cp2/status"), json!({"status": {"statements": served}})).await;
    let last = lab.half_approved(3);
    let refused = lab.until_commit(&last, "refused").await;
    assert_eq!(refused.reason, "UnderThreshold", "nothing that came from there approves");
    lab.repository.approve("HEAD", "mallory");
    lab.until_commit(&last, "healthy").await;
    assert_eq!(lab.shown("cp1").await.len(), 2, "what is served on is what counted here");
    assert!(lab.machined.condition("StateTrusted").is_some_and(|condition| condition.status));
}

/// Copies a machine's folder.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _none = std::fs::remove_dir_all(to);
    let (from, to) = (from.display().to_string(), to.display().to_string());
    tests_support::git::run(std::path::Path::new("/"), "cp", &["-a", &from, &to]).expect("because /tmp can be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t45_an_old_copy_of_a_whole_disk_moves_nothing_until_the_chain_to_its_own_mark_is_there() {
    let lab = Lab::calm().await;
    assert!(
        lab.machined.condition("RollbackUndetectable").is_some_and(|told| told.status && told.reason == "NoWitness")
    );
    let mut second = lab.second().await;
    let base = lab.repository.head();
    second.gitsync = start(&second.places);
    second.until_applied(&base).await;
    // Of gitsync's state and of machined's record alike.
    second.stop().await;
    let (saved, disk) = (lab.repository.path().join("saved"), second.machined.disk());
    copy(&second.places.folder, &saved);
    second.gitsync = start(&second.places);
    let next = lab.settings(2).await;
    lab.repository.catch_up(MIRROR);
    second.until_applied(&next).await;
    second.until_condition("RollbackUndetectable", false, "").await;
    second.until_mark("cp2", &next).await;
    second.stop().await;

    copy(&saved, &second.places.folder);
    second.machined.put_back(disk);
    // Its git host serves another story from the start, which somebody signed whom the lost step might have removed.
    lab.repository.reset(&base);
    lab.repository.write("apps/settings.yaml", &settings(9));
    let other = lab.repository.commit(Some("ada"), "nine, instead of two");
    lab.repository.catch_up(MIRROR);
    lab.repository.reset(&next);
    second.gitsync = start(&second.places);
    let told = second.until_condition("StateTrusted", false, "FreshnessUnproven").await;
    assert!(told.message.contains("an old copy"), "{}", told.message);
    let refused = second.until_commit(&other, "refused").await;
    assert_eq!(refused.reason, "FreshnessUnproven");
    assert_eq!((second.applied(), second.accepted()), (base.to_string(), base.to_string()));
    second.until_mark("cp2", &next).await;
    lab.repository.catch_up(MIRROR);
    second.until_condition("StateTrusted", true, "").await;
    second.until_applied(&next).await;
    assert_eq!(second.accepted(), next.as_str());
    assert!(lab.machined.condition("Equivocation").is_some_and(|told| !told.status));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_comes_back_follows_its_source_although_no_other_machine_can_be_heard() {
    let lab = Lab::calm().await;
    let mut second = lab.second().await;
    second.gitsync = start(&second.places);
    second.until_applied(&lab.repository.head()).await;
    second.stop().await;
    // No control plane answers it any more.
    second.places.api = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let next = lab.settings(2).await;
    lab.repository.catch_up(MIRROR);
    second.gitsync = start(&second.places);
    second.until_applied(&next).await;
}
