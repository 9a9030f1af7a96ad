//! One flipped bit at a random place of the boot chain, with Secure Boot on, many times: refused, caught, or never used; never run.
//!
//! | seen | verdict |
//! |---|---|
//! | firmware or boot loader says why it does not start it, or nothing of ours ever starts | refused |
//! | the kernel panics or reports corruption, or PID 1 says that the root cannot be started | caught |
//! | the machine comes up, and the place is one that no signature covers because nothing executes it, a block of the root that verity would not have given out changed, or a place of GPT or META that has a copy, a digest or no content | not used |
//! | the machine comes up with a changed byte that the signature of boot loader or UKI covers | run changed: the test fails |

use crate::artefacts::{self, logged};
use crate::faults::Moments;
use crate::machine::{Ports, VirtualMachine};
use crate::places::{Places, text};
use crate::power::{Disk, Ready, Served, URL, find};
use crate::steps::Steps;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};
use tests_support::wait_for;

/// How long a changed machine may take to say anything; one that is whole needs a quarter of it.
const VERDICT_LIMIT: Duration = Duration::from_secs(150);

/// What firmware and boot loader say of what they do not start.
const REFUSALS: [&str; 5] =
    ["Access Denied", "Security Violation", "Error loading", "Error preparing", "No bootable option"];
/// What kernel and PID 1 say of what they do not run.
const CATCHES: [&str; 4] = ["Kernel panic", "is corrupted", "could not be started", "I/O error"];

/// What a machine did with a changed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Refused,
    Caught,
    NotUsed,
}

/// A part of the boot chain on the disk.
struct Part {
    name: &'static str,
    on_disk: Range<u64>,
    /// Places in it that a machine may come up with although they changed.
    unused: Vec<Range<u64>>,
}

/// Flips bits until there were `flips`, or the time is over.
///
/// # Errors
/// A machine that ran what was changed.
pub async fn flips(places: &Places, steps: &mut Steps, flips: u32, seed: u64, limit: Option<Duration>) -> Result<()> {
    let begin = Instant::now();
    let machine = VirtualMachine::new(places, "cp1", Ports::free()?).with_secure_boot();
    let (disk, parts, variables) = steps.take("a machine with keys of its own", enrolled(places, &machine)).await?;
    let machine = machine.with_served_disk(URL);
    let mut luck = Moments::new(seed);
    let mut counts: BTreeMap<(&str, Verdict), u32> = BTreeMap::new();
    for number in 1..=flips {
        if limit.is_some_and(|limit| begin.elapsed() > limit) {
            println!("  {} of {flips} are done", number - 1);
            break;
        }
        let part = &parts[luck.below(parts.len() as u64) as usize];
        let at = part.on_disk.start + luck.below(part.on_disk.end - part.on_disk.start);
        let mut changed = disk.clone();
        let byte = disk.bytes(at, 1)?[0] ^ (1 << luck.below(8));
        changed.write(at, &[byte])?;
        std::fs::write(machine.variables(), &variables)?;
        let served = Served::start(machine.folder(), changed, None)?;
        let looked = async {
            machine.power_on(places).await?;
            seen(&machine, part, at).await
        };
        let step = format!("flip {number}, {}, byte {}", part.name, at - part.on_disk.start);
        let looked = steps.take(&step, looked).await;
        machine.cut_power().await?;
        served.stop()?;
        *counts.entry((part.name, looked?)).or_default() += 1;
    }
    println!("\nflipped bytes, by place and verdict");
    for ((name, verdict), count) in &counts {
        println!("  {name:<14} {count:>5}  {verdict:?}");
    }
    Ok(())
}

/// A signed image, its parts, and the firmware's variables once it has the keys.
async fn enrolled(places: &Places, machine: &VirtualMachine) -> Result<(Disk, Vec<Part>, Vec<u8>)> {
    let (keys, image) = (places.home("secure-boot"), places.home("signed"));
    let program = places.program("cairn-image")?;
    logged(places, &program, &["keys", "generate", "--secure-boot", &text(&keys)?]).await?;
    artefacts::image(places, &image, &["--secure-boot", &text(&keys)?]).await?;
    let raw = places.home("signed.raw");
    artefacts::raw_disk(&image.join("disk.qcow2"), &raw).await?;
    let disk = Disk::open(&raw)?;
    let machine = machine.clone().with_image(image.clone());
    machine.power_on(places).await?;
    let enrolled = machine.console("Secure Boot is on").await;
    machine.cut_power().await?;
    enrolled?;
    let root = std::fs::metadata(image.join("root.img")).context("reading the root image")?.len();
    let uki = std::fs::read(image.join("cairn.efi")).context("reading the UKI")?;
    let parts = parts(&disk, &uki, root)?;
    Ok((disk, parts, std::fs::read(machine.variables())?))
}

