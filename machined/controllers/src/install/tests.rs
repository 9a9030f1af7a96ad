//! Choosing a disk, and installations on a modelled disk whose power is cut at every write.

mod power_cuts;

use super::*;
use init_boot::PartitionSizes;

const SIZES: PartitionSizes = PartitionSizes { esp: 8 << 20, root: 8 << 20, state: 32 << 20 };

fn disk(name: &str) -> DiskFacts {
    DiskFacts {
        name: name.to_owned(),
        bytes: 500_000_000_000,
        sector_bytes: 512,
        model: "Example 500".to_owned(),
        serial: format!("S-{name}"),
        wwn: format!("naa.5000{name}"),
        read_only: false,
        is_medium: false,
        holds: Holds::Nothing,
    }
}

fn request(text: &str) -> InstallRequest {
    InstallRequest::parse(&format!("install {{ {text}; }}")).expect("because the text is right")
}

fn chosen(text: &str, disks: &[DiskFacts]) -> Result<Choice, Refusal> {
    choose(&request(text), disks, &SIZES)
}

#[test]
fn every_way_to_name_a_disk_names_it() {
    let disks = [disk("sda"), DiskFacts { bytes: 2_000_000_000_000, model: "Other".to_owned(), ..disk("sdb") }];
    for text in [
        "disk serial=\"S-sdb\"",
        "disk wwn=\"naa.5000sdb\"",
        "disk model=\"Other\"",
        "disk path=\"/dev/sdb\"",
        "disk bytes-min=\"1TB\"",
        "disk bytes-min=\"1TB\" bytes-max=\"2TB\" serial=\"S-sdb\"",
    ] {
        assert_eq!(chosen(text, &disks), Ok(Choice::Install("sdb".to_owned())), "{text}");
    }
    assert_eq!(chosen("disk bytes-max=\"466GiB\"", &disks), Ok(Choice::Install("sda".to_owned())));
    assert_eq!(InstallRequest::parse("install"), Ok(InstallRequest::default()));
    assert_eq!(choose(&InstallRequest::default(), &disks, &SIZES), Ok(Choice::Ask));
}

#[test]
fn a_disk_that_is_not_clear_is_not_guessed() {
    let disks = [disk("sda"), disk("sdb")];
    let refused = chosen("disk model=\"Example 500\"", &disks).expect_err("because two fit");
    assert!(refused.to_string().contains("sda, sdb"), "{refused}");
    let refused = chosen("disk serial=\"S-sda\" model=\"Other\"", &disks).expect_err("because none fits both");
    assert!(refused.to_string().contains("serial=\"S-sda\" model=\"Other\""), "{refused}");
}

#[test]
fn a_disk_that_holds_something_is_left_alone_unless_wipe_is_said() {
    for (holds, word) in [(Holds::Something, "data"), (Holds::Cairn, "a Cairn machine with its STATE")] {
        let disks = [DiskFacts { holds, ..disk("sda") }];
        let refused = chosen("disk serial=\"S-sda\"", &disks).expect_err("because it holds something");
        assert!(refused.to_string().contains(word), "{refused}");
        assert_eq!(chosen("disk serial=\"S-sda\"; wipe", &disks), Ok(Choice::Install("sda".to_owned())));
        assert!(chosen("disk serial=\"S-sda\"; wipe #false", &disks).is_err());
    }
    for holds in [Holds::Nothing, Holds::Unfinished] {
        let disks = [DiskFacts { holds, ..disk("sda") }];
        assert_eq!(chosen("disk serial=\"S-sda\"", &disks), Ok(Choice::Install("sda".to_owned())), "{holds:?}");
    }
}

#[test]
fn wipe_does_not_make_an_unfit_disk_fit() {
    let whole = disk("sda");
    for (disk, word) in [
        (DiskFacts { read_only: true, ..whole.clone() }, "read-only"),
        (DiskFacts { sector_bytes: 4096, ..whole.clone() }, "4096"),
        (DiskFacts { bytes: SIZES.disk_bytes_min() - 1, ..whole.clone() }, "the least"),
    ] {
        let refused = chosen("disk path=\"/dev/sda\"; wipe", &[disk]).expect_err("because it is unfit");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    // The medium is never meant, even where it fits.
    let medium = DiskFacts { is_medium: true, ..disk("sdb") };
    assert!(chosen("disk path=\"/dev/sdb\"; wipe", std::slice::from_ref(&medium)).is_err());
    let both = [whole, medium];
    assert_eq!(chosen("disk model=\"Example 500\"", &both), Ok(Choice::Install("sda".to_owned())));
}

#[test]
fn mistakes_in_a_request_are_refused() {
    for text in [
        "install { disk; }",
        "install { disk seriel=\"x\"; }",
        "install { disk bytes-min=\"many\"; }",
        "install { disk bytes-min=\"99999999999TB\"; }",
        "install { disk serial=\"x\"; disk serial=\"y\"; }",
        "install { wpie; }",
        "seed { }",
        "",
    ] {
        assert!(InstallRequest::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_confirmation_is_for_one_disk_with_one_content() {
    let empty = disk("sda");
    let codes = [
        confirmation(&empty),
        confirmation(&disk("sdb")),
        confirmation(&DiskFacts { holds: Holds::Cairn, ..empty.clone() }),
        confirmation(&DiskFacts { serial: "other".to_owned(), ..empty.clone() }),
    ];
    for (index, code) in codes.iter().enumerate() {
        assert_eq!(codes.iter().position(|other| other == code), Some(index));
    }
    assert_eq!(confirmation(&empty), codes[0]);
}
