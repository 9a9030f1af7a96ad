//! What a machine must survive: processes that are killed, and power that is cut at moments nobody chose.

use crate::cluster::demo_manifests;
use crate::kubectl::Kubectl;
use crate::scenarios::{DEMO_FILE, RECOVERY_LIMIT, Stage};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;
use tests_support::wait_for;

/// A pod with all that a pod can have of the machine, its processes and its files, with the program that looks and kills.
const KILLER: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: killer
  namespace: hello
spec:
  hostPID: true
  containers:
    - name: killer
      image: cairn.dev/hello:1
      securityContext:
        privileged: true
      volumeMounts:
        - name: host
          mountPath: /host
  volumes:
    - name: host
      hostPath:
        path: /
        type: Directory
";

/// Programs of the machine that no pod sees, by the name of their process.
const HIDDEN: [&str; 4] = ["machined", "gitsync", "controlplane", "pid1"];

/// How a process of the machine is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL from a pod that sees it.
    Killed,
    /// The machine API, where no pod can: behind the walls there is nothing to be seen of it.
    Asked,
}

/// From the firmware's hand-over to a cut of the first boot: PID 1 starts, file systems and the key are made.
pub const FIRST_BOOT: Range<u64> = 2_000..6_000;

/// From a push to a cut, in milliseconds: the demo converges in about 15 s.
pub const CHANGE: Range<u64> = 0..12_000;

/// When to cut power, the same for the same seed.
#[derive(Debug)]
pub struct Moments(u64);

