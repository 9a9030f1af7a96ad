//! The token that holds a key slot's secret as the machine's TPM sealed it.
//!
//! ```json
//! {"type": "cairn-tpm2", "keyslots": ["0"], "pcrs": [11], "policy-key": DER, "public": TPMT_PUBLIC, "private": TPM2B's content}
//! ```
//!
//! Bytes stand as base 64. The secret is 32 random bytes, which open the key slot as they are.

use crate::Token;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use init_boot::tpm::{PolicyKey, Sealed};
use serde_json::{Map, Value, json};

/// The kind of the token whose secret the TPM gives out.
pub const TPM_TOKEN: &str = "cairn-tpm2";
/// The kind of the token that says: what opens this slot is with a person.
pub const RECOVERY_TOKEN: &str = "cairn-recovery";

/// A sealed secret with the key whose policies open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedToken {
    /// Whose signatures count.
    pub key: PolicyKey,
    /// The secret.
    pub sealed: Sealed,
}

impl SealedToken {
    /// As it stands in a header.
    #[must_use]
    pub fn to_token(&self) -> Token {
        let fields = [
            ("pcrs", json!([11])),
            ("policy-key", json!(STANDARD.encode(self.key.to_der()))),
            ("public", json!(STANDARD.encode(self.sealed.public()))),
            ("private", json!(STANDARD.encode(self.sealed.private()))),
        ];
        Token::new(TPM_TOKEN, fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Reads a token; none when it is none of this kind, or damaged.
    #[must_use]
    pub fn from_token(token: &Token) -> Option<Self> {
        if token.r#type != TPM_TOKEN || token.fields.get("pcrs") != Some(&json!([11])) {
            return None;
        }
        let bytes = |name: &str| STANDARD.decode(token.fields.get(name).and_then(Value::as_str)?).ok();
        let key = PolicyKey::from_der(&bytes("policy-key")?)?;
        let sealed = Sealed::new(&key, bytes("public")?, bytes("private")?)?;
        Some(SealedToken { key, sealed })
    }
}

/// The token of a recovery key.
#[must_use]
pub fn recovery_token() -> Token {
    Token::new(RECOVERY_TOKEN, Map::new())
}
