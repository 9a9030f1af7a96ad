//! Handshakes in memory: what each side proves to the other.

use jiff::Timestamp;
use machined_access::tls::{self, ServerKeys};
use machined_access::{IdentityKey, Leaf, LeafKey, Peer};
use machined_ids::Fingerprint;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConnection, ServerConnection};
use std::collections::BTreeSet;
use std::sync::Arc;

fn now() -> UnixTime {
    UnixTime::now()
}

fn leaf(identity: &IdentityKey, service: &str) -> Leaf {
    let key = LeafKey::generate().expect("because the system has randomness");
    let names = ["127.0.0.1".to_owned()];
    let chain = identity.issue_leaf(&key.spki(), service, &names, Timestamp::now());
    key.with_chain(chain.expect("because the identity can sign"))
}

fn identity() -> IdentityKey {
    IdentityKey::generate().expect("because the system has randomness")
}

/// Runs a handshake and says what the server learned of the client, or why the client gave up.
fn handshake(server: Leaf, expected: &Fingerprint, own: Option<Leaf>) -> Result<Peer, rustls::Error> {
    let keys = ServerKeys::new(server).expect("because a P-256 key can sign");
    let server_config = tls::server_config(keys, &[]).expect("because the provider has TLS 1.3");
    let client_config = tls::pinned_client_config(BTreeSet::from([expected.clone()]), own, &[])?;
    let name = ServerName::try_from(tls::MACHINE_NAME).expect("because it is a DNS name");
    let mut client = ClientConnection::new(Arc::new(client_config), name)?;
    let mut server = ServerConnection::new(Arc::new(server_config))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("because a vector takes everything");
        server.read_tls(&mut wire.as_slice()).expect("because the bytes are there");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("because a vector takes everything");
        client.read_tls(&mut wire.as_slice()).expect("because the bytes are there");
        client.process_new_packets()?;
    }
    Ok(tls::peer(server.peer_certificates(), now()))
}

#[test]
fn a_leaf_proves_the_machine_and_the_service() {
    let (server, client) = (identity(), identity());
    let peer = handshake(leaf(&server, "machined"), &server.fingerprint(), Some(leaf(&client, "gitsync")));
    let expected = Peer::Machine { identity: client.fingerprint(), service: "gitsync".to_owned() };
    assert_eq!(peer.expect("because the fingerprint was expected"), expected);
}

#[test]
fn a_persons_certificate_proves_its_key_and_nothing_more() {
    let server = identity();
    let key = LeafKey::generate().expect("because the system has randomness");
    let own = key.self_signed(Timestamp::now()).expect("because the key can sign");
    let peer = handshake(leaf(&server, "machined"), &server.fingerprint(), Some(own));
    assert_eq!(peer.expect("because the fingerprint was expected"), Peer::Key(key.fingerprint()));
}

#[test]
fn no_certificate_is_anonymous() {
    let server = identity();
    let peer = handshake(leaf(&server, "machined"), &server.fingerprint(), None);
    assert_eq!(peer.expect("because the fingerprint was expected"), Peer::Anonymous);
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let (server, other) = (identity(), identity());
    let refused = handshake(leaf(&server, "machined"), &other.fingerprint(), None).expect_err("another identity");
    assert!(refused.to_string().contains(server.fingerprint().as_str()), "{refused} names nobody");
}

#[test]
fn a_leaf_under_a_foreign_identity_certificate_is_only_its_key() {
    let (mine, victim) = (identity(), identity());
    let key = LeafKey::generate().expect("because the system has randomness");
    let chain = |by: &IdentityKey| {
        by.issue_leaf(&key.spki(), "gitsync", &[], Timestamp::now()).expect("because the identity can sign")
    };
    // My leaf, followed by the victim's identity certificate: the signature between them does not hold.
    let forged = [chain(&mine)[0].clone(), chain(&victim)[1].clone()];
    assert_eq!(tls::peer(Some(&forged), now()), Peer::Key(key.fingerprint()));
}

#[test]
fn an_expired_leaf_is_only_its_key() {
    let identity = identity();
    let key = LeafKey::generate().expect("because the system has randomness");
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_hours(48);
    let chain = identity.issue_leaf(&key.spki(), "gitsync", &[], long_ago).expect("because the identity can sign");
    assert_eq!(tls::peer(Some(&chain), now()), Peer::Key(key.fingerprint()));
}

#[test]
fn a_seal_holds_for_its_state_and_its_machine_only() {
    let (mine, other) = (identity(), identity());
    let seal = mine.seal(b"accepted step 7").expect("because its key is on the disk");
    assert!(mine.check_seal(b"accepted step 7", &seal));
    assert!(!mine.check_seal(b"accepted step 6", &seal));
    assert!(!other.check_seal(b"accepted step 7", &seal));
}
