//! Anthropic's answers, whole or streamed, as pieces of OpenAI's grammar. Both ways go through the
//! same words: a block is a block, whether it came at once or in parts.
//! It must not know requests.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{self, ErrorBody};
use super::request::ANSWER_TOOL;
use super::usage::Counted;
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
struct Delta {
    #[serde(rename = "type")]
    kind: String,
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
struct StreamEvent {
    #[serde(rename = "type")]
    kind: String,
    index: u64,
    message: Option<Message>,
    content_block: Option<Block>,
    delta: Option<Delta>,
    usage: Option<Counted>,
    error: Option<ErrorBody>,
}

/// What a block that is being read will become.
#[derive(Debug)]
enum Open {
    Text,
    Thinking {
        thinking: String,
        signature: String,
    },
    /// A call of the client's tools, by its number.
    Call(usize),
    /// The answer in the arguments of [`ANSWER_TOOL`].
    Json,
    /// The provider's own tools and what they gave.
    Hidden,
}

/// Turns blocks into pieces and remembers what the finish reason depends on.
#[derive(Debug, Default)]
struct Reader {
    calls: usize,
    open: Vec<(u64, Open)>,
}

impl Reader {
    fn start(&mut self, index: u64, block: Block, say: &mut dyn FnMut(Piece)) {
        let open = match block.kind.as_str() {
            "text" => {
                say_text(block.text, Piece::Text, say);
                for citation in block.citations.unwrap_or_default() {
                    say(Piece::Extra("citations", json!([citation])));
                }
                Open::Text
            }
            "thinking" => {
                say_text(block.thinking.clone(), Piece::Reasoning, say);
                Open::Thinking { thinking: block.thinking.unwrap_or_default(), signature: block.signature.unwrap_or_default() }
            }
            "redacted_thinking" => {
                let thought = json!({"type": "redacted_thinking", "data": block.data.unwrap_or_default()});
                say(Piece::Extra("thinking_blocks", json!([thought])));
                Open::Hidden
            }
            "tool_use" => self.start_call(block, say),
            _ => Open::Hidden,
        };
        self.open.push((index, open));
    }

    fn start_call(&mut self, block: Block, say: &mut dyn FnMut(Piece)) -> Open {
        let input = block.input.filter(|input| input.as_object().is_some_and(|members| !members.is_empty()));
        let name = block.name.unwrap_or_default();
        if name == ANSWER_TOOL {
            say_text(input.map(|input| input.to_string()), Piece::Text, say);
            return Open::Json;
        }
        let number = self.calls;
        self.calls += 1;
        say(Piece::ToolStart { id: block.id.unwrap_or_default(), name, extra: Map::new() });
        if let Some(input) = input {
            say(Piece::ToolArguments { index: number, text: input.to_string() });
        }
        Open::Call(number)
    }

    fn delta(&mut self, index: u64, delta: Delta, say: &mut dyn FnMut(Piece)) {
        let open = self.open.iter_mut().find(|(at, _)| *at == index).map(|(_, open)| open);
        match (delta.kind.as_str(), open) {
            ("text_delta", _) => say_text(delta.text, Piece::Text, say),
            ("citations_delta", _) => {
                if let Some(citation) = delta.citation {
                    say(Piece::Extra("citations", json!([citation])));
                }
            }
            ("thinking_delta", Some(Open::Thinking { thinking, .. })) => {
                thinking.push_str(delta.thinking.as_deref().unwrap_or_default());
                say_text(delta.thinking, Piece::Reasoning, say);
            }
            ("signature_delta", Some(Open::Thinking { signature, .. })) => {
                signature.push_str(delta.signature.as_deref().unwrap_or_default());
            }
            ("input_json_delta", Some(Open::Call(number))) => {
                let index = *number;
                say_text(delta.partial_json, |text| Piece::ToolArguments { index, text }, say);
            }
            ("input_json_delta", Some(Open::Json)) => say_text(delta.partial_json, Piece::Text, say),
            _ => {}
        }
    }

    fn stop(&mut self, index: u64, say: &mut dyn FnMut(Piece)) {
        let Some(at) = self.open.iter().position(|(open, _)| *open == index) else { return };
        if let (_, Open::Thinking { thinking, signature }) = self.open.swap_remove(at) {
            let thought = json!({"type": "thinking", "thinking": thinking, "signature": signature});
            say(Piece::Extra("thinking_blocks", json!([thought])));
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
            "tool_use" if self.calls > 0 => "tool_calls",
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
    let mut reader = Reader::default();
    let mut say = |piece| writer.piece(0, piece);
    for block in message.content {
        reader.start(0, block, &mut say);
        reader.stop(0, &mut say);
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
        Self { writer: ChunkWriter::new(call), reader: Reader::default(), counted: Counted::default(), is_over: false }
    }

    /// One event's JSON.
    pub(crate) fn event(&mut self, data: &[u8], emit: &mut dyn FnMut(Event<'_>)) {
        if self.is_over {
            return;
        }
        let Ok(event) = serde_json::from_slice::<StreamEvent>(data) else {
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
        match (event.kind.as_str(), event.content_block, event.delta) {
            ("message_start", _, _) => self.begin(event.message.unwrap_or_default(), emit),
            ("content_block_start", Some(block), _) => reader.start(event.index, block, &mut say),
            ("content_block_delta", _, Some(delta)) => reader.delta(event.index, delta, &mut say),
            ("content_block_stop", _, _) => reader.stop(event.index, &mut say),
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

    fn progress(&mut self, delta: Delta, usage: Option<Counted>, emit: &mut dyn FnMut(Event<'_>)) {
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
