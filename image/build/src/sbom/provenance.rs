//! Where an image comes from: an in-toto statement with SLSA's provenance (<https://slsa.dev/spec/v1.0/provenance>).
//!
//! Without times and names of hosts: whoever builds the same image gets the same statement. It is not signed here.

use serde_json::{Value, json};

use super::{Bill, Component};

/// The statement.
pub(super) fn statement(bill: &Bill<'_>) -> Value {
    let manifest = bill.manifest;
    let digest = manifest.digest().to_string();
    let subject = |name: String, sha256: &str| json!({ "name": name, "digest": { "sha256": sha256 } });
    let mut inputs = vec![subject(format!("image/profiles/{}.lock", manifest.profile), &bill.lock_sha256)];
    if let Some(commit) = &bill.commit {
        let (head, dirty) = (commit.trim_end_matches("-dirty"), commit.ends_with("-dirty"));
        inputs.push(json!({ "name": "source", "digest": { "gitCommit": head }, "annotations": { "dirty": dirty } }));
    }
    let packages = bill.components.iter().chain(&bill.tools);
    inputs.extend(packages.filter_map(input));
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            subject(format!("{} (manifest)", manifest.file_name()), &digest["sha256:".len()..]),
            subject("cairn.efi".to_owned(), &manifest.uki.hex()),
            subject("root.img".to_owned(), &manifest.root.hex()),
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:cairn:image-build:v1",
                "externalParameters": {
                    "profile": manifest.profile,
                    "version": manifest.version.as_str(),
                    "number": manifest.number.0,
                },
                "internalParameters": { "built": manifest.built.to_string(), "compilers": bill.compilers },
                "resolvedDependencies": inputs,
            },
            "runDetails": { "builder": { "id": format!("urn:cairn:cairn-image:{}", env!("CARGO_PKG_VERSION")) } },
        },
    })
}

fn input(component: &Component) -> Option<Value> {
    let sha256 = component.sha256.as_ref()?;
    Some(json!({ "uri": component.purl, "digest": { "sha256": sha256 } }))
}
