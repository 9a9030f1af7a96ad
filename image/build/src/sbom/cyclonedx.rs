//! CycloneDX 1.6 in JSON (<https://cyclonedx.org/docs/1.6/json/>).

use serde_json::{Value, json};

use super::{Bill, Component};

/// The document.
pub(super) fn document(bill: &Bill<'_>) -> Value {
    let manifest = bill.manifest;
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(manifest.digest().as_bytes())),
        "version": 1,
        "metadata": {
            "timestamp": manifest.built.to_string(),
            "tools": { "components": [{
                "type": "application", "name": "cairn-image", "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": {
                "type": "operating-system",
                "bom-ref": "image",
                "name": format!("cairn-{}", manifest.profile),
                "version": manifest.version.as_str(),
                "hashes": [hash(&manifest.digest().to_string()["sha256:".len()..])],
            },
        },
        "components": bill.components.iter().map(component).collect::<Vec<_>>(),
        "dependencies": [{
            "ref": "image",
            "dependsOn": bill.components.iter().map(|component| component.purl.as_str()).collect::<Vec<_>>(),
        }],
    })
}

fn hash(sha256: &str) -> Value {
    json!({ "alg": "SHA-256", "content": sha256 })
}

fn component(component: &Component) -> Value {
    let mut value = json!({
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
    });
    if let Some(licence) = &component.licence {
        value["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(sha256) = &component.sha256 {
        value["hashes"] = json!([hash(sha256)]);
    }
    value
}

/// A UUID of version 8 (RFC 9562: the maker's own) from a digest, so that the same image has the same serial number.
fn uuid(digest: &[u8; 32]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    init_boot::Guid::from_text_order(bytes).to_string()
}
