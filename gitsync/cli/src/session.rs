//! A login on this computer: a fresh client key and the signed statement over it, in a file that only its owner reads.

use crate::contexts::{self, Context};
use crate::signing;
use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use machined_access::{LOGIN_NAMESPACE, Leaf, LeafKey, LoginStatement, SignedLogin};
use machined_ids::ClusterId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a login leaves behind.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Session {
    /// The client key, PKCS#8 PEM.
    client_key: String,
    /// The signed statement as the APIs take it.
    pub(crate) token: String,
    /// When it ends.
    pub(crate) expires: Timestamp,
}

fn file(folder: &Path, cluster: &ClusterId) -> PathBuf {
    folder.join("logins").join(format!("{cluster}.json"))
}

impl Session {
    /// Makes a client key and has `ssh_key` sign for it.
    pub(crate) fn create(context: &Context, ssh_key: &Path, lifetime: SignedDuration, now: Timestamp) -> Result<Self> {
        let client_key = LeafKey::generate()?;
        let statement = LoginStatement {
            cluster: context.cluster,
            client_key: client_key.fingerprint(),
            issued: whole_seconds(now),
            expires: whole_seconds(now + lifetime),
        };
        let expires = statement.expires;
        let signature = signing::sign(ssh_key, LOGIN_NAMESPACE, statement.to_string().as_bytes())?;
        let token = SignedLogin::new(statement, &signature)?.to_token();
        Ok(Session { client_key: client_key.to_pem(), token, expires })
    }

    /// The login of a context.
    pub(crate) fn load(folder: &Path, context: &Context, now: Timestamp) -> Result<Self> {
        let file = file(folder, &context.cluster);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("not logged in; run `cairnctl login`"),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        let session: Session = serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display()))?;
        if session.expires <= now {
            bail!("the login ended at {}; run `cairnctl login` again", session.expires);
        }
        Ok(session)
    }

    /// Keeps the login for the commands that follow.
    pub(crate) fn save(&self, folder: &Path, context: &Context) -> Result<()> {
        contexts::write_private(&file(folder, &context.cluster), &serde_json::to_vec(self)?)
    }

    /// Forgets the login of a context; it is fine when there is none.
    pub(crate) fn forget(folder: &Path, context: &Context) -> Result<()> {
        match std::fs::remove_file(file(folder, &context.cluster)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context("forgetting the login"),
        }
    }

    /// The client key with the certificate that carries it in TLS.
    pub(crate) fn client_leaf(&self, now: Timestamp) -> Result<Leaf> {
        Ok(LeafKey::from_pem(&self.client_key)?.self_signed(now)?)
    }

    /// Client key and token as kubectl's exec credential,
    /// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/>.
    pub(crate) fn exec_credential(&self, now: Timestamp) -> Result<serde_json::Value> {
        let leaf = self.client_leaf(now)?;
        let certificate = leaf.chain.first().context("a leaf has a certificate")?;
        Ok(serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {
                "expirationTimestamp": self.expires.to_string(),
                "token": self.token,
                "clientCertificateData": pem("CERTIFICATE", certificate),
                "clientKeyData": self.client_key,
            },
        }))
    }
}

/// Statements name whole seconds: nobody reads fractions.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// DER as PEM with lines of 64 characters.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem("CERTIFICATE", &[0; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert_eq!((lines[1].len(), lines[2].len(), lines[3].len()), (64, 64, 8));
        assert_eq!(lines[4], "-----END CERTIFICATE-----");
    }
}
