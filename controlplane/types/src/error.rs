//! The error that a client of the Kubernetes API sees: a `Status` object with upstream's reason, code and wording.
//!
//! Everything in this crate that can refuse a request returns [`ApiError`]; the API server turns it into a response with
//! [`ApiError::status`] and [`ApiError::code`]. The texts are upstream's, because clients and tests compare them. Nothing here
//! may carry more than the client may know: no keys of the store, no back-traces.

use serde_json::{Map, Value, json};

use crate::field_error::FieldError;
use crate::kind::KindInfo;

/// Why a request was refused, as `Status.reason` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 401: nobody was recognised.
    Unauthorized,
    /// 403: the caller is known and may not.
    Forbidden,
    /// 404: no such object or resource.
    NotFound,
    /// 409: the name is taken.
    AlreadyExists,
    /// 409: the object changed in between, or a field belongs to another manager.
    Conflict,
    /// 410: the resource version is no longer kept.
    Gone,
    /// 410: the revision or continue token was compacted away.
    Expired,
    /// 422: the object breaks a rule; the causes say which.
    Invalid,
    /// 400: the request cannot be understood.
    BadRequest,
    /// 405: the resource does not know this verb.
    MethodNotAllowed,
    /// 406: no representation that the client accepts.
    NotAcceptable,
    /// 413: the body is larger than the limit.
    RequestEntityTooLarge,
    /// 415: the body has a type that is not read here.
    UnsupportedMediaType,
    /// 429: try again later.
    TooManyRequests,
    /// 500: our own mistake.
    InternalError,
    /// 500: the server took too long and the outcome is not known.
    ServerTimeout,
    /// 503: no quorum, or still starting.
    ServiceUnavailable,
    /// 504: the request took longer than it may.
    Timeout,
}

impl Reason {
    /// Returns the text in `Status.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Expired => "Expired",
            Reason::Invalid => "Invalid",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::InternalError => "InternalError",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::ServiceUnavailable => "ServiceUnavailable",
            Reason::Timeout => "Timeout",
        }
    }

    /// Returns the HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError | Reason::ServerTimeout => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// One entry of `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// For people, without the field's path.
    pub message: String,
    /// The field's path, e.g. `spec.ports[0].port`; empty when the whole object is meant.
    pub field: String,
}

/// `Status.details`: which object, and the causes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object, empty when there is none.
    pub name: String,
    /// API group, empty for core.
    pub group: String,
    /// Plural resource or kind, as upstream has it for the reason.
    pub kind: String,
    /// UID of the object, empty when not known.
    pub uid: String,
    /// The single mistakes.
    pub causes: Vec<Cause>,
    /// Seconds to wait before a retry; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Machine-readable reason; decides the HTTP code.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Which object and which fields; boxed because errors travel in results.
    pub details: Option<Box<Details>>,
}

impl ApiError {
    /// Makes an error without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        ApiError { reason, message: message.into(), details: None }
    }

    fn about(reason: Reason, kind: &KindInfo, name: &str, message: String) -> Self {
        let details =
            Details { name: name.into(), group: kind.group.clone(), kind: kind.plural.clone(), ..Details::default() };
        ApiError { reason, message, details: Some(Box::new(details)) }
    }

    /// Says that the object does not exist.
    pub fn not_found(kind: &KindInfo, name: &str) -> Self {
        Self::about(Reason::NotFound, kind, name, format!("{} \"{name}\" not found", kind.group_resource()))
    }

    /// Says that the path names no resource.
    pub fn no_such_resource() -> Self {
        let details = Details::default();
        let message = "the server could not find the requested resource".into();
        ApiError { reason: Reason::NotFound, message, details: Some(Box::new(details)) }
    }

    /// Says that the name is taken.
    pub fn already_exists(kind: &KindInfo, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, kind, name, format!("{} \"{name}\" already exists", kind.group_resource()))
    }

    /// Says that the write cannot be done on the object as it is now; `why` is the sentence after the colon.
    pub fn conflict(kind: &KindInfo, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.group_resource());
        Self::about(Reason::Conflict, kind, name, message)
    }

    /// Says that the caller's copy of the object is not the newest.
    pub fn modified(kind: &KindInfo, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, WHY)
    }

    /// Says which rules the object breaks.
    pub fn invalid(kind: &KindInfo, name: &str, errors: Vec<FieldError>) -> Self {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = if let [one] = list.as_slice() { one.clone() } else { format!("[{}]", list.join(", ")) };
        let qualified = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let details = Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: errors.into_iter().map(FieldError::into_cause).collect(),
            ..Details::default()
        };
        let message = format!("{qualified} \"{name}\" is invalid: {text}");
        ApiError { reason: Reason::Invalid, message, details: Some(Box::new(details)) }
    }

    /// Says that the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// Says that the caller may not; `why` is the sentence after `is forbidden:`.
    pub fn forbidden(kind: &KindInfo, name: &str, why: &str) -> Self {
        let resource = kind.group_resource();
        let object = if name.is_empty() { resource } else { format!("{resource} \"{name}\"") };
        Self::about(Reason::Forbidden, kind, name, format!("{object} is forbidden: {why}"))
    }

    /// Says that nobody was recognised.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// Says that a watch or list asks for a revision that was compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// Says that a watch asks for a revision older than the oldest kept one.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// Says that the resource does not know the verb.
    pub fn method_not_supported(kind: &KindInfo, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", kind.group_resource());
        Self::about(Reason::MethodNotAllowed, kind, "", message)
    }

    /// Says that the request took longer than it may.
    pub fn timeout(message: &str) -> Self {
        Self::new(Reason::Timeout, format!("Timeout: {message}"))
    }

    /// Says that the body's type is not read here.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::new(Reason::UnsupportedMediaType, message)
    }

    /// Says that no representation suits the client.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::new(Reason::NotAcceptable, format!("only the following media types are accepted: {list}"))
    }

    /// Says that the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    /// Says that the server failed; `what` must hold nothing secret.
    pub fn internal(what: &str) -> Self {
        let cause = Cause { reason: "", message: what.into(), field: String::new() };
        let details = Details { causes: vec![cause], ..Details::default() };
        let message = format!("Internal error occurred: {what}");
        ApiError { reason: Reason::InternalError, message, details: Some(Box::new(details)) }
    }

    /// Says that the request is to be tried again after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let details = Details { retry_after_seconds: seconds, ..Details::default() };
        ApiError { reason: Reason::TooManyRequests, message: message.into(), details: Some(Box::new(details)) }
    }

    /// Returns the HTTP status code.
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// Returns the `Status` object of the answer.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.as_str(), "code": self.code(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                map.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.into(), json!(text));
            }
        }
        Value::Object(map)
    }
}

/// Returns the `Status` object of a deletion or another success without an object of its own.
pub fn success(kind: &KindInfo, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.into(),
        group: kind.group.clone(),
        kind: kind.plural.clone(),
        uid: uid.into(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
}
