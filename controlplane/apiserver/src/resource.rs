//! Requests about resources: finds the kind, reads options and body, calls the registry, and says in what shape to answer.

use crate::body::{self, Body, ReadBodyError};
use crate::caller::{Caller, GITSYNC};
use crate::failure::Failure;
use crate::negotiate::{self, BodyFormat, Wanted};
use crate::query::{ListOptions, WriteOptions, parse_dry_run};
use crate::registry::{self, Call, Deleted, Written};
use crate::request::{RequestInfo, ResourcePath, Verb};
use crate::respond::{Answer, Shaped, What};
use crate::server::Inner;
use crate::{protobuf, reviews, subresource};
use bytes::Bytes;
use controlplane_types::decode::{self, Parsed};
use controlplane_types::delete::DeleteOptions;
use controlplane_types::error;
use controlplane_types::object::{self, Object};
use controlplane_types::patch::PatchType;
use controlplane_types::table::IncludeObject;
use controlplane_types::{ApiError, Endpoint, KindInfo, Scope};
use http::{HeaderMap, Request, header};
use serde_json::Value;
use std::sync::Arc;

/// Answers a request about a resource.
pub(crate) async fn serve(
    server: &Inner,
    info: &RequestInfo,
    path: &ResourcePath,
    caller: &Caller,
    request: Request<Body>,
) -> Result<Answer, Failure> {
    let kind = server.kind(&path.group, &path.version, &path.resource)?;
    placed(&kind, path, info.verb)?;
    let agent = header_text(request.headers(), &header::USER_AGENT).unwrap_or_default().to_owned();
    let agent = agent.split('/').next().unwrap_or_default();
    let call = Call::new(server, Arc::clone(&kind), path.clone(), caller, agent);
    if !info.verb.is_read() {
        may_write(&call)?;
    }
    if !path.subresource.is_empty() {
        return subresource::serve(&call, info, request).await;
    }
    if !kind.serves(info.verb.as_str()) {
        return Err(ApiError::method_not_supported(&kind, info.verb.as_str()).into());
    }
    if let Some(review) = reviews::find(path) {
        let (_, body) = read_json(request).await?;
        return Ok(Answer::Value(201, reviews::answer(server, review, caller, body.value).await?));
    }
    verb(&call, info, request).await
}

async fn verb(call: &Call<'_>, info: &RequestInfo, request: Request<Body>) -> Result<Answer, Failure> {
    let wanted = wanted(request.headers())?;
    match info.verb {
        Verb::Get => {
            let minimum = info.query.number("resourceVersion")?;
            Ok(one(call, wanted, 200, registry::get(call, minimum).await?))
        }
        Verb::List => {
            let page = registry::list(call, &ListOptions::parse(&info.query)?).await?;
            Ok(answer(call, wanted, 200, What::Page(page)))
        }
        Verb::Watch => {
            let options = watch_options(call, info)?;
            let include = include_object(info)?;
            Ok(Answer::Events(registry::watch(call, &options, wanted.shape, include).await?))
        }
        Verb::Create => {
            let options = WriteOptions::parse(&info.query)?;
            let body = read_object(call, request, &options).await?;
            Ok(written(call, wanted, registry::create(call, body, &options).await?))
        }
        Verb::Update => {
            let options = WriteOptions::parse(&info.query)?;
            let body = read_object(call, request, &options).await?;
            Ok(written(call, wanted, registry::update(call, Endpoint::Main, body, &options).await?))
        }
        Verb::Patch => patch(call, info, Endpoint::Main, request).await,
        Verb::Delete => delete(call, info, request, wanted).await,
        Verb::DeleteCollection => delete_collection(call, info, request, wanted).await,
        Verb::Unknown => Err(ApiError::method_not_supported(&call.kind, "this method").into()),
    }
}

