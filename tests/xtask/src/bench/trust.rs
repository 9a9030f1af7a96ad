//! `cargo xtask bench trust`: how fast signed history is verified, beside git with ssh-keygen over the same commits.
//!
//! Times are processor time of the one thread (for git: of the processes it started), so that other work on the machine does not
//! count; wall-clock times stand beside them.

use super::{join, memory, people};
use crate::run::run as run_command;
use anyhow::{Context, Result, ensure};
use clap::Args;
use gitsync_verify::{
    DeployRef, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet, Offer, introduce, object_id, tree_changes,
    verify,
};
use machined_ids::ClusterId;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests_support::authenticator::PlainKey;

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// Signed commits to verify; at most what one judgement takes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    commits: u32,
    /// Of these, commits that git verifies as well: it starts two programs for each.
    #[arg(long, default_value_t = 200)]
    git_commits: u32,
    /// Only the memory of fetches of hostile and of the largest packs.
    #[arg(long)]
    memory: bool,
}

/// Folders, and files in each, of the repository whose history is verified.
const FOLDERS: u32 = 32;

/// Times that the difference of two trees is computed; the median counts.
const DIFFERENCES: usize = 101;

type Object = (ObjectId, ObjectKind, Vec<u8>);

/// Processor time and wall-clock time of something.
#[derive(Debug, Clone, Copy)]
struct Took {
    processor: Duration,
    wall: Duration,
}

/// A history: every object, the commits oldest first, and their signer.
struct History {
    objects: Vec<Object>,
    commits: Vec<ObjectId>,
    key: PlainKey,
}

pub(crate) async fn run(trust: &Trust) -> Result<()> {
    if trust.memory {
        return memory::measure(&fetch_child()?).await.map(drop);
    }
    println!("making {} signed commits", trust.commits);
    let history = history(trust.commits)?;
    let (set, hashing) = timed(|| fill(&history.objects))?;
    let (first, tip) = (history.commits[0], history.commits[history.commits.len() - 1]);
    let cluster = ClusterId::from_bytes([1; 16]);
    let deploy_ref = DeployRef::parse("refs/heads/main").map_err(anyhow::Error::msg)?;
    let introduction = Introduction::of(&set, &first.to_commit_id(), cluster, deploy_ref)?;
    let state = introduce(&introduction, &set)?.0;
    let tip = tip.to_commit_id();
    let (chain, verifying) = timed(|| Ok(verify(&state, &Offer::of(&tip, &set))?))?;
    ensure!(chain.refused.is_none(), "a commit of the benchmark was refused: {:?}", chain.refused);
    let steps = chain.steps.len();
    ensure!(steps + 1 == history.commits.len(), "only {steps} steps were verified");
    let git = git(&history, trust.git_commits)?;
    let child = fetch_child()?;
    println!("making large repositories and hostile packs");
    let join = join::measure(&child).await?;
    let memory = memory::measure(&child).await?;
    let single = Single { difference: difference()?, costs: people::measure()?, join, memory };
    report(&history, steps, (hashing, verifying), (trust.git_commits, git), &single)
}

/// Builds gitsync as it is shipped, and says where it is.
fn fetch_child() -> Result<PathBuf> {
    println!("building the fetch child");
    run_command("cargo", &["build", "--quiet", "--release", "--locked", "--package", "gitsync-daemon"])?;
    Ok(tests_vm::Places::new(".cairn/bench")?.programs().join("gitsync"))
}

/// Times of one thing each.
struct Single {
    difference: Duration,
    costs: people::Costs,
    join: join::Join,
    memory: Vec<memory::Outcome>,
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Took)> {
    let (wall, processor) = (Instant::now(), processor_time()?);
    let value = work()?;
    Ok((value, Took { processor: processor_time()?.saturating_sub(processor), wall: wall.elapsed() }))
}

pub(super) fn processor_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

fn fill(objects: &[Object]) -> Result<ObjectSet> {
    let mut set = ObjectSet::new(ObjectFormat::Sha1);
    for (id, kind, bytes) in objects {
        set.insert(*id, *kind, bytes.clone())?;
    }
    Ok(set)
}

/// Objects that are made here and named as git names them.
#[derive(Default)]
struct Maker(Vec<Object>);

impl Maker {
    fn add(&mut self, kind: ObjectKind, bytes: Vec<u8>) -> Result<ObjectId> {
        let id = object_id(ObjectFormat::Sha1, kind, &bytes)?;
        self.0.push((id, kind, bytes));
        Ok(id)
    }

