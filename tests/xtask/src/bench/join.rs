//! What it costs a new machine to join from an anchor: fetch, hash and take up a large repository at its newest commit.
//!
//! Part of `cargo xtask bench trust`. The repository is made by `git fast-import` and served over HTTP on loopback by git itself; the
//! caged fetch child of the release build fetches it.

use anyhow::{Context, Result, bail, ensure};
use gitsync_fetch::{Fetched, Fetcher, RepositoryUrl, Request};
use gitsync_verify::{DeployRef, Introduction, introduce};
use machined_ids::{ClusterId, CommitId};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests_support::{Server, git};

/// Files of the newest tree, in 32 folders.
const FILES: u32 = 1024;

/// Bytes of a file: noise, so that nothing can be packed away.
const FILE_BYTES: usize = 4096;

/// Commits, each of which replaces [`REPLACED`] files.
const COMMITS: u32 = 400;

/// Files that a commit replaces: 400 times 100 of 4 KiB are the 160 MiB of history.
const REPLACED: u32 = 100;

/// Times that a machine joins; the median counts.
const JOINS: usize = 5;

/// What a join came to.
pub(super) struct Join {
    /// From nothing to an introduced trust state, the median.
    pub(super) took: Duration,
    /// Bytes of the repository that is served.
    pub(super) repository: u64,
    /// Bytes of the newest tree's files.
    pub(super) tree: u64,
    /// Bytes on disk that the machine needs for it.
    pub(super) disk: u64,
    /// What a look costs when nothing is new.
    pub(super) poll: Poll,
}

/// Looks with nothing new that are measured; the median counts.
const POLLS: usize = 21;

/// A look with nothing new.
pub(super) struct Poll {
    /// HTTP requests, the most that any had.
    pub(super) requests: usize,
    /// From starting the caged child to its answer, the median.
    pub(super) took: Duration,
}

pub(super) async fn measure(program: &Path) -> Result<Join> {
    let folder = tempfile::tempdir()?;
    // The child drops to another user when this runs as root, and has to get into its folder.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let bare = folder.path().join("served/demo.git");
    std::fs::create_dir_all(&bare)?;
    git::git(&bare, &["init", "--quiet", "--bare", "--initial-branch", "main", "."])?;
    import(&bare)?;
    git::git(&bare, &["repack", "-a", "-d", "--quiet"])?;
    let tip = CommitId::parse(&git::git(&bare, &["rev-parse", "main"])?)?;
    let server = git::serve(&folder.path().join("served"), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = RepositoryUrl::parse(&format!("http://{}/demo.git", server.address()))?;
    let fetcher = Fetcher::new(program, &["fetch-child"]);
    let (mut times, mut disk) = (Vec::new(), 0);
    for number in 0..JOINS {
        let place = folder.path().join(format!("machine-{number}"));
        let begun = Instant::now();
        join(&fetcher, &request(&place, &url, &tip)?).await?;
        times.push(begun.elapsed());
        disk = bytes_of(&place)?;
    }
    times.sort();
    let tree = u64::from(FILES) * FILE_BYTES as u64;
    let poll = poll(&fetcher, &server, request(&folder.path().join("machine-0"), &url, &tip)?).await?;
    Ok(Join { took: times[JOINS / 2], repository: bytes_of(&bare)?, tree, disk, poll })
}

/// What a machine asks that was introduced to `tip`.
fn request(place: &Path, url: &RepositoryUrl, tip: &CommitId) -> Result<Request> {
    Ok(Request {
        folder: place.to_owned(),
        url: Some(url.clone()),
        deploy_ref: DeployRef::parse("refs/heads/main").map_err(anyhow::Error::msg)?,
        tip: None,
        stop_at: vec![tip.clone()],
        bundle: None,
        statements: Vec::new(),
        dialect: None,
    })
}

async fn join(fetcher: &Fetcher, request: &Request) -> Result<()> {
    let Fetched::New(found, objects, _statements) = fetcher.fetch(request).await?.fetched else {
        bail!("the first look brought nothing");
    };
    let tip = &request.stop_at[0];
    ensure!(found == *tip, "the branch is at {found}");
    let introduction = Introduction::of(&objects, tip, ClusterId::from_bytes([1; 16]), request.deploy_ref.clone())?;
    introduce(&introduction, &objects)?;
    Ok(())
}

/// Looks again and again at what was judged; the first look learns how the server speaks and does not count.
async fn poll(fetcher: &Fetcher, server: &Server, request: Request) -> Result<Poll> {
    let mut request = Request { tip: Some(request.stop_at[0].clone()), ..request };
    let (mut times, mut most) = (Vec::new(), 0);
    for look in 0..=POLLS {
        let (before, begun) = (server.requests().len(), Instant::now());
        let answer = fetcher.fetch(&request).await?;
        let took = begun.elapsed();
        ensure!(matches!(answer.fetched, Fetched::Unchanged(_)), "a look with nothing new brought something");
        if look > 0 {
            most = most.max(server.requests().len() - before);
            times.push(took);
        }
        request.dialect = answer.dialect;
    }
    times.sort();
    Ok(Poll { requests: most, took: times[POLLS / 2] })
}

/// Makes the history, newest tree whole in every commit.
fn import(bare: &Path) -> Result<()> {
    let mut child = Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(bare)
        .stdin(Stdio::piped())
        .spawn()
        .context("starting git")?;
    let mut input = std::io::BufWriter::new(child.stdin.take().context("git has an input")?);
    let policy = "version 1\nroot threshold=1 { member \"ada\"; }\nprincipal \"ada\" { key \"ssh-ed25519 \
                  AAAAC3NzaC1lZDI1NTE5AAAAIFW5sT2wBKGbJ5xqdIchcdJRQpAQ3khb4hNjIhj5E0zW\" { use \"commit\"; }; }\n";
    let mut noise = 1_u64;
    for commit in 0..COMMITS {
        let mut head =
            format!("commit refs/heads/main\ncommitter Ada <ada@example.org> {} +0000\n", 1_700_000_000 + commit);
        write!(head, "data 4\nnext\nM 100644 inline trust/root.kdl\ndata {}\n{policy}\n", policy.len())?;
        input.write_all(head.as_bytes())?;
        let (first, count) = if commit == 0 { (0, FILES) } else { (commit * REPLACED % FILES, REPLACED) };
        for file in first..first + count {
            let file = file % FILES;
            write!(input, "M 100644 inline apps/d{:02}/f{file:04}.yaml\ndata {FILE_BYTES}\n", file % 32)?;
            for _ in 0..FILE_BYTES / 8 {
                // xorshift64: noise that is the same in every run.
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                input.write_all(&noise.to_le_bytes())?;
            }
            input.write_all(b"\n")?;
        }
    }
    input.flush()?;
    drop(input);
    ensure!(child.wait()?.success(), "git fast-import failed");
    Ok(())
}

/// Bytes on disk below a folder.
fn bytes_of(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
