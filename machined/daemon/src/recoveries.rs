//! Recoveries that wait for their time, as gitsync reported them: what the console shows and asks about. In memory; gitsync tells again.

use jiff::Timestamp;
use machined_api::WaitingRecovery;
use machined_ids::{CommitId, Digest, Epoch, RecoveryCode};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::Status;

/// Recoveries that are kept: as many as gitsync lets wait. Two of one epoch already stop everything.
const RECOVERIES_MAX: usize = 8;

/// A recovery that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// SHA-256 of the statement's body.
    pub(crate) body: Digest,
    /// Where the history begins again.
    pub(crate) commit: CommitId,
    /// Which epoch that begins.
    pub(crate) epoch: Epoch,
    /// When it takes effect; `None` while the time is not known.
    pub(crate) takes_effect: Option<Timestamp>,
}

impl Waiting {
    /// What a person types to vouch for it.
    pub(crate) fn code(&self) -> RecoveryCode {
        RecoveryCode::of(&self.body)
    }
}

/// Wire to values.
pub(crate) fn read(recoveries: Vec<WaitingRecovery>) -> Result<Vec<Waiting>, Status> {
    fn wrong(field: &'static str) -> impl Fn(String) -> Status {
        move |error| Status::invalid_argument(format!("{field}: {error}"))
    }
    if recoveries.len() > RECOVERIES_MAX {
        return Err(Status::invalid_argument(format!("at most {RECOVERIES_MAX} recoveries wait")));
    }
    let read = |recovery: WaitingRecovery| {
        let WaitingRecovery { body_sha256, commit, epoch, takes_effect } = recovery;
        let takes_effect = match takes_effect.as_str() {
            "" => None,
            at => Some(at.parse().map_err(|error: jiff::Error| wrong("takes_effect")(error.to_string()))?),
        };
        Ok(Waiting {
            body: body_sha256
                .parse()
                .map_err(|error: machined_ids::IdError| wrong("body_sha256")(error.to_string()))?,
            commit: commit.parse().map_err(|error: machined_ids::IdError| wrong("commit")(error.to_string()))?,
            epoch: Epoch(epoch),
            takes_effect,
        })
    };
    recoveries.into_iter().map(read).collect()
}

/// What was reported last. Clones share what is kept; each waits for changes of its own.
#[derive(Clone)]
pub(crate) struct Recoveries {
    sender: Arc<watch::Sender<Vec<Waiting>>>,
    seen: watch::Receiver<Vec<Waiting>>,
}

impl Default for Recoveries {
    fn default() -> Self {
        let (sender, seen) = watch::channel(Vec::new());
        Recoveries { sender: Arc::new(sender), seen }
    }
}

impl Recoveries {
    /// Takes all that wait now.
    pub(crate) fn put(&self, waiting: Vec<Waiting>) {
        self.sender.send_if_modified(|known| {
            let changed = *known != waiting;
            *known = waiting;
            changed
        });
    }

    /// All that wait.
    pub(crate) fn all(&self) -> Vec<Waiting> {
        self.sender.borrow().clone()
    }

    /// Waits until others wait.
    pub(crate) async fn changed(&mut self) {
        self.seen.changed().await.expect("because this handle keeps the sender");
    }
}
