//! What a policy says about time, emergencies and floors, and how `trust/*.kdl` writes it.
//!
//! ```kdl
//! // in trust/root.kdl
//! recovery threshold=1 delay="24h" { member "vault" }
//! freshness life="24h"                  // beacons are asked for, and live this long at most
//! floor image=4 seq=120                 // never an image, never an applied step, below these; a floor only rises
//! break-glass role="oncall" threshold=1 life="4h" { owns "apps/**" }
//! // in any trust/*.kdl
//! revoked "SHA256:..." last-good=117
//! ```

use super::Glob;
use super::parse::words;
use super::words::WordError;
use jiff::SignedDuration;
use machined_config::read::Node;
use machined_ids::{Fingerprint, PrincipalName, Seq};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::str::FromStr;

/// How long a recovery waits where the policy does not say: a working day and a night, for somebody to object.
pub const DEFAULT_RECOVERY_DELAY: SignedDuration = SignedDuration::from_hours(24);

/// Longest life of a beacon or a break-glass and longest delay of a recovery: beyond a month nobody remembers why.
const MAX_LIFE: SignedDuration = SignedDuration::from_hours(31 * 24);

/// Numbers that only rise; nothing below them is ever gone back to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Floors {
    /// The lowest release number of an operating system image that may be installed or booted by choice.
    pub image: u64,
    /// The lowest step that may be applied again.
    pub seq: Seq,
}

impl Floors {
    /// The higher of both, number by number.
    #[must_use]
    pub fn raised_to(self, other: Floors) -> Floors {
        Floors { image: self.image.max(other.image), seq: self.seq.max(other.seq) }
    }
}

/// Who may bring new content in before its approvers are there, where, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    /// The role made for it.
    pub role: PrincipalName,
    /// Distinct members of it needed.
    pub threshold: u32,
    /// Longest time until it must have been ratified.
    pub life: SignedDuration,
    /// The files that it may touch; never those of `trust/`, `machines/` and `cluster.kdl`.
    pub owns: Vec<Glob>,
}

/// A time span in words (`"24h"`, `"1h 30m"`), above zero and at most a month.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life(pub(super) SignedDuration);

impl FromStr for Life {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let life = text.parse().ok().filter(|life| *life > SignedDuration::ZERO && *life <= MAX_LIFE);
        life.map(Life).ok_or(WordError::expected("a time span such as \"24h\", at most 31 days"))
    }
}

/// `freshness life="24h"`.
pub(super) fn freshness(node: &Node<'_>) -> Option<SignedDuration> {
    let life: Option<Life> = node.property("life");
    if life.is_none() {
        node.problem("it needs `life=\"24h\"`: how long a beacon may live");
    }
    node.finish();
    life.map(|life| life.0)
}

/// `floor image=4 seq=120`.
pub(super) fn floor(node: &Node<'_>) -> Floors {
    let (image, seq) = (node.property("image"), node.property("seq"));
    node.finish();
    Floors { image: image.unwrap_or_default(), seq: Seq(seq.unwrap_or_default()) }
}

/// `revoked "SHA256:..." last-good=117`.
pub(super) fn revoked(node: &Node<'_>) -> Option<(Fingerprint, Seq)> {
    let (key, last_good) = (node.argument(0), node.property("last-good"));
    if last_good.is_none() {
        node.problem("it needs `last-good=...`: the last step whose signature by this key is believed");
    }
    node.finish();
    Some((key?, Seq(last_good?)))
}

/// `break-glass role="oncall" threshold=1 life="4h" { owns "apps/**" }`.
pub(super) fn break_glass(node: &Node<'_>) -> Option<BreakGlass> {
    let role: Option<PrincipalName> = node.property("role");
    let threshold: Option<NonZeroU32> = node.property("threshold");
    let life: Option<Life> = node.property("life");
    if role.is_none() || threshold.is_none() || life.is_none() {
        node.problem("it needs `role=\"...\"`, `threshold=1` or more, and `life=\"4h\"`");
    }
    let owns: Vec<Glob> = node.children(|block| words(block, "owns"));
    if owns.is_empty() {
        node.problem("it covers nothing; say `owns \"apps/**\"`");
    }
    Some(BreakGlass { role: role?, threshold: threshold?.get(), life: life?.0, owns })
}
