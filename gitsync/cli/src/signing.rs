//! SSH signatures by `ssh-keygen -Y sign`, so that agents, hardware keys and passphrases work as everywhere else.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Signs `message` with the SSH key in `key`: a private key's file, or a public key's when an agent holds the rest.
pub(crate) fn sign(key: &Path, namespace: &str, message: &[u8]) -> Result<String> {
    use std::io::Write;
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-q", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting ssh-keygen; install OpenSSH's client")?;
    let mut stdin = child.stdin.take().context("ssh-keygen has a stdin")?;
    stdin.write_all(message).context("giving ssh-keygen the statement")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ssh-keygen could not sign with {}; its message is above", key.display());
    String::from_utf8(output.stdout).context("ssh-keygen's signature is text")
}

/// The public key that belongs to a key file, as one line of OpenSSH.
pub(crate) fn public_key(key: &Path) -> Result<ssh_key::PublicKey> {
    let public = if key.extension().is_some_and(|extension| extension == "pub") {
        key.to_owned()
    } else {
        let mut name = key.as_os_str().to_owned();
        name.push(".pub");
        PathBuf::from(name)
    };
    let text = std::fs::read_to_string(&public)
        .with_context(|| format!("reading {}; give the key whose .pub file lies beside it", public.display()))?;
    let key = ssh_key::PublicKey::from_openssh(&text).with_context(|| format!("reading {}", public.display()))?;
    match key.algorithm() {
        ssh_key::Algorithm::Ed25519 | ssh_key::Algorithm::SkEd25519 => Ok(key),
        ssh_key::Algorithm::Ecdsa { curve: ssh_key::EcdsaCurve::NistP256 } => Ok(key),
        other => bail!("{} is a {other} key; Cairn takes ed25519, ecdsa-p256 and sk-ed25519", public.display()),
    }
}