/// A path must name a namespace exactly where the kind has one; only collections are read across all.
fn placed(kind: &KindInfo, path: &ResourcePath, verb: Verb) -> Result<(), Failure> {
    let across = matches!(verb, Verb::List | Verb::Watch) && path.name.is_empty();
    let fits = match kind.scope {
        Scope::Namespaced => !path.namespace.is_empty() || across,
        // A namespace's own path carries its name in both places.
        Scope::Cluster => path.namespace.is_empty() || path.resource == "namespaces",
    };
    if fits { Ok(()) } else { Err(ApiError::no_such_resource().into()) }
}

/// Some kinds have one writer, whatever authorization says. Where that is gitsync, a worker's says what its own machine accepted.
fn may_write(call: &Call<'_>) -> Result<(), Failure> {
    let own = |machine: &str| call.path.name == machine && call.path.subresource == "status";
    let worker = call.caller.gitsync_worker().is_some_and(own);
    match &call.kind.writer {
        Some(writer) if *writer == GITSYNC && worker => Ok(()),
        Some(writer) if *writer != call.caller.user => {
            let why = format!("only {writer} writes these objects; change the repository instead");
            Err(ApiError::forbidden(&call.kind, &call.path.name, &why).into())
        }
        Some(_) | None => Ok(()),
    }
}

/// patch, at the main endpoint or status.
pub(crate) async fn patch(
    call: &Call<'_>,
    info: &RequestInfo,
    endpoint: Endpoint,
    request: Request<Body>,
) -> Result<Answer, Failure> {
    let wanted = wanted(request.headers())?;
    let options = WriteOptions::parse(&info.query)?;
    let (patch_type, body) = read_patch(request).await?;
    let body = match patch_type {
        // An apply patch is an object, if a partial one; it is held to the kind's shape.
        PatchType::Apply => {
            let decoded = decode::check(&call.kind, body, options.field_validation)?;
            decoded.warnings.into_iter().for_each(|text| call.warn(text));
            decoded.object
        }
        PatchType::Json | PatchType::Merge | PatchType::Strategic => body.value,
    };
    Ok(written(call, wanted, registry::patch(call, endpoint, patch_type, body, &options).await?))
}

async fn delete(
    call: &Call<'_>,
    info: &RequestInfo,
    request: Request<Body>,
    wanted: Wanted,
) -> Result<Answer, Failure> {
    let (options, dry_run) = delete_options(info, request).await?;
    match registry::delete(call, &options, dry_run).await? {
        Deleted::Marked(object) => Ok(one(call, wanted, 200, object)),
        // Pods answer with themselves even when nothing of them is left, as upstream.
        Deleted::Gone(object) if call.kind.kind == "Pod" => Ok(one(call, wanted, 200, object)),
        Deleted::Gone(object) => Ok(Answer::Value(200, error::success(&call.kind, object.name(), object.uid()))),
    }
}

async fn delete_collection(
    call: &Call<'_>,
    info: &RequestInfo,
    request: Request<Body>,
    wanted: Wanted,
) -> Result<Answer, Failure> {
    let selected = ListOptions::parse(&info.query)?;
    let (options, dry_run) = delete_options(info, request).await?;
    let page = registry::delete_collection(call, &selected, &options, dry_run).await?;
    Ok(answer(call, wanted, 200, What::Page(page)))
}

async fn delete_options(info: &RequestInfo, request: Request<Body>) -> Result<(DeleteOptions, bool), Failure> {
    let (_, body) = read_json(request).await?;
    let from_body = parse_dry_run(object::list(&body.value, &["dryRun"]).first().and_then(Value::as_str))?;
    let from_query = parse_dry_run(info.query.text("dryRun"))?;
    let options = DeleteOptions::from_body(&body.value)?
        .with_query(info.query.text("gracePeriodSeconds"), info.query.text("propagationPolicy"))?;
    Ok((options, from_body || from_query))
}

