//! Resets over the machine API: who may, what has to be said, and what is never erased.

use super::{Ada, machine, phase, with_login};
use crate::power::End;
use machined_access::Access;
use machined_api::ResetRequest;
use machined_controllers::reset::ResetOrder;
use machined_controllers::upgrade::UpgradeStatus;
use tonic::Code;

fn request(confirm: &str, overrides: &str) -> ResetRequest {
    ResetRequest { confirm: confirm.to_owned(), r#override: overrides.to_owned() }
}

#[tokio::test]
async fn a_machine_forgets_only_for_an_admin_who_says_its_name() {
    let (machine, ada) = (machine().await, Ada::new(1));
    phase(&machine, UpgradeStatus::IDLE);
    machine.accept_among(&ada, Access::Operator, &["cp1"]);
    let (mut client, token) = (machine.people(ada.leaf()).await, ada.own_login());
    let operator = client.reset(with_login(request("cp1", ""), &token)).await;
    assert_eq!(operator.expect_err("because only admins erase").code(), Code::PermissionDenied);
    machine.accept_among(&ada, Access::Admin, &["cp1"]);
    for name in ["", "cp2", "CP1", "cp1 "] {
        let refused = client.reset(with_login(request(name, "it is broken"), &token)).await;
        let refused = refused.expect_err("because that is not its name");
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
        assert!(refused.message().contains("--yes-really cp1"), "{}", refused.message());
    }
    assert_eq!((machine.resets.all(), machine.model.power.wanted()), (vec![], None), "nothing happened yet");
    let reply = client.reset(with_login(request("cp1", ""), &token)).await.expect("because admins may").into_inner();
    assert_eq!((reply.waiting.as_str(), machine.model.power.wanted()), ("", Some(End::Reboot)));
    assert_eq!(machine.resets.all(), [ResetOrder { by: "ada".to_owned(), reason: String::new() }]);
    machine.end().await;
}

#[tokio::test]
async fn among_others_a_reset_waits_for_its_permit_and_an_override_is_kept_with_its_reason() {
    let (machine, ada) = (machine().await, Ada::new(1));
    phase(&machine, UpgradeStatus::IDLE);
    machine.accept_among(&ada, Access::Admin, &["cp1", "cp2"]);
    let (mut client, token) = (machine.people(ada.leaf()).await, ada.own_login());
    let reply = client.reset(with_login(request("cp1", ""), &token)).await.expect("because admins may").into_inner();
    assert!(reply.waiting.contains("no answer is a refusal"), "{}", reply.waiting);
    assert!(machine.resets.all().is_empty(), "nothing is written down before it is permitted");
    let reply = client.reset(with_login(request("cp1", "it left the cluster"), &token)).await;
    assert_eq!(reply.expect("because admins overrule").into_inner().waiting, "");
    assert_eq!(machine.resets.all(), [ResetOrder { by: "ada".to_owned(), reason: "it left the cluster".to_owned() }]);
    assert_eq!(machine.audit().pop().map(|record| record.reason).as_deref(), Some("it left the cluster"));
    machine.end().await;
}

#[tokio::test]
async fn no_machine_forgets_while_an_image_is_written_or_tried() {
    let (machine, ada) = (machine().await, Ada::new(1));
    phase(&machine, "trying");
    machine.accept_among(&ada, Access::Admin, &["cp1"]);
    let mut client = machine.people(ada.leaf()).await;
    let refused = client.reset(with_login(request("cp1", "now"), &ada.own_login())).await;
    assert_eq!(refused.expect_err("because a try runs").code(), Code::FailedPrecondition);
    assert!(machine.resets.all().is_empty() && machine.model.power.wanted().is_none());
    machine.end().await;
}
