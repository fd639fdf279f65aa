//! Endpoints whose calls are carried on in the words they came in: of the request only the model is
//! changed, the answer goes to the client as it is, and what it says of itself is listened to.
//! It must not know which provider speaks; those that serve such an endpoint say so themselves.

pub(crate) mod completions;
pub(crate) mod messages;
pub(crate) mod passed;
pub(crate) mod responses;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Class, UpstreamError};
use crate::failure;
use crate::frames::Frame;

/// One event as it came: its name if it has one, its data, and the blank line.
fn write_event(out: &mut Vec<u8>, frame: &Frame) {
    out.clear();
    if let Some(name) = &frame.name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name);
        out.push(b'\n');
    }
    for line in frame.data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// What the client gets of an event that is not understood: itself, unless it is no JSON.
fn if_json<'o>(data: &[u8], out: &'o [u8]) -> &'o [u8] {
    if serde_json::from_slice::<IgnoredAny>(data).is_ok() { out } else { b"" }
}

/// The type that an event names itself by.
fn type_of(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: Option<Value>,
    }
    let typed: Typed = serde_json::from_slice(data).ok()?;
    typed.kind?.as_str().map(str::to_owned)
}

/// The facts of a whole answer.
///
/// # Errors
/// An [`UpstreamError`] when it cannot be read: it is no such answer.
fn read<'a, T: Deserialize<'a>>(headers: &HeaderMap, body: &'a Bytes) -> Result<T, UpstreamError> {
    serde_json::from_slice(body).map_err(|_| unreadable(headers, body))
}

/// A body that is not what was asked for: an error that came with a status of success, or nonsense.
fn unreadable(headers: &HeaderMap, body: &[u8]) -> UpstreamError {
    let mut error = failure::from_answer(StatusCode::BAD_GATEWAY, headers, body);
    error.class = Class::Server;
    error.message = format!("the provider's answer cannot be read: {}", error.message);
    error
}
