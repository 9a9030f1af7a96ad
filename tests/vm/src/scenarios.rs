//! What must hold on a booted machine. Each scenario is a sentence; `cargo xtask test` runs them in order on one machine,
//! because booting is the dear part, and says which one failed.

use crate::artefacts;
use crate::cluster::{Cluster, demo_manifests};
use crate::kubectl::Kubectl;
use crate::machine::VirtualMachine;
use crate::places::{Places, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tests_support::git::git;
use tests_support::wait_for;

/// Where the demo's application lies in the repository.
pub const DEMO_FILE: &str = "apps/hello/hello.yaml";

/// How long something that was killed may take to be back; the back-off begins at half a second.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(120);

/// A machine that runs the demo, and what it takes to talk to it.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Folders.
    pub places: &'a Places,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Its one machine.
    pub machine: &'a VirtualMachine,
}

impl Stage<'_> {
    /// A signed commit that changes the greeting changes what the Service answers.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_signed_commit_changes_what_runs(&self, greeting: &str) -> Result<String> {
        let commit = self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, greeting))], "Change the greeting")?;
        self.cluster.answer(self.machine, greeting).await?;
        let record = self.cluster.judged(&commit, &["applied", "healthy"]).await?;
        ensure!(record["signer"] == "ada", "the commit's signer is shown as {}", record["signer"]);
        Ok(commit)
    }

    /// An unsigned commit is refused with a reason that cairnctl shows, and what runs goes on; a repair is taken.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn an_unsigned_commit_is_refused_and_repaired(&self, running: &str) -> Result<()> {
        let record = self.cluster.push_unsigned(&[(DEMO_FILE, &demo_manifests(2, "Smuggled in"))]).await?;
        ensure!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason in {record}");
        ensure!(record["message"].as_str().is_some_and(|message| !message.is_empty()), "no next step in {record}");
        self.cluster.answer(self.machine, running).await?;
        self.cluster.repair()?;
        let head = git(&self.cluster.checkout(), &["rev-parse", "HEAD"])?;
        self.cluster.judged(&head, &["applied", "healthy"]).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// A mistake in a manifest refuses the whole commit, with file and line; the next push repairs it.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_typo_refuses_the_whole_commit_with_its_place(&self, running: &str) -> Result<()> {
        let broken = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: twice\n  name: again\n";
        let good = demo_manifests(2, "Half of a commit");
        let bad = self.cluster.push(&[("apps/typo.yaml", broken), (DEMO_FILE, &good)], "A typo")?;
        let record = self.cluster.judged(&bad, &["refused"]).await?;
        ensure!(record["path"] == "apps/typo.yaml", "the place is shown as {record}");
        self.cluster.answer(self.machine, running).await?;
        git(&self.cluster.checkout(), &["rm", "--quiet", "apps/typo.yaml"])?;
        let fixed = self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, running))], "Repair the typo")?;
        self.cluster.judged(&fixed, &["applied", "healthy"]).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// A service that is restarted comes back, and the containers keep answering.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_restarted_service_comes_back_and_containers_keep_running(
        &self,
        service: &str,
        running: &str,
    ) -> Result<()> {
        let before = self.service(service)?;
        self.cluster.cairnctl(&["service", "restart", service])?;
        let look = async || {
            let now = self.service(service).map_err(|error| format!("{error:#}"))?;
            let again = now["pid"] != before["pid"] && now["healthy"] == true;
            if again { Ok(()) } else { Err(now.to_string()) }
        };
        wait_for(format!("{service} after its restart"), RECOVERY_LIMIT, look).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    fn service(&self, name: &str) -> Result<Value> {
        let services = self.cluster.cairnctl_json(&["service", "list"])?;
        let found = services.as_array().and_then(|services| services.iter().find(|service| service["name"] == name));
        found.cloned().with_context(|| format!("there is no service {name}"))
    }

    /// After a power cut the machine boots again and answers as before.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_power_cut_loses_nothing(&self, running: &str) -> Result<()> {
        self.machine.cut_power().await?;
        self.machine.power_on(self.places).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// Logs and events come as they happen: a restart shows in both.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn logs_and_events_are_followed(&self) -> Result<()> {
        let mut logs = self.cluster.follow(&["logs", "machined", "--follow", "--tail", "1"])?;
        let mut events = self.cluster.follow(&["events", "--follow", "--tail", "1"])?;
        // The past line shows that both are connected.
        logs.line("").await?;
        events.line("").await?;
        self.cluster.cairnctl(&["service", "restart", "gitsync"])?;
        events.line("service/gitsync").await?;
        logs.line("service started").await.map(drop)
    }

    /// A signed commit gives the machine static addresses; it keeps them, and the old one, without DHCP.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_signed_commit_sets_static_addresses(&self, running: &str) -> Result<()> {
        let path = format!("machines/{}.kdl", self.machine.name());
        let document = std::fs::read_to_string(self.cluster.checkout().join(&path))?;
        let (begin, _) = document.trim_end().rsplit_once('}').context("a machine's document ends with a brace")?;
        let network = "    network {\n        link \"eth0\" { address \"10.0.2.15/24\"; address \"10.0.2.77/24\"; gateway \"10.0.2.2\"; }\n        \
                       nameserver \"10.0.2.3\"\n    }\n";
        self.cluster.push(&[(&path, &format!("{begin}{network}}}\n"))], "Set static addresses")?;
        let look = async || {
            let status = self.cluster.cairnctl_json(&["status"]).map_err(|error| format!("{error:#}"))?;
            let addresses: Vec<&str> =
                status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let both = ["10.0.2.15/24", "10.0.2.77/24"].iter().all(|wanted| addresses.contains(wanted));
            if both { Ok(()) } else { Err(format!("addresses {addresses:?}")) }
        };
        wait_for("both static addresses", RECOVERY_LIMIT, look).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// While an operator holds the machine, what is pushed waits; when they resume, it runs.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_hold_keeps_what_runs_until_it_ends(&self, running: &str, next: &str) -> Result<()> {
        self.cluster.cairnctl(&["hold", "--hours", "1", "--reason", "the auditors are here"])?;
        let commit =
            self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, next))], "Change the greeting during a hold")?;
        self.cluster.judged(&commit, &["accepted"]).await?;
        self.cluster.answer(self.machine, running).await?;
        self.cluster.cairnctl(&["resume"])?;
        self.cluster.judged(&commit, &["applied", "healthy"]).await?;
        self.cluster.answer(self.machine, next).await.map(drop)
    }

    /// Pinned to an earlier step, the machine runs that one; when the pin ends, it runs the newest again.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_pin_goes_back_for_a_while(&self, running: &str) -> Result<()> {
        let before = self.cluster.push(&[], "Nothing new")?;
        let before = self.cluster.judged(&before, &["healthy"]).await?;
        let step = before["seq"].as_u64().context("a healthy commit has a number")?.to_string();
        let newest = "Hello, newest";
        let commit =
            self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, newest))], "Change what will be pinned away")?;
        self.cluster.judged(&commit, &["healthy"]).await?;
        self.cluster.cairnctl(&["pin", "--step", &step, "--hours", "1", "--reason", "the newest one is too new"])?;
        self.cluster.answer(self.machine, running).await?;
        self.cluster.cairnctl(&["resume"])?;
        self.cluster.answer(self.machine, newest).await?;
        self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, running))], "Change it back")?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// With the git host out of the way, a bundle brings a signed commit to the machine.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_bundle_carries_a_commit_past_the_git_host(&self, next: &str) -> Result<()> {
        let checkout = self.cluster.checkout();
        self.cluster.commit(&[(DEMO_FILE, &demo_manifests(2, next))], "Carried by hand", &[])?;
        self.cluster.cairnctl(&["push", "--bundle", "--checkout", &text(&checkout)?])?;
        let commit = git(&checkout, &["rev-parse", "HEAD"])?;
        self.cluster.judged(&commit, &["applied", "healthy"]).await?;
        self.cluster.answer(self.machine, next).await?;
        git(&checkout, &["push", "--quiet", "origin", "HEAD:main"]).map(drop)
    }

    /// A signed commit that makes things worse reverts by itself; the next one is taken.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_step_that_does_not_become_healthy_is_reverted(&self, running: &str) -> Result<()> {
        let cluster = std::fs::read_to_string(self.cluster.checkout().join("cluster.kdl"))?;
        let (begin, _) = cluster.trim_end().rsplit_once('}').context("cluster.kdl ends with a brace")?;
        let impatient = format!("{begin}    rollout deadline=\"20s\"\n}}\n");
        let good = demo_manifests(2, running);
        let settled = self.cluster.push(&[("cluster.kdl", &impatient)], "Give a rollout 20 seconds")?;
        self.cluster.judged(&settled, &["healthy"]).await?;
        let never_ready = demo_manifests(2, "Never ready")
            .replace("path: /\n              port: 8080", "path: /\n              port: 9");
        ensure!(never_ready != good, "the probe of the demo was not changed");
        let bad = self.cluster.push(&[(DEMO_FILE, &never_ready)], "Break the readiness probe")?;
        self.cluster.judged(&bad, &["reverted"]).await?;
        self.cluster.answer(self.machine, running).await?;
        let patient = self.cluster.push(&[(DEMO_FILE, &good), ("cluster.kdl", &cluster)], "Put both right")?;
        self.cluster.judged(&patient, &["healthy"]).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// kubectl works with the login that cairnctl hands it.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn kubectl_works_unmodified(&self, kubectl: &Kubectl) -> Result<()> {
        let run = |arguments: &[&str]| kubectl.run(&[arguments, &["--namespace", "hello"]].concat(), "");
        let rollout = run(&["rollout", "status", "deployment/hello", "--timeout", "120s"])?;
        ensure!(rollout.contains("successfully rolled out"), "kubectl rollout status says: {rollout}");
        let pods = run(&["get", "pods"])?;
        ensure!(pods.matches("Running").count() == 2, "kubectl get pods shows:\n{pods}");
        let logs = run(&["logs", "deployment/hello"])?;
        ensure!(logs.contains("hello: listening"), "kubectl logs shows: {logs}");
        let described = run(&["describe", "deployment", "hello"])?;
        ensure!(described.contains("RollingUpdate"), "kubectl describe shows: {described}");
        let commits = run(&["get", "commits"])?;
        ensure!(commits.contains("ada"), "kubectl get commits shows:\n{commits}");
        exec_hands_on_input_and_exit_code(kubectl)?;
        self.kubectl_applies_watches_and_deletes(kubectl).await
    }

    async fn kubectl_applies_watches_and_deletes(&self, kubectl: &Kubectl) -> Result<()> {
        let of = |value: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: seen\n  namespace: hello\ndata:\n  value: {value}\n"
            )
        };
        kubectl.run(&["apply", "--filename", "-"], &of("first"))?;
        let form = "--output=jsonpath={.data.value}{\"\\n\"}";
        let mut watch = kubectl.follow(&["get", "configmap", "seen", "--namespace", "hello", "--watch", form])?;
        watch.line("first").await?;
        kubectl.run(&["apply", "--filename", "-"], &of("second"))?;
        watch.line("second").await?;
        kubectl.run(&["delete", "configmap", "seen", "--namespace", "hello"], "")?;
        let left = kubectl.run(&["get", "configmaps", "--namespace", "hello", "--output", "name"], "")?;
        ensure!(!left.contains("seen"), "kubectl delete left {left}");
        Ok(())
    }
}

