//! Tests of the hash tree: by hand for one block, by recomputing for two levels, and against veritysetup where it is installed.

use std::process::Command;

use super::*;

/// Different bytes in every block, the same in every run.
fn data(blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|index| (index / BLOCK * 31 + index % 251) as u8).collect()
}

fn salted(salt: &[u8], block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

#[test]
fn one_block_is_its_own_root() {
    let image = seal(data(1)).expect("because one block is enough");
    let superblock = Superblock::parse(&image.bytes[BLOCK..]).expect("because seal() wrote it");
    assert_eq!(image.root_hash, RootHash::from_bytes(salted(&superblock.salt, &data(1))));
    assert_eq!(image.bytes.len(), 2 * BLOCK);
}

#[test]
fn every_block_is_reached_from_the_root() {
    // 129 blocks need two blocks of hashes and one above them.
    let image = seal(data(129)).expect("because 129 blocks are few");
    let superblock = Superblock::parse(&image.bytes[129 * BLOCK..]).expect("because seal() wrote it");
    assert_eq!(superblock.data_blocks, 129);
    let block = |number: usize| &image.bytes[number * BLOCK..(number + 1) * BLOCK];
    let (top, lower) = (130, 131);
    assert_eq!(image.bytes.len(), 133 * BLOCK);
    assert_eq!(image.root_hash, RootHash::from_bytes(salted(&superblock.salt, block(top))));
    for number in 0..129 {
        let hashes = block(lower + number / 128);
        let slot = number % 128 * 32;
        assert_eq!(hashes[slot..slot + 32], salted(&superblock.salt, block(number)), "block {number}");
    }
    for number in 0..2 {
        assert_eq!(block(top)[number * 32..(number + 1) * 32], salted(&superblock.salt, block(lower + number)));
    }
}

#[test]
fn the_same_content_has_the_same_hash_and_other_content_another() {
    let hash = |data| seal(data).expect("because the data is small").root_hash;
    assert_eq!(hash(data(5)), hash(data(5)));
    let mut changed = data(5);
    changed[3 * BLOCK] ^= 1;
    assert!(hash(changed) != hash(data(5)));
}

#[test]
fn odd_lengths_are_filled_up_with_zeros() {
    let mut longer = data(2);
    longer.truncate(BLOCK + 1);
    let image = seal(longer).expect("because the data is small");
    assert_eq!(image.data_blocks, 2);
}

#[test]
fn no_content_is_refused() {
    assert!(seal(Vec::new()).is_err());
}

/// Needs veritysetup (package cryptsetup-bin); without it the test says so and the ones above stand alone.
#[test]
fn veritysetup_agrees() {
    let folder = tempfile::tempdir().expect("because temporary folders can be made");
    let path = folder.path().join("root.img");
    // 16,385 blocks are the first that need three levels: a root of 64 MiB and one block.
    for blocks in [2, 128, 129, 16_385] {
        let image = seal(data(blocks)).expect("because the data is small");
        std::fs::write(&path, &image.bytes).expect("because the folder is ours");
        let offset = format!("--hash-offset={}", blocks * BLOCK);
        let mut command = Command::new("/usr/sbin/veritysetup");
        command.arg("verify").args([&path, &path]).arg(image.root_hash.to_string()).arg(offset);
        match command.output() {
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{blocks} blocks: {message}");
            }
            Err(error) => {
                eprintln!("not compared with veritysetup, which is in the package cryptsetup-bin: {error}");
                return;
            }
        }
    }
}
