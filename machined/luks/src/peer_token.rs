//! Tokens of machines without a TPM: which peers keep shares of a key slot's secret, and the open key that stands until they do.
//!
//! ```json
//! {"type": "cairn-peers", "keyslots": ["0"], "peers": [{"identity": "SHA256:...", "addresses": ["10.0.0.5"], "share": id, "wrapped": bytes}]}
//! {"type": "cairn-open", "keyslots": ["0"], "secret": bytes}
//! ```
//!
//! Bytes stand as base 64. What is wrapped is the secret XOR HMAC-SHA-256 under the share over the machine's own part, the volume and the peer. A
//! share is drawn for one secret, one volume and one peer, so no pad is used twice. Whoever lacks the share or the own part has nothing.

use crate::Random;
use crate::metadata::Base64;
use crate::{Secret, Token};
use machined_ids::Fingerprint;
use pbkdf2::pbkdf2_hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// The kind of the token whose secret peers release.
pub const PEERS_TOKEN: &str = "cairn-peers";
/// The kind of the token whose secret lies beside it in the clear.
pub const OPEN_TOKEN: &str = "cairn-open";

/// Peers of one volume at most: more control-plane machines than make sense.
pub const PEERS_MAX: usize = 8;
/// Addresses of one peer at most: a name, and what it stood for.
const ADDRESSES_MAX: usize = 4;
/// The longest address in bytes: a DNS name with a port.
const ADDRESS_BYTES_MAX: usize = 260;
/// Bytes of a share's name.
const ID_BYTES: usize = 16;
/// What the derivation begins with, so that a share is worth nothing for another purpose.
const CONTEXT: &[u8] = b"cairn.disk-key.v1\n";

/// The machine's own part, which its identity key gives; forgotten with its value.
pub type OwnPart = Zeroizing<[u8; 32]>;

/// The name of a share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareId([u8; ID_BYTES]);

impl ShareId {
    /// A new one.
    #[must_use]
    pub fn generate(random: Random<'_>) -> Self {
        let mut id = [0; ID_BYTES];
        random(&mut id);
        ShareId(id)
    }

    /// Reads its bytes; none when they are not as many.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(ShareId)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for ShareId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for ShareId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ShareId({self})")
    }
}

/// A peer that keeps a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerShare {
    /// The peer's identity.
    pub identity: Fingerprint,
    /// Where it was found, the best one first; at most four are kept.
    pub addresses: Vec<String>,
    /// What the share is called there.
    pub id: ShareId,
    wrapped: [u8; 32],
}

impl PeerShare {
    /// Wraps the secret of `volume` (its UUID) with a share that was drawn for it and for nothing else.
    #[must_use]
    pub fn wrap(
        (identity, addresses): (Fingerprint, Vec<String>),
        (id, share): (ShareId, &Secret),
        volume: &str,
        own: &OwnPart,
        secret: &Secret,
    ) -> Self {
        let mut wrapped = **secret;
        xor(&mut wrapped, &pad(share, own, volume, &identity));
        PeerShare { identity, addresses, id, wrapped }
    }

    /// The secret, by the share that the peer gave; another secret when the peer gave another one.
    #[must_use]
    pub fn unwrap(&self, share: &Secret, volume: &str, own: &OwnPart) -> Secret {
        let mut secret = Zeroizing::new(self.wrapped);
        xor(&mut secret, &pad(share, own, volume, &self.identity));
        secret
    }
}

fn xor(bytes: &mut [u8; 32], pad: &[u8; 32]) {
    bytes.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
}

/// One block of PBKDF2 with one iteration is HMAC over the salt and the block's number (RFC 8018, section 5.2).
fn pad(share: &Secret, own: &OwnPart, volume: &str, peer: &Fingerprint) -> Zeroizing<[u8; 32]> {
    let parts = [CONTEXT, &own[..], volume.as_bytes(), b"\n", peer.as_str().as_bytes()];
    let message = Zeroizing::new(parts.concat());
    let mut pad = Zeroizing::new([0; 32]);
    pbkdf2_hmac::<Sha256>(&share[..], &message, 1, &mut *pad);
    pad
}

/// How a peer stands in the JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    identity: Fingerprint,
    addresses: Vec<String>,
    share: Base64,
    wrapped: Base64,
}

/// The token of a key slot that peers open; it takes at most [`PEERS_MAX`].
#[must_use]
pub fn peers_token(peers: &[PeerShare]) -> Token {
    let form = |peer: &PeerShare| Form {
        identity: peer.identity.clone(),
        addresses: peer.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
        share: Base64(peer.id.0.to_vec()),
        wrapped: Base64(peer.wrapped.to_vec()),
    };
    let peers: Vec<Form> = peers.iter().take(PEERS_MAX).map(form).collect();
    Token::new(PEERS_TOKEN, Map::from_iter([("peers".to_owned(), json!(peers))]))
}

