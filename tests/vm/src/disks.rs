//! Encrypted volumes: made at the first boot, opened by the TPM at each one, and by the recovery key where the TPM is another.

use crate::artefacts::{self, logged};
use crate::cluster::{Cluster, demo_manifests};
use crate::machine::{Ports, VirtualMachine};
use crate::places::{Places, text};
use crate::steps::Steps;
use crate::tpm::condition;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use tests_support::wait_for;

/// What the demo answers; it stands in a manifest, so in the store on STATE, and in the container's logs on EPHEMERAL.
const GREETING: &str = "Nobody reads this on the disk";
/// How long the console may take to answer what is typed.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);
/// Bytes of a megabyte.
const MEBIBYTE: usize = 1 << 20;

/// A machine whose image has a signed policy: its first boot encrypts both volumes, a power cut later they open again, nothing that the
/// machine was told lies on the disk in clear, cryptsetup knows both headers and opens them with the recovery key. In another machine they
/// stay locked until somebody types it.
///
/// # Errors
/// What did not hold.
pub async fn disks_are_encrypted(places: &Places, cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    let (key, image) = (places.home("policy"), places.home("sealed"));
    logged(places, &places.program("cairn-image")?, &["keys", "generate", "--policy", &text(&key)?]).await?;
    let folder = text(&key)?;
    let more = ["--policy-key", folder.as_str()];
    let build = artefacts::image(places, &image, &more);
    steps.take("an image with a signed policy", build).await?;
    let machine = VirtualMachine::new(places, "cp1", Ports::free()?).with_image(image.clone()).with_tpm();
    let held = life(places, cluster, steps, &machine, &image.join("cairn.efi")).await;
    if held.is_err() {
        println!("the console of the machine ends:\n{}", machine.serial());
    }
    machine.cut_power().await?;
    held
}

async fn life(
    places: &Places,
    cluster: &Cluster,
    steps: &mut Steps,
    machine: &VirtualMachine,
    uki: &Path,
) -> Result<()> {
    let first = async {
        cluster.create()?;
        machine.power_on(places).await?;
        cluster.enroll(machine).await?;
        cluster.log_in().await?;
        condition(cluster, "DisksEncrypted", true).await?;
        cluster.push(&[("apps/hello.yaml", &demo_manifests(1, GREETING))], "Run hello")?;
        cluster.answer(machine, GREETING).await
    };
    steps.take("the first boot encrypts the volumes", first).await?;
    // PCR 11 has moved on, and still speaks of this image.
    cluster.cairnctl(&["attest", "--image", &text(uki)?])?;
    let old = cluster.cairnctl(&["disk", "recovery-key"])?.trim().to_owned();
    let key = cluster.cairnctl(&["disk", "recovery-key"])?.trim().to_owned();
    ensure!(key.len() == 39 && key != old, "no recovery key of eight groups: {}", key.len());
    let audit = cluster.cairnctl(&["logs", "audit"])?;
    ensure!(
        audit.contains("DiskRecoveryKey") && !audit.contains(&key),
        "the audit log names the call, and not the key"
    );

    let again = async {
        machine.cut_power().await?;
        machine.power_on(places).await?;
        cluster.answer(machine, GREETING).await?;
        let open = condition(cluster, "DisksEncrypted", true).await?;
        ensure!(open["message"].as_str().is_some_and(|told| told.contains("opened by the TPM")), "told as {open}");
        machine.cut_power().await
    };
    steps.take("a power cut later the TPM opens them", again).await?;
    steps
        .take("the disk says nothing, and cryptsetup knows it", async { the_disk_is_opaque(places, machine, &key) })
        .await?;
    let disk = machine.disk()?;
    let thief = in_another_machine(places, disk, &old, &key);
    steps.take("in another machine the recovery key opens them", thief).await
}

/// Reads the machine's disk as another computer would.
fn the_disk_is_opaque(places: &Places, machine: &VirtualMachine, key: &str) -> Result<()> {
    let raw = places.home("disk.raw");
    let disk = places.home(machine.name()).join("disk.qcow2");
    run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(&disk).arg(&raw))?;
    let headers = volumes(&raw)?;
    ensure!(headers.len() == 2, "the disk holds {} LUKS2 volumes", headers.len());
    let secret = places.home("recovery-key");
    std::fs::write(&secret, key).context("writing the key for cryptsetup")?;
    let file = File::open(&raw).with_context(|| format!("opening {}", raw.display()))?;
    for at in headers {
        let (front, mut bytes) = (places.home("front"), vec![0; 2 * MEBIBYTE]);
        file.read_exact_at(&mut bytes, at).context("reading a header")?;
        std::fs::write(&front, &bytes).context("writing a header for cryptsetup")?;
        run(Command::new("cryptsetup").args(["luksDump"]).arg(&front))?;
        run(Command::new("cryptsetup").args(["open", "--test-passphrase", "--key-file"]).arg(&secret).arg(&front))?;
    }
    std::fs::remove_file(&raw).context("removing the copy")
}

/// Where LUKS2 volumes begin: at whole megabytes. From the first one on nothing that the machine was told may be read.
fn volumes(raw: &Path) -> Result<Vec<u64>> {
    let mut file = File::open(raw).with_context(|| format!("opening {}", raw.display()))?;
    let (mut found, mut at, mut piece) = (Vec::new(), 0, Vec::new());
    loop {
        // The end of the piece before stays in front, for words that lie across.
        let kept = piece.len().min(GREETING.len());
        piece.drain(..piece.len() - kept);
        let read = (&mut file).take(MEBIBYTE as u64).read_to_end(&mut piece).context("reading the disk")?;
        if read == 0 {
            return Ok(found);
        }
        if piece[kept..].starts_with(b"LUKS\xba\xbe\0\x02") {
            found.push(at);
        }
        // Most of the disk was never written.
        let written = piece.iter().any(|byte| *byte != 0);
        let told = written && piece.windows(GREETING.len()).any(|words| words == GREETING.as_bytes());
        ensure!(found.is_empty() || !told, "what the machine was told lies on its disk in clear, near byte {at}");
        at += read as u64;
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn in_another_machine(places: &Places, disk: Vec<u8>, old: &str, key: &str) -> Result<()> {
    let other = VirtualMachine::new(places, "other", Ports::free()?).with_tpm();
    std::fs::create_dir_all(places.home("other"))?;
    other.replace_disk(&disk)?;
    other.power_on(places).await?;
    let opened = async {
        other.console("STATE is locked").await?;
        other.console("type its recovery key here").await?;
        let mut seat = other.sit_down()?;
        seat.type_line(old)?;
        said(&other, "this recovery key opens no locked volume").await?;
        seat.type_line(&key.to_lowercase())?;
        said(&other, "2 volumes are open until the machine starts again").await
    };
    let opened = opened.await;
    if opened.is_err() {
        println!("the console of the other machine ends:\n{}", other.serial());
    }
    other.cut_power().await?;
    opened
}

async fn said(machine: &VirtualMachine, words: &str) -> Result<()> {
    let heard = async || if machine.serial().contains(words) { Ok(()) } else { Err("not yet") };
    Ok(wait_for(format!("{words:?} on the console"), ANSWER_LIMIT, heard).await?)
}