fn parts(disk: &Disk, uki: &[u8], root: u64) -> Result<Vec<Part>> {
    let loader = find::file(disk, "EFI/BOOT/BOOTX64.EFI")?;
    let loader_at = find::contiguous(disk, &loader)?;
    let uki_at = find::contiguous(disk, uki)?;
    let place = |at: u64, range: Range<usize>| at + range.start as u64..at + range.end as u64;
    let signed = |name, bytes: &[u8], at: u64, range: Range<usize>| -> Result<Part> {
        let unused = unsigned(bytes)?.into_iter().map(|range| place(at, range)).collect();
        Ok(Part { name, on_disk: place(at, range), unused })
    };
    let mut parts =
        vec![signed("boot loader", &loader, loader_at, 0..loader.len())?, signed("UKI", uki, uki_at, 0..uki.len())?];
    for (name, section) in [("kernel", ".linux"), ("initrd", ".initrd"), ("command line", ".cmdline")] {
        let range = sections(uki)?.remove(section).with_context(|| format!("a UKI has a section {section}"))?;
        parts.push(signed(name, uki, uki_at, range)?);
    }
    // Verity gives out no block that does not fit the signed root hash, and what it did not give out was not used.
    let slot = find::partition(disk, init_boot::label::ROOT_A)?;
    let blocks = command_line_blocks(uki)? * u64::from(init_boot::VERITY_BLOCK_BYTES);
    let bytes = u64::from(init_boot::VERITY_BLOCK_BYTES);
    let verity = [("data", 0..blocks), ("superblock", blocks..blocks + bytes), ("hash tree", blocks + bytes..root)];
    parts.extend(verity.map(|(name, range)| {
        let on_disk = slot.start + range.start..slot.start + range.end;
        Part { name, unused: vec![on_disk.clone()], on_disk }
    }));
    let table = 0..init_boot::PRIMARY_SECTORS * init_boot::SECTOR_BYTES;
    let meta = find::partition(disk, init_boot::label::META)?;
    parts.extend([("GPT", table), ("META", meta)].map(|(name, on_disk)| Part {
        name,
        unused: vec![on_disk.clone()],
        on_disk,
    }));
    Ok(parts)
}

fn command_line_blocks(uki: &[u8]) -> Result<u64> {
    let range = sections(uki)?.remove(".cmdline").context("a UKI has a command line")?;
    let line = String::from_utf8_lossy(&uki[range]).into_owned();
    let line = init_boot::CommandLine::parse(line.trim_end_matches('\0').trim()).context("a command line")?;
    line.root_blocks.context("a command line says how large the root is")
}

/// Waits until it is clear what the machine does with it.
async fn seen(machine: &VirtualMachine, part: &Part, at: u64) -> Result<Verdict> {
    let look = async || {
        let serial = machine.serial();
        let said = |words: &[&str]| words.iter().any(|words| serial.contains(words));
        match () {
            () if Ready::read(&serial).is_some() => Ok(None),
            () if said(&CATCHES) => Ok(Some(Verdict::Caught)),
            () if said(&REFUSALS) => Ok(Some(Verdict::Refused)),
            () => Err("it says nothing"),
        }
    };
    match wait_for("a verdict", VERDICT_LIMIT, look).await {
        Ok(Some(verdict)) => Ok(verdict),
        Ok(None) if part.unused.iter().any(|range| range.contains(&at)) => Ok(Verdict::NotUsed),
        Ok(None) => bail!("the machine came up with a changed byte of the {}, {at} on the disk", part.name),
        // Nothing of ours ever came up: what it stopped in, it did not run to where it could say so.
        Err(_) if !machine.serial().contains("--- Cairn") => Ok(Verdict::Refused),
        Err(error) => Err(error.into()),
    }
}

/// The sections of a PE file, by name, where their bytes lie in it (Microsoft PE format, section table).
fn sections(pe: &[u8]) -> Result<BTreeMap<String, Range<usize>>> {
    let header = number(pe, 0x3c, 4)?;
    let (count, optional) = (number(pe, header + 6, 2)?, number(pe, header + 20, 2)?);
    let mut found = BTreeMap::new();
    for index in 0..count {
        let at = header + 24 + optional + 40 * index;
        let name = pe.get(at..at + 8).context("a section lies behind the end")?;
        let (size, raw, offset) = (number(pe, at + 8, 4)?, number(pe, at + 16, 4)?, number(pe, at + 20, 4)?);
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        found.insert(name, offset..offset + size.min(raw));
    }
    Ok(found)
}

/// What the signature of a PE file does not cover: checksum, the signature's entry, the signature (Authenticode, "calculating the PE
/// image hash").
fn unsigned(pe: &[u8]) -> Result<Vec<Range<usize>>> {
    let optional = number(pe, 0x3c, 4)? + 24;
    ensure!(number(pe, optional, 2)? == 0x20b, "it is no PE32+ file");
    let entry = optional + 144;
    let (at, length) = (number(pe, entry, 4)?, number(pe, entry + 4, 4)?);
    Ok(vec![optional + 64..optional + 68, entry..entry + 8, at..at + length])
}

fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize> {
    let bytes = bytes.get(at..at + length).context("a PE file is cut off")?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}