    fn tree(&mut self, mode: &str, entries: &[(String, ObjectId)]) -> Result<ObjectId> {
        let mut bytes = Vec::new();
        for (name, id) in entries {
            let mode = if name.contains('.') { "100644" } else { mode };
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend_from_slice(id.as_bytes());
        }
        self.add(ObjectKind::Tree, bytes)
    }

    /// `count` folders with as many files each; their trees.
    fn folders(&mut self, count: u32, files: u32) -> Result<Vec<Vec<(String, ObjectId)>>> {
        let mut folders = Vec::new();
        for folder in 0..count {
            let mut entries = Vec::new();
            for file in 0..files {
                let text =
                    format!("folder: {folder}\nfile: {file}\n{}", "# a manifest of ordinary length\n".repeat(30));
                entries.push((format!("f{file:03}.yaml"), self.add(ObjectKind::Blob, text.into_bytes())?));
            }
            folders.push(entries);
        }
        Ok(folders)
    }
}

/// A chain in which each commit changes one of a thousand files, signed by one key, under a policy of one rule.
fn history(count: u32) -> Result<History> {
    let (key, mut maker) = (PlainKey::from_seed([9; 32]), Maker::default());
    let policy = format!(
        "version 1\nroot threshold=1 {{ member \"ada\"; }}\nprincipal \"ada\" {{ key \"{}\" {{ use \"commit\"; }}; }}\n\
         role \"dev\" {{ member \"ada\"; }}\nrule \"apps\" {{ owns \"apps/**\"; approval role=\"dev\" threshold=1; }}\n",
        key.public_key()
    );
    let policy = maker.add(ObjectKind::Blob, policy.into_bytes())?;
    let trust = maker.tree("100644", &[("root.kdl".to_owned(), policy)])?;
    let mut folders = maker.folders(FOLDERS, FOLDERS)?;
    let mut apps = Vec::new();
    for (number, files) in folders.iter().enumerate() {
        apps.push((format!("d{number:03}"), maker.tree("100644", files)?));
    }
    let mut commits: Vec<ObjectId> = Vec::new();
    for number in 0..=count {
        let (folder, file) = ((number % FOLDERS) as usize, (number / FOLDERS % FOLDERS) as usize);
        folders[folder][file].1 = maker.add(ObjectKind::Blob, format!("replicas: {number}\n").into_bytes())?;
        apps[folder].1 = maker.tree("100644", &folders[folder])?;
        let tree = maker.tree("40000", &apps)?;
        let root = maker.tree("40000", &[("apps".to_owned(), tree), ("trust".to_owned(), trust)])?;
        let bytes = commit(&key, &root, commits.last(), number);
        commits.push(maker.add(ObjectKind::Commit, bytes)?);
    }
    Ok(History { objects: maker.0, commits, key })
}

fn commit(key: &PlainKey, tree: &ObjectId, parent: Option<&ObjectId>, number: u32) -> Vec<u8> {
    let parent = parent.map(|parent| format!("parent {parent}\n")).unwrap_or_default();
    let who = format!("Ada <ada@example.org> {} +0000", 1_700_000_000 + number);
    let head = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n");
    let cluster = ClusterId::from_bytes([1; 16]);
    let body = format!("\nScale to {number}\n\nCairn-Target: {cluster} refs/heads/main\n");
    let armour = key.sign("git", format!("{head}{body}").as_bytes());
    format!("{head}gpgsig {}\n{body}", armour.trim_end().replace('\n', "\n ")).into_bytes()
}

/// The same commits by `git verify-commit`, which runs ssh-keygen for each.
fn git(history: &History, count: u32) -> Result<Took> {
    let folder = tempfile::tempdir()?;
    let git = |arguments: &[&str], input: &[u8]| git_in(folder.path(), arguments, input);
    git(&["init", "-q", "--bare", "."], b"")?;
    std::fs::write(folder.path().join("signers"), format!("ada@example.org {}\n", history.key.public_key()))?;
    let wanted = &history.commits[..history.commits.len().min(count as usize)];
    // `git verify-commit` reads the commit alone, so that its trees need not be there.
    for (_, _, bytes) in history.objects.iter().filter(|(id, ..)| wanted.contains(id)) {
        git(&["hash-object", "-t", "commit", "-w", "--literally", "--stdin"], bytes)?;
    }
    let children = || -> Result<Duration> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let time = |at: nix::sys::time::TimeVal| Duration::from_micros((at.tv_sec() * 1_000_000 + at.tv_usec()) as u64);
        Ok(time(usage.user_time()) + time(usage.system_time()))
    };
    let (wall, processor) = (Instant::now(), children()?);
    for id in wanted {
        let signers = "gpg.ssh.allowedSignersFile=signers";
        git(&["-c", "gpg.format=ssh", "-c", signers, "verify-commit", &id.to_string()], b"")?;
    }
    Ok(Took { processor: children()?.saturating_sub(processor), wall: wall.elapsed() })
}

