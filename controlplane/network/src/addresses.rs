//! Address management of one node: which pod has which address of the node's pod range.
//!
//! One small file per pod uid, whose text is the address, is the whole state: it is written to a temporary name,
//! synchronised and renamed, so a power cut leaves either no allocation or a whole one, and a restarted agent finds
//! every address again. Only [`crate::PodNetwork`] uses this; it must never hand one address to two pods.

use crate::cidr::Cidr;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Ending of files that were being written when the agent died; they are removed when the folder is read.
const TEMPORARY: &str = ".new";

/// The node's allocations, in memory and in a folder.
#[derive(Debug)]
pub(crate) struct Addresses {
    folder: PathBuf,
    range: Cidr,
    by_pod: BTreeMap<String, Ipv4Addr>,
    /// Where the last search ended: addresses are reused as late as possible, since peers may still have
    /// connections to the old owner of an address.
    last: Option<Ipv4Addr>,
}

/// An address could not be taken or given back.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The folder or one of its files cannot be read or written.
    #[error("cannot keep pod addresses in {path}")]
    File {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Every address has an owner.
    #[error(
        "all {count} addresses of the node's pod range {range} are in use; remove pods or give the node a wider range"
    )]
    Exhausted {
        /// The node's pod range.
        range: Cidr,
        /// How many pods have an address.
        count: usize,
    },
}

impl Addresses {
    /// Reads the folder, making it when it is missing. Files with another range's address are forgotten.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(crate) fn open(folder: impl Into<PathBuf>, range: Cidr) -> Result<Self, AddressError> {
        let folder = folder.into();
        let failed = |source| AddressError::File { path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut by_pod = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            match text.trim().parse::<Ipv4Addr>() {
                Ok(address) if range.contains(address) && !name.ends_with(TEMPORARY) => {
                    by_pod.insert(name, address);
                }
                Ok(_) | Err(_) => remove(&entry.path())?,
            }
        }
        Ok(Self { folder, range, by_pod, last: None })
    }

    /// The pod's address: the one it already has, else a free one that is recorded before it is returned.
    ///
    /// # Errors
    /// When no address is free or the allocation cannot be recorded.
    pub(crate) fn take(&mut self, pod_uid: &str) -> Result<Ipv4Addr, AddressError> {
        if let Some(address) = self.by_pod.get(pod_uid) {
            return Ok(*address);
        }
        let used: BTreeSet<Ipv4Addr> = self.by_pod.values().copied().collect();
        let address = choose(self.range, &used, self.last)
            .ok_or(AddressError::Exhausted { range: self.range, count: used.len() })?;
        record(&self.folder, pod_uid, address)?;
        self.by_pod.insert(pod_uid.to_owned(), address);
        self.last = Some(address);
        Ok(address)
    }

    /// Gives the pod's address back; a pod without one is no error.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub(crate) fn release(&mut self, pod_uid: &str) -> Result<(), AddressError> {
        if self.by_pod.contains_key(pod_uid) {
            remove(&self.folder.join(pod_uid))?;
            self.by_pod.remove(pod_uid);
        }
        Ok(())
    }

    /// Pods that have an address.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &str> {
        self.by_pod.keys().map(String::as_str)
    }
}

/// The next free address after `last`, starting over at the end of the range.
fn choose(range: Cidr, used: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let after = |address: &Ipv4Addr| last.is_none_or(|last| *address > last);
    let free = |address: &Ipv4Addr| !used.contains(address);
    range.pod_addresses().filter(after).find(free).or_else(|| range.pod_addresses().find(free))
}

fn record(folder: &Path, pod_uid: &str, address: Ipv4Addr) -> Result<(), AddressError> {
    let path = folder.join(pod_uid);
    let temporary = folder.join(format!("{pod_uid}{TEMPORARY}"));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        writeln!(file, "{address}")?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| AddressError::File { path: path.clone(), source })
}

fn remove(path: &Path) -> Result<(), AddressError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AddressError::File { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Cidr {
        "10.9.0.0/29".parse().expect("because it is a valid range")
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("because tests may write temporary files")
    }

    #[test]
    fn a_restarted_agent_finds_every_address_again() {
        let folder = folder();
        let mut addresses = Addresses::open(folder.path(), range()).expect("because the folder is writable");
        let first = addresses.take("a").expect("because the range is empty");
        let second = addresses.take("b").expect("because the range has room");
        assert_ne!(first, second);
        drop(addresses);

        let mut again = Addresses::open(folder.path(), range()).expect("because the folder is readable");
        assert_eq!(again.take("a").expect("because it has one"), first);
        assert_eq!(again.take("b").expect("because it has one"), second);
    }

    #[test]
    fn a_released_address_is_reused_last() {
        let folder = folder();
        let mut addresses = Addresses::open(folder.path(), range()).expect("because the folder is writable");
        let first = addresses.take("a").expect("because the range is empty");
        addresses.release("a").expect("because the folder is writable");
        let next = addresses.take("b").expect("because the range has room");
        assert_ne!(first, next);
    }

    #[test]
    fn a_full_range_is_an_error_and_not_a_shared_address() {
        let folder = folder();
        let mut addresses = Addresses::open(folder.path(), range()).expect("because the folder is writable");
        for pod in 0..5 {
            addresses.take(&pod.to_string()).expect("because the range has room for five");
        }
        assert!(matches!(addresses.take("one more"), Err(AddressError::Exhausted { count: 5, .. })));
        addresses.release("3").expect("because the folder is writable");
        addresses.take("one more").expect("because one was given back");
    }

    #[test]
    fn a_half_written_file_and_a_foreign_address_are_forgotten() {
        let folder = folder();
        for (name, text) in [("half.new", "10.9.0.2\n"), ("empty", ""), ("moved", "10.8.0.2\n")] {
            std::fs::write(folder.path().join(name), text).expect("because the folder is writable");
        }
        let addresses = Addresses::open(folder.path(), range()).expect("because the folder is readable");
        assert_eq!(addresses.pods().count(), 0);
        assert_eq!(std::fs::read_dir(folder.path()).expect("because it is readable").count(), 0);
    }
}
