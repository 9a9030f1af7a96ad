//! gitsync whole: a real repository over HTTP, a real API server over mTLS, and machined's side of the local socket.

mod cluster;
mod hosts;
mod machined;
mod peers;
mod repository;
mod trust;
mod workers;

use cluster::Cluster;
use gitsync_daemon::{Places, WallClock, run};
use jiff::{SignedDuration, Timestamp};
use machined::Machined;
use repository::Repository;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests_support::wait_for;
use tokio::task::JoinHandle;

/// How long a value may take; far more than it does.
const PATIENCE: Duration = Duration::from_secs(60);

/// The git host of the second machine.
const MIRROR: &str = "mirror.git";

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SERVICE: &str = "/api/v1/namespaces/default/services/web";

fn deployment(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: {replicas}\n  selector:\n    matchLabels: {{app: web}}\n\
         \x20 template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      containers:\n      - name: web\n        image: example.org/web:1\n"
    )
}

const SERVICE_YAML: &str =
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  selector: {app: web}\n  ports:\n  - port: 80\n";

struct Lab {
    repository: Arc<Repository>,
    machined: Machined,
    cluster: Cluster,
    places: Places,
    /// How far the machine's clock is ahead of ours.
    ahead: Arc<Mutex<SignedDuration>>,
    gitsync: JoinHandle<()>,
}

