//! Logins, good and bad, through [`Proven`].

use jiff::{SignedDuration, Timestamp};
use machined_access::{
    Access, AccessTable, Denied, LOGIN_NAMESPACE, LeafKey, LoginStatement, MachineEntry, MachineRole, Peer, Person,
    Principal, Proven, RoleEntry, SignedLogin, authenticate, ssh_fingerprint,
};
use machined_ids::{ClusterId, Fingerprint, MachineName, PrincipalName, Seq, StepId};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use std::collections::{BTreeMap, BTreeSet};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

pub(crate) struct Login {
    pub(crate) ssh: PrivateKey,
    pub(crate) namespace: &'static str,
    pub(crate) statement: LoginStatement,
}

pub(crate) fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("because it is a timestamp")
}

fn ssh_key(seed: u8) -> PrivateKey {
    let pair = Ed25519Keypair::from_seed(&[seed; 32]);
    PrivateKey::new(KeypairData::Ed25519(pair), "").expect("because the key has no comment to be wrong")
}

pub(crate) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("because the tests use good names")
}

pub(crate) fn machine_identity() -> Fingerprint {
    Fingerprint::from_sha256(&[9; 32])
}

/// alice is an admin by key 1, bob has key 2 and a role without access; cp1 is a machine.
pub(crate) fn table() -> AccessTable {
    let person = |seed, role| Person {
        keys: BTreeSet::from([ssh_fingerprint(ssh_key(seed).public_key().key_data())]),
        roles: BTreeSet::from([name(role)]),
    };
    let cp1 = MachineEntry { identity: machine_identity(), role: MachineRole::ControlPlane };
    AccessTable {
        cluster: CLUSTER,
        seq: Seq(3),
        step: StepId::from_bytes([1; 32]),
        people: BTreeMap::from([(name("alice"), person(1, "admins")), (name("bob"), person(2, "approvers"))]),
        roles: BTreeMap::from([(name("admins"), RoleEntry { access: Access::Admin })]),
        machines: BTreeMap::from([(MachineName::parse("cp1").expect("because it is a label"), cp1)]),
        images: Default::default(),
    }
}

pub(crate) fn good_login(client: &LeafKey) -> Login {
    let statement = LoginStatement {
        cluster: CLUSTER,
        client_key: client.fingerprint(),
        issued: now() - SignedDuration::from_mins(1),
        expires: now() + SignedDuration::from_hours(8),
    };
    Login { ssh: ssh_key(1), namespace: LOGIN_NAMESPACE, statement }
}

/// Signs, sends as a token over a new connection, and authenticates.
fn try_login(login: Login, client: &LeafKey) -> Result<Principal, Denied> {
    connection(client).authenticate(&table(), Some(&token(login)), now())
}

pub(crate) fn connection(client: &LeafKey) -> Proven {
    Proven::new(Peer::Key(client.fingerprint()))
}

pub(crate) fn token(login: Login) -> String {
    let text = login.statement.to_string();
    let signature = login
        .ssh
        .sign(login.namespace, HashAlg::Sha512, text.as_bytes())
        .and_then(|signature| signature.to_pem(LineEnding::LF))
        .expect("because an ed25519 key can sign");
    let signed = SignedLogin::new(login.statement, &signature).expect("because the signature is armoured");
    signed.to_token()
}

fn client() -> LeafKey {
    LeafKey::generate().expect("because the system has randomness")
}

#[test]
fn a_login_makes_its_signer_the_principal_with_the_strongest_right() {
    let client = client();
    let principal = try_login(good_login(&client), &client).expect("because the login is good");
    let Principal::Person { name: who, roles, access, .. } = principal else {
        panic!("a person became {principal:?}");
    };
    assert_eq!((who.as_str(), access), ("alice", Access::Admin));
    assert_eq!(roles, BTreeSet::from([name("admins")]));
}

