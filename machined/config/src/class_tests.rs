//! Machines with classes: what is merged how, and every mistake at its place.

use super::class::{Machines, RolloutConfig, Share, Wave};
use super::{MachineConfig, MachineDocument, Role};
use std::time::Duration;

const IDENTITY: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
const OTHER: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn machine(name: &str, body: &str) -> String {
    format!("machine \"{name}\" {{\n    identity \"{IDENTITY}\"\n    role \"worker\"\n    {body}\n}}\n")
}

fn image(letter: char) -> String {
    let digest = letter.to_string().repeat(64);
    format!("image digest=\"sha256:{digest}\" url=\"https://images.example/{letter}.artefact\"")
}

fn read(files: &[(&str, &str)]) -> Result<Machines, Vec<String>> {
    Machines::read(files.iter().copied()).map_err(|found| found.0.iter().map(ToString::to_string).collect())
}

fn one(class: &str, own: &str) -> MachineConfig {
    let class = format!("class \"workers\" {{ {class}; }}");
    let text = machine("w1", &format!("class \"workers\"\n{own}"));
    let mut read =
        read(&[("machines/classes.kdl", &class), ("machines/w1.kdl", &text)]).expect("because both are good");
    read.machines.remove(&"w1".parse().expect("because it is a name")).expect("because it is there").config
}

#[test]
fn a_machine_has_what_its_class_says() {
    let class = format!(
        "{}; time {{ server \"t\"; }}; registry \"docker.io\" {{ mirror \"http://m:5000\"; }}; network {{ link \"eth0\" {{ dhcp; }}; nameserver \"10.0.0.3\"; }}; canary pause=\"10m\"",
        image('a')
    );
    let config = one(&class, "");
    assert_eq!(
        config.image.expect("because the class names one").digest.to_string(),
        format!("sha256:{}", "a".repeat(64))
    );
    assert_eq!((config.time_servers.len(), config.registries.len(), config.network.links.len()), (1, 1, 1));
    assert_eq!(config.network.nameservers.len(), 1);
    assert_eq!(config.canary.map(|canary| canary.pause), Some(Duration::from_secs(600)));
}

#[test]
fn what_a_machine_says_itself_wins() {
    // Field, class, machine, and what the machine has then.
    type Show = fn(&MachineConfig) -> String;
    let links: Show = |config| {
        let link = |link: &super::LinkConfig| match &link.addressing {
            super::Addressing::Dhcp => format!("{} dhcp", link.name),
            super::Addressing::Static { addresses, .. } => format!("{} {}", link.name, addresses[0]),
        };
        config.network.links.iter().map(link).collect::<Vec<_>>().join(", ")
    };
    let cases: &[(&str, &str, Show, &str)] = &[
        ("time { server \"a\"; server \"b\"; }", "time { server \"c\"; }", |c| c.time_servers.join(" "), "c"),
        ("time { server \"a\"; }", "time { }", |c| c.time_servers.join(" "), ""),
        ("time { server \"a\"; }", "", |c| c.time_servers.join(" "), "a"),
        (
            "network { link \"eth0\" { dhcp; }; link \"eth1\" { dhcp; }; }",
            "network { link \"eth1\" { address \"10.0.0.5/24\"; }; }",
            links,
            "eth0 dhcp, eth1 10.0.0.5/24",
        ),
        (
            "network { nameserver \"10.0.0.1\"; nameserver \"10.0.0.2\"; }",
            "network { nameserver \"10.0.0.9\"; }",
            |c| c.network.nameservers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            "10.0.0.9",
        ),
        (
            "registry \"a\" { mirror \"http://1\"; mirror \"http://2\"; }; registry \"b\" { mirror \"http://3\"; }",
            "registry \"a\" { mirror \"http://4\"; }",
            |c| {
                c.registries
                    .iter()
                    .map(|r| format!("{} {}", r.name, r.mirrors.join(" ")))
                    .collect::<Vec<_>>()
                    .join(", ")
            },
            "b http://3, a http://4",
        ),
        ("canary", "canary #false", |c| format!("{}", c.canary.is_some()), "false"),
        ("canary #false", "canary", |c| format!("{}", c.canary.is_some()), "true"),
    ];
    for (class, own, show, expected) in cases {
        assert_eq!(show(&one(class, own)), *expected, "{class} | {own}");
    }
    let both = one(&format!("{} attempt=3", image('a')), &image('b')).image.expect("because both name one");
    assert_eq!(
        (both.url.as_str(), both.attempt),
        ("https://images.example/b.artefact", 1),
        "an image line is one thing"
    );
}

fn extension(name: &str, letter: char) -> String {
    format!("extension \"{name}\" digest=\"sha256:{}\" url=\"https://e.example/{name}\"", letter.to_string().repeat(64))
}

#[test]
fn extensions_go_by_name_and_a_machine_may_leave_one_out() {
    let class = format!("{}; {}; {}", extension("cni", 'a'), extension("gpu", 'b'), extension("nic", 'c'));
    let own = format!("{}; extension \"nic\" #false; {}", extension("gpu", 'd'), extension("disk", 'e'));
    let found = one(&class, &own).extensions;
    let shown: Vec<String> =
        found.iter().map(|one| format!("{} {}", one.name, &one.digest.to_string()[7..9])).collect();
    assert_eq!(shown, ["cni aa", "disk ee", "gpu dd"]);
    assert_eq!(one(&class, "").extensions.len(), 3);
    let many: Vec<String> = (0..6).map(|number| extension(&format!("x{number}"), '0')).collect();
    let (class, text) =
        (format!("class \"c\" {{ {class} }}"), machine("w1", &format!("class \"c\"\n{}", many.join("\n"))));
    let found =
        read(&[("machines/classes.kdl", &class), ("machines/w1.kdl", &text)]).expect_err("because nine are too many");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("machines/w1.kdl:4:5: 9 extensions are named"), "{found:?}");
}