fn git_in(folder: &Path, arguments: &[&str], input: &[u8]) -> Result<()> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting git")?;
    child.stdin.take().context("git has no input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The difference of two trees of 10,000 files in 100 folders, one of them changed: the median of many times.
fn difference() -> Result<Duration> {
    let mut maker = Maker::default();
    let mut folders = maker.folders(100, 100)?;
    let mut apps = Vec::new();
    for (number, files) in folders.iter().enumerate() {
        apps.push((format!("d{number:03}"), maker.tree("100644", files)?));
    }
    let before = maker.tree("40000", &apps)?;
    folders[50][50].1 = maker.add(ObjectKind::Blob, b"changed\n".to_vec())?;
    apps[50].1 = maker.tree("100644", &folders[50])?;
    let after = maker.tree("40000", &apps)?;
    let set = fill(&maker.0)?;
    let mut times = Vec::new();
    for _ in 0..DIFFERENCES {
        let (changes, took) = timed(|| Ok(tree_changes(&set, &before, &after)?))?;
        ensure!(changes.len() == 1, "the difference has {} files", changes.len());
        times.push(took.wall);
    }
    times.sort();
    Ok(times[DIFFERENCES / 2])
}

fn report(
    history: &History,
    steps: usize,
    (hashing, verifying): (Took, Took),
    (git_commits, git): (u32, Took),
    single: &Single,
) -> Result<()> {
    let rate = |count: f64, took: Duration| count / took.as_secs_f64();
    let (steps, objects, git_commits) = (steps as f64, history.objects.len() as f64, f64::from(git_commits));
    let both = Took { processor: hashing.processor + verifying.processor, wall: hashing.wall + verifying.wall };
    let rows: Vec<(&str, f64, f64)> = vec![
        ("commits verified per second", rate(steps, verifying.processor), rate(steps, verifying.wall)),
        ("objects hashed again per second", rate(objects, hashing.processor), rate(objects, hashing.wall)),
        ("commits per second, objects hashed", rate(steps, both.processor), rate(steps, both.wall)),
        ("git verify-commit, commits per second", rate(git_commits, git.processor), rate(git_commits, git.wall)),
    ];
    println!("\n{:<40} {:>16} {:>16}", "figure", "processor time", "wall clock");
    for (name, processor, wall) in &rows {
        println!("{name:<40} {processor:>16.0} {wall:>16.0}");
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (difference, login) = (micros(single.difference), micros(single.costs.login));
    let request = micros(single.costs.request);
    println!("{:<40} {:>16} {difference:>13.0} us", "difference of 10,000 files, 1 changed", "");
    println!("{:<40} {login:>13.0} us", "a login: handshake, signature, table");
    println!("{:<40} {request:>13.2} us", "a request on an open connection");
    let join::Join { took, repository, tree, disk, poll } = &single.join;
    let mebibytes = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    println!(
        "{:<40} {:>16} {:>14.2} s",
        format!("a join, {:.0} MiB of repository", mebibytes(*repository)),
        "",
        took.as_secs_f64()
    );
    println!("{:<40} {:>12.1} MiB of {:.1} MiB", "its disk, of a tree", mebibytes(*disk), mebibytes(*tree));
    let poll_millis = poll.took.as_secs_f64() * 1e3;
    println!("{:<40} {:>16} {:>16}", "requests of a poll with nothing new", "", poll.requests);
    println!("{:<40} {:>16} {poll_millis:>13.1} ms", "such a poll, its caged child included", "");
    let figures: Vec<Value> = rows
        .iter()
        .map(|(name, processor, wall)| json!({ "figure": name, "processorTime": processor, "wallClock": wall }))
        .collect();
    let json = json!({ "commits": steps, "objects": objects, "rates": figures, "treeDifferenceMicros": difference,
        "loginMicros": login, "requestMicros": request, "joinSeconds": took.as_secs_f64(),
        "joinRepositoryBytes": repository, "joinTreeBytes": tree, "joinDiskBytes": disk,
        "pollRequests": poll.requests, "pollMillis": poll_millis, "memory": &single.memory });
    let file = Path::new(".cairn/bench/trust.json");
    std::fs::create_dir_all(file.parent().context("the file lies in a folder")?)?;
    std::fs::write(file, serde_json::to_vec_pretty(&json)?)?;
    println!("JSON: {}\n{json}", file.display());
    Ok(())
}
