//! Streams of somebody whom accepted, or the time, takes away.

use super::{Ada, machine, with_login};
use jiff::{SignedDuration, Timestamp};
use machined_access::{Access, AuditOutcome};
use machined_api::machine_client::MachineClient;
use machined_api::{EventsRequest, LogsRequest};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Longest wait for something that a test expects; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(20);

async fn logs(client: &mut MachineClient<Channel>, token: &str) -> Streaming<machined_api::LogLine> {
    let request = LogsRequest { service: "gitsync".to_owned(), follow: true, tail: 0 };
    client.logs(with_login(request, token)).await.expect("because she may").into_inner()
}

async fn end<T>(stream: &mut Streaming<T>) -> Status {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("because it is ended");
    match next {
        Err(status) => status,
        Ok(Some(_)) => panic!("the stream goes on"),
        Ok(None) => panic!("the stream ends as if it were whole"),
    }
}

#[tokio::test]
async fn t71_logs_and_events_end_as_soon_as_accepted_takes_their_reader_away() {
    let (machine, ada, bob) = (machine().await, Ada::new(1), Ada::new(3));
    machine.accept(&ada, Access::Operator);
    machine.model.logs.open("gitsync");
    let mut client = machine.people(ada.leaf()).await;
    let mut lines = logs(&mut client, &ada.own_login()).await;
    let request = with_login(EventsRequest { tail: 0, follow: true }, &ada.own_login());
    let mut events = client.events(request).await.expect("because she may").into_inner();
    machine.accept(&ada, Access::Admin);
    machine.model.logs.add("gitsync", Timestamp::now(), b"first".to_vec());
    let first = lines.message().await.expect("because who has more stays").expect("because a line came");
    assert_eq!(first.line, b"first");
    machine.accept(&bob, Access::Operator);
    for status in [end(&mut lines).await, end(&mut events).await] {
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("may not log in"), "{status}");
    }
    let audit = machine.audit();
    let ended = audit.iter().filter(|record| record.outcome == AuditOutcome::Refused && record.who == "ada");
    let mut ended: Vec<_> = ended.map(|record| record.method.as_str()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["Events", "Logs"]);
    machine.end().await;
}

#[tokio::test]
async fn a_stream_ends_with_less_access_and_with_its_login() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept(&ada, Access::Operator);
    machine.model.logs.open("gitsync");
    let mut client = machine.people(ada.leaf()).await;
    let mut lines = logs(&mut client, &ada.own_login()).await;
    machine.accept(&ada, Access::Reader);
    assert!(end(&mut lines).await.message().contains("leaves ada less"));
    let token = ada.login_for(ada.client.fingerprint(), SignedDuration::from_secs(2));
    let mut lines = logs(&mut client, &token).await;
    assert!(end(&mut lines).await.message().contains("has expired"));
    machine.end().await;
}
