//! What the dialects of OpenAI's wire say otherwise, said as OpenAI does: finish reasons, content in
//! parts, what of a message was generated. Streams and whole answers share it, so that they agree.
//! It must not know chunks, choices or usage.

use serde_json::{Map, Value};

use crate::error::Class;

/// What a `finish_reason` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// One of OpenAI's.
    Reason(&'static str),
    /// Not finished yet: null, missing, empty.
    None,
    /// The provider failed or gave up.
    Failure(Class),
}

/// Reads a `finish_reason`.
pub(super) fn finish(reason: Option<&Value>) -> Finish {
    let Some(Value::String(reason)) = reason else { return Finish::None };
    match reason.to_ascii_lowercase().as_str() {
        "" | "null" => Finish::None,
        "length" | "max_tokens" | "model_length" | "max_length" | "max_output_tokens" | "model_context_window_exceeded" => {
            Finish::Reason("length")
        }
        "tool_calls" | "tool_call" | "tool_use" => Finish::Reason("tool_calls"),
        "function_call" => Finish::Reason("function_call"),
        "content_filter" | "content_filtered" | "sensitive" | "safety" | "recitation" | "refusal" | "blocklist"
        | "prohibited_content" => Finish::Reason("content_filter"),
        "insufficient_system_resource" => Finish::Failure(Class::Overloaded),
        "timeout" => Finish::Failure(Class::Timeout),
        "error" | "network_error" | "abort" | "server_error" | "internal_error" => Finish::Failure(Class::Server),
        // `eos`, `eos_token`, `end_turn`, `stop_sequence`, and names not yet known: the model stopped.
        _ => Finish::Reason("stop"),
    }
}

/// The finish reason of an answer that is complete but names none.
pub(super) fn unsaid_finish(has_calls: bool) -> &'static str {
    if has_calls { "tool_calls" } else { "stop" }
}

/// Content in parts becomes text; thinking parts become `reasoning_content`; parts that are neither
/// are kept in `content_parts`. `false` when nothing had to change.
pub(super) fn flatten_content(message: &mut Map<String, Value>) -> bool {
    let parts = match message.get_mut("content") {
        None | Some(Value::Null | Value::String(_)) => return false,
        Some(Value::Array(parts)) => std::mem::take(parts),
        Some(other) => vec![other.take()],
    };
    let (mut text, mut thought, mut others) = (String::new(), String::new(), Vec::new());
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("thinking" | "reasoning") => words(&part, &mut thought),
            Some("text" | "output_text") | None => words(&part, &mut text),
            Some(_) => others.push(part),
        }
    }
    message.insert("content".to_owned(), Value::from(text));
    if !thought.is_empty() {
        let known = message.get("reasoning_content").and_then(Value::as_str).unwrap_or_default();
        let joined = Value::from(format!("{known}{thought}"));
        message.insert("reasoning_content".to_owned(), joined);
    }
    if !others.is_empty() {
        message.insert("content_parts".to_owned(), Value::Array(others));
    }
    true
}

/// A time in whole seconds, where some servers write fractions.
pub(super) fn whole_seconds(time: &Value) -> Option<u64> {
    let fractional =
        || time.as_f64().filter(|time| (0.0..1e15).contains(time)).and_then(|time| format!("{time:.0}").parse().ok());
    time.as_u64().or_else(fractional)
}

/// Takes out what some gateways write for nothing: a function call without a name, audio without sound.
pub(super) fn drop_hollow(message: &mut Map<String, Value>) {
    message.retain(|name, value| match name.as_str() {
        "function_call" => value.is_object() && !is_hollow(value),
        "audio" => !is_hollow(value),
        _ => true,
    });
}

/// Members that are text with OpenAI, and were written as lists or objects of text.
pub(super) fn only_text(message: &mut Map<String, Value>) {
    for name in ["role", "refusal", "reasoning_content", "reasoning"] {
        if let Some(value) = message.get_mut(name).filter(|value| !value.is_string() && !value.is_null()) {
            let mut text = String::new();
            words(value, &mut text);
            *value = if text.is_empty() { Value::Null } else { Value::from(text) };
        }
    }
}

/// Whether a value is an object in which nothing is said.
pub(super) fn is_hollow(value: &Value) -> bool {
    let says_nothing = |member: &Value| match member {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    };
    value.as_object().is_some_and(|members| members.values().all(says_nothing))
}

/// The text in a part, wherever it stands: `text`, `thinking`, or lists of such.
fn words(part: &Value, out: &mut String) {
    match part {
        Value::String(text) => out.push_str(text),
        Value::Array(parts) => parts.iter().for_each(|part| words(part, out)),
        Value::Object(members) => {
            let inner = ["text", "thinking", "reasoning", "content"].iter().find_map(|name| members.get(*name));
            inner.into_iter().for_each(|inner| words(inner, out));
        }
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Appends the text that was generated in a message or delta to `out`, each text once even where a
/// dialect tells it twice. Whether anything was generated at all.
pub(super) fn spoken(message: &Map<String, Value>, out: &mut String) -> bool {
    let before = out.len();
    let said = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let thought = if said("reasoning_content").is_empty() { said("reasoning") } else { said("reasoning_content") };
    out.push_str(said("content"));
    out.push_str(thought);
    if let (true, Some(details)) = (thought.is_empty(), message.get("reasoning_details")) {
        details_text(details, out);
    }
    out.push_str(said("refusal"));
    message.get("function_call").into_iter().for_each(|call| call_text(call, out));
    let calls = message.get("tool_calls").and_then(Value::as_array);
    for call in calls.into_iter().flatten() {
        ["function", "custom"].iter().filter_map(|body| call.get(*body)).for_each(|body| call_text(body, out));
    }
    let is_more = |value: &Value| {
        value.as_array().is_some_and(|list| !list.is_empty()) || value.as_object().is_some_and(|map| !map.is_empty())
    };
    out.len() > before || message.values().any(is_more)
}

fn call_text(body: &Value, out: &mut String) {
    for text in ["name", "arguments", "input"].iter().filter_map(|name| body.get(*name)?.as_str()) {
        out.push_str(text);
    }
}

/// The readable text in `reasoning_details` (`text` or `summary`; encrypted ones have none).
pub(super) fn details_text(details: &Value, out: &mut String) {
    for detail in details.as_array().into_iter().flatten() {
        let text = detail.get("text").or_else(|| detail.get("summary")).and_then(Value::as_str);
        out.push_str(text.unwrap_or_default());
    }
}

/// Parses JSON; half surrogate pairs, which cannot be held as text, become U+FFFD.
pub(super) fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&whole_surrogates(text)?).ok())
}

/// The text with every escape of half a surrogate pair replaced; `None` when there is none.
fn whole_surrogates(text: &str) -> Option<String> {
    let unit = |at: usize| text.get(at..at + 6)?.strip_prefix("\\u").and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = memchr::memchr(b'\\', &text.as_bytes()[at..]) {
        at += found;
        match unit(at) {
            Some(0xD800..0xDC00) if matches!(unit(at + 6), Some(0xDC00..0xE000)) => at += 12,
            Some(0xD800..0xE000) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            _ => at += 2,
        }
        if at >= text.len() {
            break;
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    Some(out)
}
