//! Answers of OpenAI's Responses API, whole and streamed, as they are:
//! <https://platform.openai.com/docs/api-reference/responses>.
//! It must not know requests, nor what came of a response that is read again later.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{read, unreadable, write_event};
use crate::call::{Answer, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::failure;
use crate::frames::Frame;
use crate::grammar::usage;
use crate::usage::{Tier, Usage};

/// A response, whole or as an event tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    object: Option<Cow<'a, str>>,
    status: Option<Cow<'a, str>>,
    error: Option<Value>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    service_tier: Option<Cow<'a, str>>,
    output: Vec<Item>,
}

/// One thing that a model made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    arguments: Option<Value>,
    input: Option<Value>,
    content: Option<Vec<Part>>,
    summary: Option<Vec<Part>>,
}

/// A part of a message or of a thought.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    text: Option<String>,
    refusal: Option<String>,
}

/// One event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Heard<'a> {
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    delta: Option<Value>,
    item: Option<Item>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    error: Option<Value>,
}

impl Response<'_> {
    fn usage(&self) -> Option<Usage> {
        let reported = usage::read(self.usage?.get().as_bytes())?;
        let tier = self.service_tier.as_deref().map(Tier::from_name).unwrap_or_default();
        Some(Usage { tier, ..reported.usage })
    }

    fn failure(&self) -> UpstreamError {
        match self.error.as_ref().filter(|error| error.is_object()) {
            Some(error) => failure::from_value(error),
            None => UpstreamError::new(Class::Server, "the provider ended the response as failed"),
        }
    }
}

impl Item {
    /// Whether the client is to run a tool.
    fn is_call(&self) -> bool {
        matches!(self.kind.as_str(), "function_call" | "custom_tool_call")
    }

    /// Whether it is still empty when it begins: what it says comes in events of its own.
    fn begins_empty(&self) -> bool {
        matches!(self.kind.as_str(), "message" | "reasoning")
    }

    fn say(&self, text: &mut String) {
        text.push_str(self.name.as_deref().unwrap_or_default());
        for given in [&self.arguments, &self.input].into_iter().flatten() {
            text.push_str(given.as_str().unwrap_or_default());
        }
        for part in self.content.iter().chain(&self.summary).flatten() {
            text.push_str(part.text.as_deref().unwrap_or_default());
            text.push_str(part.refusal.as_deref().unwrap_or_default());
        }
    }
}

/// A whole response.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error or no response, or one that failed unbilled.
pub(crate) fn answer(headers: &HeaderMap, body: Bytes) -> Result<Answer, UpstreamError> {
    let response: Response<'_> = read(headers, &body)?;
    let usage = response.usage();
    let has_failed = response.status.as_deref() == Some("failed");
    if has_failed && usage.is_none() {
        return Err(response.failure());
    }
    if response.object.as_deref() != Some("response") {
        return Err(unreadable(headers, &body));
    }
    let tool_calls = response.output.iter().filter(|item| item.is_call()).count();
    let mut text = String::new();
    if usage.is_none() {
        response.output.iter().for_each(|item| item.say(&mut text));
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
        if kind == "response.failed" {
            return emit(Event { bytes: &self.out, kind: Kind::Error(response.failure()) });
        }
        emit(Event { bytes: b"", kind: Kind::Finish { tool_calls: self.tool_calls } });
        emit(Event { bytes: &self.out, kind: Kind::Done });
    }

    fn begin_item(&mut self, item: &Item, emit: &mut dyn FnMut(Event<'_>)) {
        self.tool_calls += usize::from(item.is_call());
        let name = item.name.as_deref().unwrap_or_default();
        emit(Event { bytes: &self.out, kind: if item.begins_empty() { Kind::Open } else { Kind::Delta(name) } });
    }
}

impl StreamTranslator for Stream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        // Some end with a mark as chat completions do; the end was told before it.
        if self.is_over || frame.data.trim_ascii() == b"[DONE]" {
            return;
        }
        let Ok(heard) = serde_json::from_slice::<Heard<'_>>(&frame.data) else {
            return emit(Event { bytes: b"", kind: Kind::Malformed });
        };
        if let Some(failed) = failed(&heard, &frame.data) {
            self.is_over = true;
            return emit(Event { bytes: b"", kind: Kind::Error(failed) });
        }
        write_event(&mut self.out, frame);
        self.told += 1;
        match (&*heard.kind, &heard.item, &heard.response) {
            (
                kind @ ("response.completed" | "response.incomplete" | "response.cancelled" | "response.failed"),
                _,
                Some(response),
            ) => self.close(kind, response, emit),
            ("response.output_item.added", Some(item), _) => self.begin_item(item, emit),
            (kind, ..) if kind.ends_with(".delta") => {
                let text = heard.delta.as_ref().and_then(Value::as_str).filter(|_| is_text(kind)).unwrap_or_default();
                emit(Event { bytes: &self.out, kind: Kind::Delta(text) });
            }
            (kind, ..) if kind.ends_with(".partial_image") => emit(Event { bytes: &self.out, kind: Kind::Delta("") }),
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
    if heard.kind != "error" && (given.is_none() || heard.kind.starts_with("response.")) {
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
