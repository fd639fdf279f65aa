//! Anthropic's answers, whole or streamed, as pieces of OpenAI's grammar. Both ways go through the
//! same words: a block is a block, whether it came at once or in parts.
//! It must not know requests.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{self, ErrorBody};
use super::usage::Counted;
use crate::blocks::{Blocks, Thought};
use crate::call::{Answer, Call, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::reply::{AnswerWriter, ChunkWriter, Piece, say_text};

/// A message, whole or as it stands when its stream begins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    model: Option<String>,
    content: Vec<Block>,
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
    usage: Option<Counted>,
    error: Option<ErrorBody>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct StopDetails {
    explanation: Option<String>,
}

/// A content block of any kind, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    data: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Value>,
    citations: Option<Vec<Value>>,
}

/// A part of a content block.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    partial_json: Option<String>,
    citation: Option<Value>,
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
}

/// One event of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    index: u64,
    message: Option<Message>,
    content_block: Option<Block>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<Counted>,
    error: Option<ErrorBody>,
}

/// Turns blocks into pieces.
#[derive(Debug)]
struct Reader(Blocks);

impl Reader {
    /// Servers that imitate Anthropic sign nothing, and want their thoughts back nevertheless.
    fn new() -> Self {
        Self(Blocks::keeping_unsigned())
    }

    fn start(&mut self, index: u64, block: Block, say: &mut dyn FnMut(Piece)) {
        match block.kind.as_str() {
            "text" => {
                say_text(block.text, Piece::Text, say);
                for citation in block.citations.unwrap_or_default() {
                    say(Piece::Extra("citations", json!([citation])));
                }
            }
            "thinking" | "redacted_thinking" => {
                let thought = Thought {
                    text: block.thinking.unwrap_or_default(),
                    signature: block.signature.unwrap_or_default(),
                    redacted: block.data.unwrap_or_default(),
                };
                self.0.thought(index, thought, say);
            }
            "tool_use" => {
                self.0.call(index, (block.id.unwrap_or_default(), block.name.unwrap_or_default()), say);
                let input = block.input.filter(|input| input.as_object().is_some_and(|members| !members.is_empty()));
                self.0.arguments(index, input.map(|input| input.to_string()), say);
            }
            _ => {}
        }
    }

    fn delta(&mut self, index: u64, delta: Delta<'_>, say: &mut dyn FnMut(Piece)) {
        match delta.kind.as_ref() {
            "text_delta" => say_text(delta.text, Piece::Text, say),
            "citations_delta" => {
                if let Some(citation) = delta.citation {
                    say(Piece::Extra("citations", json!([citation])));
                }
            }
            "thinking_delta" | "signature_delta" => {
                let (text, signature) = (delta.thinking.unwrap_or_default(), delta.signature.unwrap_or_default());
                self.0.thought(index, Thought { text, signature, redacted: String::new() }, say);
            }
            "input_json_delta" => self.0.arguments(index, delta.partial_json, say),
            _ => {}
        }
    }

    /// The end of the answer. OpenAI has no word for `pause_turn` (the provider's own tools ran long;
    /// sending the conversation again goes on): it is told beside the finish reason.
    fn end(&self, reason: &str, details: Option<StopDetails>, say: &mut dyn FnMut(Piece)) {
        if let Some(explanation) = details.and_then(|details| details.explanation) {
            say(Piece::Extra("refusal", explanation.into()));
        }
        if reason == "pause_turn" {
            say(Piece::Extra("stop_reason", "pause_turn".into()));
        }
        say(Piece::Finish(match reason {
            "max_tokens" | "model_context_window_exceeded" => "length",
            "refusal" => "content_filter",
            "tool_use" if self.0.has_calls() => "tool_calls",
            _ => "stop",
        }));
    }
}

