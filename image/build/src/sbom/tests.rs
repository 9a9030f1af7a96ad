//! The rules of each format that its readers depend on.

use std::collections::BTreeSet;

use init_boot::RootHash;
use init_boot::artefact::{ImageNumber, Part};
use serde_json::Value;

use super::*;

fn manifest() -> ArtefactManifest {
    ArtefactManifest {
        version: "0.2.0".parse().expect("because it is a version"),
        number: ImageNumber(2000),
        level: 1,
        profile: "cloud".to_owned(),
        architecture: "amd64".to_owned(),
        built: "2026-11-21T20:00:00Z".parse().expect("because it is a time"),
        uki: Part::of(b"uki"),
        root: Part::of(&[0; 4096]),
        root_hash: RootHash::from_bytes([3; 32]),
    }
}

fn bill(manifest: &ArtefactManifest) -> Bill<'_> {
    let component = |name: &str, licence: Option<&str>, sha256: Option<String>| Component {
        purl: format!("pkg:deb/debian/{name}@1?arch=amd64"),
        name: name.to_owned(),
        version: "1".to_owned(),
        licence: licence.map(str::to_owned),
        sha256,
    };
    Bill {
        manifest,
        components: vec![
            component("odd", Some("LicenseRef-Debian-odd AND MIT"), Some("ab".repeat(32))),
            component("own", None, None),
        ],
        tools: vec![component("mksquashfs", None, Some("cd".repeat(32)))],
        lock_sha256: "ef".repeat(32),
        compilers: vec!["rustc version 1".to_owned()],
        commit: Some("0123456789abcdef0123456789abcdef01234567-dirty".to_owned()),
    }
}

fn texts<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).collect()
}

#[test]
fn spdx_has_what_its_specification_asks_for() {
    let manifest = manifest();
    let document = spdx::document(&bill(&manifest));
    assert_eq!((&document["spdxVersion"], &document["dataLicense"]), (&"SPDX-2.3".into(), &"CC0-1.0".into()));
    assert_eq!(document["creationInfo"]["created"], "2026-11-21T20:00:00Z");
    let ids: BTreeSet<&str> = texts(&document["packages"], "SPDXID").into_iter().collect();
    assert_eq!(ids.len(), 3);
    for package in document["packages"].as_array().expect("because there are packages") {
        for key in ["name", "SPDXID", "downloadLocation"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is missing in {package}");
        }
    }
    for end in texts(&document["relationships"], "relatedSpdxElement") {
        assert!(ids.contains(end), "{end} is related and not there");
    }
    // Each reference that is used is explained, or the document is not valid.
    assert_eq!(texts(&document["hasExtractedLicensingInfos"], "licenseId"), ["LicenseRef-Debian-odd"]);
}

#[test]
fn cyclonedx_has_what_its_schema_asks_for() {
    let manifest = manifest();
    let document = cyclonedx::document(&bill(&manifest));
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let serial = document["serialNumber"].as_str().and_then(|serial| serial.strip_prefix("urn:uuid:"));
    let groups: Vec<usize> = serial.expect("because it is a UUID").split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    let references = texts(&document["components"], "bom-ref");
    assert_eq!(document["dependencies"][0]["dependsOn"], serde_json::json!(references));
    assert_eq!(document["components"][0]["hashes"][0]["content"], "ab".repeat(32));
    assert!(document["components"][1].get("licenses").is_none());
}

#[test]
fn provenance_names_image_inputs_and_tools() {
    let manifest = manifest();
    let statement = provenance::statement(&bill(&manifest));
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let digest = format!("sha256:{}", statement["subject"][0]["digest"]["sha256"].as_str().unwrap_or_default());
    assert_eq!(digest, manifest.digest().to_string());
    let inputs = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
    assert_eq!(inputs[0]["digest"]["sha256"], "ef".repeat(32));
    assert_eq!(inputs[1]["annotations"]["dirty"], true);
    assert_eq!(inputs[1]["digest"]["gitCommit"].as_str().map(str::len), Some(40));
    assert!(texts(inputs, "uri").contains(&"pkg:deb/debian/mksquashfs@1?arch=amd64"));
}

#[test]
fn a_package_url_escapes_what_it_must() {
    assert_eq!(percent("1:6.1+deb13u1~a"), "1:6.1%2Bdeb13u1~a");
}
