//! KDL that says something twice, or in the older version of the language.

use crate::{CLUSTER, refused};
use gitsync_verify::Reason;

/// Asserts that a document is refused, at a place.
fn document_refused(path: &str, text: &str, place: &str) {
    let refusal = refused(&[(path, text)]);
    let reason = if path.starts_with("trust/") { Reason::PolicyInvalid } else { Reason::Parse };
    assert_eq!((refusal.reason, refusal.path.as_deref()), (reason, Some(path)), "{refusal}");
    assert!(refusal.message.contains(&format!("{path}:{place}")), "{place} is not in {}", refusal.message);
}

#[test]
fn t52_a_repeated_node_or_property_is_refused_where_it_is_repeated() {
    let twice = CLUSTER.replace("    name \"demo\"\n", "    name \"demo\"\n    name \"prod\"\n");
    document_refused("cluster.kdl", &twice, "4:5");
    // KDL itself lets the last property win: a reviewer would read 2.
    document_refused("trust/more.kdl", "role \"all\" access=\"reader\" access=\"admin\" { member \"ada\"; }\n", "1:");
    document_refused("trust/more.kdl", "role \"all\" { member \"ada\"; member \"ada\"; }\n", "1:");
    let block = format!("{CLUSTER}{CLUSTER}");
    document_refused("cluster.kdl", &block, "7:1");
}

#[test]
fn t52_a_version_1_document_is_refused_and_not_read_as_something_else() {
    for (from, to) in
        [("\"demo\"", "r\"demo\""), ("\"demo\"", "r#\"demo\"#"), ("name \"demo\"", "name \"demo\" x=true")]
    {
        let text = CLUSTER.replace(from, to);
        assert_ne!(text, CLUSTER);
        document_refused("cluster.kdl", &text, "3:");
    }
    document_refused(
        "trust/more.kdl",
        "rule \"x\" {\n    owns \"x/**\"\n    approval role=\"dev\" threshold=1\n    reach { cluster-scoped true; }\n}\n",
        "4:",
    );
}

#[test]
fn t52_an_unknown_node_is_refused_wherever_it_stands() {
    document_refused("trust/more.kdl", "rool \"x\" { member \"ada\"; }\n", "1:1");
    document_refused("cluster.kdl", &CLUSTER.replace("    level 1\n", "").replace("name", "nmae"), "3:5");
}
