//! The query string and the options that it carries. Pure.

use crate::request::percent_decode;
use controlplane_types::ApiError;
use controlplane_types::decode::FieldValidation;

/// Decoded query parameters in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c`.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Query {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| match pair.split_once('=') {
            Some((name, value)) => (decode(name), decode(value)),
            None => (decode(pair), String::new()),
        });
        Query(pairs.collect())
    }

    /// The first value of a parameter.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first value, unless empty.
    #[must_use]
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// A boolean: present without value, `1` and `true` are true, as in Go's conversion.
    #[must_use]
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !matches!(v, "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    /// The parameters whose names pass, encoded again.
    pub(crate) fn encode(&self, pass: impl Fn(&str) -> bool) -> String {
        let kept = self.0.iter().filter(|(name, _)| pass(name));
        let pairs: Vec<String> = kept.map(|(n, v)| format!("{}={}", percent_encode(n), percent_encode(v))).collect();
        pairs.join("&")
    }

    /// A whole number, when given.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parse = |v: &str| {
            v.parse()
                .map_err(|_| ApiError::bad_request(format!("the query parameter {name}={v} is not a whole number")))
        };
        self.text(name).map(parse).transpose()
    }
}

/// Encodes everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// How a list relates to the revision it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevisionMatch {
    /// At least as new.
    NotOlderThan,
    /// Exactly that one.
    Exact,
}

/// The options of list, watch and deletecollection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    /// Zero means no limit.
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) resource_version: Option<u64>,
    pub(crate) revision_match: Option<RevisionMatch>,
    pub(crate) bookmarks: bool,
    /// `None` when the client did not say.
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and cross-checks them.
    pub(crate) fn parse(query: &Query) -> Result<ListOptions, ApiError> {
        let revision_match = match query.text("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(RevisionMatch::Exact),
            Some("NotOlderThan") => Some(RevisionMatch::NotOlderThan),
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch is {other}; supported are Exact and NotOlderThan"
                )));
            }
        };
        let resource_version = match query.text("resourceVersion") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(format!("Invalid value: \"{text}\": resourceVersion is a decimal number"))
            })?),
        };
        Ok(ListOptions {
            label_selector: query.get("labelSelector").unwrap_or_default().to_owned(),
            field_selector: query.get("fieldSelector").unwrap_or_default().to_owned(),
            limit: query.number("limit")?.unwrap_or(0),
            continue_token: query.text("continue").map(str::to_owned),
            resource_version,
            revision_match,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            timeout_seconds: query.number("timeoutSeconds")?,
        })
    }
}

/// The options of create, update and patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// `None` when the client gave none; the user agent's first word is used then.
    pub(crate) field_manager: Option<String>,
    pub(crate) force: bool,
}

impl WriteOptions {
    /// Reads them.
    pub(crate) fn parse(query: &Query) -> Result<WriteOptions, ApiError> {
        let field_validation = FieldValidation::parse(query.text("fieldValidation"), FieldValidation::Warn)?;
        let dry_run = parse_dry_run(query.text("dryRun"))?;
        let field_manager = query.text("fieldManager").map(str::to_owned);
        Ok(WriteOptions { dry_run, field_validation, field_manager, force: query.flag("force") })
    }
}

/// `All` is the only stage there is.
pub(crate) fn parse_dry_run(text: Option<&str>) -> Result<bool, ApiError> {
    match text {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(ApiError::bad_request(format!("dryRun is {other}; the only supported value is All"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_decoded_in_order() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch&limit=5");
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in (a)"));
        assert!(query.flag("watch"));
        assert_eq!(query.number::<usize>("limit").expect("because 5 is a number"), Some(5));
    }

    #[test]
    fn what_is_passed_on_means_the_same() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a%26b&container=x");
        let again = query.encode(|name| name != "container");
        assert_eq!(again, "command=sh&command=-c&command=echo%20a%26b");
    }

    #[test]
    fn unknown_option_values_are_refused() {
        for text in ["resourceVersion=x", "resourceVersionMatch=Maybe", "limit=many", "timeoutSeconds=1.5"] {
            assert!(ListOptions::parse(&Query::parse(text)).is_err(), "{text}");
        }
        for text in ["dryRun=Some", "fieldValidation=Loose"] {
            assert!(WriteOptions::parse(&Query::parse(text)).is_err(), "{text}");
        }
    }
}
