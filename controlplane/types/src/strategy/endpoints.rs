//! EndpointSlices and Endpoints.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::PLAIN;
use super::rules::{IMMUTABLE, all, one_of, required_one_of};
use crate::field_error::FieldError;
use crate::kind::{Generation, Strategy};
use crate::object::{Object, list, map_mut, number, set_default, text};
use crate::table::{AGE, Column, NAME, Printer, age, column};
use crate::validate::names;

/// Entries that one slice may have, as upstream.
const ENDPOINTS_LIMIT: usize = 1000;
const PORTS_LIMIT: usize = 20_000;
const ADDRESSES_LIMIT: usize = 100;
/// Entries that a table cell names before it only counts.
const SHOWN_LIMIT: usize = 3;

/// Endpoint slices.
pub static ENDPOINT_SLICE: Strategy = Strategy {
    default: |slice| {
        let ports = map_mut(slice, &[]).get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            set_default(port, &[], "name", "");
            set_default(port, &[], "protocol", "TCP");
        }
        set_default(slice, &[], "endpoints", json!([]));
    },
    validate,
    validate_update: |new, old| {
        let changed = new["addressType"] != old["addressType"];
        changed.then(|| FieldError::invalid("addressType", &new["addressType"], IMMUTABLE)).into_iter().collect()
    },
    generation: Generation::Spec,
    create_on_update: true,
    printer: Printer { columns: SLICE_COLUMNS, row: slice_row },
    ..PLAIN
};

fn validate(slice: &Value) -> Vec<FieldError> {
    let mut errors = required_one_of(slice, &["addressType"], "addressType", &["FQDN", "IPv4", "IPv6"]);
    let endpoints = list(slice, &["endpoints"]);
    if endpoints.len() > ENDPOINTS_LIMIT {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), ENDPOINTS_LIMIT));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{index}].addresses");
        let addresses = list(endpoint, &["addresses"]);
        match addresses.len() {
            0 => errors.push(FieldError::required(at.clone(), "must contain at least 1 address")),
            count if count > ADDRESSES_LIMIT => errors.push(FieldError::too_many(at.clone(), count, ADDRESSES_LIMIT)),
            _ => {}
        }
        for (index, address) in addresses.iter().enumerate() {
            address_rules(slice, address, &format!("{at}[{index}]"), &mut errors);
        }
    }
    let ports = list(slice, &["ports"]);
    if ports.len() > PORTS_LIMIT {
        errors.push(FieldError::too_many("ports", ports.len(), PORTS_LIMIT));
    }
    for (index, port) in ports.iter().enumerate() {
        let name = text(port, &["name"]);
        if !name.is_empty() {
            errors.extend(all(&format!("ports[{index}].name"), &json!(name), names::label(name)));
        }
        if ports[..index].iter().any(|other| text(other, &["name"]) == name) {
            errors.push(FieldError::duplicate(format!("ports[{index}].name"), &json!(name)));
        }
        errors.extend(one_of(port, &["protocol"], &format!("ports[{index}].protocol"), &["SCTP", "TCP", "UDP"]));
    }
    errors
}

fn address_rules(slice: &Value, address: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let shown = address.as_str().unwrap_or_default();
    match text(slice, &["addressType"]) {
        "IPv4" if shown.parse::<std::net::Ipv4Addr>().is_err() => {
            errors.push(FieldError::invalid(at, address, "must be an IPv4 address"));
        }
        "IPv6" if shown.parse::<std::net::Ipv6Addr>().is_err() => {
            errors.push(FieldError::invalid(at, address, "must be an IPv6 address"));
        }
        "FQDN" => errors.extend(all(at, address, names::subdomain(shown))),
        _ => {}
    }
}

const SLICE_COLUMNS: &[Column] = &[
    NAME,
    column("AddressType", "The type of address carried by this EndpointSlice."),
    column("Ports", "Ports of the endpoints."),
    column("Endpoints", "Addresses of the endpoints."),
    AGE,
];

fn slice_row(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list(slice, &["ports"]).iter().map(|port| match number(port, &["port"]) {
        Some(number) => number.to_string(),
        None => "*".to_string(),
    });
    let addresses = list(slice, &["endpoints"]).iter().flat_map(|one| list(one, &["addresses"]));
    let addresses = addresses.filter_map(Value::as_str).map(str::to_string);
    vec![
        json!(slice.name()),
        json!(text(slice, &["addressType"])),
        json!(some_of(ports.collect(), "<unset>")),
        json!(some_of(addresses.collect(), "<unset>")),
        age(slice, now),
    ]
}

fn some_of(all: Vec<String>, none: &str) -> String {
    match all.len() {
        0 => none.to_string(),
        count if count > SHOWN_LIMIT => format!("{} + {} more...", all[..SHOWN_LIMIT].join(","), count - SHOWN_LIMIT),
        _ => all.join(","),
    }
}

/// Endpoints, the older form.
pub static ENDPOINTS: Strategy = Strategy {
    default: |endpoints| {
        let subsets = map_mut(endpoints, &[]).get_mut("subsets").and_then(Value::as_array_mut);
        for subset in subsets.into_iter().flatten() {
            let ports = map_mut(subset, &[]).get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten() {
                set_default(port, &[], "protocol", "TCP");
            }
        }
    },
    create_on_update: true,
    printer: Printer {
        columns: &[NAME, column("Endpoints", "Addresses and ports."), AGE],
        row: |endpoints, now| vec![json!(endpoints.name()), json!(subsets(endpoints)), age(endpoints, now)],
    },
    ..PLAIN
};

fn subsets(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(endpoints, &["subsets"]) {
        for address in list(subset, &["addresses"]).iter().map(|one| text(one, &["ip"])) {
            match list(subset, &["ports"]) {
                [] => all.push(address.to_string()),
                ports => {
                    all.extend(ports.iter().map(|port| format!("{address}:{}", number(port, &["port"]).unwrap_or(0))));
                }
            }
        }
    }
    some_of(all, "<none>")
}
