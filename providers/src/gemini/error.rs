//! Google's errors (`google.rpc.Status`) in OpenAI's terms, for AI Studio and Vertex AI.
//! Reference: <https://cloud.google.com/apis/design/errors>.
//! It must not know requests or answers.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Class, UpstreamError};
use crate::failure;
use crate::retry::retry_after;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Option<u16>,
    message: Option<String>,
    status: Option<String>,
    details: Option<Vec<Value>>,
}

/// A failed answer.
pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let value = serde_json::from_slice::<Value>(body).ok().map(unwrapped);
    let error = value.as_ref().and_then(|value| value.get("error"));
    let mut said = match error {
        Some(error) => told(error, Some(status)),
        None => failure::from_answer(status, headers, body),
    };
    said.retry_after = said.retry_after.or_else(|| retry_after(headers));
    said
}

/// An error object inside an answer that began well.
pub(crate) fn in_band(error: &Value) -> UpstreamError {
    told(error, None)
}

/// The error of a frame or body that is an array around it.
pub(crate) fn in_array(body: &[u8]) -> Option<UpstreamError> {
    let value = unwrapped(serde_json::from_slice(body).ok()?);
    Some(in_band(value.get("error")?))
}

/// The first element of an array; streams without `alt=sse` and the compatible endpoint wrap errors so.
fn unwrapped(value: Value) -> Value {
    match value {
        Value::Array(mut list) if !list.is_empty() => list.swap_remove(0),
        value => value,
    }
}

fn told(error: &Value, http: Option<StatusCode>) -> UpstreamError {
    let told = Status::deserialize(error).unwrap_or_default();
    let message = told.message.or_else(|| error.as_str().map(str::to_owned)).unwrap_or_else(|| error.to_string());
    let code = http.or_else(|| told.code.and_then(|code| StatusCode::from_u16(code).ok()));
    let details = told.details.unwrap_or_default();
    let class = class(code, told.status.as_deref(), &message, &details);
    let mut said = UpstreamError::at(code, class, message);
    said.retry_after = details.iter().find_map(retry_delay);
    said
}

fn class(code: Option<StatusCode>, status: Option<&str>, message: &str, details: &[Value]) -> Class {
    let reason = details.iter().find_map(|detail| detail.get("reason")?.as_str()).unwrap_or_default();
    if matches!(reason, "API_KEY_INVALID" | "ACCESS_TOKEN_EXPIRED") || message.starts_with("API key not valid") {
        return Class::Authentication;
    }
    if reason == "BILLING_DISABLED" {
        return Class::Quota;
    }
    let by_code = code.map(Class::from_status);
    match status {
        Some("INVALID_ARGUMENT") if is_overflow(message) => Class::ContextOverflow,
        Some("UNAUTHENTICATED") => Class::Authentication,
        Some("PERMISSION_DENIED") => Class::Permission,
        Some("NOT_FOUND") => Class::NotFound,
        Some("RESOURCE_EXHAUSTED") if details.iter().any(is_spent_for_long) => Class::Quota,
        Some("RESOURCE_EXHAUSTED") => Class::RateLimited,
        Some("UNAVAILABLE") => Class::Overloaded,
        Some("DEADLINE_EXCEEDED") => Class::Timeout,
        Some("INTERNAL" | "UNKNOWN" | "DATA_LOSS") => Class::Server,
        Some("INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE") => Class::Invalid,
        _ => by_code.unwrap_or(Class::Server),
    }
}

/// "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
fn is_overflow(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("token count") && message.contains("exceeds the maximum")
}

/// Whether a quota failure is of a day's quota, or of one that the account does not have at all.
fn is_spent_for_long(detail: &Value) -> bool {
    let violations = detail.get("violations").and_then(Value::as_array);
    violations.into_iter().flatten().any(|violation| {
        let id = violation.get("quotaId").and_then(Value::as_str).unwrap_or_default();
        let limit = violation.get("quotaValue");
        id.contains("PerDay") || limit.is_some_and(|limit| limit == "0" || limit == 0)
    })
}

/// `RetryInfo.retryDelay`, e.g. `34.4s`.
fn retry_delay(detail: &Value) -> Option<Duration> {
    let seconds: f64 = detail.get("retryDelay")?.as_str()?.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
