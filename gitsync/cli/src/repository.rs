//! A person's checkout of the configuration repository, through their own git: it knows their keys, remotes and hooks.

use anyhow::{Context, Result, ensure};
use gitsync_verify::{DeployRef, Files, Introduction, ObjectFormat, ObjectId, ObjectKind, ObjectSet};
use machined_ids::{ClusterId, CommitId, PrincipalName};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The deploy ref of every repository that this release makes.
pub(crate) const DEPLOY_REF: &str = "refs/heads/main";

/// A checkout.
#[derive(Debug)]
pub(crate) struct Checkout {
    folder: PathBuf,
}

impl Checkout {
    /// Makes an empty repository whose commits are signed with `key` and carry their target.
    pub(crate) fn create(folder: &Path, key: &Path, cluster: &ClusterId, person: &PrincipalName) -> Result<Self> {
        let empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
        ensure!(empty, "{} is not empty; give a new folder", folder.display());
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let checkout = Checkout { folder: folder.to_owned() };
        checkout.git(&["init", "--quiet", "--initial-branch", "main"])?;
        let key = std::path::absolute(key)?;
        let key = key.to_str().context("the SSH key's path is text")?;
        for (name, value) in [("gpg.format", "ssh"), ("user.signingKey", key), ("commit.gpgSign", "true")] {
            checkout.git(&["config", name, value])?;
        }
        // git refuses to commit for somebody without a name; what people have set for themselves stays.
        for (name, value) in [("user.name", person.to_string()), ("user.email", format!("{person}@localhost"))] {
            if checkout.git(&["config", name]).is_err() {
                checkout.git(&["config", name, &value])?;
            }
        }
        checkout.install_hook(cluster)?;
        Ok(checkout)
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
    fn install_hook(&self, cluster: &ClusterId) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let hook = format!(
            "#!/bin/sh\n# Says which cluster and branch this commit is signed for; written by `cairnctl init`.\n\
             exec git interpret-trailers --in-place --if-exists replace --trailer 'Cairn-Target: {cluster} {DEPLOY_REF}' \"$1\"\n"
        );
        let file = self.folder.join(".git/hooks/commit-msg");
        std::fs::create_dir_all(self.folder.join(".git/hooks"))?;
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

    fn head(&self) -> Result<CommitId> {
        Ok(CommitId::parse(&self.git(&["rev-parse", "HEAD"])?)?)
    }

    fn introduction_file(&self) -> PathBuf {
        self.folder.join(".git/cairn-introduction.json")
    }

    /// Computes and keeps the introduction to the current commit.
    pub(crate) fn introduce(&self, cluster: ClusterId) -> Result<Introduction> {
        let head = self.head()?;
        let objects = self.objects(&head)?;
        let deploy_ref = DeployRef::parse(DEPLOY_REF).map_err(anyhow::Error::msg)?;
        let introduction = Introduction::of(&objects, &head, cluster, deploy_ref)?;
        std::fs::write(self.introduction_file(), serde_json::to_vec_pretty(&introduction)?)?;
        Ok(introduction)
    }

    /// The introduction that [`Checkout::introduce`] kept.
    pub(crate) fn introduction(&self) -> Result<Introduction> {
        let file = self.introduction_file();
        let bytes = std::fs::read(&file).with_context(|| {
            format!("reading {}; it lies in the checkout that `cairnctl init` made", file.display())
        })?;
        Ok(serde_json::from_slice(&bytes)?)
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

    /// A commit with its whole tree, each object hashed again.
    fn objects(&self, commit: &CommitId) -> Result<ObjectSet> {
        let listing = self.git(&["ls-tree", "-r", "-t", "--format=%(objectname)", commit.as_str()])?;
        let root = self.git(&["rev-parse", &format!("{commit}^{{tree}}")])?;
        let mut names: Vec<&str> = [commit.as_str(), root.as_str()].into_iter().chain(listing.lines()).collect();
        names.sort_unstable();
        names.dedup();
        let format = if commit.as_str().len() == 64 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 };
        let mut objects = ObjectSet::new(format);
        let mut child = Command::new("git")
            .args(["cat-file", "--batch"])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting git")?;
        let mut stdin = child.stdin.take().context("git has a stdin")?;
        let mut stdout = BufReader::new(child.stdout.take().context("git has a stdout")?);
        for name in names {
            writeln!(stdin, "{name}")?;
            stdin.flush()?;
            read_object(&mut stdout, &mut objects)?;
        }
        drop(stdin);
        ensure!(child.wait()?.success(), "git cat-file failed in {}", self.folder.display());
        Ok(objects)
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
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

/// Reads one answer of `git cat-file --batch`: a line of name, kind and size, then the bytes and a newline.
fn read_object(from: &mut impl BufRead, into: &mut ObjectSet) -> Result<()> {
    let mut head = String::new();
    from.read_line(&mut head)?;
    let parts: Vec<&str> = head.split_whitespace().collect();
    let [name, kind, size] = parts[..] else {
        anyhow::bail!("git has no such object: {}", head.trim());
    };
    let kind = match kind {
        "commit" => ObjectKind::Commit,
        "tree" => ObjectKind::Tree,
        "blob" => ObjectKind::Blob,
        other => anyhow::bail!("object {name} is a {other}"),
    };
    let mut bytes = vec![0; size.parse::<usize>()? + 1];
    from.read_exact(&mut bytes)?;
    bytes.pop();
    let id = ObjectId::from_hex(name.as_bytes()).with_context(|| format!("{name} is no object id"))?;
    into.insert(id, kind, bytes)?;
    Ok(())
}
