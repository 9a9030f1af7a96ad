//! A person's computer in a temporary folder: home, SSH keys, checkouts, and the built `cairnctl`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long an agent may take to listen; usually milliseconds.
const AGENT_STARTS: Duration = Duration::from_secs(10);

/// A running SSH agent.
pub(crate) struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A computer without anybody's own configuration.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What it printed; it must have succeeded.
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// What it printed as JSON, whatever its exit code.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Lab {
    /// A computer with nothing on it.
    pub(crate) fn empty() -> Self {
        Lab { folder: tempfile::Builder::new().prefix("cairnctl-").tempdir().expect("because /tmp can be written") }
    }

    /// A computer on which ada made the cluster `demo`.
    pub(crate) fn new() -> Self {
        let lab = Lab::empty();
        lab.key("ada");
        lab.init("demo", &[]).good();
        lab
    }

    /// Runs `cairnctl init` as ada.
    pub(crate) fn init(&self, folder: &str, more: &[&str]) -> Said {
        let key = self.path("ada");
        let key = key.to_str().expect("because the temporary folder's name is text");
        let base = ["init", folder, "--name", "ada", "--ssh-key", key, "--endpoint", "127.0.0.1"];
        self.cairnctl(self.root(), &[&base, more].concat())
    }

    /// Runs `cairnctl init --fork` as ada.
    pub(crate) fn init_fork(&self, folder: &str, cluster: &str) -> Said {
        let key = self.path("ada");
        let key = key.to_str().expect("because the temporary folder's name is text");
        let words = ["init", folder, "--fork", "--cluster", cluster, "--name", "ada", "--ssh-key", key];
        self.cairnctl(self.root(), &words)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The checkout that ada made.
    pub(crate) fn demo(&self) -> PathBuf {
        self.path("demo")
    }

    /// Makes somebody's ed25519 key without a passphrase.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.run(self.root(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name]).good();
        path
    }

    /// Somebody's public key, without its comment.
    pub(crate) fn public_key(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{name}.pub"))).expect("because ssh-keygen wrote it");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Runs `cairnctl` in a folder.
    pub(crate) fn cairnctl(&self, folder: &Path, arguments: &[&str]) -> Said {
        self.run(folder, env!("CARGO_BIN_EXE_cairnctl"), arguments)
    }

    /// Runs git in a folder; it must succeed.
    pub(crate) fn git(&self, folder: &Path, arguments: &[&str]) -> String {
        self.run(folder, "git", arguments).good()
    }

    /// Runs a program with nothing of the caller's environment but `PATH`.
    pub(crate) fn run(&self, folder: &Path, program: &str, arguments: &[&str]) -> Said {
        self.run_with(folder, program, arguments, &[])
    }

    /// Runs `cairnctl` in a folder with more in its environment.
    pub(crate) fn cairnctl_with(&self, folder: &Path, arguments: &[&str], more: &[(&str, &Path)]) -> Said {
        self.run_with(folder, env!("CARGO_BIN_EXE_cairnctl"), arguments, more)
    }

    /// Starts an SSH agent that holds somebody's key. It ends when this is dropped.
    pub(crate) fn agent(&self, socket: &Path, name: &str) -> Agent {
        let process = Command::new("ssh-agent").arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).spawn();
        let agent = Agent(process.expect("because ssh-agent is installed where tests run"));
        let key = self.path(name);
        let key = key.to_str().expect("because the temporary folder's name is text");
        let end = Instant::now() + AGENT_STARTS;
        loop {
            let said = self.run_with(self.root(), "ssh-add", &["-q", key], &[("SSH_AUTH_SOCK", socket)]);
            if said.code == 0 {
                return agent;
            }
            assert!(Instant::now() < end, "the agent did not start: {said:?}");
            std::thread::yield_now();
        }
    }

    /// Runs a program with nothing of the caller's environment but `PATH`, and with more.
    pub(crate) fn run_with(&self, folder: &Path, program: &str, arguments: &[&str], more: &[(&str, &Path)]) -> Said {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(more.iter().copied())
            .output()
            .expect("because git and ssh-keygen are installed where tests run");
        Said::of(&output)
    }

    /// Writes a file, making its folders.
    pub(crate) fn write(&self, file: &Path, text: &str) {
        std::fs::create_dir_all(file.parent().expect("because it has a folder")).expect("because /tmp can be written");
        std::fs::write(file, text).expect("because /tmp can be written");
    }

    /// Commits a file of the demo checkout with more arguments for `git commit`; the commit's id.
    pub(crate) fn change(&self, path: &str, text: &str, more: &[&str]) -> String {
        let demo = self.demo();
        self.write(&demo.join(path), text);
        self.git(&demo, &["add", "-A"]);
        self.git(&demo, &[&["commit", "-q", "-m", path], more].concat());
        self.git(&demo, &["rev-parse", "HEAD"])
    }
}
