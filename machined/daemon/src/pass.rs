//! Lays a caller's right over what streams: it ends as soon as the accepted step or the time takes that right away.

use crate::audit_log::AuditLog;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use machined_access::{AccessTable, AuditOutcome, AuditRecord, Lost, Standing, Watched};
use machined_controllers::ledger::DesiredMachine;
use machined_runtime::Reader;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// What streams answer with.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Somebody who was let in for longer than a moment.
pub(crate) struct Pass {
    standing: Standing,
    tables: Tables,
    record: AuditRecord,
    audit: AuditLog,
}

/// The access table of the desired machine, and this machine's clock.
struct Tables(Reader<DesiredMachine>);

impl Watched for Tables {
    fn table(&self) -> Option<Arc<AccessTable>> {
        self.0.all().get(DesiredMachine::ID).map(|desired| Arc::new(desired.raw.access.clone()))
    }
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    async fn changed(&mut self, longest: Duration) {
        // Which of the two it was is not looked at: both are judged alike.
        let _changed_or_late = tokio::time::timeout(longest, self.0.changed()).await;
    }
}

impl Pass {
    /// `record` is the call's, for the end of what it began.
    pub(crate) fn new(
        standing: Standing,
        desired: Reader<DesiredMachine>,
        record: AuditRecord,
        audit: AuditLog,
    ) -> Self {
        Pass { standing, tables: Tables(desired), record, audit }
    }

    /// The stream, for as long as the caller may see it; it ends with a refusal that says why.
    pub(crate) fn over<T: Send + 'static>(
        self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        let Pass { standing, tables, record, audit } = self;
        Box::pin(async_stream::stream! {
            let mut lost = std::pin::pin!(standing.lost(tables));
            let mut answers = std::pin::pin!(answers);
            loop {
                let next = tokio::select! {
                    biased;
                    lost = &mut lost => Err(lost),
                    next = answers.next() => Ok(next),
                };
                match next {
                    Ok(Some(answer)) => yield answer,
                    Ok(None) => return,
                    Err(lost) => {
                        yield Err(ended(&lost, record, &audit));
                        return;
                    }
                }
            }
        })
    }

    /// Does what the caller asked for, unless they may not stay meanwhile.
    pub(crate) async fn during<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let Pass { standing, tables, record, audit } = self;
        tokio::select! {
            biased;
            lost = standing.lost(tables) => Err(ended(&lost, record, &audit)),
            done = work => done,
        }
    }
}

fn ended(lost: &Lost, record: AuditRecord, audit: &AuditLog) -> Status {
    let status = Status::unauthenticated(format!("ended: {lost}"));
    let record = AuditRecord { at: Timestamp::now(), ..record };
    audit.add(record.ended(AuditOutcome::Refused, status.message()));
    status
}
