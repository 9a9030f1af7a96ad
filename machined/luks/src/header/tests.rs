//! A volume on a modelled disk: what opens it after each change, after a power cut at each byte group of a change, and when damaged.

use super::*;
use crate::{HEADER_BYTES, SECTOR_BYTES};
use proptest::prelude::*;
use serde_json::{Map, Value};

const UUID: &str = "0d1e2f30-4152-4363-8475-8697a8b9cadb";

/// Bytes that differ from draw to draw and are the same in each run.
fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 1_u64;
    move |bytes| {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    }
}

fn token(kind: &str) -> Token {
    Token::new(kind, Map::from_iter([("note".to_owned(), Value::from("text"))]))
}

struct Disk {
    front: Vec<u8>,
    header: Header,
    key: VolumeKey,
}

fn disk(random: Random<'_>) -> Disk {
    let key = VolumeKey::generate(random);
    let mut header = Header::new("state", UUID, 64 << 20, SECTOR_BYTES, &key, random);
    let change = header.add(&key, b"first", token("one"), &[], random).expect("because there is room");
    Disk { front: Header::front(&change), header, key }
}

fn write(front: &mut [u8], write: &Write, bytes: usize) {
    let at = write.offset as usize;
    front[at..at + bytes].copy_from_slice(&write.bytes[..bytes]);
}

fn opens(front: &[u8], secret: &[u8]) -> Option<VolumeKey> {
    Header::parse(front).expect("because one copy is whole").open(front, secret).ok()
}

#[test]
fn a_new_volume_opens_with_its_secret_and_with_no_other() {
    let Disk { front, header, key } = disk(&mut random());
    let read = Header::parse(&front).expect("because it is whole");
    assert_eq!(read, header);
    assert_eq!((read.label(), read.uuid(), read.sector_size()), ("state", UUID, 4096));
    assert_eq!((read.data_offset(), read.data_bytes()), (FRONT_BYTES as u64, Some(64 << 20)));
    assert_eq!(read.open(&front, b"first").expect("because it is the secret"), key);
    assert!(matches!(read.open(&front, b"other"), Err(LuksError::WrongSecret)));
    assert_eq!(read.tokens("one").map(|token| token.fields["note"].clone()).collect::<Vec<_>>(), ["text"]);
    assert_eq!(read.tokens("two").count(), 0);
    let text = String::from_utf8_lossy(&front[..HEADER_BYTES]).into_owned();
    assert!(!text.contains("first"), "the secret stands in the header");
    assert!(!front.windows(64).any(|bytes| bytes == key.bytes()), "the key stands on the disk");
}

#[test]
fn each_secret_of_several_opens_and_a_replaced_one_does_not() {
    let mut random = random();
    let Disk { mut front, mut header, key } = disk(&mut random);
    let change = header.add(&key, b"second", token("two"), &[], &mut random).expect("because there is room");
    change.iter().for_each(|part| write(&mut front, part, part.bytes.len()));
    assert_eq!(opens(&front, b"first"), Some(key.clone()));
    assert_eq!(opens(&front, b"second"), Some(key.clone()));
    let old = header.slots_of("two");
    let change = header.add(&key, b"third", token("two"), &old, &mut random).expect("because three slots fit");
    change.iter().for_each(|part| write(&mut front, part, part.bytes.len()));
    assert_eq!(opens(&front, b"second"), None);
    assert_eq!(opens(&front, b"third"), Some(key.clone()));
    assert_eq!(opens(&front, b"first"), Some(key.clone()));
    for slot in old {
        let erased = Header::erase(slot, &mut random);
        write(&mut front, &erased, erased.bytes.len());
    }
    assert_eq!(opens(&front, b"third"), Some(key));
    assert_eq!(header.slots_of("two").len(), 1);
}

#[test]
fn a_volume_has_no_more_key_slots_than_fit_before_its_data() {
    let mut random = random();
    let Disk { mut header, key, .. } = disk(&mut random);
    for _ in 1..SLOTS_MAX {
        header.add(&key, b"more", token("more"), &[], &mut random).expect("because there is room");
    }
    let before = header.clone();
    let refused = header.add(&key, b"more", token("more"), &[], &mut random);
    assert!(matches!(refused, Err(LuksError::Full)));
    assert_eq!(header, before, "what was refused changes nothing");
}

/// Each write may be there in part when the power goes; the ones before it are whole, the ones after it never happened.
#[test]
fn a_power_cut_at_any_point_of_a_change_leaves_a_volume_that_opens() {
    let mut random = random();
    let Disk { front, mut header, key } = disk(&mut random);
    let old = header.slots_of("one");
    let change = header.add(&key, b"second", token("one"), &old, &mut random).expect("because there is room");
    let mut before = front;
    for part in &change {
        // Sectors of 512 bytes are written whole.
        let sectors = part.bytes.len() / 512;
        for torn in [0, 1, sectors / 2, sectors - 1] {
            let mut cut = before.clone();
            write(&mut cut, part, torn * 512);
            let found = [&b"first"[..], b"second"].into_iter().find_map(|secret| opens(&cut, secret));
            assert_eq!(found, Some(key.clone()), "{part:?} cut after {torn} sectors");
        }
        write(&mut before, part, part.bytes.len());
    }
    assert_eq!((opens(&before, b"first"), opens(&before, b"second")), (None, Some(key)));
}

