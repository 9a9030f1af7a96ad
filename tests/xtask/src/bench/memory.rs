//! How much memory a hostile pack, and the largest honest one, can make the fetch child and gitsync's side of it take.
//!
//! ```text
//! bench trust -- HostileServer (packs by hand), git's own server (the largest that passes)
//!   +-- xtask bench probe, one for each pack --------- gitsync's side: reads frames, hashes again, judges     its own peak (VmHWM)
//!         +-- gitsync fetch-child, caged ------------- the only child that the probe ever has                its peak (ru_maxrss)
//! ```
//!
//! Part of `cargo xtask bench trust`. A probe is a process of its own because the kernel keeps peaks for each process, and for all
//! children of one together. What the kernel counts includes what was resident before the child's first instruction and pages of mapped
//! files, so that both figures are upper bounds.

use anyhow::{Context, Result, ensure};
use gitsync_fetch::{Answer, Fetched, Fetcher, Limits, RepositoryUrl, Request};
use gitsync_verify::limits::{JUDGEMENT_MEMORY_BYTES, MAX_OBJECT_BYTES, MAX_TOTAL_BYTES};
use gitsync_verify::{DeployRef, Introduction, introduce};
use machined_ids::{ClusterId, CommitId};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tests_support::git;
use tests_support::hostile::pack::{Kind, Object, Pack, copies, objects, one_more, zlib, zlib_of_zeros};
use tests_support::hostile::{Attack, HostileServer};

/// A policy that any key may stand in: nothing of the benchmark is signed.
const POLICY: &str = "version 1\nroot threshold=1 { member \"ada\"; }\nprincipal \"ada\" { key \"ssh-ed25519 \
                      AAAAC3NzaC1lZDI1NTE5AAAAIFW5sT2wBKGbJ5xqdIchcdJRQpAQ3khb4hNjIhj5E0zW\" { use \"commit\"; }; }\n";

/// What one process does: fetches once, and takes up what came.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    program: PathBuf,
    request: Request,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// Which pack.
    #[serde(default)]
    pack: String,
    /// How it ended, in a few words.
    ended: String,
    /// Most resident memory of the fetch child, in bytes.
    child_bytes: u64,
    /// Most resident memory of gitsync's side, in bytes.
    own_bytes: u64,
    seconds: f64,
}

