//! Keeps the record: reads it at start, compares it with the TPM's counter, takes orders and positions, ends orders when their time has
//! come.

mod file;

use super::count::{Counter, Verdict, judge};
use super::{AcceptedPosition, Order, OrderForm, TrustRecord};
use super::{Count, Doubt, Rollback, TRUST_RECORD_VERSION};
use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use crate::identity::MachineKey;
use crate::tpm::{TpmAccessError, TpmHost};
use file::Kept;
use jiff::Timestamp;
use machined_access::{IdentityError, KeyPlace};
use machined_reconcile::{Outcome, story};
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest record in bytes: one order and one position have less than a tenth of it.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// When a move that the TPM did not count is counted again.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// Something is to be remembered.
#[derive(Debug, Clone)]
pub enum TrustRequest {
    /// A person orders; it takes the place of an order in force.
    Give(Order),
    /// A person ends the order in force.
    Resume,
    /// gitsync accepted.
    Accept {
        /// What.
        position: AcceptedPosition,
        /// Another machine's memory shows that nothing newer was accepted here.
        proven: bool,
    },
    /// A person knows that this is the newest position, or that it is not far behind it.
    Vouch(AcceptedPosition),
}

/// Why something is not remembered.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The state volume is not there yet.
    #[error("the machine's state volume is not ready yet; try again in a moment")]
    NotReady,
    /// The order's form.
    #[error("the order is refused: {0}")]
    Form(#[from] OrderForm),
    /// Accepted only moves forward.
    #[error("position ({}, {}) is refused: this machine accepted ({}, {}) before", offered.epoch, offered.seq, known.epoch, known.seq)]
    Older {
        /// What came.
        offered: Box<AcceptedPosition>,
        /// What is remembered.
        known: Box<AcceptedPosition>,
    },
    /// What is the newest position must be proven first.
    #[error("{0}")]
    Doubted(Doubt),
    /// There is nothing to vouch for.
    #[error("this machine knows its newest accepted step; there is nothing to vouch for")]
    NoDoubt,
    /// It could not be kept.
    #[error("the trust record could not be written; nothing changed")]
    Write(#[source] FileError),
    /// It could not be sealed.
    #[error("the trust record could not be sealed with the machine's identity key; nothing changed")]
    Seal(#[source] IdentityError),
}

/// Why the record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustRecordError {
    /// The file failed.
    #[error("the trust record cannot be read")]
    File(#[source] FileError),
    /// The file is damaged.
    #[error("the trust record {path} is damaged; a hold or pin that it held is over, give it again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Somebody else wrote it.
    #[error(
        "the trust record {path} was not written by this machine: its seal is not by the key in this TPM; a hold or pin that it held is over"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// An order's end could not be written down.
    #[error("the end of an order could not be written down")]
    End(#[source] TrustError),
    /// The TPM failed.
    #[error("the trust record cannot be compared with the counter in the TPM")]
    Tpm(#[source] TpmAccessError),
    /// That counting begins could not be written down.
    #[error("the counter's value could not be written into the trust record")]
    Count(#[source] TrustError),
}

/// The record before a request that was taken.
pub type TrustAnswer = Result<TrustRecord, TrustError>;

/// Where orders and positions go in.
pub type TrustInbox = Inbox<TrustRequest, TrustAnswer>;

/// The machine's clock.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// How far comparing record and counter came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// There is no file at all.
    First,
    /// There is a record.
    Not,
    /// A newer release wrote the record, which nothing here may replace.
    Never,
    /// What [`Rollback`] says holds.
    Done,
}

/// Writes [`TrustRecord`] and [`Rollback`].
pub struct TrustController<H, T> {
    host: Arc<H>,
    tpm: Arc<T>,
    volumes: Reader<Volume>,
    keys: Reader<MachineKey>,
    record: Writer<TrustRecord>,
    rollback: Writer<Rollback>,
    compared: Compared,
    inbox: TrustInbox,
    clock: Clock,
}

impl<H: FilesHost, T: TpmHost> TrustController<H, T> {
    /// Declares inputs and outputs at `ports`; gives the inbox too. `clock` is the machine's.
    pub fn new(ports: &mut Ports, host: Arc<H>, tpm: Arc<T>, clock: Clock) -> (Self, TrustInbox) {
        let inbox = Inbox::new(ports.trigger());
        let controller = TrustController {
            host,
            tpm,
            volumes: ports.input(),
            keys: ports.input(),
            record: ports.output(),
            rollback: ports.output(),
            compared: Compared::First,
            inbox: inbox.clone(),
            clock,
        };
        (controller, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/trust.json")
    }

    fn current(&self) -> Option<TrustRecord> {
        self.record.current().get(TrustRecord::ID).cloned()
    }

    /// Waits for the identity key too: it says whether the record is this machine's.
    async fn load(&mut self) -> Result<(), TrustRecordError> {
        if self.current().is_some() || !self.volumes.all().contains_key(STATE) {
            return Ok(());
        }
        let Some(key) = self.keys.get(MachineKey::ID) else { return Ok(()) };
        let path = Self::path();
        let bytes = self.host.read(&path, RECORD_BYTES_MAX).await.map_err(TrustRecordError::File)?;
        // A key in the TPM is as old as the counter, so a missing file is none of a new installation.
        let new = bytes.is_none() && key.place() == KeyPlace::Disk;
        self.compared = if new { Compared::First } else { Compared::Not };
        let (record, read) = match bytes.map(|bytes| file::read(&bytes, &key)) {
            None => (TrustRecord::default(), Ok(())),
            Some(Kept::Record(record)) => (*record, Ok(())),
            Some(Kept::Newer(version)) => {
                self.compared = Compared::Never;
                self.record.put(TrustRecord::ID, TrustRecord::default());
                self.rollback.put(Rollback::ID, Rollback::Doubted(Doubt::Newer { version }));
                return Ok(());
            }
            // Said once; without a TPM it must not keep the machine from following its repository for ever.
            Some(Kept::NotOurs) => (TrustRecord::default(), Err(TrustRecordError::NotOurs { path })),
            Some(Kept::Damaged(source)) => (TrustRecord::default(), Err(TrustRecordError::Json { path, source })),
        };
        // Before anybody sees the record it is known whether it is the newest.
        let compared = self.compare(record).await;
        read.and(compared)
    }

    /// Compares a record with the counter, finishes what a power cut left, and shows both.
    async fn compare(&mut self, record: TrustRecord) -> Result<(), TrustRecordError> {
        let first = self.compared == Compared::First;
        let (record, outcome) = match self.settle(first, record.clone()).await {
            Ok((record, rollback)) => {
                self.compared = Compared::Done;
                (record, Ok(rollback))
            }
            Err(error) => (record, Err(error)),
        };
        let (rollback, outcome) = match outcome {
            Ok(rollback) => (rollback, Ok(())),
            // Nothing moves; what runs keeps running, and this is tried again.
            Err(error) => (Rollback::Doubted(Doubt::TpmFails { story: story(&error) }), Err(error)),
        };
        self.rollback.put(Rollback::ID, rollback);
        self.record.put(TrustRecord::ID, record);
        outcome
    }

    async fn settle(&self, first: bool, mut record: TrustRecord) -> Result<(TrustRecord, Rollback), TrustRecordError> {
        let counter = match self.tpm.is_present() {
            false => Counter::NoTpm,
            true => self.tpm.counter().await.map_err(TrustRecordError::Tpm)?.map_or(Counter::Never, Counter::At),
        };
        match judge(first, record.count, counter) {
            Verdict::Undetectable => return Ok((record, Rollback::Undetectable)),
            Verdict::Doubt(doubt) => return Ok((record, Rollback::Doubted(doubt))),
            Verdict::Newest => {}
            Verdict::Finish => {
                self.tpm.increment().await.map_err(TrustRecordError::Tpm)?;
            }
            Verdict::Begin => {
                record = self.counted(record, Count::Starting {}).await?;
                record = self.adopt(record).await?;
            }
            Verdict::Adopt => record = self.adopt(record).await?,
        }
        Ok((record, Rollback::Newest))
    }

    /// Counting begins at the counter's next value: an old copy that names the last one is noticed.
    async fn adopt(&self, record: TrustRecord) -> Result<TrustRecord, TrustRecordError> {
        let value = self.tpm.increment().await.map_err(TrustRecordError::Tpm)?;
        self.counted(record, Count::At { value }).await
    }

    async fn counted(&self, record: TrustRecord, count: Count) -> Result<TrustRecord, TrustRecordError> {
        let record = TrustRecord { count: Some(count), ..record };
        self.write(record).await.map_err(TrustRecordError::Count)
    }

    /// Invariant: on the disk before anything acts on it.
    async fn write(&self, mut record: TrustRecord) -> Result<TrustRecord, TrustError> {
        record.version = record.count.map(|_| TRUST_RECORD_VERSION);
        let key = self.keys.get(MachineKey::ID).ok_or(TrustError::NotReady)?;
        let bytes = file::write(&record, &key).await.map_err(TrustError::Seal)?;
        self.host.replace(&Self::path(), &bytes, Lasting::Durable).await.map_err(TrustError::Write)?;
        Ok(record)
    }

    async fn keep(&self, record: TrustRecord) -> Result<(), TrustError> {
        let record = self.write(record).await?;
        self.record.put(TrustRecord::ID, record);
        Ok(())
    }

    fn standing(&self) -> Rollback {
        self.rollback.current().get(Rollback::ID).cloned().unwrap_or(Rollback::Undetectable)
    }

    async fn take(&mut self, request: TrustRequest) -> TrustAnswer {
        let before = self.current().ok_or(TrustError::NotReady)?;
        if let (Compared::Never, Rollback::Doubted(doubt)) = (self.compared, self.standing()) {
            return Err(TrustError::Doubted(doubt));
        }
        let mut record = before.clone();
        match request {
            TrustRequest::Give(order) => {
                order.check()?;
                record.order = Some(order);
                record.orders += 1;
            }
            TrustRequest::Resume => {
                record.orders += u64::from(record.order.take().is_some());
            }
            TrustRequest::Accept { position, proven } => return self.accept(before, position, proven).await,
            TrustRequest::Vouch(position) => match self.standing() {
                Rollback::Doubted(_) => return self.accept(before, position, true).await,
                Rollback::Undetectable | Rollback::Newest => return Err(TrustError::NoDoubt),
            },
        }
        if record != before {
            self.keep(record).await?;
        }
        Ok(before)
    }

    async fn accept(&mut self, before: TrustRecord, offered: AcceptedPosition, proven: bool) -> TrustAnswer {
        if let Some(known) = &before.accepted
            && !follows(&offered, known)
        {
            return Err(TrustError::Older { offered: offered.into(), known: known.clone().into() });
        }
        let moved = before.accepted.as_ref().is_none_or(|known| !same_place(known, &offered));
        let mut record = TrustRecord { accepted: Some(offered), ..before.clone() };
        let standing = self.standing();
        if let Rollback::Doubted(doubt) = &standing {
            if !proven {
                return Err(TrustError::Doubted(doubt.clone()));
            }
            // From here on it counts afresh; what the proof came to is on the disk first.
            record.count = self.tpm.is_present().then_some(Count::Starting {});
        }
        let count = match (&standing, record.count) {
            (Rollback::Newest, Some(Count::At { value })) if moved => {
                let value = value.saturating_add(1);
                record.count = Some(Count::At { value });
                true
            }
            (Rollback::Newest | Rollback::Undetectable | Rollback::Doubted(_), _) => false,
        };
        if record == before {
            return Ok(before);
        }
        let record = self.write(record).await?;
        // On the disk; the counter follows, and if it does not, the comparison that comes next finishes it.
        if !matches!(standing, Rollback::Doubted(_)) && (!count || self.tpm.increment().await.is_ok()) {
            self.record.put(TrustRecord::ID, record);
            return Ok(before);
        }
        self.compared = Compared::Not;
        if let Err(error) = self.compare(record).await {
            tracing::error!(error = story(&error), "a move is not counted yet");
        }
        Ok(before)
    }

    /// Ends the order whose time has come; says how long the other one still has.
    async fn expire(&self) -> Result<Outcome, TrustError> {
        let Some(record) = self.current() else { return Ok(Outcome::Done) };
        let Some(order) = &record.order else { return Ok(Outcome::Done) };
        let left = order.until.duration_since((self.clock)());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => Ok(Outcome::Again(left)),
            Ok(_) | Err(_) => {
                tracing::info!(kind = order.action.as_str(), by = %order.by, "an order is over");
                self.keep(TrustRecord { order: None, orders: record.orders + 1, ..record })
                    .await
                    .map(|()| Outcome::Done)
            }
        }
    }
}

fn same_place(one: &AcceptedPosition, other: &AcceptedPosition) -> bool {
    (one.epoch, one.seq, one.step) == (other.epoch, other.seq, other.step)
}

/// Whether `offered` is later than `known`, or the same step (a twin's commit may take its place).
fn follows(offered: &AcceptedPosition, known: &AcceptedPosition) -> bool {
    let place = |position: &AcceptedPosition| (position.epoch, position.seq);
    place(offered) > place(known) || (place(offered) == place(known) && offered.step == known.step)
}

impl<H: FilesHost, T: TpmHost> Controller for TrustController<H, T> {
    type Error = TrustRecordError;

    async fn reconcile(&mut self) -> Result<Outcome, TrustRecordError> {
        let mut loaded = self.load().await;
        if let (Ok(()), Compared::Not | Compared::First, Some(record)) = (&loaded, self.compared, self.current()) {
            loaded = self.compare(record).await;
        }
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(self.take(request).await);
        }
        let next = self.expire().await.map_err(TrustRecordError::End)?;
        loaded.map(|()| if self.compared == Compared::Not { Outcome::Again(COUNT_AGAIN) } else { next })
    }
}

#[cfg(test)]
mod tests;
