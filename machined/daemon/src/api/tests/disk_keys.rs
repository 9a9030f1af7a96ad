//! Disk keys between machineds, over real TLS on loopback: who gets a share back, and who does not.

use super::{Ada, Machine, machine, with_login};
use crate::peers::TlsPeers;
use machined_access::{Access, AuditOutcome, LeafKey, MachineEntry, MachineRole, tls};
use machined_api::disk_keys_client::DiskKeysClient;
use machined_api::{KeepRequest, ReleaseRequest, StatusRequest};
use machined_controllers::block::{Encryption, PeerError, PeerHost, STATE, ShareToKeep};
use machined_controllers::identity::MachineKey;
use machined_ids::Fingerprint;
use machined_luks::{Secret, ShareId};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::{Code, Request};

fn key(machine: &Machine) -> MachineKey {
    machine.model.keys.get(MachineKey::ID).expect("because it was put there")
}

fn id(number: u8) -> ShareId {
    ShareId::from_bytes(&[number; 16]).expect("because it has 16 bytes")
}

fn share(number: u8) -> Secret {
    Secret::new([number; 32])
}

/// The peer's step has itself in the control plane and these workers.
fn step(peer: &Machine, workers: &[&Machine]) {
    let worker = |machine: &Machine| (machine.identity.clone(), MachineRole::Worker);
    let all = [(peer.identity.clone(), MachineRole::ControlPlane)].into_iter().chain(workers.iter().map(|m| worker(m)));
    let entry = |(number, (identity, role)): (usize, (Fingerprint, MachineRole))| {
        (format!("m{number}").parse().expect("because it is a name"), MachineEntry { identity, role })
    };
    peer.accept_table(&Ada::new(1), Access::Admin, all.enumerate().map(entry).collect());
}

async fn keep(of: &Machine, at: &Machine, number: u8) -> Result<(), PeerError> {
    let share = ShareToKeep { id: id(number), share: share(number), held: vec![] };
    let reached = TlsPeers.keep(&key(of), &at.address.to_string(), &[at.identity.clone()].into(), share).await?;
    assert_eq!((reached.identity, reached.address), (at.identity.clone(), at.address.to_string()));
    Ok(())
}

