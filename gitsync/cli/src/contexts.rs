//! Contexts: which clusters this person looks after, and how their machines are reached. No secrets.
//!
//! One file, `contexts.json` in the configuration folder, written whole and renamed into place.

use anyhow::{Context as _, Result, bail};
use machined_ids::{ClusterId, Fingerprint, MachineName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// All contexts and the current one's name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// Name of the current context.
    pub(crate) current: Option<String>,
    /// By name.
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Context {
    /// The cluster's id; login statements name it.
    pub(crate) cluster: ClusterId,
    /// SSH key that logins are signed with.
    pub(crate) ssh_key: Option<PathBuf>,
    /// URL of the Kubernetes API.
    pub(crate) kubernetes: Option<String>,
    /// Machines by name, the first enrolled first in `order`.
    pub(crate) machines: BTreeMap<MachineName, Machine>,
}

/// How a machine is reached and recognised.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// `host:port` of its machine API.
    pub(crate) address: String,
    /// Fingerprint of its identity.
    pub(crate) identity: Fingerprint,
}

/// Where contexts and logins lie: `--config`, else `$XDG_CONFIG_HOME/cairn`, else `~/.config/cairn`.
pub(crate) fn folder(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(std::path::absolute(folder)?);
    }
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = base.or_else(home).context("neither --config nor HOME says where contexts are kept")?;
    Ok(base.join("cairn"))
}

impl Contexts {
    /// Reads the contexts of a folder; none when there is no file yet.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let file = folder.join("contexts.json");
        match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes the contexts of a folder.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_private(&folder.join("contexts.json"), &text)
    }

    /// The context called `name`, or the current one, with its name.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<(&str, &Context)> {
        let Some(name) = name.or(self.current.as_deref()) else {
            bail!("there is no context yet; `cairnctl init` or `cairnctl enroll` makes one");
        };
        match self.contexts.get_key_value(name) {
            Some((name, context)) => Ok((name, context)),
            None => bail!("there is no context {name:?}; `cairnctl context list` shows those that there are"),
        }
    }
}

impl Context {
    /// The Kubernetes API of a context that `cairnctl dev` made: there is nothing else to ask, because no machined runs.
    pub(crate) fn development_api(&self) -> Option<&str> {
        let server = self.kubernetes.as_deref()?;
        let address = server.strip_prefix("https://")?;
        self.machines.values().any(|machine| machine.address == address).then_some(server)
    }

    /// The machine called `name`, or the first.
    pub(crate) fn machine(&self, name: Option<&MachineName>) -> Result<(&MachineName, &Machine)> {
        let found = match name {
            Some(name) => self.machines.get_key_value(name),
            None => self.machines.first_key_value(),
        };
        match (found, name) {
            (Some(found), _) => Ok(found),
            (None, Some(name)) => bail!("the context has no machine {name}; `cairnctl enroll {name}` adds it"),
            (None, None) => bail!("the context has no machine yet; `cairnctl enroll` adds one"),
        }
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
