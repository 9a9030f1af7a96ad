//! Who somebody is, for the machine API and the API server alike.
//!
//! A **machine** proves itself with a short-lived leaf that its identity key signed; the leaf counts while the identity's
//! fingerprint stands in the [`AccessTable`]. A **person** proves a fresh client key in the TLS handshake and sends a
//! [`SignedLogin`]: a statement over that key, signed with an SSH key that the table names. Nothing else is believed: no
//! certificate authority, token or network position makes anybody somebody.
//!
//! What a machine's TPM says is checked here too: [`check_attestation`].
//!
//! What lasts longer than one request holds a [`Standing`], which says when it is over.
//!
//! Pure: the caller brings the table, the peer's certificates and the time.

mod attestation;
mod audit;
mod authenticate;
mod identity;
mod leaf;
mod login;
mod proven;
mod ssh;
mod standing;
mod table;
pub mod tls;

pub use attestation::{
    ATTEST_NONCE_BYTES_MIN, ATTEST_PREFIX, ATTESTED, AttestRefusal, Attested, Evidence, Expected, binding,
    check_attestation, is_nonce,
};
pub use audit::{AuditApi, AuditOutcome, AuditRecord};
pub use authenticate::{Denied, Peer, Principal, authenticate};
pub use identity::{ChipError, ChipKey, IdentityError, IdentityKey, KeyPlace, MARK_PREFIX, verify_identity};
pub use leaf::{Chain, LEAF_LIFETIME, Leaf, LeafKey};
pub use login::{LOGIN_LIFETIME_MAX, LOGIN_NAMESPACE, LoginError, LoginStatement, ProvenLogin, SignedLogin};
pub use proven::Proven;
pub use ssh::{SignatureError, Signed, is_weak_key, ssh_fingerprint, verify_signature};
pub use standing::{Lost, Standing, Watched};
pub use table::{Access, AccessTable, ImageRules, MachineEntry, MachineRole, Person, RoleEntry};
