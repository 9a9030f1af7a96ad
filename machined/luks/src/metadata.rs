//! The JSON of a header: key slots, tokens, segments and digests. Raw forms are serde's; [`Metadata::check`] lets in what is supported.

use crate::antiforensic::STRIPES;
use crate::binary::BINARY_BYTES;
use crate::{CIPHER, FRONT_BYTES, HEADER_BYTES, LuksError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// The longest JSON, in bytes; behind it is at least one zero.
pub(crate) const JSON_BYTES_MAX: usize = HEADER_BYTES - BINARY_BYTES - 1;
/// Bytes of the volume's key: two AES-256 keys, as XTS wants.
pub(crate) const KEY_BYTES: usize = 64;
/// Where key slots begin.
pub(crate) const SLOTS_OFFSET: usize = 2 * HEADER_BYTES;
/// Bytes of the area of one key slot: a split key, up to whole blocks of 4 KiB.
pub(crate) const SLOT_BYTES: usize = (KEY_BYTES * STRIPES).next_multiple_of(4096);
/// Key slots that fit before the data.
pub(crate) const SLOTS_MAX: u8 = ((FRONT_BYTES - SLOTS_OFFSET) / SLOT_BYTES) as u8;
/// The least that LUKS2 allows. Enough, because what is derived from is random.
pub(crate) const ITERATIONS: u32 = 1000;
/// Some seconds of a slow processor: a damaged or hostile header must not hold the machine for hours.
const ITERATIONS_MAX: u32 = 20_000_000;
/// The longest salt, in bytes.
const SALT_BYTES_MAX: usize = 64;
pub(crate) const HASH: &str = "sha256";

/// A number that stands as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Decimal(pub(crate) u64);

impl TryFrom<String> for Decimal {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Decimal)
    }
}

impl From<Decimal> for String {
    fn from(number: Decimal) -> String {
        number.0.to_string()
    }
}

