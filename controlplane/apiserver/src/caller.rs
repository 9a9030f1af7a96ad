//! Who is asking. Set as a request extension by whoever accepted the connection: the TLS listener, or an in-process transport.
//!
//! The API server never reads an identity from a header that a client could write itself, service-account tokens apart,
//! which it verifies.

/// Group of everybody who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of node agents.
pub const NODES: &str = "system:nodes";
/// Group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The built-in controllers and the scheduler.
pub const CONTROLLERS: &str = "system:cairn:controllers";
/// gitsync, the only writer of `commits.cairn.dev` and `machines.cairn.dev`.
pub const GITSYNC: &str = "system:cairn:gitsync";

/// The gitsync of every worker: each writes the status of its own `machines.cairn.dev` object and nothing else.
pub const GITSYNC_WORKERS: &str = "system:cairn:gitsync-workers";
/// Prefix of the groups that a person's roles in `trust/` become.
pub const ROLE_PREFIX: &str = "cairn:role:";
/// People whose strongest right is operator.
pub const OPERATOR: &str = "cairn:access:operator";
/// People whose strongest right is reader.
pub const READER: &str = "cairn:access:reader";

/// Request extension in place of a [`Caller`]: credentials were shown and are worth nothing. Answered with 401 and this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

/// An authenticated (or anonymous) user, as authorization and audit see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user name: a principal, `system:node:<name>`, `system:serviceaccount:<ns>:<name>`, ...
    pub user: String,
    /// The groups, [`AUTHENTICATED`] or [`UNAUTHENTICATED`] included.
    pub groups: Vec<String>,
    /// Fingerprint of the key that proved it, for the audit line; empty for in-process callers and anonymous.
    pub key: String,
}

impl Caller {
    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Caller { user: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], key: String::new() }
    }

    /// Somebody who proved who they are; adds [`AUTHENTICATED`].
    #[must_use]
    pub fn authenticated(
        user: impl Into<String>,
        groups: impl IntoIterator<Item = String>,
        key: impl Into<String>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        groups.push(AUTHENTICATED.into());
        Caller { user: user.into(), groups, key: key.into() }
    }

    /// The controllers and the scheduler inside this process.
    #[must_use]
    pub fn controllers() -> Self {
        Caller::authenticated(CONTROLLERS, [CONTROLLERS.to_owned()], "")
    }

    /// The agent of a node.
    #[must_use]
    pub fn node(name: &str, key: &str) -> Self {
        Caller::authenticated(format!("system:node:{name}"), [NODES.to_owned()], key)
    }

    /// The gitsync service of a worker, which shows what its machine accepted and hears the others.
    #[must_use]
    pub fn gitsync_of_worker(machine: &str, key: &str) -> Self {
        Caller::authenticated(format!("{GITSYNC}:{machine}"), [GITSYNC_WORKERS.to_owned()], key)
    }

    /// The gitsync service of a control-plane machine.
    #[must_use]
    pub fn gitsync(key: &str) -> Self {
        Caller::authenticated(GITSYNC, [GITSYNC.to_owned()], key)
    }

    /// Whether nobody proved anything.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.in_group(UNAUTHENTICATED)
    }

    /// Whether the caller is in a group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The worker whose gitsync this is.
    #[must_use]
    pub fn gitsync_worker(&self) -> Option<&str> {
        if !self.in_group(GITSYNC_WORKERS) {
            return None;
        }
        self.user.strip_prefix(GITSYNC)?.strip_prefix(':')
    }

    /// The node whose agent this is.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        if self.in_group(NODES) { self.user.strip_prefix("system:node:") } else { None }
    }
}
