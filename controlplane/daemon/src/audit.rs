//! The audit records of the Kubernetes API, on their way to machined, which keeps the machine's one audit log.
//!
//! ```text
//! listener --try_send--> queue (bounded) --batches--> machined (Audit, local socket)
//! ```
//!
//! Task: `audit`. A request never waits for it: when machined does not answer and the queue is full, records are counted instead.

use crate::local::Local;
use controlplane_apiserver::Caller;
use http::StatusCode;
use jiff::Timestamp;
use machined_access::{AuditApi, AuditOutcome, AuditRecord};
use machined_reconcile::{Restart, Stop, Supervisor};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// Records that wait for machined: a busy second, while it starts again.
const QUEUE: usize = 4096;

/// Records in one message; machined takes as many.
const BATCH: usize = 256;

/// Pause after machined did not take a batch.
const RETRY: Duration = Duration::from_secs(1);

/// Where the listener puts records. Clones put them into the same queue.
#[derive(Clone, Default)]
pub(crate) struct Audit {
    queue: Option<mpsc::Sender<AuditRecord>>,
    lost: Arc<AtomicU64>,
}

/// Who called: as the API server knew them, for one record.
pub(crate) struct Call {
    pub(crate) remote: Option<SocketAddr>,
    /// HTTP method and path, without the query.
    pub(crate) method: String,
}

impl Audit {
    /// A queue and its reader.
    fn queue() -> (Self, mpsc::Receiver<AuditRecord>) {
        let (queue, records) = mpsc::channel(QUEUE);
        (Audit { queue: Some(queue), lost: Arc::default() }, records)
    }

    /// Sends records to machined for as long as the process runs.
    pub(crate) fn to_machined(local: Local, supervisor: &Supervisor) -> Self {
        let (audit, records) = Audit::queue();
        let (records, lost) = (Arc::new(Mutex::new(records)), Arc::clone(&audit.lost));
        supervisor.spawn("audit", Restart::Always, move |stop| {
            hand_over(local.clone(), Arc::clone(&records), Arc::clone(&lost), stop)
        });
        audit
    }

    /// Takes what is known of a call when its answer begins.
    pub(crate) fn add(&self, call: Call, caller: Option<&Caller>, status: StatusCode) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(record(call, caller, status, Timestamp::now())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn record(call: Call, caller: Option<&Caller>, status: StatusCode, now: Timestamp) -> AuditRecord {
    let remote = call.remote.map(|remote| remote.to_string()).unwrap_or_default();
    let mut record = AuditRecord::new(now, AuditApi::Cluster, call.method).from(remote);
    // Nobody in particular has no name in the log, so that what strangers do is limited there.
    if let Some(caller) = caller.filter(|caller| **caller != Caller::anonymous()) {
        (record.who, record.key) = (caller.user.clone(), caller.key.clone());
    }
    let outcome = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AuditOutcome::Refused,
        status if status.is_client_error() || status.is_server_error() => AuditOutcome::Failed,
        _ => AuditOutcome::Allowed,
    };
    record.ended(outcome, status.as_str())
}

async fn hand_over(
    local: Local,
    records: Arc<Mutex<mpsc::Receiver<AuditRecord>>>,
    lost: Arc<AtomicU64>,
    mut stop: Stop,
) -> Result<(), Infallible> {
    let mut records = records.lock().await;
    let mut batch = Vec::new();
    loop {
        if batch.is_empty() {
            tokio::select! {
                count = records.recv_many(&mut batch, BATCH - 1) => if count == 0 { return Ok(()) },
                () = stop.requested() => return Ok(()),
            }
            let lost = lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let reason = format!("{lost} calls are missing here: machined did not answer");
                let missing = AuditRecord::new(Timestamp::now(), AuditApi::Cluster, "");
                batch.push(missing.ended(AuditOutcome::Failed, reason));
            }
        }
        match local.audit(&batch).await {
            Ok(()) => batch.clear(),
            Err(error) => {
                tracing::debug!(%error, "machined did not take audit records");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = stop.requested() => return Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn for_tests() -> (Audit, mpsc::Receiver<AuditRecord>) {
    Audit::queue()
}
