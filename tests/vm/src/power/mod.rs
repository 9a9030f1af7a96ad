//! Power cuts by the hundred: a machine's life is recorded once, write by write, and its power is cut afterwards, at any of them.
//!
//! ```text
//! record: QEMU --NBD--> our server --> recording (writes, flushes, what is known of the machine)
//! cut:    recording up to a moment, without what luck takes of the unflushed --> judged unstarted, or booted by another QEMU
//! ```
//!
//! A cut by the clock costs a whole boot to get to the moment, and hits the few milliseconds that matter once in a hundred times. A cut by
//! the write costs nothing to get to, hits each, and can lose and tear what the disk had not flushed, which killing QEMU never does.
//! `cargo xtask vm --power-cuts` runs it; docs/TESTING.md has the invariants.

mod crash;
mod disk;
pub(crate) mod find;
mod judge;
mod life;
mod nbd;
mod recording;

pub use life::Extent;

use crate::cluster::Cluster;
use crate::machine::VirtualMachine;
use crate::places::Places;
use crate::steps::Steps;
use anyhow::{Context, Result, bail, ensure};
use crash::Cut;
pub(crate) use disk::Disk;
use judge::{Image, Layout, judge};
use life::{Files, Machine, luck, record};
pub(crate) use nbd::{Served, URL};
use recording::{Entry, Known, Recording};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};
use tests_support::wait_for;

/// How long a machine may take from power to what is expected of it: a boot, with the restart of a try in between.
const RECOVERY_LIMIT: Duration = Duration::from_secs(240);

/// Crash states that are judged without a boot, at each write to what decides what starts.
const STATES_PER_WRITE: u64 = 2;

/// Crash states that are judged at most: some minutes.
const STATES_MAX: usize = 4000;

/// What is to be cut.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// How many cuts are followed by a boot.
    pub cuts: u32,
    /// Where the moments and the luck of each follow from.
    pub seed: u64,
    /// What is recorded.
    pub extent: Extent,
    /// After how long no further cut begins; the next run goes on.
    pub limit: Option<Duration>,
    /// Whether what an earlier run recorded and found counts.
    pub resume: bool,
}

/// How one cut ended.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    seed: u64,
    number: u32,
    doing: String,
    /// What the machine was afterwards, or what did not hold.
    found: std::result::Result<String, String>,
    seconds: f64,
}

/// Records, judges, cuts and boots.
///
/// # Errors
/// What did not hold, for each cut.
pub async fn power_cuts(places: &Places, steps: &mut Steps, campaign: Campaign) -> Result<()> {
    let begin = Instant::now();
    let machine = match remembered(places, campaign)? {
        Some(machine) => machine,
        None => record(places, steps, campaign.extent).await?,
    };
    let files = Files::of(places);
    let stage =
        Stage { places, recording: Recording::load(&files.recording)?, disk: Disk::open(&files.disk)?, machine };
    let mut endings = endings(&files)?;
    if endings.is_empty() {
        let judged = steps.take("crash states are judged unstarted", async { stage.judge_unstarted(campaign.seed) });
        println!("    {} crash states", judged.await?);
    }
    for number in 1..=campaign.cuts {
        if endings.iter().any(|ending| (ending.seed, ending.number) == (campaign.seed, number)) {
            continue;
        }
        if campaign.limit.is_some_and(|limit| begin.elapsed() > limit) {
            break;
        }
        let ending = stage.cut(steps, campaign.seed, number).await?;
        let mut results = std::fs::File::options().create(true).append(true).open(&files.results)?;
        writeln!(results, "{}", serde_json::to_string(&ending)?)?;
        endings.push(ending);
    }
    conclude(&endings, campaign)
}

/// What an earlier run recorded.
fn remembered(places: &Places, campaign: Campaign) -> Result<Option<Machine>> {
    let Ok(text) = std::fs::read(Files::of(places).machine) else { return Ok(None) };
    let machine: Machine = serde_json::from_slice(&text).context("reading what was recorded")?;
    Ok((campaign.resume && machine.extent == campaign.extent).then_some(machine))
}

fn endings(files: &Files) -> Result<Vec<Ending>> {
    let Ok(text) = std::fs::read_to_string(&files.results) else { return Ok(Vec::new()) };
    text.lines().map(|line| serde_json::from_str(line).context("reading a result")).collect()
}

