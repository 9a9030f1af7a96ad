//! Host extensions on Linux: the place where they are kept, and what it takes to merge them.
//!
//! `place` keeps files on EPHEMERAL, `mounts` maps and mounts them. Everything that blocks runs on a thread of its own.

mod mounts;
mod place;

use init_boot::artefact::{ExtensionDigest, ExtensionFolder, ExtensionHeader, ExtensionName};
use machined_controllers::extensions::{ExtensionHost, ExtensionHostError};
use place::Place;
use std::collections::BTreeSet;

/// Where they are kept: gone with the EPHEMERAL volume, fetched again then.
const FOLDER: &str = "/var/lib/machined/extensions";

/// Extensions of this machine.
#[derive(Debug, Clone)]
pub struct LinuxExtensions {
    place: Place,
}

impl Default for LinuxExtensions {
    fn default() -> Self {
        LinuxExtensions { place: Place::at(FOLDER) }
    }
}

/// An error of this host, with what was being done.
fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> ExtensionHostError {
    let doing = doing.into();
    move |source| ExtensionHostError { doing, source: source.into() }
}

/// Disk work on a thread of its own; a panic in it is an error like any other.
async fn blocking<T: Send + 'static, E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static>(
    doing: impl Into<String>,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ExtensionHostError> {
    let doing = doing.into();
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failed(doing)),
        Err(panic) => Err(failed(doing)(panic)),
    }
}

impl ExtensionHost for LinuxExtensions {
    fn kernel(&self) -> String {
        nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
    }

    async fn kept(&self) -> Result<BTreeSet<ExtensionDigest>, ExtensionHostError> {
        let place = self.place.clone();
        blocking("list the extensions that are kept", move || place.kept()).await
    }

    async fn fetch(&self, url: &str) -> Result<ExtensionHeader, ExtensionHostError> {
        self.place.fetch(url).await.map_err(failed(format!("fetch {url}")))
    }

    async fn keep(&self, digest: ExtensionDigest) -> Result<(), ExtensionHostError> {
        let place = self.place.clone();
        blocking(format!("keep extension {digest}"), move || place.keep(digest)).await
    }

    async fn header(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, ExtensionHostError> {
        let place = self.place.clone();
        blocking(format!("read extension {digest}"), move || place.header(digest)).await
    }

    async fn verify(&self, digest: ExtensionDigest) -> Result<ExtensionHeader, ExtensionHostError> {
        let place = self.place.clone();
        blocking("match it with its manifest", move || place.verify(digest)).await
    }

    async fn forget(&self, digest: ExtensionDigest) -> Result<(), ExtensionHostError> {
        let place = self.place.clone();
        blocking(format!("remove extension {digest}"), move || place.forget(digest)).await
    }

    async fn clear(&self) -> Result<(), ExtensionHostError> {
        blocking("undo what was merged halfway", mounts::clear).await
    }

    async fn attach(&self, digest: ExtensionDigest, header: &ExtensionHeader) -> Result<(), ExtensionHostError> {
        let (place, header) = (self.place.clone(), header.clone());
        blocking("map and mount its file system", move || mounts::attach(&place.open(digest)?, &header)).await
    }

    async fn merge(&self, folder: ExtensionFolder, names: &[ExtensionName]) -> Result<(), ExtensionHostError> {
        let names = names.to_vec();
        blocking(format!("merge {}", folder.path()), move || mounts::merge(folder, &names)).await
    }

    async fn load_modules(&self, name: &ExtensionName) -> Result<(), ExtensionHostError> {
        let name = name.clone();
        blocking("load its modules", move || mounts::load_modules(&name)).await
    }
}
