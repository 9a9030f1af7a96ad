//! A fixed sample of mutations for each reader, in every `cargo test`: it refuses, and never panics, hangs or says two things.
//!
//! Inputs follow from one seed and begin where the readers' branches are; there is no feedback. `cargo xtask fuzz` is for looking further.

use std::time::{Duration, Instant};
use tests_readers::{TARGETS, Target, target};

/// Inputs of a target that only computes: a second or two for all of them without optimisation.
const SAMPLE: u32 = 400;

/// Inputs of a target that makes a repository for each.
const SAMPLE_ON_DISK: u32 = 100;

/// Longest time that one input may take. A thousand times what the slowest takes, so that a busy machine fails nobody.
const INPUT_LIMIT: Duration = Duration::from_secs(20);

/// A small generator of numbers (splitmix64): the seed decides everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    /// A few changes to a seed: bytes, ranges taken out, doubled or brought in from another seed, and words that have broken parsers.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 14] = [
            b"",
            b"\n",
            b"\r\n",
            b"\0",
            b" ",
            b"{",
            b"}",
            b"\"",
            b"/*",
            b"\\u{110000}",
            b"18446744073709551616",
            b"-0",
            b"\xff\xfe",
            b"#\"",
        ];
        let mut bytes = seeds[self.roll(seeds.len())].clone();
        for _ in 0..=self.roll(6) {
            let (at, to) = (self.roll(bytes.len() + 1), self.roll(bytes.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match self.roll(7) {
                0 if from < bytes.len() => bytes[from] = self.roll(256) as u8,
                1 if from < bytes.len() => bytes[from] ^= 1 << self.roll(8),
                2 => _ = bytes.drain(from..to.min(from + 64)),
                3 => bytes.extend_from_within(from..to.min(from + 256)),
                4 => _ = bytes.splice(from..from, WORDS[self.roll(WORDS.len())].iter().copied()),
                5 => {
                    let other = &seeds[self.roll(seeds.len())];
                    let start = self.roll(other.len() + 1);
                    let part = other[start..other.len().min(start + 64)].to_vec();
                    _ = bytes.splice(from..from, part);
                }
                _ => bytes.truncate(to),
            }
        }
        bytes
    }
}

/// Feeds a target its seeds, and a fixed sample of what they mutate to.
fn feed(name: &str, sample: u32) {
    let Target { seeds, feed, .. } = target(name).expect("because there is such a target");
    let (seeds, mut dice) = (seeds(), Dice(1));
    seeds.iter().for_each(|seed| feed(seed));
    for input in 0..sample {
        let (bytes, at) = (dice.mutate(&seeds), Instant::now());
        if std::panic::catch_unwind(|| feed(&bytes)).is_err() {
            panic!("{name}: input {input} broke it: {}", bytes.escape_ascii());
        }
        assert!(at.elapsed() < INPUT_LIMIT, "{name}: input {input} took {:?}: {}", at.elapsed(), bytes.escape_ascii());
    }
}

#[test]
fn commits() {
    feed("commits", SAMPLE);
}

#[test]
fn trees() {
    feed("trees", SAMPLE);
}

#[test]
fn policies() {
    feed("policies", SAMPLE);
}

#[test]
fn documents() {
    feed("documents", SAMPLE);
}

#[test]
fn statements() {
    feed("statements", SAMPLE);
}

#[test]
fn states() {
    feed("states", SAMPLE);
}

#[test]
fn answers() {
    feed("answers", SAMPLE);
}

#[test]
fn command_lines() {
    feed("command-lines", SAMPLE);
}

#[test]
fn partition_tables() {
    feed("tables", SAMPLE);
}

#[test]
fn superblocks() {
    feed("superblocks", SAMPLE);
}

#[test]
fn records() {
    feed("records", SAMPLE);
}

#[test]
fn messages() {
    feed("messages", SAMPLE);
}

#[test]
fn module_lists() {
    feed("module-lists", SAMPLE);
}

#[test]
fn unified_images() {
    feed("unified-images", SAMPLE);
}

#[test]
fn artefacts() {
    feed("artefacts", SAMPLE);
}

#[test]
fn applied_logs() {
    feed("applied-logs", SAMPLE);
}

#[test]
fn tpm_answers() {
    feed("tpm-answers", SAMPLE);
}

#[test]
fn packs() {
    feed("packs", SAMPLE_ON_DISK);
}

#[test]
fn bundles() {
    feed("bundles", SAMPLE_ON_DISK);
}

#[test]
fn every_target_has_a_name_of_its_own_and_seeds() {
    for (number, target) in TARGETS.iter().enumerate() {
        assert!(TARGETS[..number].iter().all(|other| other.name != target.name), "{target:?}");
        assert!(!(target.seeds)().is_empty(), "{target:?}");
    }
}