#[test]
fn a_machine_of_a_class_is_handed_one_whole_document_and_any_other_its_own_text() {
    let class = format!(
        "class \"workers\" {{ {} attempt=2; {}; time {{ server \"a \\\"b\\\"\"; }}; registry \"docker.io\" {{ mirror \"http://m:5000\"; }}; canary; }}",
        image('a'),
        extension("cni", 'a')
    );
    let member = machine(
        "w1",
        "class \"workers\"; network { link \"eth1\" { address \"10.0.0.5/24\"; gateway \"10.0.0.1\"; }; nameserver \"10.0.0.3\"; }",
    );
    let plain = machine("w2", "// its own words\n").replace(IDENTITY, OTHER);
    let read = read(&[
        ("machines/classes.kdl", class.as_str()),
        ("machines/w1.kdl", member.as_str()),
        ("machines/w2.kdl", plain.as_str()),
    ])
    .expect("because all are good");
    let of = |name: &str| &read.machines[&name.parse().expect("because it is a name")];
    let handed = MachineConfig::parse("machines/w1.kdl", &of("w1").text).expect("because it names no class");
    assert_eq!(handed, of("w1").config);
    assert_eq!((handed.network.links.len(), handed.extensions.len()), (1, 1));
    assert_eq!(of("w2").text, plain);
    assert_eq!(of("w2").class, None);
}

#[test]
fn a_document_of_a_class_is_not_whole_by_itself_but_says_who_the_machine_is() {
    let text = machine("w1", "class \"workers\"");
    let document = MachineDocument::parse("machines/w1.kdl", &text).expect("because the text is good");
    assert_eq!((document.role, document.identity.as_str()), (Role::Worker, IDENTITY));
    let alone = MachineConfig::parse("machines/w1.kdl", &text).expect_err("because the class is not there");
    assert!(alone.to_string().starts_with("machines/w1.kdl:4:5: class workers"), "{alone}");
}

#[test]
fn every_mistake_of_every_file_is_reported_with_its_place() {
    let classes = format!(
        "class \"a\" {{\n    role \"worker\"\n    identity \"{OTHER}\"\n    imge digest=\"x\"\n    rollout unavailable=9 {{\n        wave 2\n        wave 1\n        wave \"0%\"\n    }}\n}}\n"
    );
    let mixed = format!("class \"b\" {{}}\n{}", machine("mixed", ""));
    let found =
        read(&[("machines/classes.kdl", &classes), ("machines/mixed.kdl", &mixed)]).expect_err("because of all that");
    for expected in [
        "machines/classes.kdl:2:5: `role` is not a class's to say",
        "machines/classes.kdl:3:5: `identity` is not a class's to say",
        "machines/classes.kdl:4:5: `imge` is not known here",
        "machines/classes.kdl:5:5: `unavailable` is 9",
        "machines/classes.kdl:7:9: wave 1 adds nothing to wave 2",
        "machines/classes.kdl:8:14: `wave`: expected a number of machines",
        "machines/mixed.kdl:2:1: a file holds one machine or classes, not both",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "missing {expected:?} in {found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn an_unknown_class_and_one_that_stands_twice_are_named_with_file_and_line() {
    let member = machine("w1", "class \"wrokers\"");
    let found = read(&[
        ("machines/a.kdl", "class \"workers\" {}\n"),
        ("machines/b.kdl", "\nclass \"workers\" {}\n"),
        ("machines/w1.kdl", &member),
    ])
    .expect_err("because of both");
    assert_eq!(
        found,
        [
            "machines/b.kdl:2:1: class workers stands in machines/a.kdl:1 already",
            "machines/w1.kdl:4:5: class wrokers is in no file of machines/; there are: workers",
        ]
    );
    // While a file has mistakes, nobody knows which classes there are.
    let broken = read(&[("machines/a.kdl", "class \"wrokers\" { x; }\n"), ("machines/w1.kdl", &member)]);
    assert_eq!(broken.expect_err("because a file is broken").len(), 1);
}

#[test]
fn waves_are_read_as_they_are_written() {
    let text =
        "class \"w\" { rollout unavailable=3 { wave 1 pause=\"10m\"; wave \"25%\" pause=\"90s\"; wave \"50%\"; }; }";
    let read = read(&[("machines/classes.kdl", text)]).expect("because it is good");
    let wave = |until, seconds| Wave { until, pause: Duration::from_secs(seconds) };
    let waves = vec![wave(Share::Machines(1), 600), wave(Share::Percent(25), 90), wave(Share::Percent(50), 0)];
    assert_eq!(read.classes.values().next(), Some(&RolloutConfig { unavailable: 3, waves }));
    for (share, all, expected) in [("1", 7, 1), ("9", 7, 7), ("25%", 7, 2), ("1%", 7, 1), ("100%", 7, 7), ("50%", 0, 0)]
    {
        assert_eq!(share.parse::<Share>().expect("because it is a share").of(all), expected, "{share} of {all}");
    }
    for wrong in ["0", "0%", "101%", "-1", "1.5%", "%", "", "all"] {
        assert!(wrong.parse::<Share>().is_err(), "{wrong:?} was taken");
    }
}
