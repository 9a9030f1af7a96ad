//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, and the certificate of the CA.

use crate::body::Body;
use crate::failure::Failure;
use crate::negotiate;
use crate::request::RequestInfo;
use crate::respond::Answer;
use crate::server::{Inner, plain};
use crate::tokens::ISSUER;
use controlplane_types::{ApiError, discovery, openapi};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};

/// The level of the Kubernetes API that is served; schemas and defaults are those of this release.
pub(crate) const KUBERNETES: (&str, &str, &str) = ("1", "36", "2");

/// The checks behind `/livez`, `/readyz` and `/healthz`, in the order in which `?verbose` lists them.
const CHECKS: &[&str] = &["ping", "store"];

/// Answers a request for such a path.
pub(crate) fn serve(server: &Inner, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let headers = request.headers();
    let path = info.path.trim_end_matches('/');
    let mut parts = path.split('/').skip(1);
    let raw = |response| Ok(Answer::Raw(response));
    match (parts.next().unwrap_or(""), parts.collect::<Vec<_>>().as_slice()) {
        ("", _) => Ok(Answer::Value(200, json!({"paths": paths(server)}))),
        ("livez" | "readyz" | "healthz", rest) => raw(health(server, info, rest)?),
        ("version", []) => Ok(Answer::Value(200, version())),
        ("metrics", []) => {
            let text = server.metrics.render(server.store.revision().0);
            raw(plain(200, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        ("api", []) => raw(discover(
            headers,
            || discovery::aggregated_core(&server.kinds),
            || Some(discovery::api_versions(&address(server))),
        )?),
        ("apis", []) => raw(discover(
            headers,
            || discovery::aggregated_groups(&server.kinds),
            || Some(discovery::group_list(&server.kinds)),
        )?),
        ("apis", [group]) => raw(classic(headers, discovery::group(&server.kinds, group))?),
        ("api", [version]) => raw(classic(headers, discovery::resource_list(&server.kinds, "", version))?),
        ("apis", [group, version]) => raw(classic(headers, discovery::resource_list(&server.kinds, group, version))?),
        ("openapi", ["v3"]) => raw(classic(headers, Some(openapi::index(&server.kinds)))?),
        ("openapi", ["v3", "api", version]) => raw(classic(headers, openapi::document(&server.kinds, "", version))?),
        ("openapi", ["v3", "apis", group, version]) => {
            raw(classic(headers, openapi::document(&server.kinds, group, version))?)
        }
        (".well-known", ["cairn", "ca.pem"]) => match &server.options.ca_pem {
            Some(pem) => raw(plain(200, "application/x-pem-file", pem.borrow().clone())),
            None => Err(ApiError::no_such_resource().into()),
        },
        (".well-known", ["openid-configuration"]) => Ok(Answer::Value(200, openid())),
        ("openid", ["v1", "jwks"]) => match &server.options.tokens {
            Some(keys) => Ok(Answer::Value(200, keys.jwks())),
            None => Err(ApiError::no_such_resource().into()),
        },
        _ => Err(ApiError::no_such_resource().into()),
    }
}

fn paths(server: &Inner) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].map(String::from).into();
    for (group, versions) in server.kinds.groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(String::from),
    );
    paths
}

/// What `/version` says. Major and minor are whole numbers in text, as clients and conformance tests expect.
fn version() -> Value {
    let (major, minor, patch) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.{patch}+cairn.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        "emulationMajor": major, "emulationMinor": minor, "minCompatibilityMajor": major, "minCompatibilityMinor": minor,
    })
}

fn openid() -> Value {
    json!({
        "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// Whether one check passes. The store says no when it has never applied anything.
fn passes(server: &Inner, check: &str) -> bool {
    match check {
        "store" => server.store.revision().0 > 0,
        _ => true,
    }
}

fn health(server: &Inner, info: &RequestInfo, rest: &[&str]) -> Result<Response<Body>, Failure> {
    let name = info.path.trim_matches('/').split('/').next().unwrap_or_default().to_owned();
    let checks: Vec<&str> = match rest {
        [] => CHECKS.to_vec(),
        [one] if CHECKS.contains(one) => vec![*one],
        _ => return Err(ApiError::no_such_resource().into()),
    };
    let good = checks.iter().all(|check| passes(server, check));
    if good && info.query.get("verbose").is_none() {
        return Ok(plain(200, "text/plain; charset=utf-8", "ok"));
    }
    let line = |check: &&str| match passes(server, check) {
        true => format!("[+]{check} ok\n"),
        false => format!("[-]{check} failed: reason withheld\n"),
    };
    let mut text: String = checks.iter().map(line).collect();
    text.push_str(&format!("{name} check {}\n", if good { "passed" } else { "failed" }));
    Ok(plain(if good { 200 } else { 500 }, "text/plain; charset=utf-8", text))
}

fn address(server: &Inner) -> String {
    server.options.advertise.map_or_else(String::new, |(address, port)| format!("{address}:{port}"))
}

/// Discovery in the form that the client asks for: aggregated when it names that, else the classic list.
fn discover(
    headers: &HeaderMap,
    aggregated: impl FnOnce() -> Value,
    plain_list: impl FnOnce() -> Option<Value>,
) -> Result<Response<Body>, Failure> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let first = negotiate::accepted(accept).into_iter().find(|m| matches!(m.name.as_str(), "application/json" | "*/*"));
    let wants_aggregated = first.is_some_and(|m| {
        m.parameter("as") == "APIGroupDiscoveryList"
            && m.parameter("g") == "apidiscovery.k8s.io"
            && m.parameter("v") == "v2"
    });
    if wants_aggregated {
        let content_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        return document(headers, Some(aggregated()), content_type);
    }
    classic(headers, plain_list())
}

fn classic(headers: &HeaderMap, value: Option<Value>) -> Result<Response<Body>, Failure> {
    document(headers, value, "application/json")
}

/// A document with its entity tag; 304 when the client has it already.
fn document(headers: &HeaderMap, value: Option<Value>, content_type: &'static str) -> Result<Response<Body>, Failure> {
    let value = value.ok_or_else(ApiError::no_such_resource)?;
    let etag = discovery::etag(&value);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = if known == Some(etag.as_str()) {
        let mut response = plain(200, content_type, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        plain(200, content_type, value.to_string())
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}
