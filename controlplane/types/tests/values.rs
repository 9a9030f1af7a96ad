//! Small values: quantities, ages, selectors, names, bodies. Expectations are from upstream's documentation and test tables.

use controlplane_types::decode::{self, FieldValidation};
use controlplane_types::quantity::Quantity;
use controlplane_types::selector::{FieldSelector, LabelSelector, from_label_selector};
use controlplane_types::validate::names;
use controlplane_types::{Registry, duration};
use serde_json::{Value, json};

#[test]
fn quantities_are_written_in_canonical_form() {
    let check = |text: &str, expected: &str| {
        let quantity: Quantity = text.parse().expect("because the quantity is well formed");
        assert_eq!(quantity.to_string(), expected, "{text}");
    };
    for (text, expected) in [
        ("0", "0"),
        ("100m", "100m"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1500m", "1500m"),
        ("1000m", "1"),
        ("2", "2"),
        ("1000", "1k"),
        ("1500", "1500"),
        ("1.5Gi", "1536Mi"),
        ("1024Ki", "1Mi"),
        ("1024", "1024"),
        ("128Mi", "128Mi"),
        ("0.5Ki", "512"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("12e6", "12e6"),
        ("5n", "5n"),
        ("0.1n", "1n"),
        ("100u", "100u"),
        ("-1.5", "-1500m"),
        ("+5", "5"),
        (".5", "500m"),
        ("1.", "1"),
        ("001", "1"),
        ("1E", "1E"),
        ("9223372036854775807", "9223372036854775807"),
        ("9999999999999999999999", "9223372036854775807"),
    ] {
        check(text, expected);
    }
}

#[test]
fn text_that_is_no_quantity_is_refused() {
    for text in ["", ".", "-", "1.1.1", "1Gib", "1 Mi", "m", "1ee3", "0x1", "1e"] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
}

#[test]
fn quantities_compare_and_count_by_value() {
    let read = |text: &str| -> Quantity { text.parse().expect("because the quantity is well formed") };
    assert_eq!(read("1"), read("1000m"));
    assert!(read("1Mi") > read("1M"));
    assert_eq!(read("100m").milli(), 100);
    assert_eq!(read("0.1m").milli(), 1, "fractions round up");
    assert_eq!(read("1Gi").units(), 1_073_741_824);
    assert_eq!(read("500m").plus(read("1500m")).to_string(), "2");
    assert_eq!(read("1Gi").minus(read("512Mi")).to_string(), "512Mi");
}

#[test]
fn ages_are_as_kubectl_shows_them() {
    for (seconds, expected) in [
        (-10, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (2 * 86_400 + 3600, "2d1h"),
        (8 * 86_400 + 3600, "8d"),
        (700 * 86_400, "700d"),
        (730 * 86_400, "2y"),
        (731 * 86_400, "2y1d"),
        (8 * 365 * 86_400, "8y"),
    ] {
        assert_eq!(duration::short(seconds), expected, "{seconds}");
    }
}

#[test]
fn label_selectors_match_as_documented() {
    let check = |selector: &str, labels: Value, expected: bool| {
        let parsed: LabelSelector = selector.parse().expect("because the selector is well formed");
        assert_eq!(parsed.matches(labels.as_object()), expected, "{selector} on {labels}");
    };
    let labels = json!({"app": "web", "tier": "front", "empty": "", "size": "10"});
    for (selector, expected) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier=front", true),
        ("app=db", false),
        ("app!=db", true),
        ("other!=db", true),
        ("app in (web,db)", true),
        ("app in ( db )", false),
        ("app notin (web)", false),
        ("other notin (web)", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("empty=", true),
        ("empty=,app=web", true),
        ("app=", false),
        ("size>5", true),
        ("size<5", false),
        ("app in (,web)", true),
    ] {
        check(selector, labels.clone(), expected);
    }
}

#[test]
fn malformed_label_selectors_are_refused() {
    for text in
        ["app in", "app in web", "app in (web", "=web", "app=web,", "a b", "app=a b", "-app=x", "app=-x", "!app=x"]
    {
        assert!(text.parse::<LabelSelector>().is_err(), "{text}");
    }
}

#[test]
fn selector_objects_are_written_as_queries() {
    let check = |object: Value, expected: &str| {
        let parsed = from_label_selector(&object).expect("because the selector is well formed");
        assert_eq!(parsed.to_string(), expected);
    };
    check(json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2");
    let expressions = json!([
        {"key": "x", "operator": "In", "values": ["2", "1"]},
        {"key": "y", "operator": "NotIn", "values": ["3", "4"]},
        {"key": "z", "operator": "Exists"},
        {"key": "zz", "operator": "DoesNotExist"},
    ]);
    check(json!({"matchExpressions": expressions}), "x in (1,2),y notin (3,4),z,!zz");
}

#[test]
fn field_selectors_know_the_fields_of_their_kind() {
    let registry = Registry::builtin();
    let pods = registry.resource("", "v1", "pods").expect("because pods are built in");
    let pod = json!({
        "metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "cp1"}, "status": {"phase": "Running"},
    });
    for (selector, expected) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name=b", false),
        ("metadata.namespace=n,spec.nodeName==cp1", true),
        ("spec.nodeName!=cp1", false),
        ("status.phase!=Succeeded,status.phase!=Failed", true),
        ("spec.nodeName=", false),
    ] {
        let parsed = FieldSelector::parse(pods, selector).expect("because the selector is well formed");
        assert_eq!(parsed.matches(pods, &pod), expected, "{selector}");
    }
    let error = FieldSelector::parse(pods, "spec.image=x").expect_err("because pods do not offer the field");
    assert_eq!((error.code(), error.message.as_str()), (400, "field label not supported: spec.image"));
}

#[test]
fn names_follow_their_rules() {
    type Rule = fn(&str) -> Vec<String>;
    let check = |rule: Rule, good: &[&str], bad: &[&str]| {
        for text in good {
            assert_eq!(rule(text), Vec::<String>::new(), "{text}");
        }
        for text in bad {
            assert!(!rule(text).is_empty(), "{text}");
        }
    };
    let long = "a".repeat(64);
    check(names::label, &["a", "a-b", "0a"], &["", "A", "-a", "a-", "a.b", "a_b", &long]);
    check(names::subdomain, &["a", "a.b", "a-b.c", &long], &["", "a..b", ".a", "a.", "A", "a_b"]);
    check(names::rfc1035, &["a", "a1"], &["", "1a", "a.b"]);
    let keys = ["a", "A.b_c-1", "example.com/a", "a.b.c/D"];
    check(names::qualified_name, &keys, &["", "/a", "a/", "a/b/c", "-a", "a-", "Example.com/a", &long]);
    check(names::label_value, &["", "a", "1.2_3-4"], &["-", "a b", "a/b", &long]);
    check(names::config_key, &["a", ".b", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]);
    check(names::port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "HTTP", "sixteen-letters-x"]);
    check(names::path_segment, &["system:node", "A b"], &[".", "..", "a/b", "a%b"]);
}

fn decode(
    kind: (&str, &str),
    body: &str,
    validation: FieldValidation,
) -> Result<decode::Decoded, controlplane_types::ApiError> {
    let registry = Registry::builtin();
    decode::decode(registry.kind(kind.0, kind.1).expect("because the kind is built in"), body.as_bytes(), validation)
}

#[test]
fn strict_decoding_names_unknown_and_duplicate_fields() {
    let body = r#"{"spec":{"replicas":1,"replicas":2,"foo":1,"template":{"spec":{"containers":[{"name":"a","imagee":"x"}]}}}}"#;
    let error =
        decode(("apps/v1", "Deployment"), body, FieldValidation::Strict).expect_err("because fields are unknown");
    let text = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\", unknown field \"spec.template.spec.containers[0].imagee\", duplicate field \"spec.replicas\"";
    assert_eq!((error.code(), error.message.as_str()), (400, text));
}

#[test]
fn warnings_replace_the_refusal_when_asked_for() {
    let body = r#"{"data":{"a":"1"},"foo":1}"#;
    let decoded = decode(("v1", "ConfigMap"), body, FieldValidation::Warn).expect("because warnings do not refuse");
    assert_eq!(decoded.warnings, ["unknown field \"foo\""]);
    assert_eq!(decoded.object, json!({"data": {"a": "1"}}));
    let silent =
        decode(("v1", "ConfigMap"), body, FieldValidation::Ignore).expect("because unknown fields are ignored");
    assert_eq!(silent.warnings, Vec::<String>::new());
}

#[test]
fn wrong_types_are_refused_with_their_path() {
    for (body, expected) in [
        (r#"{"spec":{"replicas":"2"}}"#, "cannot unmarshal string into Go struct field spec.replicas of type int32"),
        (r#"{"spec":{"paused":1}}"#, "cannot unmarshal number into Go struct field spec.paused of type bool"),
        (r#"{"spec":[]}"#, "cannot unmarshal array into Go struct field spec of type object"),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "cannot unmarshal number into Go struct field metadata.labels.a of type string",
        ),
        (
            r#"{"spec":{"replicas":3000000000}}"#,
            "cannot unmarshal number 3000000000 into Go struct field spec.replicas of type int32",
        ),
    ] {
        let error =
            decode(("apps/v1", "Deployment"), body, FieldValidation::Ignore).expect_err("because a type is wrong");
        assert!(error.message.contains(expected), "{}", error.message);
    }
    assert_eq!(decode(("v1", "Pod"), "{", FieldValidation::Ignore).expect_err("because it is no JSON").code(), 400);
}

#[test]
fn nulls_are_dropped_and_quantities_made_canonical() {
    let body = r#"{"metadata":{"creationTimestamp":null},"status":{"capacity":{"cpu":2,"memory":"1024Mi"}}}"#;
    let decoded = decode(("v1", "Node"), body, FieldValidation::Strict).expect("because the body is good");
    assert_eq!(decoded.object, json!({"metadata": {}, "status": {"capacity": {"cpu": "2", "memory": "1Gi"}}}));
}