fn conclude(endings: &[Ending], campaign: Campaign) -> Result<()> {
    let ours: Vec<&Ending> = endings.iter().filter(|ending| ending.seed == campaign.seed).collect();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for ending in &ours {
        let found = ending.found.as_ref().map_or("DOES NOT HOLD", String::as_str);
        *counts.entry((&ending.doing, found)).or_default() += 1;
    }
    println!("\npower cuts, by what the machine did and what it was afterwards");
    for ((doing, found), count) in &counts {
        println!("  {doing:<14} {count:>5}  {found}");
    }
    let failures: Vec<&&Ending> = ours.iter().filter(|ending| ending.found.is_err()).collect();
    for Ending { number, doing, found, .. } in &failures {
        println!("  cut {number}, {doing}: {}", found.as_ref().err().map_or("", String::as_str));
    }
    ensure!(failures.is_empty(), "{} of {} power cuts broke something", failures.len(), ours.len());
    if ours.len() < campaign.cuts as usize {
        println!("  {} of {} are done; the same command goes on", ours.len(), campaign.cuts);
    }
    Ok(())
}

struct Stage<'a> {
    places: &'a Places,
    recording: Recording,
    disk: Disk,
    machine: Machine,
}

impl Stage<'_> {
    /// Judges crash states at each write to what decides what starts; how many.
    fn judge_unstarted(&self, seed: u64) -> Result<usize> {
        let images: Vec<Image> = self.machine.images.iter().map(|path| Image::read(path)).collect::<Result<_>>()?;
        let layout = Layout::of(&self.disk)?;
        let telling = |entry: &Entry| matches!(entry, Entry::Write { offset, .. } if layout.has(*offset));
        let moments: Vec<usize> =
            (0..self.recording.entries.len()).filter(|at| telling(&self.recording.entries[*at])).collect();
        let stride = (moments.len() * STATES_PER_WRITE as usize).div_ceil(STATES_MAX).max(1);
        let (mut disk, mut done, mut judged) = (self.disk.clone(), 0, 0);
        for at in moments.iter().step_by(stride).map(|at| at + 1) {
            let kept = self.recording.entries[..at].iter().rposition(|entry| *entry == Entry::Flush).unwrap_or(0);
            self.recording.apply(&mut disk, done, kept)?;
            done = done.max(kept);
            for luck in 0..STATES_PER_WRITE {
                let cut = Cut { at, luck: seed ^ (luck << 32) ^ at as u64 };
                let crashed = self.recording.survive(disk.clone(), done, cut)?;
                let doing = self.recording.known(at).doing;
                judge(&crashed, &images)
                    .with_context(|| format!("power cut at write {at}, {doing}, luck {}", cut.luck))?;
                judged += 1;
            }
        }
        Ok(judged)
    }

    /// One of the entries, each thing that the machine did being as likely as each other.
    fn moment(&self, seed: u64, number: u32) -> Result<Cut> {
        let mut luck = luck(seed, number);
        let marks: Vec<usize> = (0..self.recording.entries.len())
            .filter(|at| matches!(self.recording.entries[*at], Entry::Mark(_)))
            .collect();
        let ends = marks.iter().skip(1).copied().chain([self.recording.entries.len()]);
        // What has hardly a write of its own is only a change of what is known.
        let parts: Vec<(usize, usize)> =
            marks.iter().copied().zip(ends).filter(|(begin, end)| end - begin > PART_ENTRIES_MIN).collect();
        ensure!(!parts.is_empty(), "nothing was recorded");
        let (begin, end) = parts[luck.below(parts.len() as u64) as usize];
        let at = begin + 1 + luck.below((end - begin - 1) as u64) as usize;
        Ok(Cut { at, luck: luck.below(u64::MAX) })
    }

    async fn cut(&self, steps: &mut Steps, seed: u64, number: u32) -> Result<Ending> {
        let cut = self.moment(seed, number)?;
        let known = self.recording.known(cut.at);
        let begin = Instant::now();
        let step = format!("power cut {number}, {}, at write {}", known.doing, cut.at);
        let found = steps.take(&step, async { anyhow::Ok(self.boot(cut, &known, number).await) }).await?;
        let found = found.map_err(|error| format!("{error:#}"));
        println!("    {}", found.as_ref().unwrap_or_else(|error| error));
        Ok(Ending { seed, number, doing: known.doing, found, seconds: begin.elapsed().as_secs_f64() })
    }

    /// Starts what a cut left, and says what it is.
    async fn boot(&self, cut: Cut, known: &Known, number: u32) -> Result<String> {
        let machine = VirtualMachine::new(self.places, "cp1", self.machine.ports).with_served_disk(URL);
        machine.cut_power().await?;
        // The firmware's memory is another chip: every second time it lost what it was told.
        let variables = self.recording.variables(cut.at).filter(|_| cut.luck.is_multiple_of(2));
        match variables {
            Some(bytes) => std::fs::write(machine.variables(), bytes)?,
            None => drop(std::fs::remove_file(machine.variables())),
        }
        let disk = self.recording.survive(self.disk.clone(), 0, cut)?;
        let served = Served::start(machine.folder(), disk, None)?;
        let found = async {
            machine.power_on(self.places).await?;
            self.found(&machine, known).await
        };
        let found = found.await;
        if found.is_err() {
            std::fs::write(self.places.home(&format!("cut-{number}.log")), machine.serial())?;
        }
        machine.cut_power().await?;
        served.stop()?;
        found
    }

    /// Waits until the machine is something, and says what, if it may be that.
    async fn found(&self, machine: &VirtualMachine, known: &Known) -> Result<String> {
        let ready = async || Ready::read(&machine.serial()).ok_or("the machine API does not answer");
        let ready = wait_for("a machine that is up", RECOVERY_LIMIT, ready).await?;
        let nobodys = ready.is_nobodys();
        let Ready { identity, phase } = ready;
        let same = known.identity.as_ref().is_none_or(|known| *known == identity);
        if !same || (known.generation.is_none() && phase != "running") {
            if !same && !known.new {
                bail!("its identity is {identity}, it was {}", known.identity.as_deref().unwrap_or("none"));
            }
            ensure!(same || nobodys, "a new machine is {phase}");
            return Ok(if same { "the same machine, in no cluster yet" } else { "a new machine" }.to_owned());
        }
        self.same_as_before(known).await
    }

    async fn same_as_before(&self, known: &Known) -> Result<String> {
        let cluster = Cluster::new(self.places, self.machine.git_port);
        let least = known.generation.unwrap_or(1);
        let look = async || {
            let status = cluster.cairnctl_json(&["status"]).map_err(|error| format!("{error:#}"))?;
            let slot = status["slot"].as_str().unwrap_or_default().to_owned();
            let right = status["phase"] == "running"
                && status["name"] == "cp1"
                && status["generation"].as_u64().is_some_and(|generation| generation >= least)
                && known.identity.as_ref().is_none_or(|identity| status["identity"] == identity.as_str());
            if right { Ok((slot, status.to_string())) } else { Err(status.to_string()) }
        };
        // Before the login was recorded there is nobody whom the machine could know.
        if known.generation.is_none() {
            return Ok("the same machine, running".to_owned());
        }
        let (slot, status) = wait_for("the same machine as before", RECOVERY_LIMIT, look).await?;
        ensure!(known.slots.contains(&slot), "it runs from slot {slot}, which is neither good nor on trial: {status}");
        Ok(format!("the same machine, slot {slot}"))
    }
}

