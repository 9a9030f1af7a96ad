//! What must hold on a booted machine. Each scenario is a sentence; `cargo xtask test` runs them in order on one machine,
//! because booting is the dear part, and says which one failed.

use crate::cluster::{Cluster, demo_manifests};
use crate::machine::VirtualMachine;
use crate::places::Places;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests_support::git::git;
use tests_support::wait_for;

/// Where the demo's application lies in the repository.
pub const DEMO_FILE: &str = "apps/hello/hello.yaml";

/// How long something that was killed may take to be back; the back-off begins at half a second.
const RECOVERY_LIMIT: Duration = Duration::from_secs(120);

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
        let checkout = self.cluster.checkout();
        self.cluster.commit(&[(DEMO_FILE, &demo_manifests(2, "Smuggled in"))], "Unsigned", &["--no-gpg-sign"])?;
        git(&checkout, &["push", "--quiet", "origin", "HEAD:main"])?;
        let bad = git(&checkout, &["rev-parse", "HEAD"])?;
        let record = self.cluster.judged(&bad, &["refused"]).await?;
        ensure!(record["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason in {record}");
        ensure!(record["message"].as_str().is_some_and(|message| !message.is_empty()), "no next step in {record}");
        self.cluster.answer(self.machine, running).await?;
        git(&checkout, &["reset", "--quiet", "--hard", "HEAD~1"])?;
        git(&checkout, &["push", "--quiet", "--force", "origin", "HEAD:main"])?;
        Ok(())
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
        self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, running))], "Repair the typo")?;
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

    /// kubectl works with the login that cairnctl hands it.
    ///
    /// # Errors
    /// What did not hold.
    pub fn kubectl_works_unmodified(&self, kubeconfig: &str) -> Result<()> {
        let kubectl = |arguments: &[&str]| -> Result<String> {
            let output = std::process::Command::new("kubectl")
                .args(["--kubeconfig", kubeconfig])
                .args(arguments)
                .output()
                .context("starting kubectl")?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "kubectl {} failed: {error}", arguments.join(" "));
            Ok(String::from_utf8(output.stdout)?)
        };
        let rollout = kubectl(&["rollout", "status", "deployment/hello", "--namespace", "hello", "--timeout", "120s"])?;
        ensure!(rollout.contains("successfully rolled out"), "kubectl rollout status says: {rollout}");
        let pods = kubectl(&["get", "pods", "--namespace", "hello"])?;
        ensure!(pods.matches("Running").count() == 2, "kubectl get pods shows:\n{pods}");
        let logs = kubectl(&["logs", "deployment/hello", "--namespace", "hello"])?;
        ensure!(logs.contains("hello: listening"), "kubectl logs shows: {logs}");
        let described = kubectl(&["describe", "deployment", "hello", "--namespace", "hello"])?;
        ensure!(described.contains("RollingUpdate"), "kubectl describe shows: {described}");
        let commits = kubectl(&["get", "commits"])?;
        ensure!(commits.contains("ada"), "kubectl get commits shows:\n{commits}");
        Ok(())
    }
}
