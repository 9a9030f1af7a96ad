//! The login statement: "this fresh client key acts for me, on this cluster, until then", signed with an SSH key.
//!
//! ```text
//! cairn-login v1
//! cluster 00112233445566778899aabbccddeeff
//! client-key SHA256:...            the TLS client key's SubjectPublicKeyInfo
//! issued 2026-11-21T14:00:00Z
//! expires 2026-11-21T22:00:00Z
//! ```
//!
//! It is worth nothing without the client key, so it may travel as a bearer token: relaying it gains nobody anything.

use crate::ssh::{SignatureError, Signed, verify_signature};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use machined_ids::{ClusterId, Fingerprint, PrincipalName};
use std::fmt;

/// Namespace of the SSH signature over a login statement.
pub const LOGIN_NAMESPACE: &str = "cairn.login.v1";

/// Longest life of a login: a working day, so that a stolen laptop is worth nothing on the next one.
pub const LOGIN_LIFETIME_MAX: SignedDuration = SignedDuration::from_hours(12);

/// Longest token that is looked at, in bytes: five times what a hardware key's login needs.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

const HEAD: &str = "cairn-login v1";
const ARMOR: &str = "-----BEGIN SSH SIGNATURE-----";

/// What a person signs to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginStatement {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The TLS client key that acts for the signer.
    pub client_key: Fingerprint,
    /// When it was made, by the signer's clock.
    pub issued: Timestamp,
    /// When it ends; at most [`LOGIN_LIFETIME_MAX`] later.
    pub expires: Timestamp,
}

/// A statement with its signature, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLogin {
    statement: LoginStatement,
    text: String,
    signature: String,
}

/// A login whose signature is right. Only [`SignedLogin::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenLogin {
    pub(crate) statement: LoginStatement,
    pub(crate) signed: Signed,
    /// Whom the key belonged to when it was looked up last; only saves time.
    pub(crate) likely: Option<PrincipalName>,
}

/// Why a login token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Longer than any login.
    #[error("the login token is {size} bytes; the limit is {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Its size in bytes.
        size: usize,
    },
    /// Not base64url of text.
    #[error("the login token is not base64url text")]
    Encoding,
    /// Not the five lines and a signature.
    #[error("the login statement has no proper {what}")]
    Shape {
        /// What is missing or wrong: "head", "cluster", "signature", ...
        what: &'static str,
    },
}

impl fmt::Display for LoginStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        writeln!(f, "cluster {}", self.cluster)?;
        writeln!(f, "client-key {}", self.client_key)?;
        writeln!(f, "issued {}", self.issued)?;
        writeln!(f, "expires {}", self.expires)
    }
}

impl LoginStatement {
    fn parse(text: &str) -> Result<Self, LoginError> {
        fn field<T: std::str::FromStr>(line: Option<&str>, what: &'static str) -> Result<T, LoginError> {
            line.and_then(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok())
                .ok_or(LoginError::Shape { what })
        }
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(LoginError::Shape { what: "head" });
        }
        let statement = LoginStatement {
            cluster: field(lines.next(), "cluster")?,
            client_key: field(lines.next(), "client-key")?,
            issued: field(lines.next(), "issued")?,
            expires: field(lines.next(), "expires")?,
        };
        // One text for one meaning: what is printed again must be what was signed.
        if statement.to_string() == text { Ok(statement) } else { Err(LoginError::Shape { what: "form" }) }
    }
}

impl SignedLogin {
    /// Puts a statement and the armoured SSH signature over its text together.
    ///
    /// # Errors
    /// [`LoginError::Shape`] when the signature is not armoured.
    pub fn new(statement: LoginStatement, signature: &str) -> Result<Self, LoginError> {
        let signature = signature.trim_start();
        if !signature.starts_with(ARMOR) {
            return Err(LoginError::Shape { what: "signature" });
        }
        let text = statement.to_string();
        Ok(SignedLogin { statement, text, signature: signature.to_owned() })
    }

    /// Reads what [`SignedLogin::to_token`] writes. The signature is not checked here.
    ///
    /// # Errors
    /// [`LoginError`] when it is too long or not of the form.
    pub fn from_token(token: &str) -> Result<Self, LoginError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(LoginError::TooLong { size: token.len() });
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| LoginError::Encoding)?;
        let all = String::from_utf8(bytes).map_err(|_| LoginError::Encoding)?;
        let at = all.find(ARMOR).ok_or(LoginError::Shape { what: "signature" })?;
        let (text, signature) = all.split_at(at);
        let statement = LoginStatement::parse(text)?;
        Ok(SignedLogin { statement, text: text.to_owned(), signature: signature.to_owned() })
    }

    /// The bearer token: base64url without padding of statement and signature.
    #[must_use]
    pub fn to_token(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{}", self.text, self.signature))
    }

    /// What was signed, not yet believed.
    #[must_use]
    pub fn statement(&self) -> &LoginStatement {
        &self.statement
    }

    /// Checks the signature: what comes out was signed, by a key that nobody has looked up yet.
    ///
    /// # Errors
    /// [`SignatureError`] when it is malformed, for another purpose, or does not match.
    pub fn verify(self) -> Result<ProvenLogin, SignatureError> {
        let signed = verify_signature(LOGIN_NAMESPACE, self.text.as_bytes(), &self.signature)?;
        Ok(ProvenLogin { statement: self.statement, signed, likely: None })
    }
}