impl Lab {
    /// A machine that was introduced and enrolled, with a deployment and a service in the repository.
    async fn new() -> Self {
        let repository = Repository::new().await;
        let (machined, cluster) = (Machined::new(), Cluster::new().await);
        let api = cluster.listen(&machined.identity, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let ahead = Arc::new(Mutex::new(SignedDuration::ZERO));
        let clock = Arc::clone(&ahead);
        let places = Places {
            clock: WallClock::new(move || Timestamp::now() + *clock.lock().expect("because no holder panics")),
            socket: repository.path().join("machined.sock"),
            folder: repository.path().join("gitsync"),
            program: PathBuf::from(env!("CARGO_BIN_EXE_gitsync")),
            api,
        };
        let (served, socket) = (machined.clone(), places.socket.clone());
        tokio::spawn(async move { served.serve(&socket).await });
        machined.introduce(&repository.introduction(), &[repository.url()]);
        repository.enroll(&machined.identity.fingerprint());
        repository.write("apps/web/deployment.yaml", &deployment(2));
        repository.write("apps/web/service.yaml", SERVICE_YAML);
        repository.commit(Some("ada"), "run web");
        let gitsync = start(&places);
        Lab { repository: Arc::new(repository), machined, cluster, places, ahead, gitsync }
    }

    /// Another machine of the same cluster, enrolled, that is not started yet; its git host is a mirror as it was a moment ago.
    async fn second(&self) -> Lab {
        let machined = Machined::new();
        let api = self.cluster.listen(&machined.identity, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let folder = self.repository.path();
        let places =
            Places { socket: folder.join("second.sock"), folder: folder.join("second"), api, ..self.places.clone() };
        let (served, socket) = (machined.clone(), places.socket.clone());
        tokio::spawn(async move { served.serve(&socket).await });
        self.repository.enroll_as("cp2", &machined.identity.fingerprint());
        let url = self.repository.mirror(MIRROR);
        machined.introduce(&self.repository.introduction(), &[url]);
        let (repository, cluster) = (Arc::clone(&self.repository), self.cluster.clone());
        Lab { repository, machined, cluster, places, ahead: Arc::clone(&self.ahead), gitsync: tokio::spawn(async {}) }
    }

    /// Waits until what `find` looks for is there.
    async fn until<T>(&self, what: &str, find: impl AsyncFn() -> Option<T>) -> T {
        let find = &find;
        let found = wait_for(what, PATIENCE, || async move { find().await.ok_or("not yet") }).await;
        found.unwrap_or_else(|error| panic!("{error}; machined was told {:#?}", self.machined.told()))
    }

    async fn until_commit(&self, commit: &machined_ids::CommitId, state: &str) -> machined_api::CommitRecord {
        let find = async || self.machined.told().commits.get(commit.as_str()).filter(|r| r.state == state).cloned();
        self.until(&format!("{} to be {state}", commit.short()), find).await
    }

    async fn until_replicas(&self, replicas: u32) -> Value {
        let find = async || self.cluster.get(DEPLOYMENT).await.filter(|d| d["spec"]["replicas"] == replicas);
        self.until(&format!("{replicas} replicas"), find).await
    }

    fn generation(&self) -> u64 {
        self.machined.told().applied.last().map_or(0, |applied| applied.generation)
    }

    /// Ends gitsync wherever it is.
    async fn stop(&mut self) {
        self.gitsync.abort();
        let _aborted = (&mut self.gitsync).await;
    }

    /// Ends gitsync wherever it is and starts another one.
    async fn restart(&mut self) {
        self.stop().await;
        self.gitsync = start(&self.places);
    }
}

fn start(places: &Places) -> JoinHandle<()> {
    tokio::spawn(run(places.clone(), std::future::pending()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_commit_reaches_machine_and_cluster() {
    let lab = Lab::new().await;
    let found = lab.until_replicas(2).await;
    assert_eq!(found["metadata"]["managedFields"][0]["manager"], "cairn-gitsync");
    assert!(lab.until("the service", async || lab.cluster.get(SERVICE).await).await["spec"]["clusterIP"].is_string());
    let head = lab.repository.head();
    lab.until_commit(&head, "applied").await;
    let applied = lab.machined.told().applied.last().cloned().expect("because it is applied");
    assert_eq!((applied.machine.as_str(), applied.signer.as_str(), applied.seq), ("cp1", "ada", 2));
    assert!(applied.machine_kdl.contains("machine \"cp1\""));

    // kubectl sees the same.
    let path = format!("/apis/cairn.dev/v1alpha1/commits/{head}");
    let state = async || lab.cluster.get(&path).await.filter(|c| c["status"]["state"] == "applied");
    let commit = lab.until("the commit's object", state).await;
    assert_eq!(commit["status"]["signer"], "ada");
    assert_eq!(commit["spec"]["subject"], "run web");
    assert!(lab.cluster.get("/apis/cairn.dev/v1alpha1/machines/cp1").await.is_some());

    // A second commit, and one object leaves.
    lab.repository.write("apps/web/deployment.yaml", &deployment(3));
    lab.repository.remove("apps/web/service.yaml");
    lab.repository.commit(Some("ada"), "three, and no service");
    lab.until_replicas(3).await;
    lab.until("the service to go", async || lab.cluster.get(SERVICE).await.is_none().then_some(())).await;
    lab.until_commit(&head, "superseded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_commit_is_shown_everywhere_and_touches_nothing() {
    let lab = Lab::new().await;
    lab.until_replicas(2).await;
    let good = lab.repository.head();
    lab.until_commit(&good, "applied").await;
    let generation = lab.generation();
    for (signer, reason) in [(None, "UnderThreshold"), (Some("mallory"), "UnknownKey")] {
        lab.repository.write("apps/web/deployment.yaml", &deployment(9));
        let bad = lab.repository.commit(signer, "nine");
        let record = lab.until_commit(&bad, "refused").await;
        assert_eq!((record.reason.as_str(), record.path.as_str()), (reason, "apps/web/deployment.yaml"));
        let path = format!("/apis/cairn.dev/v1alpha1/commits/{bad}");
        let object = lab
            .until("the refused commit's object", async || {
                lab.cluster.get(&path).await.filter(|c| c["status"]["state"] == "refused")
            })
            .await;
        assert_eq!(object["status"]["reason"], reason);
        let event = format!("/api/v1/namespaces/default/events/{}.{}", bad.short(), reason.to_lowercase());
        let event = lab.until("the event", async || lab.cluster.get(&event).await).await;
        assert_eq!(event["involvedObject"]["name"], bad.as_str());
        assert_eq!(lab.machined.told().conditions["CommitRefused"].reason, reason);
        lab.repository.reset(&good);
    }
    assert_eq!(lab.generation(), generation, "nothing new was handed down");
    assert_eq!(lab.cluster.get(DEPLOYMENT).await.expect("because it still runs")["spec"]["replicas"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t75_a_signed_typo_is_refused_whole_and_its_fix_converges() {
    let lab = Lab::new().await;
    lab.until_replicas(2).await;
    lab.repository.write("apps/web/deployment.yaml", &deployment(4));
    lab.repository.write("apps/web/service.yaml", &SERVICE_YAML.replace("ports:", "portz:"));
    let typo = lab.repository.commit(Some("ada"), "typo");
    let record = lab.until_commit(&typo, "refused").await;
    assert_eq!((record.reason.as_str(), record.path.as_str()), ("Parse", "apps/web/service.yaml"));
    assert!(record.message.contains("apps/web/service.yaml:7:3: unknown field \"spec.portz\""), "{}", record.message);
    assert_eq!(lab.cluster.get(DEPLOYMENT).await.expect("because it still runs")["spec"]["replicas"], 2);
    lab.repository.write("apps/web/service.yaml", SERVICE_YAML);
    lab.repository.commit(Some("ada"), "fix");
    lab.until_replicas(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t71_who_leaves_with_a_broken_commit_is_out_at_once() {
    let lab = Lab::new().await;
    lab.until_replicas(2).await;
    let head = lab.repository.head();
    let policy =
        std::fs::read_to_string(lab.repository.path().join("work/trust/root.kdl")).expect("because it is there");
    lab.repository.write("trust/root.kdl", &policy.replace("use \"commit\" \"login\"", "use \"commit\""));
    lab.repository.write("trust/bob.kdl", &bob(&lab));
    lab.repository.write("apps/web/service.yaml", "not: [yaml\n");
    let broken = lab.repository.commit(Some("ada"), "ada logs in no more, and a typo");
    lab.until_commit(&broken, "refused").await;
    let people = async || {
        let applied = lab.machined.told().applied.last().cloned()?;
        let table: Value = serde_json::from_slice(&applied.access).ok()?;
        (table["people"].get("ada").is_none() && table["people"].get("bob").is_some()).then_some(applied)
    };
    let applied = lab.until("ada to be out", people).await;
    assert_eq!(applied.commit, head.as_str(), "the documents are still those of the applied commit");
}

fn bob(lab: &Lab) -> String {
    let key = std::fs::read_to_string(lab.repository.path().join("mallory.pub")).expect("because it was made");
    let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
    format!("principal \"bob\" {{ key \"{key}\" {{ use \"login\"; }}; }}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_put_right_and_a_restart_goes_on_where_it_was() {
    let mut lab = Lab::new().await;
    lab.until_replicas(2).await;
    let head = lab.repository.head();
    lab.until_commit(&head, "applied").await;
    let generation = lab.generation();
    lab.machined.forget();
    lab.restart().await;
    lab.until_commit(&head, "applied").await;
    assert_eq!(lab.generation(), generation, "the same activation is told again");
    // Not healthy yet (nobody runs pods here), so it is applied again within seconds.
    lab.cluster.patch(DEPLOYMENT, json!({"spec": {"replicas": 7}})).await;
    lab.until_replicas(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_a_lost_state_is_rebuilt_only_along_what_ran() {
    let mut lab = Lab::new().await;
    lab.until_replicas(2).await;
    let head = lab.repository.head();
    lab.until_commit(&head, "applied").await;
    let generation = lab.generation();
    std::fs::remove_dir_all(&lab.places.folder).expect("because gitsync made it");
    lab.machined.forget();
    lab.restart().await;
    lab.until_commit(&head, "applied").await;
    assert!(lab.generation() > generation, "a rebuilt state begins a new activation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_a_lost_state_and_a_source_with_an_older_history_move_nothing() {
    let mut lab = Lab::new().await;
    lab.until_replicas(2).await;
    let head = lab.repository.head();
    lab.until_commit(&head, "applied").await;
    let generation = lab.generation();
    lab.stop().await;
    std::fs::remove_dir_all(&lab.places.folder).expect("because gitsync made it");
    lab.machined.forget();
    lab.repository.reset_to("HEAD~1");
    lab.gitsync = start(&lab.places);
    let told = async || lab.machined.told().conditions.get("CommitRefused").filter(|c| c.status).cloned();
    assert_eq!(lab.until("the refusal", told).await.reason, "NotDescendant");
    assert_eq!(lab.generation(), generation);
    assert_eq!(lab.cluster.get(DEPLOYMENT).await.expect("because it still runs")["spec"]["replicas"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_no_document_names_waits_for_its_enrolment() {
    let lab = Lab::new().await;
    lab.until_replicas(2).await;
    let stranger = Machined::new();
    let places = Places {
        socket: lab.repository.path().join("other.sock"),
        folder: lab.repository.path().join("other"),
        ..lab.places.clone()
    };
    let (served, socket) = (stranger.clone(), places.socket.clone());
    tokio::spawn(async move { served.serve(&socket).await });
    stranger.introduce(&lab.repository.introduction(), &[lab.repository.url()]);
    let gitsync = start(&places);
    let told = async || stranger.told().conditions.get("Enrolled").cloned();
    let condition = lab.until("the condition", told).await;
    assert_eq!((condition.status, condition.reason.as_str()), (false, "NotEnrolled"));
    assert!(stranger.told().applied.is_empty());
    gitsync.abort();
}
