//! Orders, bundles and the audit log over the machine API.

use super::{Ada, machine, with_login};
use crate::audit_log::AUDIT_LOG;
use jiff::{SignedDuration, Timestamp};
use machined_access::{Access, AuditOutcome, ssh_fingerprint};
use machined_api::{
    CommitRecord, DeliverRequest, HoldRequest, LogsRequest, PinRequest, RebootRequest, ResumeRequest, StatusRequest,
    VersionRequest, pin_request,
};
use tonic::{Code, Request};

fn in_hours(hours: i64) -> String {
    (Timestamp::now() + SignedDuration::from_hours(hours)).to_string()
}

fn hold(hours: i64, reason: &str) -> HoldRequest {
    HoldRequest { until: in_hours(hours), reason: reason.to_owned() }
}

#[tokio::test]
async fn a_hold_is_an_operators_ends_in_a_week_and_is_seen_by_everybody() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.mount_state();
    machine.accept(&ada, Access::Reader);
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    let reader = client.hold(with_login(hold(1, "x"), &token)).await.expect_err("because readers change nothing");
    assert_eq!(reader.code(), Code::PermissionDenied);
    machine.accept(&ada, Access::Operator);
    for (request, why) in [
        (hold(7 * 24 + 1, "x"), "it lives longer than a week"),
        (hold(-1, "x"), "it is over"),
        (hold(1, " "), "nobody says why"),
        (HoldRequest { until: String::new(), reason: "x".to_owned() }, "it has no end"),
    ] {
        let refused = client.hold(with_login(request, &token)).await.expect_err(why);
        assert_eq!(refused.code(), Code::InvalidArgument, "{why}: {}", refused.message());
    }
    let given = client.hold(with_login(hold(2, "the disk is full"), &token)).await.expect("because operators may");
    let given = given.into_inner().order.expect("because it is in force");
    assert_eq!((given.kind.as_str(), given.by.as_str(), given.reason.as_str()), ("hold", "ada", "the disk is full"));
    let status = client.status(with_login(StatusRequest {}, &token)).await.expect("because she may").into_inner();
    assert_eq!(status.order, Some(given));
    let shown = status.conditions.iter().find(|c| c.r#type == "Override").expect("because it is always there");
    assert!(shown.status && shown.reason == "Hold" && shown.message.contains("the disk is full"), "{shown:?}");
    let ended = client.resume(with_login(ResumeRequest {}, &token)).await.expect("because operators may").into_inner();
    assert!(ended.ended.is_some());
    let status = client.status(with_login(StatusRequest {}, &token)).await.expect("because she may").into_inner();
    assert_eq!(status.order, None);
    machine.end().await;
}

#[tokio::test]
async fn only_what_this_machine_accepted_can_be_pinned() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.mount_state();
    machine.accept(&ada, Access::Operator);
    let record = |commit: &str, seq, state: &str| CommitRecord {
        commit: commit.repeat(40),
        seq,
        step: "7".repeat(64),
        state: state.to_owned(),
        ..CommitRecord::default()
    };
    machine.model.reports.commit(record("a", 1, "superseded"));
    machine.model.reports.commit(record("b", 2, "refused"));
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    let pin = |target| PinRequest { target: Some(target), until: in_hours(1), reason: "2 is slow".to_owned() };
    for unknown in [pin_request::Target::Seq(2), pin_request::Target::Commit("c".repeat(40))] {
        let refused = client.pin(with_login(pin(unknown), &token)).await.expect_err("because it was not accepted");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("cairnctl commits"), "{}", refused.message());
    }
    for known in [pin_request::Target::Seq(1), pin_request::Target::Commit("a".repeat(40))] {
        let order = client.pin(with_login(pin(known), &token)).await.expect("because it ran before").into_inner().order;
        let order = order.expect("because it is in force");
        assert_eq!((order.kind.as_str(), order.seq, order.commit), ("pin", 1, "a".repeat(40)));
    }
    machine.end().await;
}

#[tokio::test]
async fn every_call_is_in_the_audit_log_with_name_and_key() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept(&ada, Access::Reader);
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    client.status(with_login(StatusRequest {}, &token)).await.expect("because she may");
    client.reboot(with_login(RebootRequest::default(), &token)).await.expect_err("because readers change nothing");
    client.version(Request::new(VersionRequest {})).await.expect_err("because she did not log in");
    let key = ssh_fingerprint(ada.ssh.public_key().key_data()).to_string();
    let told: Vec<_> = machine.audit().into_iter().map(|r| (r.who, r.key, r.method, r.outcome)).collect();
    let record = |who: &str, key: &str, method: &str, outcome| (who.into(), key.into(), method.into(), outcome);
    let expected: [(String, String, String, AuditOutcome); 3] = [
        record("ada", &key, "Status", AuditOutcome::Allowed),
        record("ada", &key, "Reboot", AuditOutcome::Refused),
        record("", "", "Version", AuditOutcome::Refused),
    ];
    assert_eq!(told, expected);
    assert!(machine.audit().iter().all(|record| record.remote.starts_with("127.0.0.1:")));
    let request = LogsRequest { service: AUDIT_LOG.to_owned(), follow: false, tail: 0 };
    let mut lines = client.logs(with_login(request, &token)).await.expect("because she may").into_inner();
    let mut shown = String::new();
    while let Some(line) = lines.message().await.expect("because the stream lives") {
        shown.push_str(&String::from_utf8_lossy(&line.line));
    }
    assert!(shown.contains(&key) && !shown.contains(&token), "the log names keys and holds no logins: {shown}");
    machine.end().await;
}

#[tokio::test]
async fn a_bundle_is_an_operators_to_deliver() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept(&ada, Access::Reader);
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    let chunks = || tokio_stream::iter(["# v2 git", " bundle\n"].map(|c| DeliverRequest { chunk: c.into() }));
    let refused = client.deliver(with_login(chunks(), &token)).await.expect_err("because readers change nothing");
    assert_eq!((refused.code(), machine.model.deliveries.newest()), (Code::PermissionDenied, None));
    machine.accept(&ada, Access::Operator);
    let taken = client.deliver(with_login(chunks(), &token)).await.expect("because operators may").into_inner();
    let bundle = machine.model.deliveries.newest().expect("because it came whole");
    assert_eq!((taken.bytes, taken.sha256), (16, bundle.sha256.to_string()));
    machine.end().await;
}
