//! Keeps the record: reads it at start, takes orders and positions, ends orders when their time has come.

use super::{AcceptedPosition, Order, OrderForm, TrustRecord};
use crate::block::{STATE, Volume};
use crate::files::{FileError, FilesHost, Lasting};
use jiff::Timestamp;
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Inbox, Ports, Reader, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest record in bytes: one order and one position have less than a tenth of it.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Something is to be remembered.
#[derive(Debug, Clone)]
pub enum TrustRequest {
    /// A person orders; it takes the place of an order in force.
    Give(Order),
    /// A person ends the order in force.
    Resume,
    /// gitsync accepted.
    Accept(AcceptedPosition),
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
    /// It could not be kept.
    #[error("the trust record could not be written; nothing changed")]
    Write(#[source] FileError),
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
    /// An order's end could not be written down.
    #[error("the end of an order could not be written down")]
    End(#[source] TrustError),
}

/// The record before a request that was taken.
pub type TrustAnswer = Result<TrustRecord, TrustError>;

/// Where orders and positions go in.
pub type TrustInbox = Inbox<TrustRequest, TrustAnswer>;

/// The machine's clock.
type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// Writes [`TrustRecord`].
pub struct TrustController<H> {
    host: Arc<H>,
    volumes: Reader<Volume>,
    record: Writer<TrustRecord>,
    inbox: TrustInbox,
    clock: Clock,
}

impl<H: FilesHost> TrustController<H> {
    /// Declares inputs and output at `ports`; gives the inbox too. `clock` is the machine's.
    pub fn new(ports: &mut Ports, host: Arc<H>, clock: Clock) -> (Self, TrustInbox) {
        let inbox = Inbox::new(ports.trigger());
        let controller =
            TrustController { host, volumes: ports.input(), record: ports.output(), inbox: inbox.clone(), clock };
        (controller, inbox)
    }

    fn path() -> PathBuf {
        Path::new(STATE).join("machined/trust.json")
    }

    fn current(&self) -> Option<TrustRecord> {
        self.record.current().get(TrustRecord::ID).cloned()
    }

    async fn load(&self) -> Result<(), TrustRecordError> {
        if self.current().is_some() || !self.volumes.all().contains_key(STATE) {
            return Ok(());
        }
        let path = Self::path();
        let bytes = self.host.read(&path, RECORD_BYTES_MAX).await.map_err(TrustRecordError::File)?;
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        // A damaged record is said once; it must not keep the machine from following its repository for ever.
        self.record.put(TrustRecord::ID, read.as_ref().ok().cloned().flatten().unwrap_or_default());
        read.map(drop).map_err(|source| TrustRecordError::Json { path, source })
    }

    async fn write(&self, record: TrustRecord) -> Result<(), TrustError> {
        let bytes = serde_json::to_vec(&record).expect("because its map keys are strings");
        // Invariant: on the disk before anything acts on it.
        self.host.replace(&Self::path(), &bytes, Lasting::Durable).await.map_err(TrustError::Write)?;
        self.record.put(TrustRecord::ID, record);
        Ok(())
    }

    async fn take(&self, request: TrustRequest) -> TrustAnswer {
        let before = self.current().ok_or(TrustError::NotReady)?;
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
            TrustRequest::Accept(offered) => {
                if let Some(known) = &before.accepted
                    && !follows(&offered, known)
                {
                    return Err(TrustError::Older { offered: offered.into(), known: known.clone().into() });
                }
                record.accepted = Some(offered);
            }
        }
        if record != before {
            self.write(record).await?;
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
                self.write(TrustRecord { order: None, orders: record.orders + 1, ..record })
                    .await
                    .map(|()| Outcome::Done)
            }
        }
    }
}

/// Whether `offered` is later than `known`, or the same step (a twin's commit may take its place).
fn follows(offered: &AcceptedPosition, known: &AcceptedPosition) -> bool {
    let place = |position: &AcceptedPosition| (position.epoch, position.seq);
    place(offered) > place(known) || (place(offered) == place(known) && offered.step == known.step)
}

impl<H: FilesHost> Controller for TrustController<H> {
    type Error = TrustRecordError;

