//! Bedrock's errors in OpenAI's terms: exceptions named in a header, or in a frame of a stream.
//! It must not know how they are retried.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::error::{Class, UpstreamError};
use crate::retry::retry_after;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    #[serde(alias = "Message", alias = "errorMessage")]
    message: Option<String>,
    #[serde(rename = "__type")]
    kind: Option<String>,
    #[serde(rename = "originalStatusCode")]
    original_status: Option<u16>,
}

/// A failed call.
pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    let named = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let named = named.or(body.kind).unwrap_or_default();
    let message = body.message.unwrap_or_else(|| format!("the provider answered with status {}", status.as_u16()));
    let class = class(short(&named), &message).unwrap_or_else(|| Class::from_status(status));
    let mut error = UpstreamError::new(class, message);
    error.status = client_status(class, status);
    error.retry_after = retry_after(headers);
    error
}

/// An exception inside a stream, of this type.
pub(crate) fn inside(named: &str, payload: &[u8]) -> UpstreamError {
    let body: Body = serde_json::from_slice(payload).unwrap_or_default();
    let message = body.message.unwrap_or_else(|| format!("the provider reported {named}"));
    let original = body.original_status.and_then(|status| StatusCode::from_u16(status).ok()).map(Class::from_status);
    let class = class(named, &message).or(original).unwrap_or(Class::Server);
    UpstreamError::new(class, message)
}

/// `ThrottlingException` of `com.amazon.coral#ThrottlingException` or `ThrottlingException:http://…`.
fn short(named: &str) -> &str {
    let named = named.split(':').next().unwrap_or(named);
    named.rsplit('#').next().unwrap_or(named)
}

/// The provider's own status where OpenAI's clients know it.
fn client_status(class: Class, status: StatusCode) -> StatusCode {
    match class {
        Class::Invalid | Class::NotFound | Class::Server if status != StatusCode::FAILED_DEPENDENCY => status,
        _ => class.status(),
    }
}

/// The class by the exception's name, which in a stream begins with a small letter, and its words.
fn class(named: &str, message: &str) -> Option<Class> {
    let message = message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if says(&[
        "input tokens exceeded",
        "input is too long",
        "prompt is too long",
        "exceed context limit",
        "maximum context length",
    ]) {
        return Some(Class::ContextOverflow);
    }
    let is = |name: &str| named.eq_ignore_ascii_case(name);
    if is("ServiceQuotaExceededException") || says(&["too many tokens per day"]) {
        return Some(Class::Quota);
    }
    if is("ServiceUnavailableException") && says(&["throttled"]) {
        return Some(Class::Overloaded);
    }
    match named.to_ascii_lowercase().as_str() {
        "validationexception" if says(&["model identifier is invalid"]) => Some(Class::NotFound),
        "validationexception" => Some(Class::Invalid),
        "accessdeniedexception" if says(&["api key"]) => Some(Class::Authentication),
        "accessdeniedexception" => Some(Class::Permission),
        "unrecognizedclientexception"
        | "expiredtokenexception"
        | "invalidsignatureexception"
        | "missingauthenticationtokenexception"
        | "incompletesignatureexception"
        | "invalidclienttokenid" => Some(Class::Authentication),
        "resourcenotfoundexception" => Some(Class::NotFound),
        "throttlingexception" => Some(Class::RateLimited),
        "serviceunavailableexception" => Some(Class::Overloaded),
        "modeltimeoutexception" => Some(Class::Timeout),
        "modelerrorexception" | "modelstreamerrorexception" | "internalserverexception" | "internalfailure" => {
            Some(Class::Server)
        }
        _ => None,
    }
}
