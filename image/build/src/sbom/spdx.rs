//! SPDX 2.3 in JSON (<https://spdx.github.io/spdx-spec/v2.3/>).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Bill, Component, licence};

/// What the specification writes where nothing is known.
const NO_ASSERTION: &str = "NOASSERTION";
/// The element that the document describes.
const IMAGE: &str = "SPDXRef-Image";

/// The document.
pub(super) fn document(bill: &Bill<'_>) -> Value {
    let manifest = bill.manifest;
    let digest = manifest.digest().to_string();
    let mut packages = vec![json!({
        "SPDXID": IMAGE,
        "name": format!("cairn-{}", manifest.profile),
        "versionInfo": manifest.version.as_str(),
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "comment": format!("image digest {digest}"),
    })];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    for (index, component) in bill.components.iter().enumerate() {
        let id = format!("SPDXRef-Package-{index}");
        relationships.push(relationship(IMAGE, "CONTAINS", &id));
        packages.push(package(&id, component));
    }
    let references: BTreeSet<&str> = bill
        .components
        .iter()
        .filter_map(|component| component.licence.as_deref())
        .flat_map(licence::references)
        .collect();
    let extracted = references.into_iter().map(|reference| {
        json!({
            "licenseId": reference,
            "extractedText": "The text stands in the Debian package, in /usr/share/doc/<package>/copyright.",
        })
    });
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": manifest.file_name(),
        "documentNamespace": format!("urn:cairn:image:{digest}"),
        "creationInfo": {
            "created": manifest.built.to_string(),
            "creators": [format!("Tool: cairn-image-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
        "hasExtractedLicensingInfos": extracted.collect::<Vec<_>>(),
    })
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn package(id: &str, component: &Component) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": component.name,
        "versionInfo": component.version,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": component.licence.as_deref().unwrap_or(NO_ASSERTION),
        "copyrightText": NO_ASSERTION,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": component.purl,
        }],
    });
    if let Some(sha256) = &component.sha256 {
        package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
    }
    package
}
