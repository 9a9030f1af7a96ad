//! apt with a configuration of its own: state, cache and sources below the build directory.
//!
//! Called by the packages stage. The host's configuration is not read but for two things that belong to its network: proxies
//! and mirror passwords. Must never run as anything else than the calling user, and never install.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::index::{Index, IndexError};
use super::sources::Mirror;
use crate::files::{self, FileError};
use crate::lock::{Lock, Pin};
use crate::profile::Profile;

/// Debian's own keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How often apt tries a download again.
const DOWNLOAD_RETRIES: u32 = 3;
/// Longest silence of a mirror before apt gives it up, in seconds.
const DOWNLOAD_TIMEOUT_SECONDS: u32 = 30;

/// Why apt could not do it.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A file of its configuration.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its answer makes no sense.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The keyring is not there.
    #[error("{KEYRING} is missing; install it with: apt-get install debian-archive-keyring")]
    NoKeyring,
    /// A program could not be started.
    #[error("cannot run {program}; it comes with the package {package} of every Debian system")]
    Start {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
        /// Why it did not start.
        #[source]
        source: std::io::Error,
    },
    /// The keyring does not hold the keys that sign this suite.
    #[error(
        "the keyring {KEYRING} is too old to verify {suite}; update it with: \
         apt-get install --only-upgrade debian-archive-keyring\n{message}"
    )]
    OldKeyring {
        /// The Debian suite.
        suite: String,
        /// What apt said.
        message: String,
    },
    /// The mirror failed.
    #[error("{doing} failed with mirror {mirror} (choose another one with --mirror):\n{message}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The mirror.
        mirror: String,
        /// What apt said.
        message: String,
    },
}

/// An apt of our own.
pub(super) struct PrivateApt {
    folder: PathBuf,
    suite: String,
    mirror: Mirror,
    kernel: String,
    names: Vec<String>,
}

impl PrivateApt {
    /// Writes its configuration into `folder`.
    pub(super) fn set_up(folder: &Path, profile: &Profile, mirror: &Mirror) -> Result<PrivateApt, AptError> {
        if !Path::new(KEYRING).exists() {
            return Err(AptError::NoKeyring);
        }
        for sub in ["etc", "state/lists/partial", "cache/archives/partial"] {
            files::create_dir(&folder.join(sub))?;
        }
        let folder = fs::canonicalize(folder).map_err(FileError::because("resolve", folder))?;
        files::write(&folder.join("state/status"), b"")?;
        files::write(&folder.join("etc/cairn.sources"), sources(profile, mirror).as_bytes())?;
        let configuration = configuration(&folder, &profile.architecture) + &host_proxies();
        files::write(&folder.join("apt.conf"), configuration.as_bytes())?;
        Ok(PrivateApt {
            folder,
            suite: profile.suite.clone(),
            mirror: mirror.clone(),
            kernel: profile.kernel.clone(),
            names: super::wanted(profile),
        })
    }

    /// Fetches and verifies the index, and returns what it says about the packages of the profile and the pinned ones: for the
    /// kernel they are others.
    pub(super) fn update(&self, lock: &Lock) -> Result<Index, AptError> {
        let output = self.run("apt-get", &["update", "--error-on=any"])?;
        let message = said(&output);
        if message.contains("NO_PUBKEY") || message.contains("Missing key") || message.contains("is not signed") {
            return Err(AptError::OldKeyring { suite: self.suite.clone(), message });
        }
        self.successful(output, "apt-get update")?;
        let pinned = lock.pins().map(|(_, pin)| &pin.package);
        let names: BTreeSet<&str> = self.names.iter().chain(pinned).map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut index = self.show(&names)?;
        let kernel = index.follow_kernel(&self.kernel)?;
        index.merge(self.show(&[&kernel])?);
        Ok(index)
    }