async fn release(of: &Machine, at: &Machine, number: u8) -> Result<Secret, PeerError> {
    let asked = BTreeMap::from([(at.identity.clone(), id(number))]);
    TlsPeers.release(&key(of), &at.address.to_string(), &asked).await.map(|(_, share)| share)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, PeerError>) -> String {
    match answer {
        Err(PeerError::Refused(why)) => why,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_machine_gets_its_share_back_until_it_leaves_the_repository() {
    let (peer, own, other) = (machine().await, machine().await, machine().await);
    assert!(refusal(keep(&own, &peer, 7).await).contains("starting"), "a peer that knows nobody keeps nothing");
    step(&peer, &[&own, &other]);
    peer.mount_state();
    keep(&own, &peer, 7).await.expect("because it is in the step");
    assert_eq!(release(&own, &peer, 7).await, Ok(share(7)));
    assert!(refusal(release(&other, &peer, 7).await).contains("keeps no share"), "a share of another machine");
    step(&peer, &[&other]);
    let why = refusal(release(&own, &peer, 7).await);
    assert!(why.contains("no machine of the accepted step has identity"), "{why}");

    let audit = peer.audit();
    let told = |outcome, reason: &str| {
        let about = |record: &&machined_access::AuditRecord| record.method == "DiskKeyRelease";
        audit.iter().filter(about).any(|record| record.outcome == outcome && record.reason.contains(reason))
    };
    assert!(told(AuditOutcome::Allowed, ""), "{audit:?}");
    assert!(told(AuditOutcome::Refused, "keeps no share") && told(AuditOutcome::Refused, "no machine of"), "{audit:?}");
    assert!(audit.iter().any(|record| record.who == "machined on m1" && record.key == own.identity.as_str()));
    for machine in [peer, own, other] {
        machine.end().await;
    }
}

#[tokio::test]
async fn a_peer_that_went_away_is_asked_again_and_another_in_its_place_gets_nothing() {
    let (peer, own, thief) = (machine().await, machine().await, machine().await);
    step(&peer, &[&own]);
    peer.mount_state();
    keep(&own, &peer, 7).await.expect("because it is in the step");
    // Somebody else at the address: the connection is pinned, so nothing is asked of them.
    step(&thief, &[&own]);
    thief.mount_state();
    let asked = BTreeMap::from([(peer.identity.clone(), id(7))]);
    let answer = TlsPeers.release(&key(&own), &thief.address.to_string(), &asked).await;
    assert!(matches!(&answer, Err(PeerError::Unreachable(why)) if why.contains("not expected")), "{answer:?}");
    assert!(thief.audit().is_empty(), "it was asked something");
    // Nobody there at all.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let gone = gone.expect("because loopback has free ports").to_string();
    let answer = TlsPeers.release(&key(&own), &gone, &asked).await;
    assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
    assert_eq!(release(&own, &peer, 7).await, Ok(share(7)));
    for machine in [peer, own, thief] {
        machine.end().await;
    }
}

#[tokio::test]
async fn neither_people_nor_other_services_nor_strangers_are_given_a_share() {
    let (peer, own, ada) = (machine().await, machine().await, Ada::new(1));
    step(&peer, &[&own]);
    peer.mount_state();
    keep(&own, &peer, 7).await.expect("because it is in the step");
    let ask = || ReleaseRequest { id: vec![7; 16] };
    let mut admin = DiskKeysClient::new(peer.channel(Some(ada.leaf())).await.expect("because the API listens"));
    let refused = admin.release(with_login(ask(), &ada.own_login())).await.expect_err("because ada is no machine");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut nobody = DiskKeysClient::new(peer.channel(None).await.expect("because the API listens"));
    let refused = nobody.release(Request::new(ask())).await.expect_err("because nobody proved anything");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // gitsync of the right machine: it reads what strangers serve, and must not get at the disk key.
    let leaf = LeafKey::generate().expect("because there is randomness");
    let names = vec![tls::MACHINE_NAME.to_owned()];
    let chain = key(&own).issue_leaf(leaf.spki(), "gitsync", names, jiff::Timestamp::now()).await;
    let leaf = leaf.with_chain(chain.expect("because the key signs"));
    let mut gitsync = DiskKeysClient::new(peer.channel(Some(leaf)).await.expect("because the API listens"));
    let refused = gitsync.release(Request::new(ask())).await.expect_err("because it is another service");
    assert_eq!(refused.code(), Code::PermissionDenied);
    for machine in [peer, own] {
        machine.end().await;
    }
}

#[tokio::test]
async fn what_is_not_of_the_right_length_is_refused() {
    let (peer, own) = (machine().await, machine().await);
    step(&peer, &[&own]);
    peer.mount_state();
    let leaf = LeafKey::generate().expect("because there is randomness");
    let names = vec![tls::MACHINE_NAME.to_owned()];
    let chain = key(&own).issue_leaf(leaf.spki(), "machined", names, jiff::Timestamp::now()).await;
    let leaf = leaf.with_chain(chain.expect("because the key signs"));
    let mut client = DiskKeysClient::new(peer.channel(Some(leaf)).await.expect("because the API listens"));
    let whole = KeepRequest { id: vec![1; 16], share: vec![1; 32], held: vec![vec![1; 16]] };
    for request in [
        KeepRequest { id: vec![1; 15], ..whole.clone() },
        KeepRequest { share: vec![1; 33], ..whole.clone() },
        KeepRequest { share: vec![], ..whole.clone() },
        KeepRequest { held: vec![vec![]], ..whole.clone() },
        KeepRequest { held: vec![vec![1; 16]; 65], ..whole.clone() },
    ] {
        let refused = client.keep(request.clone()).await.expect_err("because it does not fit");
        assert_eq!(refused.code(), Code::InvalidArgument, "{request:?}");
    }
    client.keep(whole).await.expect("because it fits");
    for machine in [peer, own] {
        machine.end().await;
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_holds_nobody_up_for_long() {
    let own = machine().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("because loopback has free ports");
    let address = silent.local_addr().expect("because it is bound").to_string();
    let asked = BTreeMap::from([(own.identity.clone(), id(7))]);
    let identity = key(&own);
    let call = TlsPeers.release(&identity, &address, &asked);
    let answer = tokio::time::timeout(Duration::from_secs(20), call).await.expect("because calls have a limit");
    assert!(matches!(answer, Err(PeerError::Unreachable(why)) if why.contains("nothing within")));
    own.end().await;
}

#[tokio::test]
async fn whoever_asks_a_machine_whose_disks_are_locked_is_told_so() {
    let (machine, ada) = (machine().await, Ada::new(1));
    let locked = Encryption::Locked { why: "waiting for a peer".to_owned(), recovery: true };
    machine.encryption.put(STATE, locked);
    let asked = machine.people(ada.leaf()).await.status(with_login(StatusRequest {}, &ada.own_login())).await;
    let refused = asked.expect_err("because it knows nobody yet");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("waits for a peer to release their key"), "{}", refused.message());
    machine.end().await;
}
