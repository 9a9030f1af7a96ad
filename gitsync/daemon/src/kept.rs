//! What this machine accepted steps with: releases, revocations, beacons and recoveries that counted here. Kept on disk and served to the
//! other machines, so that a host which withholds them from one of them withholds nothing.
//!
//! Written before the trust state that it led to: a power cut between the two leaves statements of a step that is not accepted yet, which
//! is no harm, since nobody believes a statement for where it was kept. For the same reason the file has no seal: whoever reads it, here
//! or on another machine, checks each signature again and judges it by the policy that is accepted there.

use crate::store::{self, StoreError};
use gitsync_verify::limits::{MAX_STATEMENT_BYTES, MAX_STATEMENTS};
use gitsync_verify::{SignedStatement, Statement};
use machined_ids::{Epoch, Fingerprint, Seq};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Statements that are kept of each kind, newest first: many times what a busy month needs.
const MAX_RECOVERIES: usize = 16;
const MAX_REVOCATIONS: usize = 64;
const MAX_BEACONS: usize = 16;
const MAX_RELEASES: usize = MAX_STATEMENTS - MAX_RECOVERIES - MAX_REVOCATIONS - MAX_BEACONS;

/// Bytes of statements in the status of a machine's object, and that are read of another's: some eighty with their signatures. The other
/// machines read all of it every few seconds.
pub(crate) const MAX_SERVED_BYTES: usize = 64 << 10;

/// Bytes of the file that are read: every statement at its largest, with JSON around it.
const MAX_FILE_BYTES: u64 = 2 * (MAX_STATEMENTS * MAX_STATEMENT_BYTES) as u64;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Kinds in the order in which they are served: what stops something first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Recovery,
    Revoke,
    Beacon,
    Release,
}

impl Kind {
    pub(crate) const fn of(signed: &SignedStatement) -> Self {
        match signed.statement() {
            Statement::Recovery(_) => Kind::Recovery,
            Statement::Revoke(_) => Kind::Revoke,
            Statement::Beacon(_) => Kind::Beacon,
            Statement::Release(_) => Kind::Release,
        }
    }

    const fn most(self) -> usize {
        match self {
            Kind::Recovery => MAX_RECOVERIES,
            Kind::Revoke => MAX_REVOCATIONS,
            Kind::Beacon => MAX_BEACONS,
            Kind::Release => MAX_RELEASES,
        }
    }
}

/// How new a statement is among those of its kind.
pub(crate) type Age = (Epoch, Seq, i64);

pub(crate) fn age(signed: &SignedStatement) -> Age {
    match signed.statement() {
        Statement::Recovery(recovery) => (recovery.new_epoch, Seq(0), 0),
        Statement::Revoke(revoke) => (revoke.epoch, Seq(0), revoke.issued.as_second()),
        Statement::Beacon(beacon) => (beacon.epoch, beacon.seq, beacon.issued.as_second()),
        Statement::Release(release) => {
            (release.epoch, release.seq, release.not_after.map_or(i64::MAX, |end| end.as_second()))
        }
    }
}

/// What a statement is about, and who says it: of two, the newer takes the other's place. So no key fills the room of another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    kind: Kind,
    about: String,
    by: Fingerprint,
}

impl Slot {
    fn of(signed: &SignedStatement) -> Self {
        let about = match signed.statement() {
            Statement::Recovery(_) => signed.statement().body(),
            Statement::Revoke(revoke) => revoke.key.to_string(),
            Statement::Beacon(_) => String::new(),
            Statement::Release(release) => format!("{} {:?}", release.step, release.intent),
        };
        Slot { kind: Kind::of(signed), about, by: signed.key().clone() }
    }
}

/// The statements.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Kept(BTreeMap<Slot, SignedStatement>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    statements: Vec<String>,
}

impl Kept {
    /// Takes statements that counted; gives whether that was news. Beyond a kind's limit the oldest go.
    pub(crate) fn take<'a>(&mut self, counted: impl IntoIterator<Item = &'a SignedStatement>) -> bool {
        let before = self.clone();
        for signed in counted {
            let slot = Slot::of(signed);
            if self.0.get(&slot).is_none_or(|known| age(known) < age(signed)) {
                self.0.insert(slot, signed.clone());
            }
        }
        let mut left = BTreeMap::<Kind, usize>::new();
        let kept: Vec<Slot> = self
            .newest_first()
            .filter(|(slot, _)| within(&mut left, slot.kind))
            .map(|(slot, _)| slot.clone())
            .collect();
        self.0.retain(|slot, _| kept.contains(slot));
        *self != before
    }

    /// Kind by kind, the newest of each first.
    fn newest_first(&self) -> impl Iterator<Item = (&Slot, &SignedStatement)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(slot, signed)| (slot.kind, Reverse(age(signed))));
        all.into_iter()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SignedStatement> {
        self.newest_first().map(|(_, signed)| signed)
    }

    /// What the other machines are shown, at most [`MAX_SERVED_BYTES`] of it.
    pub(crate) fn served(&self) -> Vec<String> {
        let mut left = MAX_SERVED_BYTES;
        let fits = |signed: &&SignedStatement| match left.checked_sub(signed.text().len()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        self.iter().take_while(fits).map(|signed| signed.text().to_owned()).collect()
    }

    fn to_json(&self) -> Vec<u8> {
        let statements = self.iter().map(|signed| signed.text().to_owned()).collect();
        serde_json::to_vec(&Form { version: VERSION, statements }).expect("because it holds only texts")
    }

    /// Reads the file's form; what is no statement is left out.
    fn from_json(json: &[u8]) -> Result<Self, String> {
        let form: Form = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if form.version != VERSION {
            return Err(format!("it has version {}, and this release knows {VERSION}", form.version));
        }
        let read = form.statements.iter().take(MAX_STATEMENTS);
        let read: Vec<_> = read.filter_map(|text| SignedStatement::parse(text.as_bytes()).ok()).collect();
        let mut kept = Kept::default();
        kept.take(&read);
        Ok(kept)
    }
}