    async fn reconcile(&mut self) -> Result<Outcome, TrustRecordError> {
        let loaded = self.load().await;
        while let Some((request, answer)) = self.inbox.take() {
            // A caller that went away has its wish done all the same.
            let _caller_gone = answer.send(self.take(request).await);
        }
        let next = self.expire().await.map_err(TrustRecordError::End)?;
        loaded.map(|()| next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::OrderAction;
    use super::*;
    use crate::files::fake::FakeFiles;
    use machined_ids::{Epoch, Fingerprint, Seq, StepId};
    use machined_runtime::Store;
    use std::sync::Mutex;

    struct Machine {
        controller: TrustController<FakeFiles>,
        inbox: TrustInbox,
        store: Store,
        now: Arc<Mutex<Timestamp>>,
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("because it is a time")
    }

    fn machine(files: &Arc<FakeFiles>) -> Machine {
        let store = Store::new();
        let mut ports = Ports::new(&store, "trust");
        let now = Arc::new(Mutex::new(at("2026-11-21T12:00:00Z")));
        let clock = Arc::clone(&now);
        let clock = Box::new(move || *clock.lock().expect("because no holder panics"));
        let (controller, inbox) = TrustController::new(&mut ports, Arc::clone(files), clock);
        let volume = Volume { device: PathBuf::new(), formatted: false };
        store.writer().expect("because nobody else writes it").put(STATE, volume);
        Machine { controller, inbox, store, now }
    }

    impl Machine {
        async fn ask(&mut self, request: TrustRequest) -> TrustAnswer {
            let inbox = self.inbox.clone();
            let (answer, outcome) = tokio::join!(biased; inbox.ask(request), self.controller.reconcile());
            outcome.expect("because nothing is damaged");
            answer.expect("because the controller answers")
        }
        fn record(&self) -> Option<TrustRecord> {
            self.store.reader::<TrustRecord>().get(TrustRecord::ID)
        }
        fn order(&self) -> Option<Order> {
            self.record().and_then(|record| record.order)
        }
        async fn reconcile_at(&mut self, now: &str) -> Outcome {
            *self.now.lock().expect("because no holder panics") = at(now);
            self.controller.reconcile().await.expect("because nothing is damaged")
        }
    }

    fn hold(until: &str) -> Order {
        Order {
            action: OrderAction::Hold {},
            until: at(until),
            reason: "the disk is full".to_owned(),
            by: "ada".parse().expect("because it is a name"),
            key: Fingerprint::from_sha256(&[1; 32]),
            given: at("2026-11-21T12:00:00Z"),
        }
    }

    fn position(epoch: u64, seq: u64, step: u8) -> AcceptedPosition {
        AcceptedPosition {
            epoch: Epoch(epoch),
            seq: Seq(seq),
            step: StepId::from_bytes([step; 32]),
            commit: "c".repeat(40).parse().expect("because it is an id"),
        }
    }

    #[tokio::test]
    async fn an_order_survives_a_restart_and_ends_by_itself() {
        let files = Arc::new(FakeFiles::default());
        let mut first = machine(&files);
        first.ask(TrustRequest::Give(hold("2026-11-21T13:00:00Z"))).await.expect("because its form is good");
        assert_eq!(files.lasting("/state/machined/trust.json"), Some(Lasting::Durable));
        let mut second = machine(&files);
        let left = second.reconcile_at("2026-11-21T12:59:00Z").await;
        assert_eq!(left, Outcome::Again(Duration::from_secs(60)));
        assert_eq!(second.order(), Some(hold("2026-11-21T13:00:00Z")));
        assert_eq!(second.reconcile_at("2026-11-21T13:00:00Z").await, Outcome::Done);
        assert_eq!(second.order(), None);
        let mut third = machine(&files);
        third.reconcile_at("2026-11-21T12:30:00Z").await;
        assert_eq!(third.order(), None, "a clock that goes back brings no order back");
    }

    #[tokio::test]
    async fn an_order_without_an_end_in_time_is_refused_and_the_old_one_stays() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files);
        machine.ask(TrustRequest::Give(hold("2026-11-22T00:00:00Z"))).await.expect("because its form is good");
        let refused = machine.ask(TrustRequest::Give(hold("2026-12-22T00:00:00Z"))).await;
        assert!(matches!(refused, Err(TrustError::Form(OrderForm::Long { .. }))), "{refused:?}");
        assert_eq!(machine.order(), Some(hold("2026-11-22T00:00:00Z")));
        let ended = machine.ask(TrustRequest::Resume).await.expect("because anybody who may may resume");
        assert_eq!((ended.order.is_some(), machine.order()), (true, None));
    }

    #[tokio::test]
    async fn the_accepted_position_only_moves_forward() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files);
        for (epoch, seq, step) in [(0, 4, 4), (0, 4, 4), (0, 7, 7), (1, 2, 8)] {
            machine
                .ask(TrustRequest::Accept(position(epoch, seq, step)))
                .await
                .expect("because it is later or the same");
        }
        for (epoch, seq, step) in [(1, 1, 1), (0, 9, 9), (1, 2, 9)] {
            let refused = machine.ask(TrustRequest::Accept(position(epoch, seq, step))).await;
            assert!(matches!(refused, Err(TrustError::Older { .. })), "({epoch}, {seq}) was taken");
        }
        assert_eq!(machine.record().and_then(|record| record.accepted), Some(position(1, 2, 8)));
    }

    #[tokio::test]
    async fn before_the_state_volume_is_there_nothing_is_taken() {
        let files = Arc::new(FakeFiles::default());
        let mut machine = machine(&files);
        machine.controller.volumes = Store::new().reader();
        let refused = machine.ask(TrustRequest::Resume).await;
        assert!(matches!(refused, Err(TrustError::NotReady)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_damaged_record_is_said_and_stops_nobody() {
        let files = Arc::new(FakeFiles::default());
        files.put("/state/machined/trust.json", "{");
        let mut machine = machine(&files);
        assert!(matches!(machine.controller.reconcile().await, Err(TrustRecordError::Json { .. })));
        assert_eq!(machine.record(), Some(TrustRecord::default()));
    }
}
