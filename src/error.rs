//! What can go wrong with a call, and the one table that turns it into an answer.
//! It must not know where an error comes from or what is done about it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use providers::{Class, Endpoint, Refusal, UpstreamError};
use serde_json::{Value, json};

/// Who refused a call for being too fast; the gateway's own limits, or the provider's.
pub const LIMITED_BY: HeaderName = HeaderName::from_static("x-choreoai-limited-by");

/// Tells OpenAI's SDKs not to try again by themselves.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What a client is told whose own deadline came.
pub const TOO_LATE: &str = "there was no answer within the time that the client gave";

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong.
    InvalidRequest,
    /// The body is larger than allowed.
    TooLarge,
    /// The client took too long to send its request.
    SlowRequest,
    /// No key, or an unknown one.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// No such path.
    NotFound,
    /// The path exists, for another method.
    MethodNotAllowed,
    /// No such model here.
    ModelNotFound,
    /// One of the gateway's limits.
    RateLimited,
    /// The provider's waiting line is full or too slow.
    QueueFull,
    /// The gateway is leaving.
    ShuttingDown,
    /// The provider said no to this request, for the caller's reasons.
    UpstreamRefused,
    /// The provider's own limit.
    UpstreamRateLimited,
    /// The account at the provider has no money or quota left.
    UpstreamQuota,
    /// The provider does not accept the gateway's credentials.
    UpstreamAuth,
    /// The provider failed or answered nonsense.
    UpstreamFailed,
    /// The provider has no capacity, cannot be reached, or is being spared.
    UpstreamUnavailable,
    /// The provider took too long.
    UpstreamTimeout,
    /// The client's own deadline came first.
    DeadlineExceeded,
    /// A stream broke after it had begun.
    UpstreamStream,
    /// The client left.
    ClientDisconnect,
    /// The gateway's own fault.
    Internal,
}

/// How one kind of error is answered.
struct Row {
    kind: Kind,
    status: u16,
    type_name: &'static str,
    code: Option<&'static str>,
    /// The `error_type` label in metrics and logs.
    label: &'static str,
}

const fn row(kind: Kind, status: u16, type_name: &'static str, code: Option<&'static str>, label: &'static str) -> Row {
    Row { kind, status, type_name, code, label }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// The table. 499 is nginx's status for a client that left; it is only ever counted, never sent.
static TABLE: [Row; 22] = [
    row(Kind::InvalidRequest, 400, INVALID, None, "invalid_request"),
    row(Kind::TooLarge, 413, INVALID, Some("request_too_large"), "invalid_request"),
    row(Kind::SlowRequest, 408, INVALID, Some("request_timeout"), "invalid_request"),
    row(Kind::Unauthorized, 401, INVALID, Some("invalid_api_key"), "unauthorized"),
    row(Kind::Forbidden, 403, "permission_error", Some("model_not_allowed"), "forbidden"),
    row(Kind::NotFound, 404, INVALID, Some("unknown_url"), "not_found"),
    row(Kind::MethodNotAllowed, 405, INVALID, Some("method_not_allowed"), "not_found"),
    row(Kind::ModelNotFound, 404, INVALID, Some("model_not_found"), "not_found"),
    row(Kind::RateLimited, 429, "rate_limit_error", Some("rate_limit_exceeded"), "rate_limited"),
    row(Kind::QueueFull, 503, SERVER, Some("queue_full"), "overloaded"),
    row(Kind::ShuttingDown, 503, SERVER, Some("shutting_down"), "shutting_down"),
    row(Kind::UpstreamRefused, 400, INVALID, None, "invalid_request"),
    row(Kind::UpstreamRateLimited, 429, "rate_limit_error", Some("rate_limit_exceeded"), "upstream_rate_limited"),
    row(Kind::UpstreamQuota, 429, "insufficient_quota", Some("insufficient_quota"), "upstream_rate_limited"),
    row(Kind::UpstreamAuth, 401, "authentication_error", Some("invalid_api_key"), "upstream_auth"),
    row(Kind::UpstreamFailed, 502, SERVER, Some("upstream_error"), "upstream_error"),
    row(Kind::UpstreamUnavailable, 503, SERVER, Some("upstream_unavailable"), "upstream_unavailable"),
    row(Kind::UpstreamTimeout, 504, "timeout_error", Some("upstream_timeout"), "upstream_timeout"),
    row(Kind::DeadlineExceeded, 504, "timeout_error", Some("deadline_exceeded"), "deadline_exceeded"),
    row(Kind::UpstreamStream, 502, SERVER, Some("upstream_stream_error"), "upstream_stream_error"),
    row(Kind::ClientDisconnect, 499, INVALID, Some("client_disconnect"), "client_disconnect"),
    row(Kind::Internal, 500, SERVER, Some("internal_error"), "internal"),
];

/// What the same provider is tried again after; credentials it does not accept with another key.
pub const RETRIED: [Kind; 6] = [
    Kind::UpstreamRateLimited,
    Kind::UpstreamFailed,
    Kind::UpstreamUnavailable,
    Kind::UpstreamTimeout,
    Kind::UpstreamStream,
    Kind::UpstreamAuth,
];

/// What, beside [`RETRIED`], another target is tried after: the provider's own limits here, and a prompt that is too long
/// for its model, or whatever else a model's `fallback_on` names.
pub const LEFT: [Kind; 3] = [Kind::RateLimited, Kind::QueueFull, Kind::UpstreamRefused];

impl Kind {
    /// The `error_type` label of metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        TABLE.iter().find(|row| row.kind == self).map_or("internal", |row| row.label)
    }
}

