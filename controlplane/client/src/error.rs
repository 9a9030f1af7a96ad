//! What a request may come to other than what was asked.

use crate::TransportError;
use serde::Deserialize;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It got no answer.
    #[error("no answer to {request}")]
    Transport {
        /// Method and path.
        request: String,
        /// The transport's reason.
        #[source]
        source: TransportError,
    },
    /// No answer in time.
    #[error("no answer to {request} in {seconds} s")]
    Timeout {
        /// Method and path.
        request: String,
        /// How long it waited.
        seconds: u64,
    },
    /// The answer broke off.
    #[error("the answer to {request} broke off")]
    Body {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: crate::BoxError,
    },
    /// The answer is too large.
    #[error("the answer to {request} is larger than {limit} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The limit.
        limit: usize,
    },
    /// The request could not be written down.
    #[error("cannot encode {request}")]
    Encode {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: crate::BoxError,
    },
    /// The answer is not what it should be.
    #[error("cannot read the answer to {request}")]
    Decode {
        /// Method and path.
        request: String,
        /// What went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The server said no.
    #[error("{request}: {status}")]
    Refused {
        /// Method and path.
        request: String,
        /// Why.
        status: Box<Status>,
    },
}

/// The server's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code} {})", reason.as_str())]
pub struct Status {
    /// The HTTP status.
    pub code: u16,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// What exactly, one a cause: field and message.
    pub causes: Vec<(String, String)>,
    /// When to try again, in seconds.
    pub retry_after_seconds: Option<u32>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Kubernetes' reasons for a refusal.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// One that this client does not know.
            Other(String),
        }

        impl Reason {
            /// As the server spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Reason::$name => $text,)*
                    Reason::Other(text) => text,
                }
            }

            fn parse(text: &str) -> Self {
                match text {
                    $($text => Reason::$name,)*
                    other => Reason::Other(other.to_owned()),
                }
            }
        }
    };
}

reasons! {
    /// There is no such object or resource.
    NotFound = "NotFound",
    /// An object of that name is there.
    AlreadyExists = "AlreadyExists",
    /// It changed meanwhile, or another manager owns a field.
    Conflict = "Conflict",
    /// The resource version is too old: list again.
    Expired = "Expired",
    /// The same, as some servers and older versions say it.
    Gone = "Gone",
    /// The object breaks its kind's rules.
    Invalid = "Invalid",
    /// The request makes no sense.
    BadRequest = "BadRequest",
    /// The caller may not do that.
    Forbidden = "Forbidden",
    /// The server does not know the caller.
    Unauthorized = "Unauthorized",
    /// The verb does not exist there.
    MethodNotAllowed = "MethodNotAllowed",
    /// The content type is not known there.
    UnsupportedMediaType = "UnsupportedMediaType",
    /// Too many requests at a time.
    TooManyRequests = "TooManyRequests",
    /// The server was too slow.
    Timeout = "Timeout",
    /// The server was too slow, and says when to come back.
    ServerTimeout = "ServerTimeout",
    /// The server cannot serve now.
    ServiceUnavailable = "ServiceUnavailable",
    /// The server failed.
    InternalError = "InternalError",
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawStatus {
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
    details: Option<RawDetails>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawDetails {
    causes: Vec<RawCause>,
    retry_after_seconds: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCause {
    field: String,
    message: String,
}

impl Status {
    /// Reads a Status object; anything else becomes a refusal with the text's beginning as its message.
    #[must_use]
    pub(crate) fn read(code: u16, body: &[u8]) -> Self {
        /// Characters of a foreign error page that a message repeats.
        const TEXT_LIMIT: usize = 300;
        match serde_json::from_slice::<RawStatus>(body) {
            Ok(raw) => Status::from_raw(code, raw),
            Err(_) => Status::from_raw(
                code,
                RawStatus {
                    message: Some(String::from_utf8_lossy(body).chars().take(TEXT_LIMIT).collect()),
                    ..RawStatus::default()
                },
            ),
        }
    }

    pub(crate) fn from_raw(http: u16, raw: RawStatus) -> Self {
        let code = raw.code.unwrap_or(http);
        let details = raw.details.unwrap_or_default();
        Status {
            code,
            reason: raw.reason.as_deref().map_or_else(|| Reason::of_code(code), Reason::parse),
            message: raw.message.unwrap_or_default(),
            causes: details.causes.into_iter().map(|cause| (cause.field, cause.message)).collect(),
            retry_after_seconds: details.retry_after_seconds,
        }
    }
}

impl Reason {
    /// What a bare HTTP status means.
    fn of_code(code: u16) -> Self {
        match code {
            400 => Reason::BadRequest,
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            405 => Reason::MethodNotAllowed,
            409 => Reason::Conflict,
            410 => Reason::Gone,
            415 => Reason::UnsupportedMediaType,
            422 => Reason::Invalid,
            429 => Reason::TooManyRequests,
            500 => Reason::InternalError,
            503 => Reason::ServiceUnavailable,
            504 => Reason::Timeout,
            other => Reason::Other(format!("HTTP {other}")),
        }
    }
}

impl ClientError {
    /// The server's refusal, if that is what it was.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            ClientError::Refused { status, .. } => Some(status),
            ClientError::Transport { .. }
            | ClientError::Timeout { .. }
            | ClientError::Body { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Encode { .. }
            | ClientError::Decode { .. } => None,
        }
    }

    fn has_reason(&self, reason: &Reason) -> bool {
        self.status().is_some_and(|status| status.reason == *reason)
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.has_reason(&Reason::NotFound)
    }

    /// Whether an object of that name is there already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.has_reason(&Reason::AlreadyExists)
    }

    /// Whether the object changed meanwhile, or another manager owns a field.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.has_reason(&Reason::Conflict)
    }

    /// Whether the resource version is too old: list again.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.has_reason(&Reason::Expired) || self.has_reason(&Reason::Gone)
    }
}

/// What turns "it is not there" from an error into an answer.
pub trait Optional<T> {
    /// `None` when there is no such object.
    ///
    /// # Errors
    /// Every other error, as it was.
    fn optional(self) -> Result<Option<T>, ClientError>;
}

impl<T> Optional<T> for Result<T, ClientError> {
    fn optional(self) -> Result<Option<T>, ClientError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_object_says_reason_and_causes() {
        let body = br#"{"kind":"Status","code":422,"reason":"Invalid","message":"no",
            "details":{"causes":[{"field":"spec.x","message":"too long"}]}}"#;
        let status = Status::read(422, body);
        assert_eq!(status.reason, Reason::Invalid);
        assert_eq!(status.causes, [("spec.x".to_owned(), "too long".to_owned())]);
    }

    #[test]
    fn an_answer_that_is_no_status_still_has_a_reason() {
        let status = Status::read(503, b"upstream is gone");
        assert_eq!((status.reason, status.message.as_str()), (Reason::ServiceUnavailable, "upstream is gone"));
    }
}