/// Reads the peers of a token; none when it is none of this kind, or damaged.
#[must_use]
pub fn parse_peers_token(token: &Token) -> Option<Vec<PeerShare>> {
    if token.r#type != PEERS_TOKEN {
        return None;
    }
    let forms: Vec<Form> = serde_json::from_value(token.fields.get("peers")?.clone()).ok()?;
    let fits = |form: &Form| {
        form.addresses.len() <= ADDRESSES_MAX && form.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX)
    };
    if forms.is_empty() || forms.len() > PEERS_MAX || !forms.iter().all(fits) {
        return None;
    }
    let peer = |form: Form| {
        let id = ShareId::from_bytes(&form.share.0)?;
        let wrapped = form.wrapped.0.try_into().ok()?;
        Some(PeerShare { identity: form.identity, addresses: form.addresses, id, wrapped })
    };
    forms.into_iter().map(peer).collect()
}

/// The token of a key slot that anybody opens.
#[must_use]
pub fn open_token(secret: &Secret) -> Token {
    Token::new(OPEN_TOKEN, Map::from_iter([("secret".to_owned(), json!(Base64(secret.to_vec())))]))
}

/// Reads the secret of a token; none when it is none of this kind, or damaged.
#[must_use]
pub fn parse_open_token(token: &Token) -> Option<Secret> {
    let secret = token.fields.get("secret").filter(|_| token.r#type == OPEN_TOKEN)?;
    let Base64(bytes) = serde_json::from_value(Value::clone(secret)).ok()?;
    Zeroizing::new(bytes).as_slice().try_into().ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(number: u8) -> Fingerprint {
        Fingerprint::from_sha256(&[number; 32])
    }

    fn wrapped(peer: u8, share: u8, own: u8, secret: u8) -> PeerShare {
        let place = (fingerprint(peer), vec!["10.0.0.5".to_owned()]);
        let share = (ShareId([share; 16]), &Zeroizing::new([share; 32]));
        PeerShare::wrap(place, share, "volume", &Zeroizing::new([own; 32]), &Zeroizing::new([secret; 32]))
    }

    fn opened(peer: &PeerShare, share: u8, volume: &str, own: u8) -> Secret {
        peer.unwrap(&Zeroizing::new([share; 32]), volume, &Zeroizing::new([own; 32]))
    }

    #[test]
    fn the_secret_takes_the_share_the_own_part_the_volume_and_the_peer() {
        let peer = wrapped(1, 2, 3, 4);
        assert_eq!(*opened(&peer, 2, "volume", 3), [4; 32]);
        for (share, volume, own) in [(9, "volume", 3), (2, "volume", 9), (2, "other", 3)] {
            assert_ne!(*opened(&peer, share, volume, own), [4; 32], "{share} {volume} {own}");
        }
        let moved = PeerShare { identity: fingerprint(7), ..peer };
        assert_ne!(*opened(&moved, 2, "volume", 3), [4; 32]);
    }

    #[test]
    fn a_pad_is_hmac_as_the_decision_says() {
        // RFC 2104 by hand.
        use sha2::Digest as _;
        let message = [CONTEXT, &[3; 32], b"volume\n", fingerprint(1).as_str().as_bytes(), &[0, 0, 0, 1]].concat();
        let key = |mask: u8| [vec![2 ^ mask; 32], vec![mask; 32]].concat();
        let inner = Sha256::new().chain_update(key(0x36)).chain_update(message).finalize();
        let outer = Sha256::new().chain_update(key(0x5c)).chain_update(inner).finalize();
        let expected: Vec<u8> = outer.iter().map(|byte| byte ^ 4).collect();
        assert_eq!(wrapped(1, 2, 3, 4).wrapped.to_vec(), expected);
    }

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let peers = [wrapped(1, 2, 3, 4), wrapped(5, 6, 3, 4)];
        assert_eq!(parse_peers_token(&peers_token(&peers)).as_deref(), Some(&peers[..]));
        let secret = Zeroizing::new([8; 32]);
        assert_eq!(parse_open_token(&open_token(&secret)), Some(secret.clone()));
        assert_eq!(parse_peers_token(&open_token(&secret)), None);
        assert_eq!(parse_open_token(&peers_token(&peers)), None);
    }

    #[test]
    fn damaged_tokens_and_hostile_numbers_are_no_tokens() {
        let whole = peers_token(&[wrapped(1, 2, 3, 4)]);
        let changed = |change: fn(&mut Value)| {
            let mut token = whole.clone();
            change(token.fields.get_mut("peers").expect("because it has peers"));
            parse_peers_token(&token)
        };
        assert!(changed(|_| {}).is_some());
        let changes: [fn(&mut Value); 6] = [
            |peers| *peers = json!([]),
            |peers| *peers = json!({}),
            |peers| peers[0]["share"] = json!("AAAA"),
            |peers| peers[0]["wrapped"] = json!("no base 64"),
            |peers| peers[0]["addresses"] = json!(["x".repeat(1000)]),
            |peers| *peers = Value::Array(vec![peers[0].clone(); PEERS_MAX + 1]),
        ];
        for change in changes {
            assert_eq!(changed(change), None);
        }
    }
}
