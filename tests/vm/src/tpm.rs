//! A machine with a TPM: its identity lies there, it proves what runs on it, and notices an old copy of its disk.

use crate::cluster::{Cluster, demo_manifests};
use crate::machine::{Ports, VirtualMachine};
use crate::places::{Places, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests_support::wait_for;

/// How long a machine may take until it says something about itself.
const SAID_LIMIT: Duration = Duration::from_secs(240);

/// The identity key is the TPM's: a copy of the disk in another machine is not this one. Attestation holds for the image and the commit and
/// for no other; an old copy of the disk that is put back moves nothing until somebody vouches for the newest commit.
///
/// # Errors
/// What did not hold.
pub async fn a_machine_proves_what_runs_and_notices_an_old_disk(
    places: &Places,
    cluster: &Cluster,
    machine: &VirtualMachine,
) -> Result<()> {
    cluster.create()?;
    machine.power_on(places).await?;
    cluster.enroll(machine).await?;
    cluster.log_in().await?;
    let place = cluster.cairnctl_json(&["status"])?["identityPlace"].clone();
    ensure!(place == "tpm", "the identity key lies in {place}");

    let uki = places.image("cairn.efi");
    let enrolled = head(cluster)?;
    proven(cluster, &["--image", &text(&uki)?, "--commit", &enrolled]).await?;
    // One bit of the command line, in the file that the machine is compared with.
    let other = places.home("other.efi");
    std::fs::write(&other, flipped(&std::fs::read(&uki)?)?)?;
    refused(cluster, &["--image", &text(&other)?], "Image: ")?;
    refused(cluster, &["--commit", &"ab".repeat(20)], "Commit: ")?;
    refused(cluster, &["--pcr", &format!("7={}", "ab".repeat(32))], "Pinned: ")?;

    machine.cut_power().await?;
    let old = machine.disk()?;
    stolen_disk_is_nobody(places, &old, machine.identity().await?.as_str()).await?;
    machine.power_on(places).await?;
    let newer = cluster.push(&[("apps/hello.yaml", &demo_manifests(1, "Hello"))], "a commit that the copy lacks")?;
    proven(cluster, &["--image", &text(&uki)?, "--commit", &newer]).await?;

    machine.cut_power().await?;
    machine.replace_disk(&old)?;
    machine.power_on(places).await?;
    let told = condition(cluster, "StateTrusted", false).await?;
    ensure!(told["reason"] == "FreshnessUnproven", "an old copy is told as {told}");
    ensure!(attest(cluster, &["--commit", &newer]).is_err(), "the old copy moved without a proof");
    cluster.cairnctl_in_checkout(&["vouch"])?;
    condition(cluster, "StateTrusted", true).await?;
    proven(cluster, &["--image", &text(&uki)?, "--commit", &newer]).await
}

/// The disk in a machine with a TPM of its own: it shows no identity and says why, and its machine API does not answer.
async fn stolen_disk_is_nobody(places: &Places, disk: &[u8], identity: &str) -> Result<()> {
    let thief = VirtualMachine::new(places, "thief", Ports::free()?).with_tpm();
    std::fs::create_dir_all(places.home("thief"))?;
    thief.replace_disk(disk)?;
    thief.power_on(places).await?;
    let shown = async {
        thief.console("without identity: the machine API does not answer").await?;
        thief.console("lies in another TPM").await?;
        let serial = thief.serial();
        ensure!(!serial.contains(identity), "the copy shows the identity of the machine that it was taken from");
        ensure!(!serial.contains("cairn: READY"), "the copy's machine API answers");
        anyhow::Ok(())
    };
    let shown = shown.await.with_context(|| format!("the console of the copy ends: {}", last_lines(&thief)));
    thief.cut_power().await?;
    shown
}

fn last_lines(machine: &VirtualMachine) -> String {
    let serial = machine.serial();
    let lines: Vec<&str> = serial.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn head(cluster: &Cluster) -> Result<String> {
    Ok(tests_support::git::git(&cluster.checkout(), &["rev-parse", "HEAD"])?.trim().to_owned())
}

fn attest(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.cairnctl(&[&["attest"], arguments].concat())
}

async fn proven(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let ask = async || attest(cluster, arguments).map_err(|error| format!("{error:#}"));
    wait_for("a good attestation", SAID_LIMIT, ask).await.map(drop).map_err(Into::into)
}

fn refused(cluster: &Cluster, arguments: &[&str], why: &str) -> Result<()> {
    match attest(cluster, arguments) {
        Ok(said) => anyhow::bail!("attestation of {arguments:?} holds: {said}"),
        Err(error) => {
            let story = format!("{error:#}");
            ensure!(
                story.contains(why),
                "attestation of {arguments:?} is refused for another reason than {why}: {story}"
            );
            Ok(())
        }
    }
}

pub(crate) async fn condition(cluster: &Cluster, kind: &str, wanted: bool) -> Result<Value> {
    let look = async || {
        let status = cluster.cairnctl_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        found.clone().filter(|found| found["status"] == wanted).ok_or_else(|| format!("{found:?}"))
    };
    Ok(wait_for(format!("{kind} to be {wanted}"), SAID_LIMIT, look).await?)
}

/// The same image with one changed bit in its command line.
fn flipped(uki: &[u8]) -> Result<Vec<u8>> {
    let mark = b"lockdown=integrity";
    let at = uki.windows(mark.len()).position(|bytes| bytes == mark).context("the command line names lockdown")?;
    let mut other = uki.to_vec();
    other[at] ^= 1;
    Ok(other)
}
