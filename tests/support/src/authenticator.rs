//! Keys made of software: a hardware key whose flags the test chooses, a quick plain one, and SSH signatures put together by hand.
//!
//! Forms: <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.u2f> and `PROTOCOL.sshsig` beside it.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256, Sha512};

const KIND: &str = "sk-ssh-ed25519@openssh.com";
const APPLICATION: &str = "ssh:";

/// What the key's holder did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Touched it.
    Touched,
    /// Did nothing: malware asked, and the key was set up to answer without a touch.
    Absent,
}

/// A hardware key.
pub struct Authenticator {
    key: Ed25519KeyPair,
}

impl Authenticator {
    /// The key that grows from a seed; the same one each time.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("because every 32 bytes are a seed");
        Authenticator { key }
    }

    /// The public key as OpenSSH writes it, without a comment.
    #[must_use]
    pub fn public_key(&self) -> String {
        format!("{KIND} {}", STANDARD.encode(self.blob()))
    }

    /// The public key as agents and signatures carry it.
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        [string(KIND.as_bytes()), string(self.key.public_key().as_ref()), string(APPLICATION.as_bytes())].concat()
    }

    /// Signs as `ssh-keygen -Y sign -n <namespace>` has the hardware do; gives the armour.
    #[must_use]
    pub fn sign(&self, holder: Holder, namespace: &str, message: &[u8]) -> String {
        armour(&self.blob(), namespace, &self.sign_blob(holder, &to_sign(namespace, message)))
    }

    /// Signs bytes as an agent is asked to; gives the signature as the agent answers.
    #[must_use]
    pub fn sign_blob(&self, holder: Holder, to_sign: &[u8]) -> Vec<u8> {
        let flags = match holder {
            Holder::Touched => 1_u8,
            Holder::Absent => 0,
        };
        let counter = 7_u32.to_be_bytes();
        let mut data = Sha256::digest(APPLICATION).to_vec();
        data.push(flags);
        data.extend_from_slice(&counter);
        data.extend_from_slice(&Sha256::digest(to_sign));
        let raw = self.key.sign(&data);
        let mut signature = [string(KIND.as_bytes()), string(raw.as_ref())].concat();
        signature.push(flags);
        signature.extend_from_slice(&counter);
        signature
    }
}

/// An ordinary ed25519 key that signs without ssh-keygen, for thousands of signatures.
pub struct PlainKey {
    key: Ed25519KeyPair,
}

impl PlainKey {
    /// The key that grows from a seed; the same one each time.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("because every 32 bytes are a seed");
        PlainKey { key }
    }

    /// The public key as OpenSSH writes it, without a comment.
    #[must_use]
    pub fn public_key(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }

    fn blob(&self) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(self.key.public_key().as_ref())].concat()
    }

    /// Signs as `ssh-keygen -Y sign -n <namespace>` does; gives the armour.
    #[must_use]
    pub fn sign(&self, namespace: &str, message: &[u8]) -> String {
        let raw = self.key.sign(&to_sign(namespace, message));
        armour(&self.blob(), namespace, &[string(b"ssh-ed25519"), string(raw.as_ref())].concat())
    }
}

/// An SSH wire string: its length in four bytes, then itself.
#[must_use]
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("because tests sign little");
    [&length.to_be_bytes(), bytes].concat()
}

/// What an SSH signature is over.
#[must_use]
pub fn to_sign(namespace: &str, message: &[u8]) -> Vec<u8> {
    let digest = Sha512::digest(message);
    [b"SSHSIG".to_vec(), string(namespace.as_bytes()), string(b""), string(b"sha512"), string(&digest)].concat()
}

/// The armour around a public key blob and a signature blob, whatever they are.
#[must_use]
pub fn armour(public_key: &[u8], namespace: &str, signature: &[u8]) -> String {
    let fields = [string(public_key), string(namespace.as_bytes()), string(b""), string(b"sha512"), string(signature)];
    let blob = [b"SSHSIG\0\0\0\x01".to_vec(), fields.concat()].concat();
    let text = STANDARD.encode(blob);
    // ssh-keygen breaks lines after 70 characters.
    let lines: Vec<&str> = (0..text.len()).step_by(70).map(|at| &text[at..text.len().min(at + 70)]).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}