/// A whole answer.
///
/// # Errors
/// An [`UpstreamError`] when the body is an error or no message.
pub(crate) fn whole(call: &Call<'_>, body: &Bytes) -> Result<Answer, UpstreamError> {
    let message: Message = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    if let Some(given) = message.error {
        return Err(error::inside(given));
    }
    if message.kind.as_deref() != Some("message") {
        return Err(UpstreamError::new(Class::Server, "the provider's answer is not a message"));
    }
    let mut writer = AnswerWriter::new(call);
    writer.identify(message.id.as_deref(), message.model.as_deref());
    let mut reader = Reader::new();
    let mut say = |piece| writer.piece(0, piece);
    for block in message.content {
        reader.start(0, block, &mut say);
        reader.0.stop(0, &mut say);
    }
    reader.end(message.stop_reason.as_deref().unwrap_or_default(), message.stop_details, &mut say);
    Ok(writer.finish(message.usage.map(|counted| counted.usage())))
}

/// Reads the events of one stream.
#[derive(Debug)]
pub(crate) struct MessageStream {
    writer: ChunkWriter,
    reader: Reader,
    counted: Counted,
    /// Whether the last word was said: the end, or an error.
    is_over: bool,
}

impl MessageStream {
    /// A translator for the answer to `call`.
    pub(crate) fn new(call: &Call<'_>) -> Self {
        Self { writer: ChunkWriter::new(call), reader: Reader::new(), counted: Counted::default(), is_over: false }
    }

    /// One event's JSON.
    pub(crate) fn event(&mut self, data: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        if self.is_over {
            return;
        }
        let Ok(event) = serde_json::from_slice::<StreamEvent<'_>>(data) else {
            emit(Event { bytes: b"", kind: Kind::Malformed });
            return;
        };
        if let Some(given) = event.error {
            self.is_over = true;
            emit(Event { bytes: b"", kind: Kind::Error(error::inside(given)) });
            return;
        }
        let Self { writer, reader, .. } = self;
        let mut say = |piece| writer.piece(0, piece, emit);
        match (event.kind.as_ref(), event.content_block, event.delta) {
            ("message_start", _, _) => self.begin(event.message.unwrap_or_default(), emit),
            ("content_block_start", Some(block), _) => reader.start(event.index, block, &mut say),
            ("content_block_delta", _, Some(delta)) => reader.delta(event.index, delta, &mut say),
            ("content_block_stop", _, _) => reader.0.stop(event.index, &mut say),
            ("message_delta", _, delta) => self.progress(delta.unwrap_or_default(), event.usage, emit),
            ("message_stop", _, _) => self.finish(emit),
            _ => emit(Event { bytes: b"", kind: Kind::Open }),
        }
    }

    fn begin(&mut self, message: Message, emit: &mut dyn FnMut(Event<'_>)) {
        self.writer.identify(message.id.as_deref(), message.model.as_deref());
        self.writer.open(0, emit);
        self.count(message.usage, emit);
    }

    fn progress(&mut self, delta: Delta<'_>, usage: Option<Counted>, emit: &mut dyn FnMut(Event<'_>)) {
        self.count(usage, emit);
        if let Some(reason) = delta.stop_reason {
            let Self { writer, reader, .. } = self;
            reader.end(&reason, delta.stop_details, &mut |piece| writer.piece(0, piece, emit));
        }
    }

    fn count(&mut self, usage: Option<Counted>, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(usage) = usage {
            self.counted.update(usage);
            self.writer.usage(self.counted.usage(), emit);
        }
    }

    /// The answer is complete once its reason to end was told.
    fn finish(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.is_over && self.writer.all_finished() {
            self.is_over = true;
            self.writer.done(emit);
        }
    }
}

/// Hears the events of a stream that come in another frame than Anthropic's.
pub(crate) trait Listener: StreamTranslator {
    /// One event's JSON.
    fn event(&mut self, data: &Bytes, emit: &mut dyn FnMut(Event<'_>));
}

impl Listener for MessageStream {
    fn event(&mut self, data: &Bytes, emit: &mut dyn FnMut(Event<'_>)) {
        Self::event(self, data, emit);
    }
}

impl StreamTranslator for MessageStream {
    /// Servers that imitate Anthropic end with OpenAI's `[DONE]`.
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if frame.data.as_ref() == b"[DONE]" {
            self.finish(emit);
        } else {
            self.event(&frame.data, emit);
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        self.finish(emit);
    }
}
