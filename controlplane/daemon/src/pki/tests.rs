//! Keys on a disk, and what clients with an old or a new bundle make of them.

use super::*;
use machined_access::LeafKey;
use machined_access::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const NAMES: [&str; 2] = ["localhost", "10.96.0.1"];

fn roles(serving: Digest, tokens: Digest, believed: &[Digest]) -> Roles<Digest> {
    Roles { serving, tokens, believed: believed.iter().copied().collect() }
}

fn only(pki: &Pki) -> Digest {
    let held = pki.held();
    assert_eq!(held.len(), 1);
    *held.first().expect("because it has one")
}

fn files(folder: &Path) -> Vec<String> {
    let list = fs::read_dir(folder).expect("because it is there").flatten();
    let mut names: Vec<String> = list.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Shows what the keys say to the world, as the API server does.
fn shown(pki: &Pki) -> Arc<ServerKeys> {
    let leaf = LeafKey::generate().and_then(|key| key.self_signed(jiff::Timestamp::now()));
    let keys = ServerKeys::new(leaf.expect("because the system has randomness")).expect("because the key can sign");
    pki.show(Arc::clone(&keys), NAMES.map(str::to_owned).to_vec()).expect("because the names are names");
    keys
}

/// Whether a client that trusts these authorities finishes a handshake, as kubectl with this bundle would.
fn believes(bundle: &str, keys: &Arc<ServerKeys>) -> bool {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.expect("because it is PEM")).expect("because it is an authority");
    }
    let provider = tls::provider();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.expect("because the provider has them").with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("because it is a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("because the name is good");
    let config = tls::server_config(Arc::clone(keys), &[]).expect("because the provider has all versions");
    let mut server = ServerConnection::new(Arc::new(config)).expect("because the configuration is good");
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("because it is memory");
        server.read_tls(&mut wire.as_slice()).expect("because it is memory");
        server.process_new_packets().expect("because the client speaks TLS");
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("because it is memory");
        client.read_tls(&mut wire.as_slice()).expect("because it is memory");
        if client.process_new_packets().is_err() {
            return false;
        }
        if !client.is_handshaking() {
            return true;
        }
    }
    panic!("a handshake takes a few messages");
}

#[test]
fn the_keys_are_made_once_and_for_nobody_else_to_read() {
    let folder = tempfile::tempdir().expect("because the system has a temporary folder");
    let pki = folder.path().join("pki");
    assert!(matches!(Pki::open(&pki, false), Err(PkiError::Missing { .. })));
    let first = Pki::open(&pki, true).expect("because the bootstrap machine makes them");
    let second = Pki::open(&pki, true).expect("because they are there now");
    assert_eq!(first.held(), second.held());
    assert_eq!(*first.authorities().borrow(), *second.authorities().borrow());
    let made = second.make().expect("because the folder can be written");
    for file in ["ca.key".to_owned(), "sa.key".to_owned(), "ca.crt".to_owned(), format!("{made}.keys")] {
        let mode = fs::metadata(pki.join(&file)).expect("because it was written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_client_with_the_old_authorities_goes_on_through_the_grace_and_no_longer() {
    let folder = tempfile::tempdir().expect("because the system has a temporary folder");
    let pki = Pki::open(folder.path(), true).expect("because the folder is writable");
    let (old, keys) = (only(&pki), shown(&pki));
    let before = pki.authorities().borrow().clone();
    assert!(believes(&before, &keys));
    let new = pki.make().expect("because the folder is writable");
    for tokens in [old, new] {
        pki.employ(&roles(old, tokens, &[old, new])).expect("because both are here");
        let both = pki.authorities().borrow().clone();
        assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(both.starts_with(before.trim_end()), "the one that signs comes first");
        assert!(believes(&before, &keys) && believes(&both, &keys));
    }
    let both = pki.authorities().borrow().clone();
    pki.employ(&roles(new, new, &[old, new])).expect("because both are here");
    assert!(believes(&both, &keys), "who fetched the new authority in the grace goes on");
    assert!(!believes(&before, &keys), "who did not does not");
    pki.employ(&roles(new, new, &[new])).expect("because it is here");
    let after = pki.authorities().borrow().clone();
    assert_eq!(after.matches("BEGIN CERTIFICATE").count(), 1);
    assert!(believes(&both, &keys) && believes(&after, &keys));
    assert_eq!(files(folder.path()), [format!("{new}.keys")], "old keys lie on no disk any more");
}

#[test]
fn what_another_member_gave_is_kept_only_when_it_is_what_was_asked_for() {
    let folder = || tempfile::tempdir().expect("because the system has a temporary folder");
    let (here, there) = (folder(), folder());
    let first = Pki::open(here.path(), true).expect("because the folder is writable");
    let old = only(&first);
    let joined: Bundle = serde_json::from_slice(&first.reveal(&old).expect("because it is here")).expect("because");
    joined.keep(there.path()).expect("because the folder is writable");
    let second = Pki::open(there.path(), false).expect("because it was given them");
    assert_eq!(only(&second), old);
    let new = first.make().expect("because the folder is writable");
    let secret = first.reveal(&new).expect("because it is here");
    assert!(second.keep(&old, &secret).is_err(), "other keys");
    assert!(second.keep(&new, b"{}").is_err());
    let key = |pki: &Pki, keys| pki.set(keys).expect("because it is here").authority_key.clone();
    let text = String::from_utf8(secret.clone()).expect("because it is JSON");
    let escaped = |pem: String| serde_json::to_string(&pem).expect("because it is text");
    let swapped = text.replace(&escaped(key(&first, &new)), &escaped(key(&first, &old)));
    assert_ne!(swapped, text);
    assert!(second.keep(&new, swapped.as_bytes()).is_err(), "the certificate of one key with another key");
    assert_eq!(second.held(), [old].into());
    second.keep(&new, &secret).expect("because these are they");
    assert_eq!(second.held(), [old, new].into());
    // Started again in the middle, it has both, and does nothing with them before it is told what.
    let again = Pki::open(there.path(), false).expect("because both are whole");
    assert_eq!(again.held(), [old, new].into());
    assert_eq!(*again.authorities().borrow(), "");
    let missing = Digest::from_bytes([7; 32]);
    assert!(again.employ(&roles(missing, old, &[old, missing])).is_err());
    again.employ(&roles(old, old, &[old, new])).expect("because both are here");
    assert_ne!(*again.authorities().borrow(), "");
}

#[test]
fn a_file_that_was_cut_short_is_said_and_nothing_of_it_used() {
    let folder = tempfile::tempdir().expect("because the system has a temporary folder");
    let pki = Pki::open(folder.path(), true).expect("because the folder is writable");
    let new = pki.make().expect("because the folder is writable");
    let file = folder.path().join(format!("{new}.keys"));
    fs::write(folder.path().join(format!("{new}.new")), b"half a draf").expect("because it is writable");
    assert_eq!(Pki::open(folder.path(), false).map(|pki| pki.held().len()).ok(), Some(2), "a draft is nothing");
    let other = pki.make().expect("because the folder is writable");
    fs::copy(folder.path().join(format!("{other}.keys")), &file).expect("because it is writable");
    assert!(matches!(Pki::open(folder.path(), false), Err(PkiError::Other { .. })));
    fs::write(&file, b"{").expect("because it is writable");
    assert!(matches!(Pki::open(folder.path(), false), Err(PkiError::Text(_))));
}