#[test]
fn t71_on_an_open_connection_time_and_the_table_count_on_every_request() {
    let client = client();
    let (connection, token) = (connection(&client), token(good_login(&client)));
    let ask = |table: &AccessTable, now| connection.authenticate(table, Some(&token), now);
    assert!(ask(&table(), now()).is_ok());
    assert!(matches!(ask(&table(), now() + SignedDuration::from_hours(9)), Err(Denied::Expired)));
    let mut without = table();
    without.people.remove(&name("alice"));
    assert!(matches!(ask(&without, now()), Err(Denied::UnknownKey { .. })));
    // The key passes to somebody else: who it is decides, not who it was.
    let mut moved = table();
    let alice = moved.people.remove(&name("alice")).expect("because she is in the table");
    moved.people.insert(name("carol"), alice);
    assert!(matches!(ask(&moved, now()), Ok(Principal::Person { name, .. }) if name.as_str() == "carol"));
    assert!(ask(&table(), now()).is_ok());
    assert!(matches!(connection.authenticate(&table(), Some("another"), now()), Err(Denied::Login(_))));
    assert!(matches!(connection.authenticate(&table(), None, now()), Err(Denied::NoLogin)));
}

#[test]
fn a_login_relayed_with_another_client_key_is_worth_nothing() {
    let (owner, thief) = (client(), client());
    assert!(matches!(try_login(good_login(&owner), &thief), Err(Denied::OtherClientKey)));
}

#[test]
fn a_login_for_another_cluster_is_refused() {
    let client = client();
    let mut login = good_login(&client);
    login.statement.cluster = ClusterId::from_bytes([8; 16]);
    assert!(matches!(try_login(login, &client), Err(Denied::OtherCluster)));
}

#[test]
fn a_login_lives_twelve_hours_at_most_and_not_before_it_was_made() {
    let client = client();
    let mut expired = good_login(&client);
    expired.statement.expires = now();
    assert!(matches!(try_login(expired, &client), Err(Denied::Expired)));

    let mut too_long = good_login(&client);
    too_long.statement.expires =
        too_long.statement.issued + SignedDuration::from_hours(12) + SignedDuration::from_secs(1);
    assert!(matches!(try_login(too_long, &client), Err(Denied::Expired)));

    let mut future = good_login(&client);
    future.statement.issued = now() + SignedDuration::from_mins(6);
    assert!(matches!(try_login(future, &client), Err(Denied::NotYet { .. })));
}

#[test]
fn a_signature_made_for_something_else_is_not_a_login() {
    let client = client();
    let mut login = good_login(&client);
    login.namespace = "git";
    assert!(matches!(try_login(login, &client), Err(Denied::Signature(_))));
}

#[test]
fn a_key_that_no_principal_has_for_login_is_refused() {
    let client = client();
    let mut login = good_login(&client);
    login.ssh = ssh_key(3);
    assert!(matches!(try_login(login, &client), Err(Denied::UnknownKey { .. })));
}

#[test]
fn a_principal_whose_roles_give_no_access_is_told_so() {
    let client = client();
    let mut login = good_login(&client);
    login.ssh = ssh_key(2);
    assert!(matches!(try_login(login, &client), Err(Denied::NoRole { .. })));
}

#[test]
fn a_machine_counts_while_its_fingerprint_stands_in_the_table() {
    let peer = |identity| Peer::Machine { identity, service: "gitsync".to_owned() };
    let known = authenticate(&table(), &peer(machine_identity()), None, now()).expect("because cp1 is in the table");
    assert!(matches!(known, Principal::Machine { ref name, .. } if name.as_str() == "cp1"), "{known:?}");
    let stranger = Fingerprint::from_sha256(&[5; 32]);
    assert!(matches!(authenticate(&table(), &peer(stranger), None, now()), Err(Denied::UnknownMachine { .. })));
}

#[test]
fn a_changed_statement_or_token_is_not_read() {
    let client = client();
    let login = good_login(&client);
    assert!(SignedLogin::new(login.statement, "no armour").is_err());
    for token in ["", "!", "aGVsbG8", &"A".repeat(9000)] {
        assert!(SignedLogin::from_token(token).is_err(), "{} characters were read", token.len());
    }
}
