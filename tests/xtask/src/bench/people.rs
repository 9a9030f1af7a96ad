//! What a login and a request cost a server: handshake, login statement, and the look at the accepted step's table.
//!
//! Part of `cargo xtask bench trust`. The handshake runs in memory; only the server's side of it is counted, in processor time.

use super::trust::processor_time;
use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use machined_access::tls::{self, ServerKeys};
use machined_access::{
    Access, AccessTable, IdentityKey, LOGIN_NAMESPACE, LeafKey, LoginStatement, Person, Proven, RoleEntry, SignedLogin,
    ssh_fingerprint,
};
use machined_ids::{ClusterId, PrincipalName, Seq, StepId};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use ssh_key::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tests_support::authenticator::PlainKey;

/// Logins that are measured, each on a connection of its own.
const LOGINS: u32 = 200;

/// Requests that are measured on one open connection.
const REQUESTS: u32 = 200_000;

/// People in the table, as in a large organisation.
const PEOPLE: u32 = 200;

/// Processor time of a server.
pub(super) struct Costs {
    /// One login: handshake, signature, table.
    pub(super) login: Duration,
    /// One further request on an open connection.
    pub(super) request: Duration,
}

pub(super) fn measure() -> Result<Costs> {
    let (ssh, now) = (PlainKey::from_seed([3; 32]), Timestamp::now());
    let table = table(&ssh)?;
    let identity = IdentityKey::generate()?;
    let client = LeafKey::generate()?;
    let token = token(&ssh, &client, now)?;
    let leaf = LeafKey::generate()?;
    let chain = identity.issue_leaf(&leaf.spki(), "machined", &["127.0.0.1".to_owned()], now)?;
    let server = Arc::new(tls::server_config(ServerKeys::new(leaf.with_chain(chain))?, &[])?);
    let pinned = BTreeSet::from([identity.fingerprint()]);
    let config = Arc::new(tls::pinned_client_config(pinned, Some(client.self_signed(now)?), &[])?);

    let (mut login, mut last) = (Duration::ZERO, None);
    for _ in 0..LOGINS {
        let (server, mut spent) = handshake(&server, &config)?;
        let begun = processor_time()?;
        let proven = Proven::new(tls::peer(server.peer_certificates(), UnixTime::now()));
        proven.authenticate(&table, Some(&token), now)?;
        spent += processor_time()?.saturating_sub(begun);
        login += spent;
        last = Some(proven);
    }
    let Some(proven) = last else { anyhow::bail!("there was no login") };
    let begun = processor_time()?;
    for _ in 0..REQUESTS {
        std::hint::black_box(proven.authenticate(&table, Some(std::hint::black_box(&token)), now)?);
    }
    let requests = processor_time()?.saturating_sub(begun);
    Ok(Costs { login: login / LOGINS, request: requests / REQUESTS })
}

/// A TLS handshake in memory, and the processor time of its server.
fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Result<(ServerConnection, Duration)> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from(tls::MACHINE_NAME)?)?;
    let begun = processor_time()?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut spent = processor_time()?.saturating_sub(begun);
    while client.is_handshaking() || server.is_handshaking() {
        let (mut question, mut answer) = (Vec::new(), Vec::new());
        client.write_tls(&mut question)?;
        let begun = processor_time()?;
        server.read_tls(&mut question.as_slice())?;
        server.process_new_packets()?;
        server.write_tls(&mut answer)?;
        spent += processor_time()?.saturating_sub(begun);
        client.read_tls(&mut answer.as_slice())?;
        client.process_new_packets()?;
    }
    Ok((server, spent))
}

fn token(ssh: &PlainKey, client: &LeafKey, now: Timestamp) -> Result<String> {
    let statement = LoginStatement {
        cluster: ClusterId::from_bytes([1; 16]),
        client_key: client.fingerprint(),
        issued: now,
        expires: now + SignedDuration::from_hours(8),
    };
    let armour = ssh.sign(LOGIN_NAMESPACE, statement.to_string().as_bytes());
    Ok(SignedLogin::new(statement, &armour)?.to_token())
}

fn table(ssh: &PlainKey) -> Result<AccessTable> {
    let role = PrincipalName::parse("admins")?;
    let mut people = BTreeMap::new();
    for number in 0..PEOPLE {
        // The last one is who logs in.
        let key = if number + 1 == PEOPLE { ssh.public_key() } else { PlainKey::from_seed(seed(number)).public_key() };
        let keys = BTreeSet::from([ssh_fingerprint(PublicKey::from_openssh(&key)?.key_data())]);
        people.insert(PrincipalName::parse(&format!("p{number:03}"))?, Person { keys, roles: [role.clone()].into() });
    }
    ensure!(people.len() == PEOPLE as usize, "two people have one name");
    Ok(AccessTable {
        cluster: ClusterId::from_bytes([1; 16]),
        seq: Seq(1),
        step: StepId::from_bytes([1; 32]),
        people,
        roles: BTreeMap::from([(role, RoleEntry { access: Access::Admin })]),
        machines: BTreeMap::new(),
        images: Default::default(),
    })
}

fn seed(number: u32) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    seed
}