/// Entries that a thing has at least to be cut.
const PART_ENTRIES_MIN: usize = 8;

/// What the console says once the machine API answers.
pub(crate) struct Ready {
    identity: String,
    phase: String,
}

impl Ready {
    /// Whether it knows of no cluster: it waits to be brought in, or has not read its disk yet.
    fn is_nobodys(&self) -> bool {
        matches!(self.phase.as_str(), "maintenance" | "starting")
    }

    pub(crate) fn read(serial: &str) -> Option<Self> {
        let phase = serial.rsplit("cairn: READY phase=").next().filter(|rest| rest.len() < serial.len())?;
        let phase = phase.split_whitespace().next()?.to_owned();
        let identity = serial.rsplit("SHA256:").next().filter(|rest| rest.len() < serial.len())?;
        Some(Ready { identity: format!("SHA256:{}", identity.get(..43)?), phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_ready_once_it_says_so() {
        let key = "A".repeat(43);
        assert!(Ready::read(&format!("Identity SHA256:{key}\r\n")).is_none());
        let ready = Ready::read(&format!("Identity SHA256:{key}\r\ncairn: READY phase=maintenance api_ms=7\r\n"));
        let ready = ready.expect("because it says so");
        assert_eq!((ready.identity, ready.phase), (format!("SHA256:{key}"), "maintenance".to_owned()));
    }
}