fn within(counts: &mut BTreeMap<Kind, usize>, kind: Kind) -> bool {
    let count = counts.entry(kind).or_default();
    *count += 1;
    *count <= kind.most()
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile(PathBuf);

impl KeptFile {
    pub(crate) fn new(folder: &Path) -> Self {
        KeptFile(folder.join("statements"))
    }

    /// What was kept; nothing where the file is missing or cannot be read, since everything in it can be had again.
    pub(crate) fn read(&self) -> Kept {
        let path = self.0.display();
        let text = match store::read_bounded(&self.0, MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::default(),
            Err(error) => {
                tracing::warn!(%path, %error, "the kept statements cannot be read and are begun afresh");
                return Kept::default();
            }
        };
        Kept::from_json(text.as_bytes()).unwrap_or_else(|error| {
            tracing::warn!(%path, error, "the kept statements cannot be read and are begun afresh");
            Kept::default()
        })
    }

    /// Writes all of it; when this returns, it is on the disk.
    pub(crate) fn write(&self, kept: &Kept) -> Result<(), StoreError> {
        store::replace_file(&self.0, &kept.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{OURS, beacon, recovery, release, revoke};

    #[test]
    fn what_is_kept_is_read_again_after_a_restart() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let (file, mut kept) = (KeptFile::new(&folder.path().join("gitsync")), Kept::default());
        assert_eq!(file.read(), kept, "there is nothing yet");
        let counted = [release(1, OURS, 1, 1), beacon(1, 1, 0), revoke(1, 9, 0), recovery(1, 1)];
        assert!(kept.take(&counted));
        assert!(!kept.take(&counted), "the same again is no news");
        file.write(&kept).expect("because the folder can be made");
        assert_eq!(file.read(), kept);
        let kinds: Vec<_> = kept.iter().map(Kind::of).collect();
        assert_eq!(kinds, [Kind::Recovery, Kind::Revoke, Kind::Beacon, Kind::Release]);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_begun_afresh_and_a_forged_statement_left_out() {
        let folder = tempfile::tempdir().expect("because there is a temporary folder");
        let (file, path) = (KeptFile::new(folder.path()), folder.path().join("statements"));
        let good = release(1, OURS, 1, 1);
        let forged = good.text().replace("seq 1\n", "seq 2\n");
        let form = |version: u32| {
            serde_json::json!({"version": version, "statements": [forged.as_str(), good.text(), "x"]}).to_string()
        };
        for (text, left) in [(form(1), 1), (form(2), 0), ("{".to_owned(), 0), (String::new(), 0)] {
            std::fs::write(&path, &text).expect("because the folder is there");
            let read = file.read();
            assert_eq!(read.iter().count(), left, "{text}");
            assert!(read.iter().all(|signed| *signed == good));
        }
    }

    #[test]
    fn the_newest_steps_stay_and_one_key_has_one_statement_about_one_thing() {
        let mut kept = Kept::default();
        let many: Vec<_> = (1..=MAX_RELEASES as u64 + 20).map(|seq| release(1, OURS, seq, seq)).collect();
        kept.take(&many);
        assert_eq!(kept.iter().count(), MAX_RELEASES);
        assert_eq!(kept.iter().next(), many.last());
        assert!(!kept.iter().any(|signed| *signed == many[19]), "the oldest are gone");
        // A thief who ends the stolen key a hundred times takes one place.
        let ends: Vec<_> = (0..100).map(|second| revoke(2, 2, second)).collect();
        kept.take(ends.iter().rev());
        let revocations: Vec<_> = kept.iter().filter(|signed| Kind::of(signed) == Kind::Revoke).collect();
        assert_eq!(revocations, [&ends[99]]);
        kept.take(&[beacon(3, 7, 10), beacon(3, 6, 20)]);
        let beacons: Vec<_> = kept.iter().filter(|signed| Kind::of(signed) == Kind::Beacon).collect();
        assert_eq!(beacons, [&beacon(3, 7, 10)], "the newest step's, not the newest clock's");
    }

    #[test]
    fn what_is_served_is_bounded_and_begins_with_what_stops_something() {
        let mut kept = Kept::default();
        kept.take(&(1..=200).map(|seq| release(1, OURS, seq, seq)).collect::<Vec<_>>());
        kept.take(&[revoke(1, 9, 0)]);
        let served = kept.served();
        let bytes: usize = served.iter().map(String::len).sum();
        assert!(bytes <= MAX_SERVED_BYTES && bytes > MAX_SERVED_BYTES / 2, "{bytes}");
        assert_eq!(served[0], revoke(1, 9, 0).text());
        assert_eq!(served[1], release(1, OURS, 200, 200).text(), "the newest step first");
    }
}
