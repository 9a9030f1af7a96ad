//! For which recovery somebody at this machine's console vouched: that one does not wait for the policy's delay.
//!
//! The confirmation names the SHA-256 of the recovery statement's body, so that it is for this recovery and no other. It is on the state
//! volume before gitsync hears of it, and forgotten once gitsync no longer waits for that recovery: it took effect, or is no longer one.
//! No API can confirm; the daemon's console is the only caller.

use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use machined_ids::Digest;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Inbox, Ports, Reader, Resource, Writer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file in bytes: it holds one digest.
const FILE_BYTES_MAX: usize = 1024;

/// The version of the file's form.
const VERSION: u32 = 1;

/// What was confirmed; the id is [`Presence::ID`]. Not in the store until the state volume was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// SHA-256 of the body of the recovery that somebody vouched for.
    pub confirmed: Option<Digest>,
}

impl Presence {
    /// The id of the one record.
    pub const ID: &'static str = "presence";
}

impl Resource for Presence {
    const KIND: &'static str = "presence";
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Form {
    version: u32,
    confirmed: Option<Digest>,
}

/// What is said about presence.
#[derive(Debug, Clone)]
pub enum PresenceRequest {
    /// Somebody at the console vouches for a recovery. The newest one counts.
    Confirm(Digest),
    /// These recoveries wait; a confirmation of any other is over.
    Waiting(BTreeSet<Digest>),
}

/// Why presence is not remembered.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// The state volume is not there yet.
    #[error("the machine's state volume is not ready yet; try again in a moment")]
    NotReady,
    /// It could not be kept.
    #[error("the confirmation could not be written; nothing changed")]
    Write(#[source] FileError),
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PresenceFileError {
    /// The file failed.
    #[error("the record of presence cannot be read")]
    File(#[source] FileError),
    /// The file is damaged, or of a later release.
    #[error("the record of presence {path} cannot be understood; confirm the recovery at the console again")]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Where the console and gitsync's reports go in.
pub type PresenceInbox = Inbox<PresenceRequest, Result<Presence, PresenceError>>;

/// Writes [`Presence`].
pub struct PresenceController<H> {
    host: Arc<H>,
    volumes: Reader<Volume>,
    presence: Writer<Presence>,
    inbox: PresenceInbox,
}

impl<H: FilesHost> PresenceController<H> {
    /// Declares inputs and output at `ports`; gives the inbox too.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> (Self, PresenceInbox) {
        let inbox = Inbox::new(ports.trigger());
        (PresenceController { host, volumes: ports.input(), presence: ports.output(), inbox: inbox.clone() }, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/presence.json")
    }

    fn current(&self) -> Option<Presence> {
        self.presence.current().get(Presence::ID).copied()
    }

    async fn load(&self) -> Result<(), PresenceFileError> {
        if self.current().is_some() || !self.volumes.all().contains_key(STATE) {
            return Ok(());
        }
        let path = Self::path();
        let bytes = self.host.read(&path, FILE_BYTES_MAX).await.map_err(PresenceFileError::File)?;
        let read =
            bytes.map(|bytes| serde_json::from_slice::<Form>(&bytes).ok().filter(|form| form.version == VERSION));
        let confirmed = read.as_ref().and_then(Option::as_ref).and_then(|form| form.confirmed);
        // What cannot be understood is said once, and confirms nothing.
        self.presence.put(Presence::ID, Presence { confirmed });
        match read {
            Some(None) => Err(PresenceFileError::Form { path }),
            Some(Some(_)) | None => Ok(()),
        }
    }

    async fn take(&self, request: PresenceRequest) -> Result<Presence, PresenceError> {
        let before = self.current().ok_or(PresenceError::NotReady)?;
        let confirmed = match request {
            PresenceRequest::Confirm(recovery) => Some(recovery),
            PresenceRequest::Waiting(recoveries) => before.confirmed.filter(|known| recoveries.contains(known)),
        };
        let now = Presence { confirmed };
        if now != before {
            let form = serde_json::to_vec(&Form { version: VERSION, confirmed });
            let form = form.expect("because it holds a number and a text");
            // Invariant: on the disk before gitsync hears of it.
            self.host.replace(&Self::path(), &form, Lasting::Durable).await.map_err(PresenceError::Write)?;
            self.presence.put(Presence::ID, now);
        }
        Ok(now)
    }
}

impl<H: FilesHost> Controller for PresenceController<H> {
    type Error = PresenceFileError;

    async fn reconcile(&mut self) -> Result<Outcome, PresenceFileError> {
        let loaded = self.load().await;
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(self.take(request).await);
        }
        loaded.map(|()| Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::fake::FakeFiles;
    use machined_runtime::Store;

    const ONE: Digest = Digest::from_bytes([1; 32]);
    const OTHER: Digest = Digest::from_bytes([2; 32]);

    struct Machine {
        controller: PresenceController<FakeFiles>,
        inbox: PresenceInbox,
        store: Store,
    }

    fn machine(files: &Arc<FakeFiles>) -> Machine {
        let store = Store::new();
        let mut ports = Ports::new(&store, "presence");
        let (controller, inbox) = PresenceController::new(&mut ports, Arc::clone(files));
        Machine { controller, inbox, store }
    }

    impl Machine {
        fn mount(&self) {
            let volume = Volume { device: PathBuf::new(), formatted: false };
            self.store.writer().expect("because nobody else writes it").put(STATE, volume);
        }

        async fn ask(&mut self, request: PresenceRequest) -> Result<Presence, PresenceError> {
            let inbox = self.inbox.clone();
            let (answer, outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
            outcome.expect("because nothing is damaged");
            answer.expect("because the controller answers")
        }

        fn confirmed(&self) -> Option<Digest> {
            self.store.reader::<Presence>().get(Presence::ID).and_then(|presence| presence.confirmed)
        }
    }

    #[tokio::test]
    async fn a_confirmation_outlives_a_restart_and_ends_with_its_recovery() {
        let files = Arc::new(FakeFiles::default());
        let mut first = machine(&files);
        let early = first.ask(PresenceRequest::Confirm(ONE)).await;
        assert!(matches!(early, Err(PresenceError::NotReady)), "what cannot be kept is not confirmed");
        first.mount();
        first.ask(PresenceRequest::Confirm(ONE)).await.expect("because the disk works");
        assert_eq!(first.confirmed(), Some(ONE));
        let mut second = machine(&files);
        second.mount();
        second.ask(PresenceRequest::Waiting([ONE, OTHER].into())).await.expect("because the disk works");
        assert_eq!(second.confirmed(), Some(ONE), "it still waits");
        second.ask(PresenceRequest::Waiting([OTHER].into())).await.expect("because the disk works");
        assert_eq!(second.confirmed(), None, "a confirmation is for no other recovery");
        let mut third = machine(&files);
        third.mount();
        third.controller.reconcile().await.expect("because nothing is damaged");
        assert_eq!(third.confirmed(), None);
    }

    #[tokio::test]
    async fn a_damaged_or_newer_file_confirms_nothing() {
        for text in ["{", "{\"version\":2,\"confirmed\":null}", "{\"version\":1,\"confirmed\":\"x\"}"] {
            let files = Arc::new(FakeFiles::default());
            let path = PresenceController::<FakeFiles>::path();
            files.replace(&path, text.as_bytes(), Lasting::Durable).await.expect("because it is in memory");
            let mut machine = machine(&files);
            machine.mount();
            let read = machine.controller.reconcile().await;
            assert!(matches!(read, Err(PresenceFileError::Form { .. })), "{text}");
            assert_eq!(machine.confirmed(), None);
            machine.ask(PresenceRequest::Confirm(ONE)).await.expect("because it can be written again");
            assert_eq!(machine.confirmed(), Some(ONE));
        }
    }
}