impl Moments {
    /// Moments that follow from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Moments(seed)
    }

    /// The next one among these milliseconds.
    pub fn next_in(&mut self, range: &Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    /// The next number below `end`, by splitmix64.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

impl Stage<'_> {
    /// Puts the pod that kills onto the machine.
    ///
    /// # Errors
    /// When it does not run in time.
    pub async fn a_pod_with_the_machines_processes_runs(&self, kubectl: &Kubectl) -> Result<()> {
        kubectl.run(&["apply", "--filename", "-"], KILLER)?;
        let ready = ["wait", "pod/killer", "--namespace", "hello", "--for", "condition=Ready", "--timeout", "120s"];
        kubectl.run(&ready, "").map(drop)
    }

    /// A privileged pod with the host's PID namespace and the host's root finds containerd, and nothing of the machine itself: no
    /// process, no executable, no socket, no state, not through the first process of what it sees either.
    ///
    /// # Errors
    /// What did not hold.
    pub fn walls_hide_the_machine_from_a_privileged_pod(&self, kubectl: &Kubectl) -> Result<()> {
        let hidden =
            ["state", "usr/sbin/mke2fs", "run/cairn/machined.sock", "run/cairn/permits.sock", "run/cairn/services"];
        let programs = HIDDEN.map(|name| format!("usr/bin/{name}"));
        let hidden = hidden.into_iter().map(str::to_owned).chain(programs);
        let ways = ["/host", "/proc/1/root", "/host/proc/1/root"];
        let hidden: Vec<String> = hidden.flat_map(|path| ways.map(|way| format!("{way}/{path}"))).collect();
        // Without these the look would prove nothing.
        let seen: Vec<String> = ways.map(|way| format!("{way}/usr/bin/containerd")).to_vec();
        let mut look = vec!["exec", "killer", "--namespace", "hello", "--", "/hello", "look"];
        look.extend(hidden.iter().chain(&seen).map(String::as_str));
        let said = kubectl.run(&look, "")?;
        for path in &hidden {
            ensure!(said.contains(&format!("hidden {path}: ")), "{path} can be reached from a pod:\n{said}");
        }
        for path in &seen {
            ensure!(said.contains(&format!("there {path}")), "{path} is not where the pod looks:\n{said}");
        }
        let processes: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("process ")).collect();
        ensure!(processes.iter().any(|process| process.starts_with("containerd ")), "no containerd in {processes:?}");
        for name in HIDDEN {
            let found = processes.iter().find(|process| process.contains(name));
            ensure!(found.is_none(), "a pod sees {found:?}");
        }
        Ok(())
    }

    /// Ended, a process of the machine is started again; everything else keeps running, the containers too.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn an_ended_process_comes_back(
        &self,
        kubectl: &Kubectl,
        (name, end): (&str, End),
        running: &str,
    ) -> Result<()> {
        let before = self.processes()?;
        let killed = pids(&before, name);
        ensure!(!killed.is_empty(), "no process is called {name}");
        let back = async || {
            let now = self.processes().map_err(|error| format!("{error:#}"))?;
            let alive = pids(&now, name);
            if !alive.is_disjoint(&killed) {
                // The connection that carries the order may end with the process: what counts is who is gone.
                let kill = ["exec", "killer", "--namespace", "hello", "--", "/hello", "kill", name];
                match end {
                    End::Killed => drop(kubectl.output(&kill, "").map_err(|error| format!("{error:#}"))?),
                    End::Asked => drop(self.cluster.cairnctl(&["service", "restart", name])),
                }
                return Err(format!("{name} was told to die"));
            }
            if alive.is_empty() { Err(format!("{name} is not back yet")) } else { Ok(now) }
        };
        let now = wait_for(format!("{name} after its end"), RECOVERY_LIMIT, back).await?;
        for other in
            ["machined", "containerd", "controlplane", "gitsync", "hello"].iter().filter(|other| **other != name)
        {
            let gone: Vec<_> = main_pids(&before, other).difference(&main_pids(&now, other)).copied().collect();
            ensure!(gone.is_empty(), "{other} (process {gone:?}) went with {name}");
        }
        self.everything_is_healthy().await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// A container whose program is killed is started again by the agent.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_killed_container_is_started_again(&self, kubectl: &Kubectl, running: &str) -> Result<()> {
        let killed = pids(&self.processes()?, "hello");
        let said = kubectl.run(&["exec", "killer", "--namespace", "hello", "--", "/hello", "kill", "hello"], "")?;
        ensure!(said.matches("killed").count() == 2, "two containers of the demo run, and this was said: {said}");
        let restarts = ["get", "pods", "--namespace", "hello", "--selector", "app=hello", "--output", "json"];
        let restarted = async || {
            let pods: Value = serde_json::from_str(&kubectl.run(&restarts, "").map_err(|error| format!("{error:#}"))?)
                .map_err(|error| error.to_string())?;
            let counts: Vec<i64> = pods["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default())
                .collect();
            if counts.len() == 2 && counts.iter().all(|count| *count >= 1) {
                Ok(())
            } else {
                Err(format!("restarts: {counts:?}"))
            }
        };
        wait_for("both containers, started again", RECOVERY_LIMIT, restarted).await?;
        let alive = pids(&self.processes()?, "hello");
        ensure!(alive.intersection(&killed).count() <= 1, "only the killer's own process may be the same: {alive:?}");
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// A kernel that crashed and may not restart by itself stands still; the watchdog restarts the machine, and all is as before. A
    /// privileged pod brings that about: it can, see docs/security/hardening.md.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn the_watchdog_restarts_a_machine_that_hangs(&self, kubectl: &Kubectl, running: &str) -> Result<()> {
        let firmware = "BdsDxe: starting";
        let boots = self.machine.serial().matches(firmware).count();
        let write = ["exec", "killer", "--namespace", "hello", "--request-timeout", "10s", "--", "/hello", "write"];
        kubectl.run(&[&write[..], &["/proc/sys/kernel/panic", "0"]].concat(), "")?;
        // Nobody answers any more.
        drop(kubectl.output(&[&write[..], &["/proc/sysrq-trigger", "c"]].concat(), "")?);
        let again = async || {
            let now = self.machine.serial().matches(firmware).count();
            if now > boots { Ok(()) } else { Err(format!("it booted {now} times")) }
        };
        wait_for("the watchdog", RECOVERY_LIMIT, again).await?;
        self.cluster.answer(self.machine, running).await.map(drop)
    }

    /// Power is cut while the machine boots for the first time and makes its file systems and its key; it boots again.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn power_is_cut_during_the_first_boot(&self, after: Duration) -> Result<()> {
        self.machine.power_on(self.places).await?;
        self.machine.console("BdsDxe: starting").await?;
        // The moment is the point here: it is not waited for anything.
        tokio::time::sleep(after).await;
        self.machine.cut_power().await?;
        self.machine.power_on(self.places).await
    }

    /// Power is cut soon after a signed commit was pushed; the machine boots again and gets to what the commit says.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn a_power_cut_in_the_middle_converges(&self, after: Duration, greeting: &str) -> Result<()> {
        let commit =
            self.cluster.push(&[(DEMO_FILE, &demo_manifests(2, greeting))], "Change the greeting, then lose power")?;
        // The moment is the point here: it is not waited for anything.
        tokio::time::sleep(after).await;
        self.machine.cut_power().await?;
        self.machine.power_on(self.places).await?;
        self.cluster.answer(self.machine, greeting).await?;
        self.cluster.judged(&commit, &["applied", "healthy"]).await.map(drop)
    }

    async fn everything_is_healthy(&self) -> Result<()> {
        let look = async || {
            let services = self.cluster.cairnctl_json(&["service", "list"]).map_err(|error| format!("{error:#}"))?;
            let services = services.as_array().cloned().unwrap_or_default();
            let ill: Vec<&Value> = services.iter().filter(|service| service["healthy"] != true).collect();
            if !services.is_empty() && ill.is_empty() { Ok(()) } else { Err(format!("not healthy: {ill:?}")) }
        };
        Ok(wait_for("every service", RECOVERY_LIMIT, look).await?)
    }

    fn processes(&self) -> Result<Value> {
        let reply = self.cluster.cairnctl_json(&["processes"])?;
        reply.get("processes").cloned().context("the machine lists its processes")
    }
}

fn pids(processes: &Value, name: &str) -> BTreeSet<u64> {
    let named = processes.as_array().into_iter().flatten().filter(|process| process["name"] == name);
    named.filter_map(|process| process["pid"].as_u64()).collect()
}

/// Without the children that gitsync starts for each look at the repository: the oldest of a name.
fn main_pids(processes: &Value, name: &str) -> BTreeSet<u64> {
    let all = pids(processes, name);
    if name == "gitsync" { all.first().copied().into_iter().collect() } else { all }
}
