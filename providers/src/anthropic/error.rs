//! Anthropic's errors in OpenAI's terms, from a failed call or from the middle of a stream.
//! It must not know how they are retried.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::error::{Class, UpstreamError};
use crate::retry::retry_after;

/// The `error` object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ErrorBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    error: Option<ErrorBody>,
}

/// A failed call. A body that is not Anthropic's (a proxy's page) leaves only the status.
pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let envelope: Envelope = serde_json::from_slice(body).unwrap_or_default();
    let given = envelope.error.unwrap_or_default();
    let class = class(&given).unwrap_or_else(|| Class::from_status(status));
    let message = given.message.unwrap_or_else(|| format!("the provider answered with status {}", status.as_u16()));
    let mut error = UpstreamError::new(class, message);
    error.status = client_status(class, status);
    error.retry_after = retry_after(headers);
    error
}

/// The provider's own status says more than the class, unless it is no standard one or the class is
/// what OpenAI answers with another.
fn client_status(class: Class, status: StatusCode) -> StatusCode {
    match class {
        Class::Quota | Class::Overloaded | Class::ContextOverflow | Class::ContentFilter => class.status(),
        _ if status.is_client_error() || status.is_server_error() => status,
        _ => class.status(),
    }
}

/// An error inside an answer whose status said success.
pub(crate) fn inside(given: ErrorBody) -> UpstreamError {
    let class = class(&given).unwrap_or(Class::Server);
    UpstreamError::new(class, given.message.unwrap_or_else(|| "the provider reported an error".to_owned()))
}

/// The class by what the error says of itself; `None` when it says nothing that is known.
fn class(given: &ErrorBody) -> Option<Class> {
    let message = given.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if says(&["credit balance is too low", "reached your specified api usage limits", "specified workspace api usage limits"]) {
        return Some(Class::Quota);
    }
    if says(&["prompt is too long", "exceed context limit", "exceeds the context window", "input is too long"]) {
        return Some(Class::ContextOverflow);
    }
    match given.kind.as_deref()? {
        "invalid_request_error" if says(&["content filtering policy", "output blocked by"]) => Some(Class::ContentFilter),
        "invalid_request_error" | "request_too_large" => Some(Class::Invalid),
        "authentication_error" => Some(Class::Authentication),
        "permission_error" => Some(Class::Permission),
        "billing_error" => Some(Class::Quota),
        "not_found_error" => Some(Class::NotFound),
        "rate_limit_error" => Some(Class::RateLimited),
        "timeout_error" => Some(Class::Timeout),
        "overloaded_error" => Some(Class::Overloaded),
        "api_error" => Some(Class::Server),
        _ => None,
    }
}
