//! What a person at the console of a machine can do: vouch for a recovery by its code, and nothing else.

use crate::cluster::{Cluster, demo_manifests};
use crate::machine::VirtualMachine;
use crate::places::{Places, text};
use crate::tpm::condition;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use tests_support::git::git;
use tests_support::wait_for;

/// How long a recovery may take from the console to the new epoch: gitsync looks again within seconds.
const RECOVERED_LIMIT: Duration = Duration::from_secs(120);

/// A recovery waits for its day; the console shows its code. Another code does nothing, the code itself begins the new epoch.
///
/// # Errors
/// What did not hold.
pub async fn a_recovery_is_confirmed_by_its_code_and_by_no_other(
    places: &Places,
    cluster: &Cluster,
    machine: &VirtualMachine,
) -> Result<()> {
    let vault = places.home("vault");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "vault", "-f"])
        .arg(&vault)
        .status()
        .context("starting ssh-keygen")?;
    ensure!(made.success(), "ssh-keygen could not make a key");
    let prepared = cluster.push(&[("trust/root.kdl", &root_with(cluster, &vault)?)], "A recovery key, for a safe")?;
    cluster.judged(&prepared, &["applied", "healthy"]).await?;

    // Nobody whom the policy knows signed this one, so only a recovery can begin there.
    let begin = [("apps/hello.yaml", demo_manifests(1, "Hello from the new epoch"))];
    cluster.commit(&[(begin[0].0, &begin[0].1)], "Begin again", &["--no-gpg-sign"])?;
    let commit = git(&cluster.checkout(), &["rev-parse", "HEAD"])?;
    let said = cluster.cairnctl_in_checkout(&["recover", "HEAD", "--ssh-key", &text(&vault)?])?;
    let code = said.split("code ").nth(1).and_then(|rest| rest.get(..9)).context("recover prints a code")?;
    git(&cluster.checkout(), &["push", "--quiet", "origin", "HEAD:main"])?;
    condition(cluster, "RecoveryWaits", true).await?;
    machine.console(&format!("type {code}")).await?;

    let mut seat = machine.sit_down()?;
    let other = if code.starts_with('0') { "1111-1111" } else { "0000-0000" };
    for words in [other, "reboot", "yes"] {
        let before = machine.serial().matches(UNKNOWN).count();
        seat.type_line(words)?;
        let answered = async || match machine.serial().matches(UNKNOWN).count() {
            count if count > before => Ok(()),
            _ => Err("no answer"),
        };
        wait_for(format!("the console's answer to {words:?}"), RECOVERED_LIMIT, answered).await?;
    }
    ensure!(!machine.serial().contains(CONFIRMED), "another code confirmed a recovery");
    let status = cluster.cairnctl_json(&["status"])?;
    ensure!(status["accepted"]["epoch"] == 0, "the epoch began without its code: {}", status["accepted"]);

    seat.type_line(&code.to_lowercase())?;
    machine.console(&format!("recovery {code} {CONFIRMED}")).await?;
    let begun = async || {
        let status = cluster.cairnctl_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        let accepted = status["accepted"].clone();
        if accepted["epoch"] == 1 && accepted["commit"] == commit { Ok(()) } else { Err(accepted.to_string()) }
    };
    wait_for("the new epoch", RECOVERED_LIMIT, begun).await?;
    cluster.answer(machine, "Hello from the new epoch").await?;
    let audit = cluster.cairnctl(&["logs", "audit"])?;
    ensure!(audit.contains("ConfirmRecovery"), "the audit log does not say who vouched");
    condition(cluster, "RecoveryWaits", false).await.map(drop)
}

/// What the console answers to a code that no recovery has.
const UNKNOWN: &str = "no recovery that waits has this code";
/// How it begins its answer to the right one.
const CONFIRMED: &str = "is confirmed and takes effect";

/// The root policy with a recovery key that makes machines wait for a day.
fn root_with(cluster: &Cluster, vault: &std::path::Path) -> Result<String> {
    let root = std::fs::read_to_string(cluster.checkout().join("trust/root.kdl"))?;
    let public = std::fs::read_to_string(vault.with_extension("pub"))?;
    let key = public.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Ok(format!(
        "{root}\nrecovery threshold=1 delay=\"24h\" {{ member \"vault\"; }}\nprincipal \"vault\" {{ key \"{key}\" {{ use \"recovery\"; }}; }}\n"
    ))
}