/// The options of a watch; one by the old `/watch/` path may name an object.
fn watch_options(call: &Call<'_>, info: &RequestInfo) -> Result<ListOptions, Failure> {
    let mut options = ListOptions::parse(&info.query)?;
    if !call.path.name.is_empty() {
        let by_name = format!("metadata.name={}", call.path.name);
        options.field_selector =
            if options.field_selector.is_empty() { by_name } else { format!("{},{by_name}", options.field_selector) };
    }
    Ok(options)
}

/// How much of each object a table row carries.
pub(crate) fn include_object(info: &RequestInfo) -> Result<IncludeObject, ApiError> {
    let text = info.query.get("includeObject").unwrap_or_default();
    IncludeObject::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!("includeObject is {text}; supported are None, Metadata and Object"))
    })
}

/// What the client accepts.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Wanted, ApiError> {
    negotiate::wanted(header_text(headers, &header::ACCEPT))
}

/// One object as an answer.
pub(crate) fn one(call: &Call<'_>, wanted: Wanted, code: u16, object: Value) -> Answer {
    answer(call, wanted, code, What::One(object))
}

/// A write as an answer.
pub(crate) fn written(call: &Call<'_>, wanted: Wanted, written: Written) -> Answer {
    one(call, wanted, if written.created { 201 } else { 200 }, written.object)
}

fn answer(call: &Call<'_>, wanted: Wanted, code: u16, what: What) -> Answer {
    let warnings = call.take_warnings();
    Answer::Shaped(Shaped { code, kind: Arc::clone(&call.kind), what, wanted, warnings })
}

/// Reads a body that holds an object of the call's kind.
pub(crate) async fn read_object(
    call: &Call<'_>,
    request: Request<Body>,
    options: &WriteOptions,
) -> Result<Value, Failure> {
    let (_, parsed) = read_json(request).await?;
    let decoded = decode::check(&call.kind, parsed, options.field_validation)?;
    decoded.warnings.into_iter().for_each(|text| call.warn(text));
    Ok(decoded.object)
}

/// Reads a body in JSON, YAML or protobuf; no body is null.
pub(crate) async fn read_json(request: Request<Body>) -> Result<(HeaderMap, Parsed), Failure> {
    let (parts, body) = request.into_parts();
    let bytes = read_bytes(body).await?;
    if bytes.is_empty() {
        return Ok((parts.headers, Parsed { value: Value::Null, duplicates: vec![] }));
    }
    let format = negotiate::body_format(header_text(&parts.headers, &header::CONTENT_TYPE))?;
    let parsed = match format {
        BodyFormat::Json => decode::parse(&bytes)?,
        BodyFormat::Yaml => parse_yaml(&bytes)?,
        BodyFormat::Protobuf => Parsed { value: protobuf::decode(&bytes)?, duplicates: vec![] },
    };
    Ok((parts.headers, parsed))
}

/// Reads a patch with its kind. Apply patches are YAML, of which JSON is a part.
pub(crate) async fn read_patch(request: Request<Body>) -> Result<(PatchType, Parsed), Failure> {
    let (parts, body) = request.into_parts();
    let patch_type = negotiate::patch_type(header_text(&parts.headers, &header::CONTENT_TYPE))?;
    let bytes = read_bytes(body).await?;
    let looks_like_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let parsed = match patch_type {
        PatchType::Apply if !looks_like_json => parse_yaml(&bytes)?,
        PatchType::Apply | PatchType::Json | PatchType::Merge | PatchType::Strategic => decode::parse(&bytes)?,
    };
    Ok((patch_type, parsed))
}

fn parse_yaml(bytes: &Bytes) -> Result<Parsed, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))?;
    Ok(Parsed { value, duplicates: vec![] })
}

async fn read_bytes(body: Body) -> Result<Bytes, Failure> {
    body::read(body).await.map_err(|error| match error {
        ReadBodyError::TooLarge => ApiError::too_large(body::REQUEST_BODY_LIMIT).into(),
        ReadBodyError::Broken(_) => ApiError::bad_request("the request body broke off").into(),
    })
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
