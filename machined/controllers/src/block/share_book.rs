//! The shares of other machines' volume secrets that this machine keeps for them, on the state volume.
//!
//! Callers are the machine API's handlers, after the caller proved its identity and the accepted step was asked. Here only a machine's own shares
//! are ever looked at. A machine that left the step gets nothing; its shares are forgotten a week later, so that a removal by mistake can be
//! taken back. Must never log a share or put one into the store of resources.

use super::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use crate::ledger::DesiredMachine;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use machined_access::AccessTable;
use machined_ids::Fingerprint;
use machined_luks::{Secret, ShareId};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Inbox, Ports, Reader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::{Zeroize as _, Zeroizing};

/// Longest file in bytes: a thousand machines with all their shares.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The version of the file's form.
const VERSION: u32 = 1;
/// Shares of one machine at most: two volumes, found at several addresses, before and after a change.
const SHARES_MAX: usize = 32;
/// How long a machine's shares outlive its place in the repository.
const FORGET_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Releases of one machine at once: a few starts in a row of a machine with two volumes.
const RELEASES_MAX: u32 = 32;
/// How soon one more is allowed.
const RELEASE_PERIOD: SignedDuration = SignedDuration::from_secs(5);

/// What a machine asks, which proved to be `machine`.
#[derive(Debug)]
pub enum ShareRequest {
    /// Keep this, and of its other shares those in `held` only.
    Keep {
        /// Who asks.
        machine: Fingerprint,
        /// The share's name.
        id: ShareId,
        /// It.
        share: Secret,
        /// What else stays.
        held: Vec<ShareId>,
    },
    /// Give it back.
    Release {
        /// Who asks.
        machine: Fingerprint,
        /// The share's name.
        id: ShareId,
    },
}

/// Why nothing was kept or given.
#[derive(Debug, thiserror::Error)]
pub enum ShareRefusal {
    /// The book was not read.
    #[error("this machine's own state volume is not open yet; ask another one, or again in a moment")]
    NotReady,
    /// Somebody who is not in the accepted step.
    #[error("{0} is not in this machine's accepted step")]
    Stranger(Fingerprint),
    /// This machine is no peer.
    #[error("this machine is not of the control plane, and keeps no shares")]
    NoPeer,
    /// Nothing of that name is kept for the caller.
    #[error("this machine keeps no share {0} of the machine that asks")]
    Unknown(ShareId),
    /// Too many shares.
    #[error("this machine keeps {SHARES_MAX} shares of the machine that asks already")]
    Full,
    /// Too many calls.
    #[error("the machine asks too often; once every {} seconds is enough", RELEASE_PERIOD.as_secs())]
    TooOften,
    /// It could not be written.
    #[error("the share could not be written; nothing was kept")]
    Write(#[source] FileError),
}

/// Why the book cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShareBookError {
    /// The file failed.
    #[error("the shares that are kept for other machines cannot be read or written")]
    File(#[from] FileError),
    /// The file is damaged, or of a later release.
    #[error(
        "{path} cannot be understood and is left alone; machines that need a share of it start by other peers or their recovery keys. To keep shares here again, reset this machine: cairnctl reset"
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Where requests go in; a share comes back for a release.
pub type ShareInbox = Inbox<ShareRequest, Result<Option<Secret>, ShareRefusal>>;

/// The file's form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    machines: BTreeMap<Fingerprint, Entry>,
}

/// What is kept for one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Since when it is missing from the accepted step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_since: Option<Timestamp>,
    /// By name in hex; base 64.
    shares: BTreeMap<String, Kept>,
}

/// A share in the file; never shown, and forgotten with its value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Kept(String);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Kept")
    }
}

impl Kept {
    fn of(share: &Secret) -> Self {
        Kept(STANDARD.encode(&share[..]))
    }

