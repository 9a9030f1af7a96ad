//! A recovery that waits, from gitsync's report to the line that somebody types at the console, and back to gitsync.

use super::{link, machine};
use crate::api::local_service::{Caller, LocalService};
use crate::keyboard::listen_to;
use machined_access::AuditOutcome;
use machined_api::local_server::Local;
use machined_api::{ContextRequest, ReportRecoveriesRequest, WaitingRecovery};
use machined_controllers::introduction::Introduced;
use machined_controllers::ledger::LedgerRead;
use machined_controllers::services::{CONTROLPLANE, GITSYNC};
use machined_host::Console;
use machined_ids::{Digest, RecoveryCode};
use std::os::fd::OwnedFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::{Code, Request};

fn by<T>(service: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::Service(service.to_owned()));
    request
}

fn report(bodies: &[u8]) -> ReportRecoveriesRequest {
    let waiting = |body: &u8| WaitingRecovery {
        body_sha256: Digest::from_bytes([*body; 32]).to_string(),
        commit: "a".repeat(40),
        epoch: 1,
        takes_effect: String::new(),
    };
    ReportRecoveriesRequest { recoveries: bodies.iter().map(waiting).collect() }
}

#[tokio::test]
async fn what_is_typed_at_the_console_reaches_gitsync_for_that_recovery_alone() {
    let machine = machine().await;
    machine.mount_state();
    machine.introduced.put(Introduced::ID, Introduced::Not);
    machine.ledger.put(LedgerRead::ID, LedgerRead);
    machine.links.put("eth0", link("10.0.2.15/24"));
    let local = LocalService::new(machine.model.clone());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("because sockets can be made");
    [&ours, &theirs].iter().for_each(|end| end.set_nonblocking(true).expect("because it is a socket"));
    let console = Console::of(OwnedFd::from(theirs).into()).expect("because sockets can be waited for");
    let listening = tokio::spawn(listen_to(machine.model.clone(), console));
    let mut keys = tokio::net::UnixStream::from_std(ours).expect("because it does not block");
    let code = |body: u8| RecoveryCode::of(&Digest::from_bytes([body; 32]));

    local.report_recoveries(by(GITSYNC, report(&[1, 2]))).await.expect("because gitsync may");
    let mut contexts = local.context(by(GITSYNC, ContextRequest {})).await.expect("because gitsync may").into_inner();
    let mut presence = async |wanted: String| loop {
        let context = contexts.next().await.expect("because the stream lives").expect("because machined lives");
        if context.presence == wanted {
            break;
        }
    };
    presence(String::new()).await;
    keys.write_all(format!("{}\nreboot\n{}\n", code(3), code(2)).as_bytes()).await.expect("because it listens");
    presence(Digest::from_bytes([2; 32]).to_string()).await;
    let (mut heard, mut bytes) = (String::new(), [0; 1024]);
    while !heard.contains("is confirmed") {
        let read = keys.read(&mut bytes).await.expect("because it answers");
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert_eq!(heard.matches("nothing changed").count(), 2, "{heard}");
    let told = machine.audit();
    let told: Vec<_> = told.iter().map(|r| (r.remote.as_str(), r.method.as_str(), r.outcome)).collect();
    let method = format!("ConfirmRecovery {}", Digest::from_bytes([2; 32]));
    assert_eq!(told, [("console", method.as_str(), AuditOutcome::Allowed)]);

    // It took effect: nothing of it is left for another one.
    local.report_recoveries(by(GITSYNC, report(&[1]))).await.expect("because gitsync may");
    presence(String::new()).await;
    listening.abort();
    machine.end().await;
}

#[tokio::test]
async fn only_gitsync_says_which_recoveries_wait_and_only_so_many() {
    let machine = machine().await;
    machine.mount_state();
    let local = LocalService::new(machine.model.clone());
    let refused = local.report_recoveries(by(CONTROLPLANE, report(&[1]))).await.expect_err("because it is not its");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let many = report(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let refused = local.report_recoveries(by(GITSYNC, many)).await.expect_err("because the console has few lines");
    assert_eq!((refused.code(), machine.model.recoveries.all().len()), (Code::InvalidArgument, 0));
    machine.end().await;
}