/// Bytes that stand as base 64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = base64::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Base64)
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> String {
        STANDARD.encode(bytes.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Splitter {
    r#type: String,
    stripes: usize,
    hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Area {
    r#type: String,
    pub(crate) offset: Decimal,
    size: Decimal,
    encryption: String,
    key_size: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Derivation {
    r#type: String,
    hash: Option<String>,
    #[serde(default)]
    pub(crate) iterations: u32,
    pub(crate) salt: Base64,
    // Of argon2, which is recognised in order to be refused by its name.
    #[serde(default, skip_serializing)]
    time: Option<u64>,
    #[serde(default, skip_serializing)]
    memory: Option<u64>,
    #[serde(default, skip_serializing)]
    cpus: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyslot {
    r#type: String,
    key_size: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    af: Splitter,
    pub(crate) area: Area,
    pub(crate) kdf: Derivation,
}

/// A note beside key slots that says how their secret is come by. Cairn's own kinds have no meaning for cryptsetup, which keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Its kind.
    pub r#type: String,
    /// Which key slots its secret opens.
    pub(crate) keyslots: Vec<Decimal>,
    /// Whatever else it holds.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    r#type: String,
    pub(crate) offset: Decimal,
    /// Bytes, or "dynamic" for as many as there are.
    pub(crate) size: String,
    iv_tweak: Decimal,
    encryption: String,
    pub(crate) sector_size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyDigest {
    r#type: String,
    pub(crate) keyslots: Vec<Decimal>,
    segments: Vec<Decimal>,
    hash: String,
    pub(crate) iterations: u32,
    pub(crate) salt: Base64,
    pub(crate) digest: Base64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    json_size: Decimal,
    keyslots_size: Decimal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requirements: Option<Value>,
}

/// All of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) keyslots: BTreeMap<Decimal, Keyslot>,
    pub(crate) tokens: BTreeMap<Decimal, Token>,
    pub(crate) segments: BTreeMap<Decimal, Segment>,
    pub(crate) digests: BTreeMap<Decimal, KeyDigest>,
    pub(crate) config: Config,
}

/// Salts and digests say nothing to a reader of a log.
impl fmt::Debug for Metadata {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots: Vec<u64> = self.keyslots.keys().map(|id| id.0).collect();
        formatter.debug_struct("Metadata").field("keyslots", &slots).finish_non_exhaustive()
    }
}

fn supported(holds: bool, what: &'static str) -> Result<(), LuksError> {
    if holds { Ok(()) } else { Err(LuksError::Unsupported(what)) }
}

fn consistent(holds: bool, what: &'static str) -> Result<(), LuksError> {
    if holds { Ok(()) } else { Err(LuksError::Contradiction(what)) }
}

impl Keyslot {
    pub(crate) fn new(number: u8, salt: Vec<u8>) -> Self {
        Keyslot {
            r#type: "luks2".to_owned(),
            key_size: KEY_BYTES,
            priority: None,
            af: Splitter { r#type: "luks1".to_owned(), stripes: STRIPES, hash: HASH.to_owned() },
            area: Area {
                r#type: "raw".to_owned(),
                offset: Decimal((SLOTS_OFFSET + usize::from(number) * SLOT_BYTES) as u64),
                size: Decimal(SLOT_BYTES as u64),
                encryption: CIPHER.to_owned(),
                key_size: KEY_BYTES,
            },
            kdf: Derivation {
                r#type: "pbkdf2".to_owned(),
                hash: Some(HASH.to_owned()),
                iterations: ITERATIONS,
                salt: Base64(salt),
                time: None,
                memory: None,
                cpus: None,
            },
        }
    }

    fn check(&self) -> Result<(), LuksError> {
        supported(self.r#type == "luks2", "a key slot of another type than luks2")?;
        supported(self.kdf.r#type == "pbkdf2", "another key derivation than pbkdf2")?;
        supported(self.kdf.hash.as_deref() == Some(HASH), "a key derivation with another hash than sha256")?;
        supported(
            (1..=ITERATIONS_MAX).contains(&self.kdf.iterations) && self.kdf.salt.0.len() <= SALT_BYTES_MAX,
            "a key derivation that takes too long",
        )?;
        supported(self.key_size == KEY_BYTES && self.area.key_size == KEY_BYTES, "keys of another size than 512 bits")?;
        let splitter = self.af.r#type == "luks1" && self.af.stripes == STRIPES && self.af.hash == HASH;
        supported(splitter, "another anti-forensic splitter than luks1 with sha256")?;
        supported(self.area.r#type == "raw" && self.area.encryption == CIPHER, "a key slot of another cipher")?;
        let (offset, size) = (self.area.offset.0, self.area.size.0);
        let inside =
            offset >= SLOTS_OFFSET as u64 && size >= (KEY_BYTES * STRIPES) as u64 && offset.checked_add(size).is_some();
        consistent(inside, "a key slot overlaps the header")
    }
}

impl Token {
    /// A token of this kind; which key slots it belongs to is said when it is added.
    #[must_use]
    pub fn new(kind: &str, fields: Map<String, Value>) -> Self {
        Token { r#type: kind.to_owned(), keyslots: Vec::new(), fields }
    }
}

impl Segment {
    fn check(&self) -> Result<(), LuksError> {
        supported(self.r#type == "crypt" && self.encryption == CIPHER, "data in another cipher than aes-xts-plain64")?;
        supported(self.iv_tweak.0 == 0, "data that does not begin with sector 0")?;
        supported(matches!(self.sector_size, 512 | 4096), "another sector size than 512 or 4096")?;
        let block = u64::from(self.sector_size);
        let bytes: u64 = match self.size.as_str() {
            "dynamic" => 0,
            size => size.parse().map_err(|_| LuksError::Contradiction("the data's size is no number"))?,
        };
        consistent(
            self.offset.0.is_multiple_of(block) && bytes.is_multiple_of(block),
            "the data does not consist of whole sectors",
        )?;
        consistent(self.offset.0.checked_add(bytes).is_some(), "the data ends beyond any disk")?;
        consistent(self.offset.0 >= SLOTS_OFFSET as u64, "the data overlaps the header")
    }
}

impl Metadata {
    /// The JSON of a new volume without key slots; `bytes` of data, or as many as there are.
    pub(crate) fn new(bytes: u64, sector_size: u32, salt: Vec<u8>, digest: Vec<u8>) -> Self {
        let segment = Segment {
            r#type: "crypt".to_owned(),
            offset: Decimal(FRONT_BYTES as u64),
            size: bytes.to_string(),
            iv_tweak: Decimal(0),
            encryption: CIPHER.to_owned(),
            sector_size,
        };
        let key = KeyDigest {
            r#type: "pbkdf2".to_owned(),
            keyslots: Vec::new(),
            segments: vec![Decimal(0)],
            hash: HASH.to_owned(),
            iterations: ITERATIONS,
            salt: Base64(salt),
            digest: Base64(digest),
        };
        let config = Config {
            json_size: Decimal((HEADER_BYTES - BINARY_BYTES) as u64),
            keyslots_size: Decimal((FRONT_BYTES - SLOTS_OFFSET) as u64),
            flags: None,
            requirements: None,
        };
        Metadata {
            keyslots: BTreeMap::new(),
            tokens: BTreeMap::new(),
            segments: BTreeMap::from([(Decimal(0), segment)]),
            digests: BTreeMap::from([(Decimal(0), key)]),
            config,
        }
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, LuksError> {
        let metadata: Metadata = serde_json::from_slice(json).map_err(LuksError::Json)?;
        metadata.check().map(|()| metadata)
    }

    fn check(&self) -> Result<(), LuksError> {
        supported(self.config.requirements.is_none(), "a feature of a later release")?;
        supported(self.segments.len() == 1 && self.digests.len() == 1, "several segments or digests")?;
        let (segment, digest) = (self.segment(), self.digest());
        segment.check()?;
        supported(
            digest.r#type == "pbkdf2" && digest.hash == HASH,
            "a digest of another kind than pbkdf2 with sha256",
        )?;
        supported(
            (1..=ITERATIONS_MAX).contains(&digest.iterations) && digest.salt.0.len() <= SALT_BYTES_MAX,
            "a digest that takes too long",
        )?;
        supported(digest.digest.0.len() == 32, "a digest of another length")?;
        for keyslot in self.keyslots.values() {
            keyslot.check()?;
            let end = keyslot.area.offset.0 + keyslot.area.size.0;
            consistent(end <= segment.offset.0, "a key slot overlaps the data")?;
        }
        let known = |id: &Decimal| self.keyslots.contains_key(id);
        let tokens = self.tokens.values().flat_map(|token| &token.keyslots);
        consistent(digest.keyslots.iter().chain(tokens).all(known), "it names a key slot that it does not have")
    }

    pub(crate) fn segment(&self) -> &Segment {
        self.segments.values().next().expect("because there is exactly one")
    }

    pub(crate) fn digest(&self) -> &KeyDigest {
        self.digests.values().next().expect("because there is exactly one")
    }

    pub(crate) fn digest_mut(&mut self) -> &mut KeyDigest {
        self.digests.values_mut().next().expect("because there is exactly one")
    }

    pub(crate) fn render(&self) -> Result<Vec<u8>, LuksError> {
        let json = serde_json::to_vec(self).map_err(LuksError::Json)?;
        if json.len() > JSON_BYTES_MAX { Err(LuksError::TooLong { bytes: json.len() }) } else { Ok(json) }
    }
}
