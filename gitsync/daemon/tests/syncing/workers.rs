//! A worker with a git host of its own: it hears the control plane and is heard, over the cluster's endpoints.

use super::peers::{MACHINES, copy, pair};
use super::{Lab, MIRROR, start};
use crate::machined::Machined;
use crate::trust::settings;
use machined_ids::CommitId;
use std::sync::Arc;

/// Two endpoints: nobody listens at the first.
const CLUSTER_KDL: &str = "cluster {\n    id \"00112233445566778899aabbccddeeff\"\n    name \"demo\"\n    level 1\n    bootstrap \"cp1\"\n    \
                           endpoint \"127.0.0.2\"\n    endpoint \"127.0.0.1\"\n}\n";

impl Lab {
    /// A worker of the same cluster, enrolled, that is not started yet; its git host is a mirror as it was a moment ago. It has no API
    /// server: where it looks for the control plane is what the repository says.
    async fn worker(&self) -> Lab {
        let machined = Machined::new();
        self.cluster.admit("w1", machined.identity.fingerprint());
        let folder = self.repository.path();
        let places = super::Places { socket: folder.join("w1.sock"), folder: folder.join("w1"), ..self.places.clone() };
        let (served, socket) = (machined.clone(), places.socket.clone());
        tokio::spawn(async move { served.serve(&socket).await });
        self.repository.write("cluster.kdl", CLUSTER_KDL);
        self.repository.enroll_with("w1", &machined.identity.fingerprint(), "worker");
        let url = self.repository.mirror(MIRROR);
        machined.introduce(&self.repository.introduction(), &[url]);
        let (repository, cluster) = (Arc::clone(&self.repository), self.cluster.clone());
        Lab { repository, machined, cluster, places, ahead: Arc::clone(&self.ahead), gitsync: tokio::spawn(async {}) }
    }

    /// A control-plane machine and a worker at the same commit, and a policy of two.
    async fn with_worker() -> (Lab, Lab, CommitId) {
        let lab = Lab::calm().await;
        lab.repository.write("trust/pair.kdl", &pair(&lab));
        let mut worker = lab.worker().await;
        let base = lab.repository.head();
        worker.gitsync = start(&worker.places);
        lab.until_commit(&base, "healthy").await;
        worker.until_applied(&base).await;
        (lab, worker, base)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_that_a_workers_host_withholds_come_from_the_control_plane() {
    let (lab, worker, base) = Lab::with_worker().await;
    let next = lab.half_approved(2);
    lab.repository.catch_up(MIRROR);
    let refused = worker.until_commit(&next, "refused").await;
    assert_eq!((refused.reason.as_str(), refused.rule.as_str()), ("UnderThreshold", "two"));
    assert_eq!(worker.applied(), base.as_str());
    lab.repository.approve("HEAD", "mallory");
    lab.until_commit(&next, "healthy").await;
    worker.until_applied(&next).await;
    assert_eq!(worker.accepted(), next.as_str());
    // Its own report leaves it, and it does not repeat what the control plane says.
    lab.until_mark("w1", &next).await;
    lab.until_serves("cp1", "intent release").await;
    let repeats = async || lab.shown("w1").await.is_empty().then_some(());
    lab.until("the worker to say nothing twice", repeats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_worker_heard_reaches_the_control_plane() {
    let (lab, worker, base) = Lab::with_worker().await;
    // The control plane's host withholds from now on; the worker's does not.
    let (poor, whole) = (lab.repository.mirror("poor.git"), lab.repository.url());
    lab.machined.introduce(&lab.repository.introduction(), &[poor]);
    worker.machined.introduce(&lab.repository.introduction(), &[whole]);
    let next = lab.half_approved(2);
    lab.repository.catch_up("poor.git");
    let refused = lab.until_commit(&next, "refused").await;
    assert_eq!((refused.reason.as_str(), lab.applied()), ("UnderThreshold", base.to_string()));
    lab.repository.approve("HEAD", "mallory");
    worker.until_applied(&next).await;
    lab.until_commit(&next, "healthy").await;
    lab.until_serves("cp1", "intent release").await;
    // A key that was revoked where only the worker looks is stopped everywhere.
    lab.repository.revoke_own("mallory");
    lab.until_serves("cp1", "last-good").await;
    let last = lab.half_approved(3);
    lab.repository.approve("HEAD", "mallory");
    let with_approvals = lab.repository.mirror_with_approvals("both.git");
    lab.machined.introduce(&lab.repository.introduction(), &[with_approvals]);
    assert_eq!(lab.until_commit(&last, "refused").await.reason, "Revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t45_an_old_copy_of_a_workers_disk_moves_nothing_until_the_chain_to_its_own_mark_is_there() {
    let lab = Lab::calm().await;
    let mut worker = lab.worker().await;
    let base = lab.repository.head();
    worker.gitsync = start(&worker.places);
    worker.until_applied(&base).await;
    worker.stop().await;
    let (saved, disk) = (lab.repository.path().join("saved"), worker.machined.disk());
    copy(&worker.places.folder, &saved);
    worker.gitsync = start(&worker.places);
    let next = lab.settings(2).await;
    lab.repository.catch_up(MIRROR);
    worker.until_applied(&next).await;
    worker.until_condition("RollbackUndetectable", false, "").await;
    lab.until_mark("w1", &next).await;
    worker.stop().await;

    copy(&saved, &worker.places.folder);
    worker.machined.put_back(disk);
    lab.repository.reset(&base);
    lab.repository.write("apps/settings.yaml", &settings(9));
    let other = lab.repository.commit(Some("ada"), "nine, instead of two");
    lab.repository.catch_up(MIRROR);
    lab.repository.reset(&next);
    worker.gitsync = start(&worker.places);
    let told = worker.until_condition("StateTrusted", false, "FreshnessUnproven").await;
    assert!(told.message.contains("an old copy"), "{}", told.message);
    assert_eq!(worker.until_commit(&other, "refused").await.reason, "FreshnessUnproven");
    assert_eq!((worker.applied(), worker.accepted()), (base.to_string(), base.to_string()));
    lab.until_mark("w1", &next).await;
    lab.repository.catch_up(MIRROR);
    worker.until_condition("StateTrusted", true, "").await;
    worker.until_applied(&next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_touches_nothing_of_the_cluster_but_the_status_of_its_own_object() {
    let (lab, worker, _) = Lab::with_worker().await;
    let before = lab.cluster.get(&format!("{MACHINES}/cp1")).await.expect("because it is there");
    let next = lab.repository.head();
    lab.until_mark("w1", &next).await;
    let object = lab.cluster.get(&format!("{MACHINES}/w1")).await.expect("because it is there");
    assert_eq!(object["spec"]["role"], "worker");
    let after = lab.cluster.get(&format!("{MACHINES}/cp1")).await.expect("because it is there");
    assert_eq!(after["spec"], before["spec"]);
    let managers = |object: &serde_json::Value| -> Vec<String> {
        let fields = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        fields.iter().filter_map(|field| field["manager"].as_str()).map(str::to_owned).collect()
    };
    assert!(managers(&object).contains(&"cairn-mark-w1".to_owned()), "{object}");
    assert!(!managers(&after).contains(&"cairn-mark-w1".to_owned()), "{after}");
    assert!(worker.machined.condition("ClusterSynced").is_none(), "that is the control plane's to say");
}
