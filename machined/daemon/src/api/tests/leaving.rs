//! Restarts over the machine API: with a permit of the control plane, or by an admin who says why there is none.

use super::{Ada, Machine, machine, phase, with_login};
use crate::power::End;
use machined_access::{Access, AuditOutcome};
use machined_api::permits_server::{Permits, PermitsServer};
use machined_api::{AskReply, AskRequest, RebootRequest, ShutdownRequest};
use machined_reconcile::Restart;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

/// Longest wait for something that a test expects; reached only when it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane that grants the second time.
#[derive(Default)]
struct Second(Mutex<Vec<String>>);

#[tonic::async_trait]
impl Permits for Second {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskReply>, Status> {
        let mut asked = self.0.lock().expect("because no holder of this lock panics");
        asked.push(request.into_inner().reason);
        let granted = asked.len() > 1;
        Ok(Response::new(AskReply { granted, message: "cp2 goes first (upgrade)".to_owned(), ..AskReply::default() }))
    }
}

fn serve_permits(machine: &Machine) {
    let listener =
        UnixListener::bind(machine.folder.path().join("permits.sock")).expect("because the folder is writable");
    let mut listener = Some(listener);
    machine.supervisor.spawn("permits", Restart::Never, move |mut stop| {
        let incoming = UnixListenerStream::new(listener.take().expect("because it is started once"));
        let server = tonic::transport::Server::builder().add_service(PermitsServer::new(Second::default()));
        server.serve_with_incoming_shutdown(incoming, async move { stop.requested().await })
    });
}

fn keep_asking(machine: &Machine) {
    let leaving = machine.model.leaving.clone();
    machine.supervisor.spawn("leaving", Restart::Never, move |stop| leaving.clone().keep_asking(stop));
}

#[tokio::test]
async fn a_machine_that_is_alone_goes_at_once() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept_among(&ada, Access::Operator, &["cp1"]);
    let mut client = machine.people(ada.leaf()).await;
    let reply = client.reboot(with_login(RebootRequest::default(), &ada.own_login())).await;
    assert_eq!(reply.expect("because operators may").into_inner().waiting, "");
    assert_eq!(machine.model.power.wanted(), Some(End::Reboot));
    machine.end().await;
}

#[tokio::test]
async fn no_answer_is_a_refusal_and_the_wish_is_kept() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept_among(&ada, Access::Operator, &["cp1", "cp2"]);
    let mut client = machine.people(ada.leaf()).await;
    let reply = client.reboot(with_login(RebootRequest::default(), &ada.own_login())).await;
    let waiting = reply.expect("because operators may ask").into_inner().waiting;
    assert!(waiting.contains("no answer is a refusal") && waiting.contains("--override"), "{waiting}");
    assert_eq!(machine.model.power.wanted(), None);
    machine.end().await;
}

#[tokio::test]
async fn a_machine_among_others_goes_by_itself_once_it_is_permitted() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept_among(&ada, Access::Operator, &["cp1", "cp2"]);
    serve_permits(&machine);
    let mut client = machine.people(ada.leaf()).await;
    let reply = client.shutdown(with_login(ShutdownRequest::default(), &ada.own_login())).await;
    let waiting = reply.expect("because operators may ask").into_inner().waiting;
    assert!(waiting.contains("cp2 goes first"), "{waiting}");
    assert_eq!(machine.model.power.wanted(), None);
    // The laptop is closed.
    drop(client);
    keep_asking(&machine);
    let asked = tokio::time::timeout(PATIENCE, machine.model.power.asked()).await;
    assert_eq!(asked.ok(), Some(End::Shutdown));
    machine.end().await;
}

#[tokio::test]
async fn a_restart_waits_for_an_upgrade_that_asks_for_its_own() {
    let (machine, ada) = (machine().await, Ada::new(1));
    machine.accept_among(&ada, Access::Operator, &["cp1"]);
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    for stage in ["written", "trying"] {
        phase(&machine, stage);
        let reply = client.reboot(with_login(RebootRequest::default(), &token)).await;
        let waiting = reply.expect("because operators may ask").into_inner().waiting;
        assert!(waiting.contains("an upgrade goes first") && waiting.contains(stage), "{waiting}");
        assert_eq!(machine.model.power.wanted(), None, "though the machine is alone");
    }
    // The wish is kept, and granted once nothing goes first.
    keep_asking(&machine);
    phase(&machine, "obtaining");
    let asked = tokio::time::timeout(PATIENCE, machine.model.power.asked()).await;
    assert_eq!(asked.ok(), Some(End::Reboot), "an image that is fetched restarts nothing yet");
    machine.end().await;
}

#[tokio::test]
async fn an_override_is_an_admins_says_why_and_always_stands_in_the_audit_log() {
    let (machine, ada) = (machine().await, Ada::new(1));
    let request = |reason: &str| RebootRequest { r#override: reason.to_owned() };
    machine.accept_among(&ada, Access::Operator, &["cp1", "cp2"]);
    let mut client = machine.people(ada.leaf()).await;
    let token = ada.own_login();
    let operator = client.reboot(with_login(request("it hangs"), &token)).await;
    assert_eq!(operator.expect_err("because only admins overrule").code(), Code::PermissionDenied);
    machine.accept_among(&ada, Access::Admin, &["cp1", "cp2"]);
    for reason in ["two\nlines".to_owned(), "x".repeat(201)] {
        let refused = client.reboot(with_login(request(&reason), &token)).await;
        assert_eq!(refused.expect_err("because it is no line of a log").code(), Code::InvalidArgument);
    }
    assert_eq!(machine.model.power.wanted(), None);
    let reply = client.reboot(with_login(request("it hangs"), &token)).await.expect("because admins may").into_inner();
    assert_eq!((reply.waiting.as_str(), machine.model.power.wanted()), ("", Some(End::Reboot)));
    let told: Vec<_> = machine.audit().into_iter().map(|it| (it.who, it.method, it.outcome)).collect();
    let record = |outcome| ("ada".to_owned(), "RebootOverride".to_owned(), outcome);
    assert_eq!(told, [record(AuditOutcome::Refused), record(AuditOutcome::Allowed)]);
    assert_eq!(machine.audit().pop().map(|record| record.reason).as_deref(), Some("it hangs"));
    machine.end().await;
}
