//! Statements: what people and robots sign besides commits, in a form that `ssh-keygen -Y sign` can sign and a person can read.
//!
//! ```text
//! cluster 00112233445566778899aabbccddeeff        lines `key value`, in this order, nothing else
//! ref refs/heads/main
//! ...
//! -----BEGIN SSH SIGNATURE-----                   as ssh-keygen writes it; its namespace names the kind
//! ```
//!
//! A statement has one text: whatever reads as one is printed again and compared. They travel as trailers
//! `Cairn-Release: <base64>` and as blobs under `refs/cairn/`. Reading one proves its form and its signature, and nothing about
//! whether its key may say so: that is judged against a policy.

mod kinds;
mod text;

pub use kinds::{Beacon, Intent, Recovery, Release, Revoke};

use crate::armour;
use crate::limits::MAX_STATEMENT_BYTES;
use crate::refusal::{Reason, Refusal};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use machined_access::verify_signature;
use machined_ids::Fingerprint;
use text::Lines;

/// The trailer of a commit that carries a release statement: base64 of the whole statement, in one line.
pub const RELEASE_TRAILER: &str = "Cairn-Release";

/// Where statements lie on a git host: refs that point at blobs.
pub const STATEMENT_REFS: [&str; 4] =
    ["refs/cairn/approvals/", "refs/cairn/fresh/", "refs/cairn/revoke/", "refs/cairn/recovery/"];

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Approves one step.
    Release(Release),
    /// Says which step is the newest.
    Beacon(Beacon),
    /// Stops a key.
    Revoke(Revoke),
    /// Starts the cluster's history again.
    Recovery(Recovery),
}

impl Statement {
    /// The namespace of its signature.
    #[must_use]
    pub const fn namespace(&self) -> &'static str {
        match self {
            Statement::Release(_) => "cairn.release.v1",
            Statement::Beacon(_) => "cairn.fresh.v1",
            Statement::Revoke(_) => "cairn.revoke.v1",
            Statement::Recovery(_) => "cairn.recovery.v1",
        }
    }

    /// The folder of refs that it travels under.
    #[must_use]
    pub const fn refs(&self) -> &'static str {
        match self {
            Statement::Release(_) => STATEMENT_REFS[0],
            Statement::Beacon(_) => STATEMENT_REFS[1],
            Statement::Revoke(_) => STATEMENT_REFS[2],
            Statement::Recovery(_) => STATEMENT_REFS[3],
        }
    }

    /// The text that is signed.
    #[must_use]
    pub fn body(&self) -> String {
        match self {
            Statement::Release(release) => release.write(),
            Statement::Beacon(beacon) => beacon.write(),
            Statement::Revoke(revoke) => revoke.write(),
            Statement::Recovery(recovery) => recovery.write(),
        }
    }

    /// Reads the text that is signed.
    ///
    /// # Errors
    /// `NonCanonical` when it is not the one text of any statement.
    pub fn from_body(body: &str) -> Result<Self, Refusal> {
        let kinds: [fn(&mut Lines<'_>) -> Option<Statement>; 4] = [
            |lines| Release::read(lines).map(Statement::Release),
            |lines| Beacon::read(lines).map(Statement::Beacon),
            |lines| Revoke::read(lines).map(Statement::Revoke),
            |lines| Recovery::read(lines).map(Statement::Recovery),
        ];
        let read = kinds.into_iter().find_map(|read| {
            let mut lines = Lines::new(body);
            read(&mut lines).filter(|_| lines.is_empty())
        });
        read.filter(|statement| statement.body() == body).ok_or_else(|| {
            let message = "these are not the lines of a statement, each `key value` in its order; write it with \
                           `cairnctl approve`";
            Refusal::new(Reason::NonCanonical, message)
        })
    }
}

/// A statement whose signature is valid. Whose key it is, and what the key may say, is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedStatement {
    statement: Statement,
    key: Fingerprint,
    touched: Option<bool>,
    text: String,
}

impl SignedStatement {
    /// Reads a statement with its signature.
    ///
    /// # Errors
    /// `Limit`, `NonCanonical`, `BadSignature`, `WrongNamespace`; `UnknownKey` for a kind of key that is not taken.
    pub fn parse(bytes: &[u8]) -> Result<SignedStatement, Refusal> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            let message = format!("a statement has at most {MAX_STATEMENT_BYTES} bytes; sign it again");
            return Err(Refusal::new(Reason::Limit, message));
        }
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
        let (text, at) = text.and_then(|text| Some((text, text.find(armour::BEGIN)?))).ok_or_else(|| {
            let message = "a statement is lines of ASCII and then an SSH signature; write it with `cairnctl approve`";
            Refusal::new(Reason::NonCanonical, message)
        })?;
        let (body, signature) = text.split_at(at);
        let statement = Statement::from_body(body)?;
        armour::check(signature)?;
        let signed = verify_signature(statement.namespace(), body.as_bytes(), signature)
            .map_err(|error| armour::refuse(&error, "sign the statement again with `cairnctl approve`"))?;
        Ok(SignedStatement { statement, key: signed.key, touched: signed.touched, text: text.to_owned() })
    }

    /// Puts a body and the armour that `ssh-keygen -Y sign` made over it together.
    ///
    /// # Errors
    /// As [`SignedStatement::parse`].
    pub fn join(body: &str, armour: &str) -> Result<SignedStatement, Refusal> {
        SignedStatement::parse(format!("{body}{armour}").as_bytes())
    }

    /// Reads the value of a [`RELEASE_TRAILER`].
    ///
    /// # Errors
    /// As [`SignedStatement::parse`]; `NonCanonical` when it is not base64.
    pub fn from_trailer(value: &str) -> Result<SignedStatement, Refusal> {
        // Base64 is a third longer than what it holds.
        let bytes = (value.len() <= MAX_STATEMENT_BYTES * 2).then(|| STANDARD.decode(value).ok()).flatten();
        let bytes = bytes.ok_or_else(|| {
            let message = format!("a {RELEASE_TRAILER} trailer is not the base64 of a statement; write it again");
            Refusal::new(Reason::NonCanonical, message)
        })?;
        SignedStatement::parse(&bytes)
    }

    /// The value of a [`RELEASE_TRAILER`].
    #[must_use]
    pub fn to_trailer(&self) -> String {
        STANDARD.encode(&self.text)
    }

    /// What it says.
    #[must_use]
    pub const fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The key that signed it.
    #[must_use]
    pub const fn key(&self) -> &Fingerprint {
        &self.key
    }

    /// For a hardware key, whether it was touched.
    #[must_use]
    pub const fn touched(&self) -> Option<bool> {
        self.touched
    }

    /// The namespace of its signature.
    #[must_use]
    pub const fn namespace(&self) -> &'static str {
        self.statement.namespace()
    }

    /// The whole text, as it travels in a blob.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A time as statements hold it: whole seconds.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("because it was a timestamp already")
}