    /// Downloads the pinned versions and moves them into `downloads`.
    pub(super) fn download(&self, pins: &[Pin], downloads: &Path) -> Result<(), AptError> {
        let incoming = self.folder.join("incoming");
        files::replace_dir(&incoming)?;
        let wanted: Vec<String> = pins.iter().map(|pin| format!("{}={}", pin.package, pin.version)).collect();
        let mut arguments = vec!["download"];
        arguments.extend(wanted.iter().map(String::as_str));
        let mut command = self.command("apt-get", &arguments);
        command.current_dir(&incoming);
        let output = start(&mut command, "apt-get", "apt")?;
        self.successful(output, "apt-get download")?;
        for path in files::list(&incoming)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let pin = pins.iter().find(|pin| name.starts_with(&format!("{}_", pin.package)));
            if let Some(pin) = pin {
                let target = super::deb_path(pin, downloads);
                fs::rename(&path, &target).map_err(FileError::because("rename into place", &target))?;
            }
        }
        Ok(())
    }

    fn show(&self, names: &[&str]) -> Result<Index, AptError> {
        let mut arguments = vec!["show", "--"];
        arguments.extend(names);
        let output = self.run("apt-cache", &arguments)?;
        // apt-cache fails when one name is unknown, and prints the others: the index says which one it was.
        Ok(Index::parse(&String::from_utf8_lossy(&output.stdout))?)
    }

    fn command(&self, program: &'static str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<Output, AptError> {
        start(&mut self.command(program, arguments), program, "apt")
    }

    fn successful(&self, output: Output, doing: &'static str) -> Result<(), AptError> {
        if output.status.success() {
            return Ok(());
        }
        Err(AptError::Failed { doing, mirror: self.mirror.archive.clone(), message: said(&output) })
    }
}

/// Runs a program to its end and keeps what it says.
fn start(command: &mut Command, program: &'static str, package: &'static str) -> Result<Output, AptError> {
    command.output().map_err(|source| AptError::Start { program, package, source })
}

/// What a program complained about.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// The sources of the profile's suite in deb822 format.
fn sources(profile: &Profile, mirror: &Mirror) -> String {
    let Profile { suite, architecture, .. } = profile;
    let paragraph = |address: &str, suites: String| {
        format!(
            "Types: deb\nURIs: {address}\nSuites: {suites}\nComponents: main\nArchitectures: {architecture}\n\
             Signed-By: {KEYRING}\n\n"
        )
    };
    paragraph(&mirror.archive, format!("{suite} {suite}-updates"))
        + &paragraph(&mirror.security, format!("{suite}-security"))
}

/// The configuration file; nothing of the host's is included, so no hook of the host ever runs.
fn configuration(folder: &Path, architecture: &str) -> String {
    let folder = folder.display();
    format!(
        r#"Dir "{folder}";
Dir::Etc "{folder}/etc";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{folder}/etc/cairn.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "{DOWNLOAD_RETRIES}";
Acquire::http::Timeout "{DOWNLOAD_TIMEOUT_SECONDS}";
Acquire::https::Timeout "{DOWNLOAD_TIMEOUT_SECONDS}";
"#
    )
}

/// The host's proxy settings, as lines of configuration; none when apt-config says none.
fn host_proxies() -> String {
    let Ok(output) = Command::new("apt-config").arg("dump").env("LC_ALL", "C").output() else { return String::new() };
    proxies(&String::from_utf8_lossy(&output.stdout))
}

/// The proxy lines of `apt-config dump`.
fn proxies(dump: &str) -> String {
    let is_proxy = |line: &&str| {
        let key = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        key.starts_with("acquire::") && key.contains("proxy")
    };
    dump.lines().filter(is_proxy).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_are_taken_from_the_host() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy.test:3128\";\n\
                    DPkg::Post-Invoke:: \"rm -f /var/cache/apt/archives/*.deb\";\nAcquire::Retries \"0\";\n";
        assert_eq!(proxies(dump), "Acquire::http::Proxy \"http://proxy.test:3128\";\n");
    }
}
