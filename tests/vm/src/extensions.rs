//! Host extensions on a booted machine: fetched, refused, merged at the next start.

use crate::artefacts::logged;
use crate::cluster::HOST_IN_GUEST;
use crate::images::serve_files;
use crate::places::text;
use crate::scenarios::{RECOVERY_LIMIT, Stage};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tests_support::wait_for;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A module of Debian's kernel that the image does not have; it needs no device.
const MODULE: &str = "kernel/drivers/net/dummy.ko.xz";

/// Serves extensions for as long as it is kept.
#[derive(Debug)]
pub struct Served(JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stage<'_> {
    /// A commit names an extension with a CNI plugin, firmware and a module, and one whose file has a flipped byte: the first one waits for a
    /// restart, the second one is refused and says why.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn extensions_are_fetched_and_a_changed_one_is_refused(&self) -> Result<Served> {
        let folder = self.places.home("extensions");
        let net = self.extension(&folder, "net").await?;
        let changed = self.extension(&folder, "changed").await?;
        let file = folder.join("changed.extension");
        let mut bytes = std::fs::read(&file)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let served = Served(tokio::spawn(serve_files(listener, folder)));
        let line = |name: &str, digest: &str| {
            format!(
                "    extension \"{name}\" digest=\"{digest}\" url=\"http://{HOST_IN_GUEST}:{port}/{name}.extension\"\n"
            )
        };
        let path = format!("machines/{}.kdl", self.machine.name());
        let document = std::fs::read_to_string(self.cluster.checkout().join(&path))?;
        let (begin, _) = document.trim_end().rsplit_once('}').context("a machine's document ends with a brace")?;
        let named = format!("{begin}{}{}}}\n", line("net", &net), line("changed", &changed));
        self.cluster.push(&[(&path, &named)], "Name two extensions")?;
        self.until_extensions("one extension to wait and one to be refused", |net, changed| {
            let why = changed["message"].as_str().unwrap_or_default();
            net["state"] == "waiting" && changed["state"] == "failed" && why.contains("SHA-256")
        })
        .await?;
        Ok(served)
    }

    /// After a restart the whole one is merged, its module loaded, and the other one still refused.
    ///
    /// # Errors
    /// What did not hold.
    pub async fn extensions_are_merged_after_a_restart(&self) -> Result<()> {
        let is = |net: &Value, changed: &Value| {
            net["state"] == "merged" && net["message"] == "" && changed["state"] == "failed"
        };
        self.until_extensions("the extension to be merged", is).await
    }

    async fn until_extensions(&self, what: &str, is: impl Fn(&Value, &Value) -> bool) -> Result<()> {
        let look = async || {
            let status = self.cluster.cairnctl_json(&["status"]).map_err(|error| format!("{error:#}"))?;
            let all = status["extensions"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| all.iter().find(|one| one["name"] == name).cloned().unwrap_or_default();
            if is(&of("net"), &of("changed")) { Ok(()) } else { Err(Value::from(all).to_string()) }
        };
        Ok(wait_for(what.to_owned(), RECOVERY_LIMIT, look).await?)
    }

    /// Packs a program, firmware and a module; gives the digest.
    async fn extension(&self, folder: &Path, name: &str) -> Result<String> {
        let manifest: Value = serde_json::from_str(&std::fs::read_to_string(self.places.image("manifest.json"))?)?;
        let kernel = manifest["kernel"].as_str().context("an image has a kernel")?;
        let (root, output) = (folder.join(name), folder.join(format!("{name}.extension")));
        let modules = root.join("usr/lib/modules").join(kernel).join("extra");
        for path in [root.join("opt/cni/bin"), root.join("usr/lib/firmware"), modules.clone()] {
            std::fs::create_dir_all(path)?;
        }
        let plugin = root.join("opt/cni/bin").join(name);
        std::fs::copy(self.places.program("hello")?, &plugin)?;
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(root.join("usr/lib/firmware").join(format!("{name}.bin")), name.repeat(4096))?;
        std::fs::copy(self.module(kernel)?, modules.join("dummy.ko.xz"))?;
        let (from, to) = (text(&root)?, text(&output)?);
        let arguments = [
            "extension",
            "build",
            &from,
            "--name",
            name,
            "--extension-version",
            "1",
            "--kernel",
            kernel,
            "--output",
            &to,
        ];
        logged(self.places, &self.places.program("cairn-image")?, &arguments).await?;
        let shown = tokio::process::Command::new(self.places.program("cairn-image")?)
            .args(["extension", "inspect", &to, "--output", "json"])
            .output()
            .await?;
        ensure!(
            shown.status.success(),
            "the extension cannot be inspected: {}",
            String::from_utf8_lossy(&shown.stderr)
        );
        let shown: Value = serde_json::from_slice(&shown.stdout)?;
        Ok(shown["digest"].as_str().context("an extension has a digest")?.to_owned())
    }

    /// The module, from the kernel package that the image was built of.
    fn module(&self, kernel: &str) -> Result<PathBuf> {
        let below = format!("usr/lib/modules/{kernel}/{MODULE}");
        let trees = std::fs::read_dir(self.places.root().join(".cairn/build/trees")).context("looking for packages")?;
        let found = trees.filter_map(Result::ok).map(|tree| tree.path().join(&below)).find(|path| path.exists());
        found.with_context(|| format!("no unpacked package has {below}"))
    }
}
