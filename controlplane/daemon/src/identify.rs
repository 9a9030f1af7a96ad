//! From a TLS peer and a login to the caller that the API server sees. Pure; the listener asks it for every request.

use controlplane_apiserver::{CONTROLLERS, Caller, MASTERS, OPERATOR, READER, ROLE_PREFIX, Refused};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use machined_access::{Access, AccessTable, Peer, Principal, Proven, Standing};
use machined_config::Role;
use machined_ids::Fingerprint;

/// The service name of this program in a machine's leaf.
pub(crate) const SERVICE: &str = "controlplane";

/// What the API server is told about who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Somebody proven, or nobody in particular.
    Caller(Caller),
    /// Credentials that are worth nothing.
    Refused(Refused),
    /// A service-account token, which the API server checks itself.
    Token,
}

/// Says who asks, by the accepted step's `table`; of people and machines also what says when that is over.
pub(crate) fn identify(
    table: &AccessTable,
    connection: &Proven,
    headers: &HeaderMap,
    now: Timestamp,
) -> (Asking, Option<Standing>) {
    let refused = |text: String| (Asking::Refused(Refused(text)), None);
    let token = match bearer(headers) {
        Ok(token) => token,
        Err(text) => return refused(text.to_owned()),
    };
    // A JWT has three parts; a login statement has none.
    if token.is_some_and(|token| token.matches('.').count() == 2) {
        return (Asking::Token, None);
    }
    let is_machine = matches!(connection.peer(), Peer::Machine { .. });
    if token.is_none() && !is_machine {
        return (Asking::Caller(Caller::anonymous()), None);
    }
    match connection.standing(table, token, now) {
        Ok(standing) => (Asking::Caller(caller(standing.principal())), Some(standing)),
        Err(denied) => refused(denied.to_string()),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        Ok(Some(token.trim()))
    } else {
        Err("only bearer tokens are understood")
    }
}

fn caller(principal: &Principal) -> Caller {
    match principal {
        Principal::Person { name, key, roles, access } => {
            let mut groups: Vec<String> = roles.iter().map(|role| format!("{ROLE_PREFIX}{role}")).collect();
            groups.push(match access {
                Access::Reader => READER.to_owned(),
                Access::Operator => OPERATOR.to_owned(),
                Access::Admin => MASTERS.to_owned(),
            });
            Caller::authenticated(name.as_str(), groups, key.as_str())
        }
        Principal::Machine { name, role, service, identity } => {
            machine(name.as_str(), role_of(*role), service, identity)
        }
    }
}

fn role_of(role: machined_access::MachineRole) -> Role {
    match role {
        machined_access::MachineRole::ControlPlane => Role::ControlPlane,
        machined_access::MachineRole::Worker => Role::Worker,
    }
}

/// A service on a machine: its agent (and, on control-plane machines, its controllers), its gitsync, or just the machine.
fn machine(name: &str, role: Role, service: &str, identity: &Fingerprint) -> Caller {
    match service {
        SERVICE => {
            let mut caller = Caller::node(name, identity.as_str());
            if role == Role::ControlPlane {
                caller.groups.push(CONTROLLERS.to_owned());
            }
            caller
        }
        "gitsync" => match role {
            Role::ControlPlane => Caller::gitsync(identity.as_str()),
            Role::Worker => Caller::gitsync_of_worker(name, identity.as_str()),
        },
        other => Caller::authenticated(format!("cairn:machine:{name}:{other}"), [], identity.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane_apiserver::{GITSYNC, NODES};
    use machined_access::{AccessTable, MachineEntry, MachineRole};
    use machined_ids::{ClusterId, MachineName, Seq, StepId};
    use std::collections::BTreeMap;

    fn fingerprint(byte: u8) -> Fingerprint {
        Fingerprint::from_sha256(&[byte; 32])
    }

    fn table() -> AccessTable {
        let machine = |name: &str, byte, role| {
            let name = MachineName::parse(name).expect("because it is a label");
            (name, MachineEntry { identity: fingerprint(byte), role })
        };
        AccessTable {
            cluster: ClusterId::from_bytes([7; 16]),
            seq: Seq(1),
            step: StepId::from_bytes([1; 32]),
            people: BTreeMap::new(),
            roles: BTreeMap::new(),
            machines: BTreeMap::from([
                machine("cp1", 1, MachineRole::ControlPlane),
                machine("w1", 2, MachineRole::Worker),
            ]),
            images: Default::default(),
        }
    }

    fn asked(peer: Peer, authorization: Option<&str>) -> Asking {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(AUTHORIZATION, text.parse().expect("because the cases are header values"));
        }
        identify(&table(), &Proven::new(peer), &headers, Timestamp::UNIX_EPOCH).0
    }

    #[test]
    fn a_machines_services_are_who_the_table_says() {
        let peer = |byte, service: &str| Peer::Machine { identity: fingerprint(byte), service: service.into() };
        let caller_of = |peer| match asked(peer, None) {
            Asking::Caller(caller) => caller,
            other => panic!("not a caller: {other:?}"),
        };
        let control_plane = caller_of(peer(1, "controlplane"));
        assert_eq!(control_plane.user, "system:node:cp1");
        assert!(control_plane.in_group(NODES) && control_plane.in_group(CONTROLLERS));
        let worker = caller_of(peer(2, "controlplane"));
        assert!(worker.in_group(NODES) && !worker.in_group(CONTROLLERS));
        assert_eq!(caller_of(peer(1, "gitsync")).user, GITSYNC);
        let of_worker = caller_of(peer(2, "gitsync"));
        assert_eq!(of_worker.gitsync_worker(), Some("w1"));
        assert!(!of_worker.in_group(GITSYNC), "what a worker may is not what the control plane may");
        assert!(matches!(asked(peer(9, "controlplane"), None), Asking::Refused(_)));
    }

    #[test]
    fn a_key_alone_is_nobody_and_bad_credentials_are_refused() {
        let key = || Peer::Key(fingerprint(5));
        assert_eq!(asked(key(), None), Asking::Caller(Caller::anonymous()));
        assert_eq!(asked(Peer::Anonymous, None), Asking::Caller(Caller::anonymous()));
        assert_eq!(asked(Peer::Anonymous, Some("Bearer a.b.c")), Asking::Token);
        for text in ["Basic YTpi", "Bearer", "Bearer nonsense"] {
            assert!(matches!(asked(key(), Some(text)), Asking::Refused(_)), "{text}");
        }
    }
}
