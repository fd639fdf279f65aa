//! Converse's answers, whole or streamed, as pieces of OpenAI's grammar.
//! It must not know requests.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error;
use crate::blocks::{Blocks, Thought};
use crate::call::{Answer, Call, StreamTranslator};
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::reply::{AnswerWriter, ChunkWriter, Piece, say_text};
use crate::usage::{Tier, Usage};

/// A whole answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Converse {
    output: Option<Output>,
    stop_reason: Option<String>,
    usage: Option<Counted>,
    service_tier: Option<ServiceTier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Output {
    message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Vec<Block>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceTier {
    #[serde(rename = "type")]
    name: String,
}

/// A content block: one of its members is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Block {
    text: Option<String>,
    tool_use: Option<ToolUse>,
    reasoning_content: Option<Reasoning>,
    citations_content: Option<CitationsContent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ToolUse {
    tool_use_id: String,
    name: String,
    /// The whole in an answer, a part as text in a stream.
    input: Option<Value>,
    /// `server_tool_use` where Bedrock itself ran the tool.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A thought: nested in a whole answer, flat in a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reasoning {
    reasoning_text: Option<ReasoningText>,
    text: Option<String>,
    signature: Option<String>,
    redacted_content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReasoningText {
    text: Option<String>,
    signature: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CitationsContent {
    content: Vec<CitedText>,
    citations: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CitedText {
    text: Option<String>,
}

/// The events of a stream, all their members.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StreamEvent {
    content_block_index: u64,
    start: Option<Block>,
    delta: Option<Delta>,
    stop_reason: Option<String>,
    usage: Option<Counted>,
    service_tier: Option<ServiceTier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Delta {
    text: Option<String>,
    tool_use: Option<ToolUse>,
    reasoning_content: Option<Reasoning>,
    citation: Option<Value>,
}

/// What Bedrock counted: its input leaves out cached tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Counted {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_write_input_tokens: Option<u64>,
    cache_details: Option<Vec<CacheDetail>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CacheDetail {
    ttl: Option<String>,
    input_tokens: Option<u64>,
}

impl Counted {
    fn usage(&self, tier: Option<&ServiceTier>) -> Usage {
        let (read, written) = (self.cache_read_input_tokens.unwrap_or(0), self.cache_write_input_tokens.unwrap_or(0));
        let details = self.cache_details.iter().flatten().filter(|detail| detail.ttl.as_deref() == Some("1h"));
        let long_lived = details.filter_map(|detail| detail.input_tokens).sum::<u64>().min(written);
        Usage {
            input: self.input_tokens.unwrap_or(0) + read + written,
            output: self.output_tokens.unwrap_or(0),
            cache_read: read,
            cache_write: written - long_lived,
            cache_write_1h: long_lived,
            tier: tier.map_or(Tier::Standard, |tier| Tier::from_name(&tier.name)),
            ..Usage::default()
        }
    }
}

/// Turns blocks into pieces. A thought without a signature cannot be sent back and is not kept.
#[derive(Debug, Default)]
struct Reader(Blocks);

impl Reader {
    fn block(&mut self, index: u64, block: Block, say: &mut dyn FnMut(Piece)) {
        say_text(block.text, Piece::Text, say);
        if let Some(cited) = block.citations_content {
            for part in cited.content {
                say_text(part.text, Piece::Text, say);
            }
            if !cited.citations.is_empty() {
                say(Piece::Extra("citations", cited.citations.into()));
            }
        }
        if let Some(thought) = block.reasoning_content {
            self.thought(index, thought, say);
        }
        if let Some(call) = block.tool_use {
            self.start_call(index, call, say);
        }
    }

    fn start_call(&mut self, index: u64, call: ToolUse, say: &mut dyn FnMut(Piece)) {
        if call.kind.as_deref() == Some("server_tool_use") {
            return;
        }
        self.0.call(index, (call.tool_use_id, call.name), say);
        if let Some(input) = call.input.filter(|input| input.as_object().is_none_or(|members| !members.is_empty())) {
            self.input(index, input, say);
        }
    }

    fn delta(&mut self, index: u64, delta: Delta, say: &mut dyn FnMut(Piece)) {
        say_text(delta.text, Piece::Text, say);
        if let Some(thought) = delta.reasoning_content {
            self.thought(index, thought, say);
        }
        if let Some(input) = delta.tool_use.and_then(|part| part.input) {
            self.input(index, input, say);
        }
        if let Some(citation) = delta.citation {
            say(Piece::Extra("citations", json!([citation])));
        }
    }

    fn input(&mut self, index: u64, input: Value, say: &mut dyn FnMut(Piece)) {
        let text = match input {
            Value::String(text) => text,
            other => other.to_string(),
        };
        self.0.arguments(index, Some(text), say);
    }

    fn thought(&mut self, index: u64, thought: Reasoning, say: &mut dyn FnMut(Piece)) {
        let nested = thought.reasoning_text.unwrap_or_default();
        let thought = Thought {
            text: thought.text.or(nested.text).unwrap_or_default(),
            signature: thought.signature.or(nested.signature).unwrap_or_default(),
            redacted: thought.redacted_content.unwrap_or_default(),
        };
        self.0.thought(index, thought, say);
    }

    /// The end of the answer. What a model garbled (`malformed_…`) was generated and billed: it is an
    /// answer that stopped, with the reason beside it.
    fn end(&self, reason: &str, say: &mut dyn FnMut(Piece)) {
        if reason.starts_with("malformed_") {
            say(Piece::Extra("stop_reason", reason.into()));
        }
        say(Piece::Finish(match reason {
            "max_tokens" | "model_context_window_exceeded" => "length",
            "guardrail_intervened" | "content_filtered" => "content_filter",
            "tool_use" if self.0.has_calls() => "tool_calls",
            _ => "stop",
        }));
    }
}

/// A whole answer.
///
/// # Errors
/// An [`UpstreamError`] when the body is no answer of Converse.
pub(super) fn whole(call: &Call<'_>, body: &Bytes) -> Result<Answer, UpstreamError> {
    let answer: Converse = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    let Some(message) = answer.output.and_then(|output| output.message) else {
        return Err(UpstreamError::new(Class::Server, "the provider's answer holds no message"));
    };
    let mut writer = AnswerWriter::new(call);
    let mut reader = Reader::default();
    let mut say = |piece| writer.piece(0, piece);
    for block in message.content {
        reader.block(0, block, &mut say);
        reader.0.stop(0, &mut say);
    }
    reader.end(&answer.stop_reason.unwrap_or_default(), &mut say);
    Ok(writer.finish(answer.usage.map(|counted| counted.usage(answer.service_tier.as_ref()))))
}

/// Reads the events of one stream.
#[derive(Debug)]
pub(super) struct ConverseStream {
    writer: ChunkWriter,
    reader: Reader,
    /// Whether the last word was said: the end, or an error.
    is_over: bool,
}

impl ConverseStream {
    /// A translator for the answer to `call`.
    pub(super) fn new(call: &Call<'_>) -> Self {
        Self { writer: ChunkWriter::new(call), reader: Reader::default(), is_over: false }
    }

    fn event(&mut self, name: &[u8], event: StreamEvent, emit: &mut dyn FnMut(Event<'_>)) {
        let Self { writer, reader, .. } = self;
        let index = event.content_block_index;
        if name == b"metadata" {
            if let Some(counted) = event.usage {
                writer.usage(counted.usage(event.service_tier.as_ref()), emit);
            }
            return self.finish(emit);
        }
        let mut say = |piece| writer.piece(0, piece, emit);
        match (name, event.start, event.delta) {
            (b"contentBlockStart", Some(block), _) => reader.block(index, block, &mut say),
            (b"contentBlockDelta", _, Some(delta)) => reader.delta(index, delta, &mut say),
            (b"contentBlockStop", _, _) => reader.0.stop(index, &mut say),
            (b"messageStop", _, _) => reader.end(&event.stop_reason.unwrap_or_default(), &mut say),
            (b"messageStart", _, _) => writer.open(0, emit),
            _ => emit(Event { bytes: b"", kind: Kind::Open }),
        }
    }

    /// The answer is complete once its reason to end was told; `metadata` with the usage comes after.
    fn finish(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        if !self.is_over && self.writer.all_finished() {
            self.is_over = true;
            self.writer.done(emit);
        }
    }
}

impl StreamTranslator for ConverseStream {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.is_over {
            return;
        }
        let name = frame.name.as_deref().unwrap_or_default();
        if let Some(named) = name.strip_prefix(b"exception:") {
            self.is_over = true;
            let error = error::inside(&String::from_utf8_lossy(named), &frame.data);
            return emit(Event { bytes: b"", kind: Kind::Error(error) });
        }
        match serde_json::from_slice(&frame.data) {
            Ok(event) => self.event(name, event, emit),
            Err(_) => emit(Event { bytes: b"", kind: Kind::Malformed }),
        }
    }

    fn end(&mut self, emit: &mut dyn FnMut(Event<'_>)) {
        self.finish(emit);
    }
}