    fn reveal(&self) -> Option<Secret> {
        let bytes = Zeroizing::new(STANDARD.decode(self.0.as_bytes()).ok()?);
        bytes.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

impl Form {
    /// Puts a share in; the machine's others stay when they are `held`.
    fn keep(
        &mut self,
        machine: Fingerprint,
        id: ShareId,
        share: &Secret,
        held: &[ShareId],
    ) -> Result<(), ShareRefusal> {
        let held: Vec<String> = held.iter().map(ToString::to_string).collect();
        let entry = self.machines.entry(machine).or_default();
        entry.shares.retain(|name, _| held.contains(name));
        if entry.shares.len() >= SHARES_MAX {
            return Err(ShareRefusal::Full);
        }
        entry.shares.insert(id.to_string(), Kept::of(share));
        Ok(())
    }

    /// Notes who is missing from the step, and forgets whoever has been for long.
    fn sweep(&mut self, table: &AccessTable, now: Timestamp) {
        for (machine, entry) in &mut self.machines {
            match (table.machine_by_identity(machine), entry.missing_since) {
                (Some(_), _) => entry.missing_since = None,
                // A clock that was ahead must not hold it for ever.
                (None, None) => entry.missing_since = Some(now),
                (None, Some(since)) if since > now => entry.missing_since = Some(now),
                (None, Some(_)) => {}
            }
        }
        self.machines
            .retain(|_, entry| entry.missing_since.is_none_or(|since| now.duration_since(since) < FORGET_AFTER));
    }
}

/// How often a machine may ask: a bucket that fills again.
#[derive(Debug)]
struct Allowance {
    left: u32,
    filled: Timestamp,
}

impl Allowance {
    fn take(&mut self, now: Timestamp) -> bool {
        if now < self.filled {
            self.filled = now;
        }
        let periods = now.duration_since(self.filled).as_secs() / RELEASE_PERIOD.as_secs();
        if periods > 0 {
            self.left = u32::try_from(periods).unwrap_or(RELEASES_MAX).saturating_add(self.left).min(RELEASES_MAX);
            self.filled = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// Keeps the shares. It writes no resource: nobody else is to see them.
pub struct ShareBookController<H> {
    host: Arc<H>,
    volumes: Reader<Volume>,
    desired: Reader<DesiredMachine>,
    keys: Reader<crate::identity::MachineKey>,
    now: Box<dyn Fn() -> Timestamp + Send>,
    book: Option<Form>,
    asked: BTreeMap<Fingerprint, Allowance>,
    inbox: ShareInbox,
}

impl<H: FilesHost> ShareBookController<H> {
    /// Declares its inputs at `ports`; gives the inbox too.
    pub fn new(ports: &mut Ports, host: Arc<H>, now: Box<dyn Fn() -> Timestamp + Send>) -> (Self, ShareInbox) {
        let inbox = Inbox::new(ports.trigger());
        let (volumes, desired, keys) = (ports.input(), ports.input(), ports.input());
        let (book, asked) = (None, BTreeMap::new());
        (ShareBookController { host, volumes, desired, keys, now, book, asked, inbox: inbox.clone() }, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/disk-shares.json")
    }

    async fn load(&mut self) -> Result<(), ShareBookError> {
        if self.book.is_some() || !self.volumes.all().contains_key(STATE) {
            return Ok(());
        }
        let path = Self::path();
        let read = self.host.read(&path, FILE_BYTES_MAX).await?.map(Zeroizing::new);
        let form = match read {
            None => Form { version: VERSION, ..Form::default() },
            Some(bytes) => serde_json::from_slice::<Form>(&bytes)
                .ok()
                .filter(|form| form.version == VERSION)
                .ok_or(ShareBookError::Form { path })?,
        };
        self.book = Some(form);
        Ok(())
    }

    /// Writes a changed book, and believes it only then.
    async fn store(&mut self, book: Form) -> Result<(), FileError> {
        if self.book.as_ref() != Some(&book) {
            let bytes = Zeroizing::new(serde_json::to_vec(&book).expect("because its map keys are strings"));
            self.host.replace(&Self::path(), &bytes, Lasting::Durable).await?;
            self.book = Some(book);
        }
        Ok(())
    }

    /// Lets in whom the accepted step knows, to a machine that the step has among the control plane.
    fn admit(&self, machine: &Fingerprint) -> Result<Form, ShareRefusal> {
        let book = self.book.clone().ok_or(ShareRefusal::NotReady)?;
        let desired = self.desired.get(DesiredMachine::ID).ok_or(ShareRefusal::NotReady)?;
        let own = self.keys.get(crate::identity::MachineKey::ID).ok_or(ShareRefusal::NotReady)?.fingerprint;
        let table = &desired.raw.access;
        if table.machine_by_identity(machine).is_none() {
            return Err(ShareRefusal::Stranger(machine.clone()));
        }
        if !table.is_control_plane(&own) {
            return Err(ShareRefusal::NoPeer);
        }
        Ok(book)
    }

    async fn answer(&mut self, request: ShareRequest) -> Result<Option<Secret>, ShareRefusal> {
        match request {
            ShareRequest::Keep { machine, id, share, held } => {
                let mut book = self.admit(&machine)?;
                book.keep(machine, id, &share, &held)?;
                // Invariant: on the disk before the machine that asked relies on it.
                self.store(book).await.map_err(ShareRefusal::Write)?;
                Ok(None)
            }
            ShareRequest::Release { machine, id } => {
                let book = self.admit(&machine)?;
                let now = (self.now)();
                let full = || Allowance { left: RELEASES_MAX, filled: now };
                if !self.asked.entry(machine.clone()).or_insert_with(full).take(now) {
                    return Err(ShareRefusal::TooOften);
                }
                let kept = book.machines.get(&machine).and_then(|entry| entry.shares.get(&id.to_string()));
                kept.and_then(Kept::reveal).map(Some).ok_or(ShareRefusal::Unknown(id))
            }
        }
    }

    async fn sweep(&mut self) -> Result<(), ShareBookError> {
        let (Some(mut book), Some(desired)) = (self.book.clone(), self.desired.get(DesiredMachine::ID)) else {
            return Ok(());
        };
        let table = &desired.raw.access;
        // Only machines of the step are counted, so this does not grow with whoever knocks.
        self.asked.retain(|machine, _| table.machine_by_identity(machine).is_some());
        book.sweep(table, (self.now)());
        Ok(self.store(book).await?)
    }
}

impl<H: FilesHost> Controller for ShareBookController<H> {
    type Error = ShareBookError;

    const PERIOD: Duration = Duration::from_secs(3600);

    async fn reconcile(&mut self) -> Result<Outcome, ShareBookError> {
        let loaded = self.load().await;
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(self.answer(request).await);
        }
        loaded?;
        self.sweep().await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests;
