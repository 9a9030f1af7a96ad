//! A person's checkout of the configuration repository, through their own git: it knows their keys, remotes and hooks.

use crate::judge::INTRODUCTION_FILE;
use anyhow::{Context, Result, ensure};
use gitsync_verify::{DeployRef, Files, Introduction, TARGET_TRAILER};
use machined_ids::{ClusterId, CommitId, PrincipalName};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The deploy ref of every repository that this release makes.
pub(crate) const DEPLOY_REF: &str = "refs/heads/main";

/// [`DEPLOY_REF`], parsed.
pub(crate) fn deploy_ref() -> DeployRef {
    DeployRef::parse(DEPLOY_REF).expect("because the constant is a branch")
}

/// A checkout.
#[derive(Debug)]
pub(crate) struct Checkout {
    folder: PathBuf,
}

impl Checkout {
    /// Makes an empty repository whose branch is the deploy ref.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        ensure_empty(folder)?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let checkout = Checkout { folder: folder.to_owned() };
        checkout.git(&["init", "--quiet", "--initial-branch", "main"])?;
        Ok(checkout)
    }

    /// Clones a repository with the person's own git, so that their credentials work.
    pub(crate) fn clone(url: &str, folder: &Path) -> Result<Self> {
        ensure_empty(folder)?;
        let target = folder.to_str().context("the folder's name is text")?;
        let here = Checkout { folder: std::env::current_dir()? };
        here.git(&["clone", "--quiet", "--", url, target])?;
        Checkout::open(folder)
    }

    /// Sets up that commits are signed with `key` and say which cluster and branch they are for.
    pub(crate) fn set_up(
        &self,
        key: &Path,
        person: &PrincipalName,
        cluster: &ClusterId,
        branch: &DeployRef,
    ) -> Result<()> {
        let key = std::path::absolute(key)?;
        let key = key.to_str().context("the SSH key's path is text")?;
        for (name, value) in [("gpg.format", "ssh"), ("user.signingKey", key), ("commit.gpgSign", "true")] {
            self.git(&["config", name, value])?;
        }
        // git refuses to commit for somebody without a name; what people have set for themselves stays.
        for (name, value) in [("user.name", person.to_string()), ("user.email", format!("{person}@localhost"))] {
            if self.git(&["config", name]).is_err() {
                self.git(&["config", name, &value])?;
            }
        }
        self.install_hook(cluster, branch)
    }

    /// Opens the checkout that contains `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let inside = Checkout { folder: folder.to_owned() };
        let top = inside.git(&["rev-parse", "--show-toplevel"]).with_context(|| {
            format!("{} is no checkout of the configuration repository; give one with --checkout", folder.display())
        })?;
        Ok(Checkout { folder: top.into() })
    }

    /// The hook that writes `Cairn-Target` into every commit, so that a signed commit means one place.
    fn install_hook(&self, cluster: &ClusterId, branch: &DeployRef) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let hook = format!(
            "#!/bin/sh\n# Says which cluster and branch this commit is signed for; written by cairnctl.\n\
             exec git interpret-trailers --in-place --if-exists replace --trailer '{}' \"$1\"\n",
            target_line(cluster, branch)
        );
        let folder = self.folder.join(self.git(&["rev-parse", "--git-path", "hooks"])?);
        let file = folder.join("commit-msg");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(&file, hook).with_context(|| format!("writing {}", file.display()))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Writes a file of the repository, making its folders.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Commits these paths and nothing else, signed; the commit's id.
    pub(crate) fn commit(&self, paths: &[&str], message: &str) -> Result<CommitId> {
        self.git(&[&["add", "--"], paths].concat())?;
        self.git(&[&["commit", "--quiet", "--message", message, "--"], paths].concat())?;
        self.head()
    }

    /// Pushes the branch to where it goes.
    pub(crate) fn push(&self) -> Result<()> {
        self.git(&["push", "--quiet", "--set-upstream", "origin", "HEAD:main"]).map(drop)
    }

    /// The folder of the work tree.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit that is checked out.
    pub(crate) fn head(&self) -> Result<CommitId> {
        self.commit_of("HEAD")
    }

    /// The commit that a revision names.
    pub(crate) fn commit_of(&self, revision: &str) -> Result<CommitId> {
        let id = self.git(&["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]);
        let id = id.with_context(|| format!("there is no commit {revision:?} in {}", self.folder.display()))?;
        Ok(CommitId::parse(&id)?)
    }

    /// The text of a file of the work tree.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let file = self.folder.join(path);
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    fn introduction_file(&self) -> Result<PathBuf> {
        let folder = self.git(&["rev-parse", "--git-common-dir"])?;
        Ok(self.folder.join(folder).join(INTRODUCTION_FILE))
    }

    /// The introduction to a commit that this person believes: their own, or one that they compare with somebody's.
    pub(crate) fn introduce(&self, commit: &CommitId, cluster: ClusterId, branch: DeployRef) -> Result<Introduction> {
        let stop_at = std::slice::from_ref(commit);
        let (_, objects) = gitsync_fetch::local::read(&self.folder, commit.as_str(), stop_at)?;
        Ok(Introduction::of(&objects, commit, cluster, branch)?)
    }

    /// Keeps the introduction that this checkout is judged from.
    pub(crate) fn keep(&self, introduction: &Introduction) -> Result<()> {
        let file = self.introduction_file()?;
        std::fs::write(&file, introduction.to_json()).with_context(|| format!("writing {}", file.display()))
    }

    /// The introduction that [`Checkout::keep`] kept.
    pub(crate) fn introduction(&self) -> Result<Introduction> {
        let file = self.introduction_file()?;
        let bytes = std::fs::read(&file)
            .with_context(|| format!("reading {}; `cairnctl init` and `cairnctl clone` write it", file.display()))?;
        Ok(Introduction::from_json(&bytes)?)
    }

    /// The files directly in a folder of the checkout, as they lie there.
    pub(crate) fn files(&self, folder: &str) -> Result<Files> {
        let path = self.folder.join(folder);
        let mut files = Files::default();
        for entry in std::fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?} is not text"))?;
                files.0.insert(format!("{folder}/{name}"), std::fs::read(entry.path())?);
            }
        }
        Ok(files)
    }

    /// Stores bytes as a blob; its id.
    pub(crate) fn store(&self, bytes: &[u8]) -> Result<String> {
        let mut child = Command::new("git")
            .args(["hash-object", "-w", "--stdin"])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting git; it must be installed")?;
        child.stdin.take().context("git has a stdin")?.write_all(bytes)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "git hash-object failed in {}", self.folder.display());
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Runs the person's git in the checkout.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(&self.folder)
            .stderr(Stdio::piped())
            .output()
            .context("starting git; it must be installed")?;
        let error = String::from_utf8_lossy(&output.stderr);
        let what = arguments.first().copied().unwrap_or_default();
        ensure!(output.status.success(), "git {what} failed in {}: {}", self.folder.display(), error.trim());
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }
}

/// The trailer that ties a commit to a cluster and its branch.
pub(crate) fn target_line(cluster: &ClusterId, branch: &DeployRef) -> String {
    format!("{TARGET_TRAILER}: {cluster} {branch}")
}

fn ensure_empty(folder: &Path) -> Result<()> {
    let empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    ensure!(empty, "{} is not empty; give a new folder", folder.display());
    Ok(())
}
