//! What went wrong at a provider, in OpenAI's terms, and what a wire refuses to say.
//! It must not know how the gateway answers, retries or counts.

use std::time::Duration;

use http::StatusCode;

use crate::call::Endpoint;

/// What kind of failure a provider reported; decides status, type and whether another try can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request is wrong.
    Invalid,
    /// The prompt is longer than the model's context.
    ContextOverflow,
    /// Refused by a content policy.
    ContentFilter,
    /// The credentials are wrong.
    Authentication,
    /// The credentials are right but may not do this.
    Permission,
    /// No such model, deployment or path.
    NotFound,
    /// Too fast; later it will work.
    RateLimited,
    /// The account has no money or quota left; waiting does not help.
    Quota,
    /// The provider has no capacity now.
    Overloaded,
    /// The provider gave up waiting.
    Timeout,
    /// The provider failed.
    Server,
}

impl Class {
    /// The class an HTTP status alone suggests.
    #[must_use]
    pub fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Authentication,
            402 => Self::Quota,
            403 => Self::Permission,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            429 => Self::RateLimited,
            503 | 529 => Self::Overloaded,
            500.. | 424 => Self::Server,
            _ => Self::Invalid,
        }
    }

    /// OpenAI's `error.type` for this class.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Invalid | Self::ContextOverflow | Self::ContentFilter | Self::NotFound => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::RateLimited => "rate_limit_error",
            Self::Quota => "insufficient_quota",
            Self::Timeout => "timeout_error",
            Self::Overloaded | Self::Server => "server_error",
        }
    }

    /// OpenAI's `error.code` for this class, where it has one.
    #[must_use]
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::ContextOverflow => Some("context_length_exceeded"),
            Self::ContentFilter => Some("content_filter"),
            Self::Authentication => Some("invalid_api_key"),
            Self::NotFound => Some("model_not_found"),
            Self::RateLimited => Some("rate_limit_exceeded"),
            Self::Quota => Some("insufficient_quota"),
            Self::Invalid | Self::Permission | Self::Timeout | Self::Overloaded | Self::Server => None,
        }
    }

    /// The status a client gets for this class when the provider gave none that fits.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::ContextOverflow | Self::ContentFilter => StatusCode::BAD_REQUEST,
            Self::Authentication => StatusCode::UNAUTHORIZED,
            Self::Permission => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::RateLimited | Self::Quota => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Server => StatusCode::BAD_GATEWAY,
        }
    }
}

/// A provider's failure in OpenAI's terms. The message is the provider's own, scrubbed of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// What kind of failure.
    pub class: Class,
    /// The status for the client.
    pub status: StatusCode,
    /// OpenAI's `error.message`.
    pub message: String,
    /// OpenAI's `error.type`.
    pub type_name: String,
    /// OpenAI's `error.param`.
    pub param: Option<String>,
    /// OpenAI's `error.code`.
    pub code: Option<String>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// An error of this class with its usual status, type and code.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            status: class.status(),
            message: scrub(&message.into()),
            type_name: class.type_name().to_owned(),
            param: None,
            code: class.code().map(str::to_owned),
            retry_after: None,
        }
    }

    /// An answer that is not what the provider's interface promises.
    pub(crate) fn unreadable(fault: &serde_json::Error) -> Self {
        Self::new(Class::Server, format!("the provider's answer cannot be read: {fault}"))
    }

    /// An error of this class that came with `status`; the client gets that status where it means the class to
    /// OpenAI's clients. They know no 402: to them an empty account is a 429 with a `code` of its own.
    #[must_use]
    pub fn at(status: Option<StatusCode>, class: Class, message: impl Into<String>) -> Self {
        let mut error = Self::new(class, message);
        if let Some(status) = status.filter(|status| Class::from_status(*status) == class && is_known_to_clients(*status)) {
            error.status = status;
        }
        error
    }
}

/// Whether OpenAI's clients know what to do with a status.
fn is_known_to_clients(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400..=401 | 403..=423 | 425..=451 | 500..=504)
}

/// A request that a wire cannot say, or that is no request: the client's mistake, nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// OpenAI's `error.message`.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// OpenAI's `error.code`.
    pub code: &'static str,
}

impl Refusal {
    /// A refusal of the field `param`.
    #[must_use]
    pub fn field(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()), code }
    }

    /// A refusal of a call that `kind` has no endpoint for.
    #[must_use]
    pub(crate) fn unserved(kind: &str, endpoint: Endpoint) -> Self {
        Self::field("model", "model_not_found", format!("{kind} does not serve {}", endpoint.route()))
    }

    /// A refusal of the field `param` because `kind` has no word for it.
    #[must_use]
    pub fn unsupported(kind: &str, param: &str) -> Self {
        Self::field(param, "unsupported_parameter", format!("`{param}` is not supported by {kind}"))
    }
}

/// Prefixes that API keys of the known providers begin with.
const KEY_PREFIXES: [&str; 9] = ["sk-", "sk_", "xai-", "gsk_", "AIza", "hf_", "pplx-", "nvapi-", "AKIA"];

/// The message with anything that looks like an API key, masked or not, taken out: providers echo
/// the key they were sent in their 401 messages.
pub(crate) fn scrub(message: &str) -> String {
    const MARK: &str = "[redacted]";
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '.' | '…');
    let mut out = String::with_capacity(message.len());
    for word in message.split_inclusive(|c| !is_part(c)) {
        let (body, end) = word.split_at(word.trim_end_matches(|c| !is_part(c)).len());
        let key = body.trim_end_matches('.');
        let has_prefix = KEY_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) && key.len() > 8;
        if has_prefix || key.contains("***") {
            out.push_str(MARK);
            out.push_str(&body[key.len()..]);
        } else {
            out.push_str(body);
        }
        out.push_str(end);
    }
    out
}
