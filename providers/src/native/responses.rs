//! Answers of OpenAI's Responses API, whole and streamed, as they are:
//! <https://platform.openai.com/docs/api-reference/responses>.
//! It must not know requests, nor what came of a response that is read again later.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{if_json, read, type_of, unreadable, write_event};
use crate::call::{Answer, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::failure;
use crate::frames::Frame;
use crate::grammar::usage;
use crate::usage::{Tier, Usage};

/// A response, whole or as an event tells it. What is passed on must not fail for what is not looked at, so
/// members are of any type until they are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    object: Option<Value>,
    status: Option<Value>,
    error: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    service_tier: Option<Value>,
    output: Option<Value>,
}

/// One event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Heard<'a> {
    #[serde(rename = "type")]
    kind: Option<Value>,
    delta: Option<Value>,
    item: Option<Value>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    error: Option<Value>,
}

/// The last events of a response.
const ENDS: [&str; 4] = ["response.completed", "response.incomplete", "response.cancelled", FAILED];
const FAILED: &str = "response.failed";

impl Response<'_> {
    fn usage(&self) -> Option<Usage> {
        let reported = usage::read(self.usage?.get().as_bytes())?;
        let tier = self.service_tier.as_ref().and_then(Value::as_str).map(Tier::from_name).unwrap_or_default();
        Some(Usage { tier, ..reported.usage })
    }

    fn failure(&self) -> UpstreamError {
        match self.error.as_ref().filter(|error| error.is_object()) {
            Some(error) => failure::from_value(error),
            None => UpstreamError::new(Class::Server, "the provider ended the response as failed"),
        }
    }
}

/// The text of a member; empty where it is none.
fn word<'v>(item: &'v Value, name: &str) -> &'v str {
    item.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the client is to run a tool.
fn is_call(item: &Value) -> bool {
    matches!(word(item, "type"), "function_call" | "custom_tool_call")
}

/// What an item says, as far as it is words.
fn say(item: &Value, text: &mut String) {
    ["name", "arguments", "input"].iter().for_each(|name| text.push_str(word(item, name)));
    let parts = ["content", "summary"].iter().filter_map(|name| item.get(*name)?.as_array()).flatten();
    for part in parts {
        text.push_str(word(part, "text"));
        text.push_str(word(part, "refusal"));
    }
}

/// A whole response.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error or no response, or one that failed unbilled.
pub(crate) fn answer(headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    let response: Response<'_> = read(headers, &body)?;
    let usage = response.usage();
    let is = |member: &Option<Value>, word: &str| member.as_ref().is_some_and(|value| value == word);
    let has_failed = is(&response.status, "failed");
    if has_failed && usage.is_none() {
        return Err(response.failure());
    }
    if !is(&response.object, "response") {
        return Err(unreadable(headers, &body));
    }
    let output = response.output.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let tool_calls = output.iter().filter(|item| is_call(item)).count();
    let mut text = String::new();
    if usage.is_none() {
        output.iter().for_each(|item| say(item, &mut text));
    }
    drop(response);
    Ok(Answer { body, usage, text, tool_calls })
}

/// Listens to one stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    tool_calls: usize,
    told: u64,
    is_over: bool,
    out: Vec<u8>,
}

impl Stream {
    /// The end as the provider tells it, with its count.
    fn close(&mut self, kind: &str, response: &Response<'_>, emit: &mut dyn FnMut(Event<'_>)) {
        self.is_over = true;
        if let Some(usage) = response.usage() {
            emit(Event { bytes: b"", kind: Kind::Usage(usage) });
        }
        if kind == FAILED {
            return emit(Event { bytes: &self.out, kind: Kind::Error(response.failure()) });
        }
        emit(Event { bytes: b"", kind: Kind::Finish { tool_calls: self.tool_calls } });
        emit(Event { bytes: &self.out, kind: Kind::Done });
    }

    /// An item begins; a message and a thought are still empty then.
    fn begin_item(&mut self, item: &Value, emit: &mut dyn FnMut(Event<'_>)) {
        self.tool_calls += usize::from(is_call(item));
        let is_empty = matches!(word(item, "type"), "message" | "reasoning");
        emit(Event { bytes: &self.out, kind: if is_empty { Kind::Open } else { Kind::Delta(word(item, "name")) } });
    }

    /// An event that is JSON and not as it should be.
    fn odd(&mut self, data: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        match type_of(data) {
            Some(kind) if ENDS.contains(&kind.as_str()) => self.close(&kind, &Response::default(), emit),
            _ => {
                let bytes = if_json(data, &self.out);
                self.told += u64::from(!bytes.is_empty());
                emit(Event { bytes, kind: Kind::Malformed });
            }
        }
    }
}

impl StreamTranslator for Stream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        // Some end with a mark as chat completions do; the end was told before it.
        if self.is_over || frame.data.trim_ascii() == b"[DONE]" {
            return;
        }
        write_event(&mut self.out, frame);
        let Ok(heard) = serde_json::from_slice::<Heard<'_>>(&frame.data) else { return self.odd(&frame.data, emit) };
        if let Some(failed) = failed(&heard, &frame.data) {
            self.is_over = true;
            return emit(Event { bytes: b"", kind: Kind::Error(failed) });
        }
        self.told += 1;
        match (heard.kind.as_ref().and_then(Value::as_str).unwrap_or_default(), &heard.item) {
            (kind, _) if ENDS.contains(&kind) => self.close(kind, &heard.response.unwrap_or_default(), emit),
            ("response.output_item.added", Some(item)) => self.begin_item(item, emit),
            (kind, _) if kind.ends_with(".delta") => {
                let text = heard.delta.as_ref().and_then(Value::as_str).filter(|_| is_text(kind)).unwrap_or_default();
                emit(Event { bytes: &self.out, kind: Kind::Delta(text) });
            }
            (kind, _) if kind.ends_with(".partial_image") => emit(Event { bytes: &self.out, kind: Kind::Delta("") }),
            _ => emit(Event { bytes: &self.out, kind: Kind::Open }),
        }
    }

    /// Nothing but its last event ends a response.
    fn end(&mut self, _emit: &mut dyn FnMut(Event<'_>)) {}

    fn told(&self) -> u64 {
        self.told
    }
}

/// What an error event says: the error's members stand in it, or in a member of it.
fn failed(heard: &Heard<'_>, data: &[u8]) -> Option<UpstreamError> {
    let given = heard.error.as_ref().filter(|error| !error.is_null());
    let kind = heard.kind.as_ref().and_then(Value::as_str).unwrap_or_default();
    if kind != "error" && (given.is_none() || kind.starts_with("response.")) {
        return None;
    }
    let mut said = given.cloned().unwrap_or_else(|| serde_json::from_slice(data).unwrap_or_default());
    if let (None, Some(members)) = (given, said.as_object_mut()) {
        // The event's own type says only that it is one.
        members.shift_remove("type");
    }
    Some(failure::from_value(&said))
}

/// Whether a delta is words of the model, and not sound or a picture.
fn is_text(kind: &str) -> bool {
    !kind.ends_with(".audio.delta")
}