/// `xtask bench probe`: does the task on standard input, and prints the outcome.
pub(super) async fn probe() -> Result<()> {
    let Task { program, request } = serde_json::from_reader(std::io::stdin().lock()).context("reading the task")?;
    let begun = Instant::now();
    let ended = match Fetcher::new(program, &["fetch-child"]).fetch(&request).await {
        Ok(answer) => judge(&request, answer),
        Err(error) => format!("{error}").split(" (").next().unwrap_or_default().to_owned(),
    };
    let outcome = Outcome {
        pack: String::new(),
        ended,
        child_bytes: u64::try_from(getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())? << 10,
        own_bytes: own_peak()?,
        seconds: begun.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn judge(request: &Request, answer: Answer) -> String {
    let Fetched::New(tip, objects, _) = answer.fetched else { return "nothing new".to_owned() };
    let count = objects.len();
    let introduced = Introduction::of(&objects, &tip, cluster(), request.deploy_ref.clone())
        .and_then(|introduction| introduce(&introduction, &objects).map(drop));
    match introduced {
        Ok(()) => format!("{count} objects taken up"),
        Err(refusal) => format!("refused: {}", refusal.reason),
    }
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([1; 16])
}

fn own_peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// A place with a repository of one good commit, and who fetches from it.
struct Bench<'a> {
    folder: &'a Path,
    program: &'a Path,
    outcomes: Vec<Outcome>,
}

pub(super) async fn measure(program: &Path) -> Result<Vec<Outcome>> {
    let folder = tempfile::tempdir()?;
    // The child drops to another user when this runs as root, and has to get into its folder.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    print_head();
    let mut bench = Bench { folder: folder.path(), program, outcomes: Vec::new() };
    bench.largest().await?;
    bench.hostile().await?;
    Ok(bench.outcomes)
}

impl Bench<'_> {
    /// The largest repositories that a machine takes up, served by git itself.
    async fn largest(&mut self) -> Result<()> {
        let file = usize::try_from(MAX_OBJECT_BYTES)? - 1;
        let files = u32::try_from(MAX_TOTAL_BYTES / MAX_OBJECT_BYTES)? - 1;
        for (name, files, bytes) in
            [("the most bytes that pass", files, file), ("the most files that pass", 49_000, 2048)]
        {
            let bare = self.repository(&format!("{files}.git"), files, bytes)?;
            let served = bare.parent().context("it lies in a folder")?;
            let server = git::serve(served, SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            self.look(name, &format!("http://{}/{files}.git", server.address())).await?;
        }
        Ok(())
    }

    /// Packs that git would never write.
    async fn hostile(&mut self) -> Result<()> {
        let bare = self.repository("small.git", 1, 100)?;
        let honest = objects(&bare, "main")?;
        let server = HostileServer::start(&bare, Attack::None).await?;
        for (name, make) in BOMBS {
            server.attack(Attack::Pack(make(&honest).into()));
            self.look(name, &server.url()).await?;
        }
        server.attack(Attack::ManyRefs(2_000_000));
        self.look("two million refs", &server.url()).await
    }

    /// A bare repository of one commit: a policy, and files of noise.
    fn repository(&self, name: &str, files: u32, bytes: usize) -> Result<PathBuf> {
        let bare = self.folder.join("served").join(name);
        std::fs::create_dir_all(&bare)?;
        git::git(&bare, &["init", "--quiet", "--bare", "--initial-branch", "main", "."])?;
        let mut child = Command::new("git")
            .args(["fast-import", "--quiet"])
            .current_dir(&bare)
            .stdin(Stdio::piped())
            .spawn()
            .context("starting git")?;
        let mut input = std::io::BufWriter::new(child.stdin.take().context("git has an input")?);
        writeln!(input, "commit refs/heads/main\ncommitter Ada <ada@example.org> 1700000000 +0000\ndata 4\none\n")?;
        writeln!(input, "M 100644 inline trust/root.kdl\ndata {}\n{POLICY}", POLICY.len())?;
        let mut noise = Noise(1);
        for file in 0..files {
            writeln!(input, "M 100644 inline apps/d{:02}/f{file:05}.yaml\ndata {bytes}", file % 64)?;
            input.write_all(&noise.bytes(bytes))?;
            input.write_all(b"\n")?;
        }
        input.flush()?;
        drop(input);
        ensure!(child.wait()?.success(), "git fast-import failed");
        // Packed without compression once, so that serving it is copying.
        for setting in ["core.compression", "pack.compression", "pack.window"] {
            git::git(&bare, &["config", setting, "0"])?;
        }
        git::git(&bare, &["repack", "-a", "-d", "-F", "--quiet"])?;
        Ok(bare)
    }

    /// One fetch, by a probe of its own.
    async fn look(&mut self, name: &str, url: &str) -> Result<()> {
        let place = self.folder.join(format!("machine-{}", self.outcomes.len()));
        let request = Request {
            folder: place.clone(),
            url: Some(RepositoryUrl::parse(url)?),
            deploy_ref: DeployRef::parse("refs/heads/main").map_err(anyhow::Error::msg)?,
            tip: None,
            stop_at: Vec::<CommitId>::new(),
            bundle: None,
            statements: Vec::new(),
            dialect: None,
        };
        let task = serde_json::to_vec(&Task { program: self.program.to_owned(), request })?;
        let outcome = tokio::task::spawn_blocking(move || run_probe(&task)).await??;
        let outcome = Outcome { pack: name.to_owned(), ..outcome };
        outcome.print();
        self.outcomes.push(outcome);
        // The child's folder holds what it wrote: up to a whole pack.
        std::fs::remove_dir_all(&place).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(())
    }
}

fn run_probe(task: &[u8]) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "probe"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("starting a probe")?;
    child.stdin.take().context("a probe has an input")?.write_all(task)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "a probe ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// xorshift64: bytes that cannot be packed away, the same in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

type Bomb = (&'static str, fn(&[Object]) -> Vec<u8>);

/// Each beside the honest objects, so that only what is wrong with it can stop it.
const BOMBS: [Bomb; 7] = [
    ("a blob of 3 GiB of zeros in 3 MiB", blob_of_zeros),
    ("eight deltas that become 16 GiB each", multiplying),
    ("a hundred blobs of 32 MiB of zeros", many_large),
    ("deltas 50,000 deep", deep),
    ("deltas 100 deep over a base of 16 MiB", deep_and_large),
    ("300,000 objects", many),
    ("a pack that declares 2^32 - 1 entries", declared),
];

fn blob_of_zeros(honest: &[Object]) -> Vec<u8> {
    let mut pack = Pack::of(honest);
    pack.entry(Kind::Blob, 3 << 30, &[], &zlib_of_zeros(3 << 10));
    pack.finish()
}

fn multiplying(honest: &[Object]) -> Vec<u8> {
    let mut pack = Pack::of(honest);
    let base = pack.entry(Kind::Blob, 16 << 20, &[], &zlib_of_zeros(16));
    for _ in 0..8 {
        pack.delta(base, &copies(16 << 20, 1024));
    }
    pack.finish()
}

fn many_large(honest: &[Object]) -> Vec<u8> {
    let (mut pack, zeros) = (Pack::of(honest), zlib_of_zeros(32));
    for _ in 0..100 {
        pack.entry(Kind::Blob, 32 << 20, &[], &zeros);
    }
    pack.finish()
}

fn deep(honest: &[Object]) -> Vec<u8> {
    let mut pack = Pack::of(honest);
    let mut at = pack.entry(Kind::Blob, 4, &[], &zlib(b"base"));
    for depth in 0..50_000 {
        at = pack.delta(at, &one_more(4 + depth));
    }
    pack.finish()
}

fn deep_and_large(honest: &[Object]) -> Vec<u8> {
    let mut pack = Pack::of(honest);
    let mut at = pack.entry(Kind::Blob, 16 << 20, &[], &zlib_of_zeros(16));
    // Each makes the same 16 MiB - 1 bytes out of the one before.
    for depth in 0..100 {
        at = pack.delta(at, &copies(if depth == 0 { 16 << 20 } else { 0xff_ffff }, 1));
    }
    pack.finish()
}

fn many(honest: &[Object]) -> Vec<u8> {
    let mut pack = Pack::of(honest);
    for number in 0..300_000_u32 {
        pack.entry(Kind::Blob, 4, &[], &zlib(&number.to_be_bytes()));
    }
    pack.finish()
}

fn declared(honest: &[Object]) -> Vec<u8> {
    Pack::of(honest).finish_as(u32::MAX)
}

/// The head of the table and the limits, before the first row: a row may take a minute.
fn print_head() {
    println!("\n{:<40} {:>10} {:>10} {:>8}   ended", "peak memory, MiB", "child", "gitsync", "seconds");
    let (child, own) = (Limits::MACHINE.memory_bytes >> 20, JUDGEMENT_MEMORY_BYTES >> 20);
    println!("{:<40} {child:>10} {own:>10}", "stated limit");
}

impl Outcome {
    fn print(&self) {
        let Outcome { pack, ended, child_bytes, own_bytes, seconds } = self;
        println!("{pack:<40} {:>10} {:>10} {seconds:>8.1}   {ended}", child_bytes >> 20, own_bytes >> 20);
    }
}
