//! Documents, good and bad, through the readers of cluster and machine.

use super::*;
use crate::{Addressing, ClusterConfig, MachineConfig, Role};

const IDENTITY: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

fn problems<T: fmt::Debug>(read: Result<T, Problems>) -> Vec<String> {
    read.expect_err("the document has mistakes").0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_cluster_document_says_what_all_machines_share() {
    let text = r#"
cluster {
    id "00112233445566778899aabbccddeeff"
    name "demo"
    bootstrap "cp1"
    endpoint "10.0.2.15"
    endpoint "api.example.org"
}
"#;
    let cluster = ClusterConfig::parse("cluster.kdl", text).expect("because the document is good");
    assert_eq!(cluster.endpoints, ["10.0.2.15", "api.example.org"]);
    assert_eq!(cluster.network.services.to_string(), "10.96.0.0/12");
    assert_eq!(cluster.level, None);
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let text = r#"cluster {
    id "nonsense"
    nmae "demo"
    level 9
    bootstrap "cp1" "cp2"
    endpoint "a"
    endpoint "b" port=1
    network { pods "10.0.0.1/16"; services "10.0.0.0/8"; }
}
"#;
    let found = problems(ClusterConfig::parse("cluster.kdl", text));
    for expected in [
        "cluster.kdl:2:8: `id`: cluster id \"nonsense\": 32 lower-case hex digits",
        "cluster.kdl:3:5: `nmae` is not known here; expected `bootstrap`, `endpoint`, `id`, `level`, `name`, `network`",
        "cluster.kdl:1:1: `name` is missing here",
        "cluster.kdl:1:1: `level` is 9; this release runs 1 to 2",
        "cluster.kdl:5:21: `bootstrap` takes no further value",
        "cluster.kdl:7:18: property `port` is not known here",
        "cluster.kdl:8:5: `pods` has host bits; the network is 10.0.0.0/16",
        "cluster.kdl:8:5: `pods` 10.0.0.1/16 and `services` 10.0.0.0/8 overlap",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "missing {expected:?} in {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn a_repeated_property_is_a_mistake_although_kdl_allows_it() {
    let read = document("x.kdl", "rule a=1 a=2", |file| {
        let node = file.one("rule")?;
        let value: Option<u32> = node.property("a");
        node.finish();
        value
    });
    assert_eq!(problems(read), ["x.kdl:1:10: property `a` stands here a second time"]);
}

#[test]
fn broken_syntax_and_version_one_are_reported_with_their_place() {
    let broken = problems(ClusterConfig::parse("cluster.kdl", "cluster {\n  id \"x\n}\n"));
    assert!(broken[0].starts_with("cluster.kdl:2:"), "{broken:#?}");
    let version_one = problems(MachineConfig::parse("m.kdl", "machine \"m\" {\n  dhcp true\n}\n"));
    assert!(version_one.iter().all(|problem| problem.starts_with("m.kdl:")), "{version_one:#?}");
}

#[test]
fn limits_come_before_parsing() {
    let long = "x".repeat(DOCUMENT_BYTES_MAX + 1);
    assert!(problems(ClusterConfig::parse("c", &long))[0].contains("the limit is"));
    let deep = "a {".repeat(DEPTH_MAX + 1);
    assert!(problems(ClusterConfig::parse("c", &deep))[0].contains("nested deeper"));
}

#[test]
fn a_machine_document_has_links_time_and_registries() {
    let text = format!(
        r#"
machine "cp1" {{
    identity "{IDENTITY}"
    role "control-plane"
    network {{
        link "eth0" {{ dhcp #true; }}
        link "eth1" {{ address "10.0.0.5/24"; gateway "10.0.0.1"; }}
        nameserver "10.0.2.3"
    }}
    time {{ server "192.0.2.1"; }}
    registry "docker.io" {{ mirror "http://10.0.2.2:5000"; }}
}}
"#
    );
    let machine = MachineConfig::parse("machines/cp1.kdl", &text).expect("because the document is good");
    assert_eq!((machine.role, machine.time_servers.len()), (Role::ControlPlane, 1));
    assert_eq!(machine.network.links[0].addressing, Addressing::Dhcp);
    assert!(matches!(&machine.network.links[1].addressing, Addressing::Static { gateway: Some(_), .. }));
    assert_eq!(machine.registries[0].mirrors, ["http://10.0.2.2:5000"]);
}

#[test]
fn a_machine_document_names_its_own_file_and_no_link_twice() {
    let text = format!(
        "machine \"cp1\" {{ identity \"{IDENTITY}\"; role \"boss\"; network {{ link \"e\" {{ dhcp; }}; link \"e\" {{ dhcp; }}; link \"f\"; }} }}"
    );
    let found = problems(MachineConfig::parse("machines/cp2.kdl", &text));
    for expected in [
        "its file must be machines/cp1.kdl",
        "expected \"control-plane\" or \"worker\"",
        "link e stands here a second time",
        "needs `dhcp #true`",
    ] {
        assert!(found.iter().any(|problem| problem.contains(expected)), "missing {expected:?} in {found:#?}");
    }
}

#[test]
fn a_machine_document_names_an_image_by_digest_and_url() {
    let (identity, digest) = (format!("SHA256:{}", "A".repeat(43)), format!("sha256:{}", "ab".repeat(32)));
    let text = |image: &str| format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"worker\"\n {image}\n}}");
    let good = format!("image digest=\"{digest}\" url=\"https://images.example/a.artefact\"");
    let read = |image: &str| MachineConfig::parse("machines/cp1.kdl", &text(image));
    let image = read(&good).expect("because the line is good").image.expect("because it is there");
    assert_eq!((image.digest.to_string(), image.attempt), (digest.clone(), 1));
    let again = read(&format!("{good} attempt=2")).expect("because the line is good").image;
    assert_eq!(again.map(|image| image.attempt), Some(2));
    assert_eq!(read("").expect("because images are optional").image, None);
    for wrong in [
        format!("image digest=\"{digest}\""),
        format!("image digest=\"{digest}\" url=\"ftp://images.example/a\""),
        "image url=\"https://images.example/a\"".to_owned(),
        format!("image digest=\"{}\" url=\"https://images.example/a\"", &digest[7..]),
        format!("{good} again=2"),
        format!("{good}\n {good}"),
    ] {
        assert!(!problems(read(&wrong)).is_empty(), "{wrong} was taken");
    }
}

#[test]
fn a_machine_document_names_extensions_by_digest_and_url() {
    let (identity, digest) =
        ("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", format!("sha256:{}", "a".repeat(64)));
    let read = |lines: &str| {
        let text = format!("machine \"cp1\" {{\n identity \"{identity}\"\n role \"worker\"\n {lines}\n}}");
        MachineConfig::parse("machines/cp1.kdl", &text).map_err(|problems| problems.to_string())
    };
    let good =
        |name: &str| format!("extension \"{name}\" digest=\"{digest}\" url=\"https://e.example/{name}.extension\"");
    let config = read(&format!("{}\n{}", good("zfs"), good("cni"))).expect("because both lines are good");
    let names: Vec<&str> = config.extensions.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["cni", "zfs"], "they are merged in the order of names");
    assert_eq!(config.extensions[0].digest.to_string(), digest);
    assert_eq!(read("extension \"cni\" #false").expect("because there is nothing to leave out").extensions, []);
    let many: Vec<String> = (0..9).map(|number| good(&format!("x{number}"))).collect();
    for (wrong, expected) in [
        ("extension \"cni\" url=\"https://e.example/a\"".to_owned(), "digest=\"sha256:...\""),
        (format!("extension \"cni\" digest=\"{digest}\""), "needs url"),
        (format!("extension digest=\"{digest}\" url=\"https://e.example/a\""), "lacks its value"),
        (good("CNI"), "lower-case letters"),
        (good("../etc"), "lower-case letters"),
        (good("cni").replace("https", "file"), "http:// or https://"),
        (good("cni").replace("sha256:a", "sha256:A"), "64 hex digits in lower case"),
        (format!("{} #false", good("cni")), "or `#false`"),
        ("extension \"cni\" #true".to_owned(), "or `#false`"),
        (format!("{}\n{}", good("cni"), good("cni")), "extension cni stands here a second time"),
        (format!("{} attempt=2", good("cni")), "`attempt` is not known"),
        (many.join("\n"), "9 extensions are named"),
    ] {
        let said = read(&wrong).expect_err("because the line is wrong");
        assert!(said.contains(expected), "{wrong}: {said}");
    }
}
