//! What a request is about, read from its method and URL alone. Pure; everything after it in the pipeline uses this.

use crate::query::Query;

/// A parsed request line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// What is wanted.
    pub(crate) target: Target,
    /// The verb as authorization knows it: get, list, watch, create, update, patch, delete, deletecollection; for
    /// non-resource paths the HTTP method in lower case.
    pub(crate) verb: Verb,
    /// The path without the query.
    pub(crate) path: String,
    /// The decoded query.
    pub(crate) query: Query,
}

/// Either a Kubernetes resource or some other path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/api/v1/...` or `/apis/<group>/<version>/...`.
    Resource(ResourcePath),
    /// Discovery, health, metrics, OpenAPI.
    Other,
}

/// The resource part of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// API group; empty for core.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Plural resource name.
    pub(crate) resource: String,
    /// Empty when there is none.
    pub(crate) subresource: String,
    /// What follows the subresource (`proxy/<path>`); empty when nothing does.
    pub(crate) rest: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
}

/// What is done to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow changes.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change part of an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a selection.
    DeleteCollection,
    /// HEAD, OPTIONS and the like on non-resource paths.
    Unknown,
}

impl Verb {
    /// The word that authorization rules, audit and metrics use.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Unknown => "unknown",
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub(crate) fn is_read(self) -> bool {
        match self {
            Verb::Get | Verb::List | Verb::Watch | Verb::Unknown => true,
            Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection => false,
        }
    }
}

impl RequestInfo {
    /// Reads method, path and query.
    #[must_use]
    pub(crate) fn parse(method: &http::Method, uri: &http::Uri) -> RequestInfo {
        let query = Query::parse(uri.query().unwrap_or(""));
        let path = uri.path().to_owned();
        let (target, watch_prefix) = parse_path(&path);
        let verb = verb_of(method, &target, &query, watch_prefix);
        RequestInfo { target, verb, path, query }
    }

    /// The resource path, when it is one.
    #[must_use]
    pub(crate) fn resource(&self) -> Option<&ResourcePath> {
        match &self.target {
            Target::Resource(path) => Some(path),
            Target::Other => None,
        }
    }

    /// Whether the answer may stay open for as long as the client likes: no time limit, no place in the in-flight limit.
    #[must_use]
    pub(crate) fn is_long_running(&self) -> bool {
        let streaming = ["log", "exec", "attach", "portforward", "proxy"];
        self.verb == Verb::Watch || self.resource().is_some_and(|r| streaming.contains(&r.subresource.as_str()))
    }
}

/// Reads the path; the flag says whether it used the old `/watch/` prefix.
fn parse_path(path: &str) -> (Target, bool) {
    let mut parts = path.trim_matches('/').split('/').map(percent_decode);
    let (group, version) = match parts.next().as_deref() {
        Some("api") => (String::new(), parts.next()),
        Some("apis") => (parts.next().unwrap_or_default(), parts.next()),
        _ => return (Target::Other, false),
    };
    let Some(version) = version else { return (Target::Other, false) };
    let mut rest: Vec<String> = parts.collect();
    let watch_prefix = rest.first().is_some_and(|p| p == "watch") && rest.len() > 1;
    if watch_prefix {
        rest.remove(0);
    }
    if rest.is_empty() {
        return (Target::Other, false);
    }
    let mut found = ResourcePath { group, version, ..ResourcePath::default() };
    // namespaces/<name>/<status|finalize> is about the namespace; any other third part is a resource inside it.
    let namespaced = rest[0] == "namespaces" && rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize");
    if namespaced {
        found.namespace = rest.remove(1);
        rest.remove(0);
    }
    let mut rest = rest.into_iter();
    found.resource = rest.next().unwrap_or_default();
    found.name = rest.next().unwrap_or_default();
    found.subresource = rest.next().unwrap_or_default();
    found.rest = rest.collect::<Vec<_>>().join("/");
    if found.group.is_empty() && found.resource == "namespaces" && !namespaced {
        found.namespace.clone_from(&found.name);
    }
    (Target::Resource(found), watch_prefix)
}

fn verb_of(method: &http::Method, target: &Target, query: &Query, watch_prefix: bool) -> Verb {
    let named = match target {
        Target::Resource(path) => !path.name.is_empty(),
        Target::Other => true,
    };
    match *method {
        http::Method::GET | http::Method::HEAD if watch_prefix || (!named && query.flag("watch")) => Verb::Watch,
        http::Method::GET | http::Method::HEAD => {
            if named {
                Verb::Get
            } else {
                Verb::List
            }
        }
        http::Method::POST => Verb::Create,
        http::Method::PUT => Verb::Update,
        http::Method::PATCH => Verb::Patch,
        http::Method::DELETE => {
            if named {
                Verb::Delete
            } else {
                Verb::DeleteCollection
            }
        }
        _ => Verb::Unknown,
    }
}

/// Decodes `%xx`; anything malformed stays as it is and will simply not be found.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str) -> RequestInfo {
        let method = http::Method::from_bytes(method.as_bytes()).expect("because the tests name real methods");
        RequestInfo::parse(&method, &uri.parse().expect("because the tests name real paths"))
    }

    #[test]
    fn every_shape_of_resource_url_is_understood() {
        // method, url, verb, "group/version resource/sub ns name rest"
        let cases = [
            ("GET", "/api/v1/pods", "list", "/v1 pods/ - - -"),
            ("GET", "/api/v1/pods?watch=true", "watch", "/v1 pods/ - - -"),
            ("GET", "/api/v1/pods?watch", "watch", "/v1 pods/ - - -"),
            ("GET", "/api/v1/pods?watch=false", "list", "/v1 pods/ - - -"),
            ("GET", "/api/v1/watch/namespaces/a/pods", "watch", "/v1 pods/ a - -"),
            ("POST", "/api/v1/namespaces/a/pods", "create", "/v1 pods/ a - -"),
            ("GET", "/api/v1/namespaces/a", "get", "/v1 namespaces/ a a -"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "/v1 namespaces/finalize a a -"),
            ("GET", "/api/v1/namespaces", "list", "/v1 namespaces/ - - -"),
            ("GET", "/api/v1/namespaces/a/pods/b/log?follow=true", "get", "/v1 pods/log a b -"),
            ("GET", "/api/v1/namespaces/a/services/b/proxy/x/y", "get", "/v1 services/proxy a b x/y"),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b/scale", "patch", "apps/v1 deployments/scale a b -"),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection", "apps/v1 deployments/ a - -"),
            ("DELETE", "/api/v1/nodes/n%2e1", "delete", "/v1 nodes/ - n.1 -"),
        ];
        for (method, url, verb, expected) in cases {
            let info = parse(method, url);
            let r = info.resource().expect("because each case is a resource");
            let dash = |s: &str| if s.is_empty() { "-".to_owned() } else { s.to_owned() };
            let seen = format!(
                "{}/{} {}/{} {} {} {}",
                r.group,
                r.version,
                r.resource,
                r.subresource,
                dash(&r.namespace),
                dash(&r.name),
                dash(&r.rest)
            );
            assert_eq!((info.verb.as_str(), seen.as_str()), (verb, expected), "{method} {url}");
        }
    }

    #[test]
    fn discovery_and_health_are_not_resources() {
        for url in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1"] {
            assert_eq!(parse("GET", url).target, Target::Other, "{url}");
        }
    }
}