/// A machine whose image carries a seed needs nobody at its side: once the repository names its fingerprint, people get in.
///
/// # Errors
/// What did not hold.
pub async fn a_baked_seed_introduces_the_machine(places: &Places, machine: VirtualMachine) -> Result<()> {
    std::fs::create_dir_all(places.home("served"))?;
    let server = tests_support::git::serve(&places.home("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let cluster = Cluster::new(places, server.address().port());
    cluster.create()?;
    let (checkout, seed) = (text(&cluster.checkout())?, places.home("seed.kdl"));
    let printed = cluster.cairnctl(&["seed", "--repository", &cluster.repository(), "--checkout", &checkout])?;
    std::fs::write(&seed, printed).with_context(|| format!("writing {}", seed.display()))?;
    let image = places.home("image");
    artefacts::image(places, &image, &["--seed", &text(&seed)?]).await?;
    let machine = machine.with_image(image);
    machine.power_on(places).await?;
    let entry = async {
        cluster.enroll_seeded(&machine).await?;
        cluster.log_in().await
    };
    let held = entry.await;
    machine.cut_power().await?;
    held
}

/// `kubectl exec` reaches a program in the demo's container: its input, its output and its exit code.
///
/// # Errors
/// What did not hold.
pub(crate) fn exec_hands_on_input_and_exit_code(kubectl: &Kubectl) -> Result<()> {
    let echo = ["exec", "--stdin", "deployment/hello", "--namespace", "hello", "--", "/hello", "echo", "7"];
    let output = kubectl.output(&echo, "through the API server\n")?;
    let (said, code) = (String::from_utf8_lossy(&output.stdout), output.status.code());
    ensure!(said == "through the API server\n" && code == Some(7), "kubectl exec ended with {code:?} and said: {said}");
    Ok(())
}