#[test]
fn either_copy_is_enough_and_without_both_the_reason_is_told() {
    let Disk { front, key, .. } = disk(&mut random());
    for at in [0, 470, 4096, HEADER_BYTES - 1] {
        let mut first = front.clone();
        first[at] ^= 1;
        assert_eq!(opens(&first, b"first"), Some(key.clone()), "byte {at} of the first copy");
        let mut second = front.clone();
        second[HEADER_BYTES + at] ^= 1;
        assert_eq!(opens(&second, b"first"), Some(key.clone()), "byte {at} of the second copy");
        let mut both = first;
        both[HEADER_BYTES + at] ^= 1;
        assert!(matches!(Header::parse(&both), Err(LuksError::Damaged { .. })), "byte {at} of both copies");
        assert!(at == 0 || Header::is_there(&both), "a damaged header counts as an empty partition");
    }
    assert!(!Header::is_there(&[0; FRONT_BYTES]) && !Header::is_there(&[]));
}

#[test]
fn copies_that_differ_are_made_the_same_with_a_whole_one_at_every_moment() {
    let mut random = random();
    let Disk { front: before, mut header, key } = disk(&mut random);
    assert_eq!(header.settle(&before, &mut random).expect("because it fits"), None);
    let old = header.slots_of("one");
    let change = header.add(&key, b"second", token("two"), &old, &mut random).expect("because there is room");
    // The power went before the second copy was written, or in the middle of it: the first one is the newest, the other is old or damaged.
    for cut in [0, 100] {
        let mut front = before.clone();
        change[..2].iter().for_each(|part| write(&mut front, part, part.bytes.len()));
        write(&mut front, &change[2], cut);
        let mut found = Header::parse(&front).expect("because one copy is whole");
        let settling = found.settle(&front, &mut random).expect("because it fits").expect("because the copies differ");
        assert_eq!(settling[0].offset, HEADER_BYTES as u64, "the worse copy comes first");
        for part in &settling {
            write(&mut front, part, 100);
            assert_eq!(opens(&front, b"second"), Some(key.clone()), "cut in {part:?}");
            write(&mut front, part, part.bytes.len());
            assert_eq!(opens(&front, b"second"), Some(key.clone()));
        }
        assert_eq!(found.settle(&front, &mut random).expect("because it fits"), None);
        let text = String::from_utf8_lossy(&front[..2 * HEADER_BYTES]).into_owned();
        assert!(!text.contains("\"one\""), "the replaced token still stands there");
    }
}

#[test]
fn a_removed_slot_opens_no_more_and_the_last_one_stays() {
    let mut random = random();
    let Disk { mut front, mut header, key } = disk(&mut random);
    let change = header.add(&key, b"second", token("two"), &[], &mut random).expect("because there is room");
    change.iter().for_each(|part| write(&mut front, part, part.bytes.len()));
    let slots: Vec<Slot> = header.slot_tokens("one").map(|(slot, _)| slot).collect();
    assert_eq!(slots, header.slots_of("one"));
    let change = header.remove(&slots, &mut random).expect("because one is left");
    change.iter().for_each(|part| write(&mut front, part, part.bytes.len()));
    assert_eq!((opens(&front, b"first"), opens(&front, b"second")), (None, Some(key)));
    let last = header.slots_of("two");
    assert!(header.remove(&last, &mut random).is_err(), "nothing opens the volume any more");
    assert!(header.has_room());
}

/// The JSON of both copies with something replaced; check sums are right.
fn tampered(front: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (binary, json) = Binary::parse(front, Copy::First).expect("because it is whole");
    let text = String::from_utf8(json.to_vec()).expect("because JSON is text");
    assert!(text.contains(from), "{from} does not stand in {text}");
    let json = text.replace(from, to).into_bytes();
    let mut front = front.to_vec();
    for which in [Copy::First, Copy::Second] {
        let copy = binary.encode(which, &json, &[0; SALT_BYTES]);
        front[which.offset()..which.offset() + copy.len()].copy_from_slice(&copy);
    }
    front
}

#[test]
fn what_is_not_supported_or_cannot_be_is_refused() {
    let Disk { front, .. } = disk(&mut random());
    for (from, to) in [
        ("\"iterations\":1000", "\"iterations\":4000000000"),
        ("\"iterations\":1000", "\"iterations\":0"),
        ("\"offset\":\"32768\"", "\"offset\":\"0\""),
        ("\"offset\":\"32768\"", "\"offset\":\"18446744073709551615\""),
        ("\"offset\":\"1048576\"", "\"offset\":\"4097\""),
        ("\"offset\":\"1048576\"", "\"offset\":\"40960\""),
        ("\"sector_size\":4096", "\"sector_size\":0"),
        ("\"stripes\":4000", "\"stripes\":1"),
        ("\"encryption\":\"aes-xts-plain64\"", "\"encryption\":\"cipher_null-ecb\""),
        ("\"type\":\"crypt\"", "\"type\":\"linear\""),
        ("\"keyslots\":[\"0\"]", "\"keyslots\":[\"7\"]"),
        ("\"config\":{", "\"config\":{\"requirements\":{\"mandatory\":[\"online-reencrypt\"]},"),
        ("\"config\":{", "\"surprise\":1,\"config\":{"),
    ] {
        assert!(Header::parse(&tampered(&front, from, to)).is_err(), "{to} was taken");
    }
    assert!(
        Header::parse(&tampered(&front, "\"note\":\"text\"", "\"note\":[1]")).is_ok(),
        "tokens hold what they like"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(at in 0..2 * HEADER_BYTES, bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        let mut front = vec![0; 2 * HEADER_BYTES];
        let end = front.len().min(at + bytes.len());
        front[at..end].copy_from_slice(&bytes[..end - at]);
        let _refused_or_not = Header::parse(&front);
        let _there_or_not = Header::is_there(&front);
    }
}
