//! The policy of one tree: who there is, what they may approve, and what each rule guards. Read from `trust/*.kdl`.
//!
//! ```kdl
//! // trust/root.kdl: who may change trust, and how the cluster is got back when they cannot.
//! version 1
//! binding "trailer"                       // or "plain": signed commits need no Cairn-Target (see the chapter on trust)
//! root threshold=1 { member "ada" }
//! recovery threshold=1 { member "vault" } // optional
//! principal "ada" {
//!     key "ssh-ed25519 AAAA..." { use "commit" "statement" "login" }
//! }
//!
//! // any other trust/*.kdl
//! role "dev" access="operator" { member "ada" "bob" }   // access: reader, operator, admin; none: approvals only
//! rule "apps" {
//!     owns "apps/**"
//!     reads "shared/**"
//!     approval role="dev" threshold=1
//!     reach { namespace "*"; kind "*"; cluster-scoped #true; privileged #true }
//!     budget deletions=10 { protect "PersistentVolumeClaim" }
//! }
//! ```
//!
//! What it may say about freshness, floors, revoked keys and emergencies is in `emergency.rs`.
//!
//! [`Policy::parse`] reads it, [`Policy::authorise`] judges a step by it. A step is always judged by its parent's policy.

mod emergency;
mod glob;
mod judge;
mod parse;
mod words;

pub use emergency::{BreakGlass, DEFAULT_RECOVERY_DELAY, Floors};
pub use glob::{Glob, GlobError};
pub use judge::Approvals;
pub use words::WordError;

use jiff::SignedDuration;
use machined_access::Access;
use machined_ids::{Fingerprint, PrincipalName, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// The file that holds root and recovery.
pub const ROOT_FILE: &str = "trust/root.kdl";

/// A whole policy, valid by construction: every name resolves and every threshold can be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) binding: Binding,
    pub(crate) root: Quorum,
    pub(crate) recovery: Option<Quorum>,
    pub(crate) recovery_delay: SignedDuration,
    pub(crate) freshness: Option<SignedDuration>,
    pub(crate) floors: Floors,
    pub(crate) break_glass: Option<BreakGlass>,
    pub(crate) revoked: BTreeMap<Fingerprint, Seq>,
    pub(crate) principals: BTreeMap<PrincipalName, Principal>,
    pub(crate) roles: BTreeMap<PrincipalName, Role>,
    pub(crate) rules: Vec<Rule>,
}

/// What ties a signed commit to this cluster and branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The commit must carry `Cairn-Target: <cluster id> <deploy ref>`.
    Trailer,
    /// Nothing: whoever serves the repository may offer any commit that somebody signed, a side branch included.
    Plain,
}

/// Who decides together, and how many of them it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// Distinct principals needed, at least 1.
    pub threshold: u32,
    /// Who counts.
    pub members: BTreeSet<PrincipalName>,
}

/// A person or a robot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Keys by fingerprint, with what each is for. A key belongs to one principal.
    pub keys: BTreeMap<Fingerprint, BTreeSet<Use>>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Signs commits.
    Commit,
    /// Signs release statements.
    Statement,
    /// Logs in to both APIs.
    Login,
    /// Signs beacons.
    Fresh,
    /// Signs images.
    Image,
    /// Signs recovery.
    Recovery,
}

impl Use {
    /// All of them, in the order of the specification.
    pub const ALL: [Use; 6] = [Use::Commit, Use::Statement, Use::Login, Use::Fresh, Use::Image, Use::Recovery];

    /// The word in a policy file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Use::Commit => "commit",
            Use::Statement => "statement",
            Use::Login => "login",
            Use::Fresh => "fresh",
            Use::Image => "image",
            Use::Recovery => "recovery",
        }
    }
}

/// Principals under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// What its members may do on the APIs; `None` for a role that only approves.
    pub access: Option<Access>,
    /// Who is in it.
    pub members: BTreeSet<PrincipalName>,
}

/// What guards some files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name in messages.
    pub name: String,
    /// Files that are its own.
    pub owns: Vec<Glob>,
    /// Shared files that its units may use; changing one needs this rule's approval as well.
    pub reads: Vec<Glob>,
    /// The role that approves.
    pub role: PrincipalName,
    /// Distinct members of the role needed, at least 1.
    pub threshold: u32,
    /// What its objects may touch.
    pub reach: Reach,
    /// What one activation may take away.
    pub budget: Budget,
}

/// Namespaces and kinds that a rule's objects may be in. Nothing is in reach unless it is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Namespaces; `*` is any.
    pub namespaces: BTreeSet<String>,
    /// Kinds (`Deployment`); `*` is any.
    pub kinds: BTreeSet<String>,
    /// Whether objects without a namespace are in reach too.
    pub cluster_scoped: bool,
    /// Whether objects that can take over a machine or act as somebody stronger are in reach too; `gitsync/plan` says which.
    pub privileged: bool,
}

impl Reach {
    /// Whether an object is in reach; `namespace` is `None` for cluster-scoped kinds.
    #[must_use]
    pub fn covers(&self, kind: &str, namespace: Option<&str>) -> bool {
        let any = |set: &BTreeSet<String>, name: &str| set.contains(name) || set.contains("*");
        let place = namespace.map_or(self.cluster_scoped, |namespace| any(&self.namespaces, namespace));
        place && any(&self.kinds, kind)
    }
}

/// What one activation may take away under a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// Objects that may be pruned at once; `None` is any number.
    pub deletions: Option<u32>,
    /// Kinds that are never pruned.
    pub protected: BTreeSet<String>,
}

impl Policy {
    /// The principal that a key belongs to, with the key's uses.
    #[must_use]
    pub fn key(&self, key: &Fingerprint) -> Option<(&PrincipalName, &BTreeSet<Use>)> {
        self.principals.iter().find_map(|(name, principal)| Some((name, principal.keys.get(key)?)))
    }

    /// How signed commits are tied to the cluster.
    #[must_use]
    pub const fn binding(&self) -> Binding {
        self.binding
    }

    /// Who changes `trust/`.
    #[must_use]
    pub const fn root(&self) -> &Quorum {
        &self.root
    }

    /// Who starts the cluster's history again, when there is such a quorum.
    #[must_use]
    pub const fn recovery(&self) -> Option<&Quorum> {
        self.recovery.as_ref()
    }

    /// How long a recovery waits before it takes effect.
    #[must_use]
    pub const fn recovery_delay(&self) -> SignedDuration {
        self.recovery_delay
    }

    /// Longest life of a beacon; `None` when the policy does not ask for freshness.
    #[must_use]
    pub const fn freshness(&self) -> Option<SignedDuration> {
        self.freshness
    }

    /// What must not be gone below.
    #[must_use]
    pub const fn floors(&self) -> Floors {
        self.floors
    }

    /// Who may bring content in in an emergency, when anybody may.
    #[must_use]
    pub const fn break_glass(&self) -> Option<&BreakGlass> {
        self.break_glass.as_ref()
    }

    /// Keys that the policy stops, with the last step up to which each is believed.
    #[must_use]
    pub const fn revoked(&self) -> &BTreeMap<Fingerprint, Seq> {
        &self.revoked
    }

    /// The rules, in the order of files and lines. Order decides nothing.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Roles by name.
    #[must_use]
    pub const fn roles(&self) -> &BTreeMap<PrincipalName, Role> {
        &self.roles
    }

    /// Principals by name.
    #[must_use]
    pub const fn principals(&self) -> &BTreeMap<PrincipalName, Principal> {
        &self.principals
    }

    /// The rules that own a file.
    pub fn owners<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.owns.iter().any(|glob| glob.matches(path)))
    }
}
