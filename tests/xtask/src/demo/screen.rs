//! The screen at the end of `make up`: what runs, where it came from, how long it took, what to try next.

use super::{Refused, State};
use anyhow::Result;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tests_vm::scenarios::DEMO_FILE;
use tests_vm::{Cluster, Places, Steps, VirtualMachine};

/// What the screen is about.
pub(super) struct Demo<'a> {
    pub(super) places: &'a Places,
    pub(super) cluster: &'a Cluster,
    pub(super) machine: &'a VirtualMachine,
    pub(super) kubeconfig: &'a Path,
}

pub(super) fn show(demo: &Demo<'_>, state: &State, steps: &Steps) -> Result<()> {
    let Demo { places, cluster, machine, kubeconfig } = demo;
    let status = cluster.cairnctl_json(&["status"])?;
    let text = |field: &str| status[field].as_str().unwrap_or("unknown").to_owned();
    let relative = |path: &Path| path.strip_prefix(places.root()).unwrap_or(path).display().to_string();
    let total: Duration = steps.taken().iter().map(|(_, took)| *took).sum();
    let checkout = relative(&cluster.checkout());
    let commit = text("commit");
    println!(
        "
Running
  machine     {name} ({phase}), identity {identity}
  commit      {commit} (step {seq}), signed by {signer}
  service     http://127.0.0.1:{service}/ -> two pods of Deployment hello
  refused     {refused}
  took        {total:.0} s in all; each step is above

Set up this shell
  export KUBECONFIG=$PWD/{kubeconfig} CAIRN_CONFIG=$PWD/{config} PATH=$PWD/{programs}:$PATH

Try next
  1. More replicas:        edit replicas in {checkout}/{DEMO_FILE}, then
                           git -C {checkout} commit -am 'Three of them' && git -C {checkout} push
                           kubectl get pods -n hello -w
  2. An unsigned commit:   git -C {checkout} commit --allow-empty --no-gpg-sign -m 'Who am I?'
                           git -C {checkout} push && cairnctl commits && cairnctl repair --checkout {checkout}
  3. A service's log:      cairnctl login && cairnctl logs gitsync --follow

`make down` stops it, `make clean-up` removes .cairn/.",
        name = text("name"),
        phase = text("phase"),
        identity = text("identity"),
        commit = commit.get(..12).unwrap_or(&commit),
        seq = status["seq"].as_u64().map_or_else(|| Value::Null.to_string(), |seq| seq.to_string()),
        signer = text("signer"),
        service = machine.ports().service,
        refused = state.refused.as_ref().map_or_else(String::new, refusal),
        total = total.as_secs_f64(),
        kubeconfig = relative(kubeconfig),
        config = relative(&places.home("cairnctl")),
        programs = relative(&places.programs()),
    );
    Ok(())
}

fn refusal(refused: &Refused) -> String {
    let commit = refused.commit.get(..12).unwrap_or(&refused.commit);
    format!("{commit}, which nobody signed: {}\n              {}", refused.reason, refused.message)
}