/// Every `error_type` label there is.
pub fn labels() -> impl Iterator<Item = &'static str> {
    let mut labels: Vec<&str> = TABLE.iter().map(|row| row.label).collect();
    labels.sort_unstable();
    labels.dedup();
    labels.into_iter()
}

/// In whose shape a client is told of an error: that of the API it called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surface {
    /// OpenAI's object, and as an event that object alone.
    #[default]
    OpenAi,
    /// OpenAI's object, and as an event one of the Responses API.
    Responses,
    /// That of Anthropic's Messages API.
    Messages,
    /// OpenAI's object, and no events: what is sent is sound, or a file, and can only be broken off.
    Bytes,
}

impl From<Endpoint> for Surface {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Embeddings | Endpoint::Passed | Endpoint::Account => Self::OpenAi,
            Endpoint::Responses => Self::Responses,
            Endpoint::Messages | Endpoint::CountTokens => Self::Messages,
        }
    }
}

/// Anthropic's `error.type`, which is by the status but for an empty account: <https://docs.anthropic.com/en/api/errors>.
fn anthropic_type(kind: Kind, status: StatusCode) -> &'static str {
    match status.as_u16() {
        _ if kind == Kind::UpstreamQuota => "billing_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// A call that failed: what the client is told. Nothing in it is secret.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    status: StatusCode,
    message: String,
    type_name: String,
    param: Option<String>,
    code: Option<String>,
    retry_after: Option<Duration>,
    headers: HeaderMap,
}

impl Error {
    /// An error of this kind as the table says.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let found = TABLE.iter().find(|row| row.kind == kind);
        let (status, type_name, code) = found.map_or((500, SERVER, None), |row| (row.status, row.type_name, row.code));
        Self(Box::new(Inner {
            kind,
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: message.into(),
            type_name: type_name.to_owned(),
            param: None,
            code: code.map(str::to_owned),
            retry_after: None,
            headers: HeaderMap::new(),
        }))
    }

    /// The same error, naming the field at fault.
    #[must_use]
    pub fn param(mut self, param: &str) -> Self {
        self.0.param = Some(param.to_owned());
        self
    }

    /// The same error, telling how long to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// The same error with a further header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The status for the client.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The message for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How long to wait before another try, when that is known.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The `error_type` label of metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.0.kind.label()
    }

    /// The error object.
    #[must_use]
    pub fn body(&self, surface: Surface) -> Bytes {
        Bytes::from(self.object(surface).to_string())
    }

    /// The error as the last event of a stream that had begun, after `told` others.
    #[must_use]
    pub fn event(&self, surface: Surface, told: u64) -> Bytes {
        let Inner { message, param, code, .. } = &*self.0;
        Bytes::from(match surface {
            Surface::Bytes => String::new(),
            Surface::OpenAi => format!("data: {}\n\n", self.object(surface)),
            Surface::Messages => format!("event: error\ndata: {}\n\n", self.object(surface)),
            Surface::Responses => {
                let event = json!({"type": "error", "sequence_number": told, "code": code, "message": message, "param": param});
                format!("event: error\ndata: {event}\n\n")
            }
        })
    }

    fn object(&self, surface: Surface) -> Value {
        let Inner { kind, message, type_name, param, code, status, .. } = &*self.0;
        match surface {
            Surface::OpenAi | Surface::Responses | Surface::Bytes => {
                json!({"error": {"message": message, "type": type_name, "param": param, "code": code}})
            }
            Surface::Messages => json!({"type": "error", "error": {"type": anthropic_type(*kind, *status), "message": message}}),
        }
    }

    /// The headers that go with the answer: the type, and how long to wait in the forms that OpenAI's SDKs read, or
    /// that waiting does not help.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = self.0.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.0.retry_after {
            // Whole seconds are rounded up: a client that waits that long must not come too early.
            let millis = wait.as_millis().max(1);
            headers.insert(header::RETRY_AFTER, number(millis.div_ceil(1000)));
            headers.insert(HeaderName::from_static("retry-after-ms"), number(millis));
        }
        if self.0.kind == Kind::UpstreamQuota {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(by) = self.limited_by() {
            headers.insert(LIMITED_BY, HeaderValue::from_static(by));
        }
        headers
    }

    fn limited_by(&self) -> Option<&'static str> {
        match self.0.kind {
            Kind::RateLimited | Kind::QueueFull => Some("gateway"),
            Kind::UpstreamRateLimited | Kind::UpstreamQuota => Some("provider"),
            _ => None,
        }
    }
}

fn number(value: u128) -> HeaderValue {
    HeaderValue::from(u64::try_from(value).unwrap_or(u64::MAX))
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::new(Kind::InvalidRequest, refusal.message);
        error.0.param = refusal.param;
        error.0.code = Some(refusal.code.to_owned());
        error
    }
}

impl From<UpstreamError> for Error {
    fn from(upstream: UpstreamError) -> Self {
        let kind = match upstream.class {
            Class::Invalid | Class::ContextOverflow | Class::ContentFilter | Class::NotFound => Kind::UpstreamRefused,
            Class::Authentication | Class::Permission => Kind::UpstreamAuth,
            Class::RateLimited => Kind::UpstreamRateLimited,
            Class::Quota => Kind::UpstreamQuota,
            Class::Overloaded => Kind::UpstreamUnavailable,
            Class::Timeout => Kind::UpstreamTimeout,
            Class::Server => Kind::UpstreamFailed,
        };
        let mut error = Self::new(kind, upstream.message).retry_after(upstream.retry_after);
        error.0.status = upstream.status;
        error.0.type_name = upstream.type_name;
        error.0.param = upstream.param;
        error.0.code = upstream.code.or(error.0.code);
        error
    }
}
