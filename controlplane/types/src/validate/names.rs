//! How names, labels and values look. Each function returns the broken rules as texts, none when all is well.

/// Characters of an RFC 1123 or 1035 label.
pub const LABEL_LIMIT: usize = 63;
/// Characters of an RFC 1123 subdomain.
pub const SUBDOMAIN_LIMIT: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const RFC1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn fits(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if edge(*first) && edge(*last))
        && bytes.iter().all(|c| inner(*c))
}

fn is_label(text: &str) -> bool {
    fits(text, lower, |c| lower(c) || c == b'-')
}

fn too_long(text: &str, limit: usize) -> Option<String> {
    (text.len() > limit).then(|| format!("must be no more than {limit} bytes"))
}

/// RFC 1123 label.
pub fn label(text: &str) -> Vec<String> {
    too_long(text, LABEL_LIMIT).into_iter().chain((!is_label(text)).then(|| LABEL_TEXT.to_string())).collect()
}

/// RFC 1123 subdomain.
pub fn subdomain(text: &str) -> Vec<String> {
    let good = text.split('.').all(is_label);
    too_long(text, SUBDOMAIN_LIMIT).into_iter().chain((!good).then(|| SUBDOMAIN_TEXT.to_string())).collect()
}

/// RFC 1035 label.
pub fn rfc1035(text: &str) -> Vec<String> {
    let good = is_label(text) && text.as_bytes()[0].is_ascii_lowercase();
    too_long(text, LABEL_LIMIT).into_iter().chain((!good).then(|| RFC1035_TEXT.to_string())).collect()
}

/// A name that fits into a path.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(*bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// Label key or annotation key: an optional subdomain and `/`, then a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_REST} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                QUALIFIED_REST = QUALIFIED_TEXT.trim_start_matches("name part ")
            )];
        }
        Some(("", name)) => {
            wrong.push("prefix part must be non-empty".to_string());
            name
        }
        Some((prefix, name)) => {
            wrong.extend(subdomain(prefix).into_iter().map(|text| format!("prefix part {text}")));
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".into());
    } else if let Some(text) = too_long(name, LABEL_LIMIT) {
        wrong.push(format!("name part {text}"));
    }
    if !fits(name, |c| c.is_ascii_alphanumeric(), name_byte) {
        wrong.push(QUALIFIED_TEXT.into());
    }
    wrong
}

fn name_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')
}

/// Label value: empty, or like the name of a key.
pub fn label_value(text: &str) -> Vec<String> {
    let good = text.is_empty() || fits(text, |c| c.is_ascii_alphanumeric(), name_byte);
    too_long(text, LABEL_LIMIT).into_iter().chain((!good).then(|| VALUE_TEXT.to_string())).collect()
}

/// Key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut wrong: Vec<String> = too_long(text, SUBDOMAIN_LIMIT).into_iter().collect();
    if text.is_empty() || !text.bytes().all(name_byte) {
        wrong.push(KEY_TEXT.into());
    }
    match text {
        "." | ".." => wrong.push(format!("must not be '{text}'")),
        other if other.starts_with("..") => wrong.push("must not start with '..'".into()),
        _ => {}
    }
    wrong
}

/// Name of a port: at most 15 of a-z, 0-9 and `-`, with a letter, no `--`, no `-` at the ends.
pub fn port_name(text: &str) -> Vec<String> {
    /// RFC 6335, section 5.1.
    const LIMIT: usize = 15;
    let mut wrong: Vec<String> = too_long(text, LIMIT).into_iter().collect();
    if !text.bytes().all(|c| lower(c) || c == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".into());
    }
    wrong
}

/// Port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".into()] }
}
