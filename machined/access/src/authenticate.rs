//! From a TLS peer and a login to a [`Principal`].

use crate::login::{LOGIN_LIFETIME_MAX, LoginError, ProvenLogin};
use crate::ssh::SignatureError;
use crate::table::{Access, AccessTable, MachineRole};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{Fingerprint, MachineName, PrincipalName};
use std::collections::BTreeSet;

/// How far a signer's clock may run ahead of ours.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What the TLS handshake proved about the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate.
    Anonymous,
    /// A client key, by the fingerprint of its SubjectPublicKeyInfo.
    Key(Fingerprint),
    /// A valid leaf: a service on the machine with this identity.
    Machine {
        /// Fingerprint of the identity key that signed the leaf.
        identity: Fingerprint,
        /// The service that machined made the leaf for.
        service: String,
    },
}

/// Somebody, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A person or a robot.
    Person {
        /// Name in `trust/`.
        name: PrincipalName,
        /// SSH key that signed the login.
        key: Fingerprint,
        /// Roles in the accepted step.
        roles: BTreeSet<PrincipalName>,
        /// The strongest right among the roles.
        access: Access,
    },
    /// A service on a machine.
    Machine {
        /// Name in `machines/`.
        name: MachineName,
        /// The machine's part in the cluster.
        role: MachineRole,
        /// The service on it: `controlplane`, `gitsync`, `machined`.
        service: String,
        /// Fingerprint of its identity key.
        identity: Fingerprint,
    },
}

/// Why somebody is nobody here.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Neither a login nor a machine's leaf.
    #[error("not logged in; run `cairnctl login`")]
    NoLogin,
    /// The identity is not in `machines/` of the accepted step.
    #[error("no machine of the accepted step has identity {identity}")]
    UnknownMachine {
        /// The fingerprint.
        identity: Fingerprint,
    },
    /// The login was made for another cluster.
    #[error("the login is for another cluster; run `cairnctl login` with this cluster's context")]
    OtherCluster,
    /// The login names another client key than the handshake proved.
    #[error("the login belongs to another client key; run `cairnctl login` again")]
    OtherClientKey,
    /// The login is over, or its life was too long.
    #[error("the login has expired; run `cairnctl login` again")]
    Expired,
    /// The login was made in the future.
    #[error("the login was issued at {issued}, ahead of this machine's clock; check both clocks")]
    NotYet {
        /// When, by the signer's clock.
        issued: Timestamp,
    },
    /// The login cannot be read.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The signature is worth nothing.
    #[error("the login's signature is not valid")]
    Signature(#[from] SignatureError),
    /// A hardware key that nobody touched.
    #[error("the login was signed by hardware key {key} without a touch")]
    NoTouch {
        /// The key.
        key: Fingerprint,
    },
    /// No principal has this key for logging in.
    #[error("key {key} may not log in; a commit to trust/ can allow it")]
    UnknownKey {
        /// The key.
        key: Fingerprint,
    },
    /// The principal has no role with a right on the APIs.
    #[error("{name} has no role with access; a commit to trust/ can give one")]
    NoRole {
        /// The principal.
        name: PrincipalName,
    },
}

/// Says who `peer` with `login` is, by the accepted step's `table`, at `now`.
///
/// # Errors
/// [`Denied`], whose text tells the person what to do.
pub fn authenticate(
    table: &AccessTable,
    peer: &Peer,
    login: Option<&ProvenLogin>,
    now: Timestamp,
) -> Result<Principal, Denied> {
    match peer {
        Peer::Anonymous => Err(Denied::NoLogin),
        Peer::Machine { identity, service } => machine(table, identity, service),
        Peer::Key(client_key) => person(table, client_key, login.ok_or(Denied::NoLogin)?, now),
    }
}

fn machine(table: &AccessTable, identity: &Fingerprint, service: &str) -> Result<Principal, Denied> {
    let (name, entry) =
        table.machine_by_identity(identity).ok_or_else(|| Denied::UnknownMachine { identity: identity.clone() })?;
    let (name, role) = (name.clone(), entry.role);
    Ok(Principal::Machine { name, role, service: service.to_owned(), identity: identity.clone() })
}

fn person(
    table: &AccessTable,
    client_key: &Fingerprint,
    ProvenLogin { statement, signed, likely }: &ProvenLogin,
    now: Timestamp,
) -> Result<Principal, Denied> {
    if statement.cluster != table.cluster {
        return Err(Denied::OtherCluster);
    }
    if statement.client_key != *client_key {
        return Err(Denied::OtherClientKey);
    }
    if statement.issued.duration_since(now) > CLOCK_SKEW {
        return Err(Denied::NotYet { issued: statement.issued });
    }
    let lifetime = statement.expires.duration_since(statement.issued);
    if statement.expires <= now || lifetime > LOGIN_LIFETIME_MAX {
        return Err(Denied::Expired);
    }
    let key = || signed.key.clone();
    if signed.touched == Some(false) {
        return Err(Denied::NoTouch { key: key() });
    }
    let Some((name, person)) = table.person_by_key(&signed.key, likely.as_ref()) else {
        return Err(Denied::UnknownKey { key: key() });
    };
    let access = table.access_of(person).ok_or_else(|| Denied::NoRole { name: name.clone() })?;
    Ok(Principal::Person { name: name.clone(), key: key(), roles: person.roles.clone(), access })
}
