//! Cohere's answers, whole and as events.
//! It must not know requests or addresses.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::call::{Answer, Call, StreamTranslator};
use crate::embeddings::Writer;
use crate::error::{Class, UpstreamError};
use crate::event::{Event, Kind};
use crate::frames::Frame;
use crate::reply::{AnswerWriter, ChunkWriter, Piece};
use crate::usage::{Billed, Usage};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Whole {
    id: Option<String>,
    message: Option<Message>,
    finish_reason: Option<String>,
    usage: Option<Counts>,
    logprobs: Option<Vec<Likelihood>>,
}

/// How likely a piece of text was: each of its tokens, of which there may be several.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Likelihood {
    text: Option<String>,
    logprobs: Option<Vec<f64>>,
}

impl Likelihood {
    /// The piece as one token of OpenAI's: how likely it was is what its tokens say together.
    fn token(self) -> Option<Value> {
        let (text, each) = self.text.zip(self.logprobs)?;
        let logprob: f64 = each.iter().sum();
        Some(json!({"token": text, "logprob": logprob, "bytes": text.as_bytes(), "top_logprobs": []}))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Option<Vec<Block>>,
    tool_plan: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    citations: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    text: Option<String>,
    thinking: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolCall {
    id: Option<String>,
    function: Function,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

/// One event of a stream; its `message` holds one thing where a whole answer holds a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    /// Of an error that comes in place of an event.
    message: Option<String>,
    delta: Delta,
    logprobs: Option<Likelihood>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    message: Option<Part>,
    finish_reason: Option<String>,
    usage: Option<Counts>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    content: Value,
    tool_plan: Option<String>,
    tool_calls: Value,
    citations: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    billed_units: Option<Tokens>,
    tokens: Option<Tokens>,
    cached_tokens: Option<f64>,
}

/// Whole numbers, though some answers write them as `12.0`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: Option<f64>,
    output_tokens: Option<f64>,
    reasoning_tokens: Option<f64>,
}

impl Counts {
    /// What the model saw and made, and beside it what Cohere bills: its own prompts are free.
    fn usage(&self) -> Option<Usage> {
        let whole = |count: Option<f64>| count.unwrap_or(0.0) as u64;
        let billed = self.billed_units.as_ref().filter(|billed| billed.input_tokens.is_some() || billed.output_tokens.is_some());
        let seen = self.tokens.as_ref().filter(|tokens| tokens.input_tokens.is_some() || tokens.output_tokens.is_some());
        let tokens = seen.or(billed)?;
        let (input, output) = (whole(tokens.input_tokens), whole(tokens.output_tokens));
        Some(Usage {
            input,
            output,
            cache_read: whole(self.cached_tokens).min(input),
            reasoning: whole(tokens.reasoning_tokens).min(output),
            billed: billed.map(|billed| Billed { input: whole(billed.input_tokens), output: whole(billed.output_tokens) }),
            ..Usage::default()
        })
    }
}

fn tool_start(id: Option<String>, name: Option<String>) -> Piece {
    Piece::ToolStart { id: id.unwrap_or_default(), name: name.unwrap_or_default(), extra: Map::new() }
}

/// Arguments, or a piece of them. A call without any is sometimes told with the arguments `null`, which
/// OpenAI's clients cannot read as an object.
fn arguments(text: Option<String>) -> String {
    text.filter(|text| text != "null").unwrap_or_default()
}

/// OpenAI's word for a finish reason, or what went wrong.
fn finish(reason: &str) -> Result<&'static str, Class> {
    match reason {
        "MAX_TOKENS" | "ERROR_LIMIT" => Ok("length"),
        "TOOL_CALL" => Ok("tool_calls"),
        "ERROR_TOXIC" => Ok("content_filter"),
        "ERROR" => Err(Class::Server),
        "TIMEOUT" => Err(Class::Timeout),
        // COMPLETE, STOP_SEQUENCE, and what may come.
        _ => Ok("stop"),
    }
}

fn failed(class: Class, reason: &str, words: Option<&str>) -> UpstreamError {
    UpstreamError::new(class, words.map_or_else(|| format!("the model's answer ended with {reason}"), str::to_owned))
}

/// A whole answer.
pub(super) fn answer(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let whole: Whole = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    let reason = whole.finish_reason.as_deref().unwrap_or_default();
    let finish = finish(reason).map_err(|class| failed(class, reason, None))?;
    let mut writer = AnswerWriter::new(call);
    writer.identify(whole.id.as_deref(), None);
    let message = whole.message.unwrap_or_default();
    let plan = message.tool_plan.into_iter().filter(|plan| !plan.is_empty()).map(Piece::Reasoning);
    let blocks = message.content.into_iter().flatten().flat_map(Block::pieces);
    for piece in plan.chain(blocks) {
        writer.piece(0, piece);
    }
    let tokens: Vec<Value> = whole.logprobs.into_iter().flatten().filter_map(Likelihood::token).collect();
    if !tokens.is_empty() {
        writer.piece(0, Piece::Logprobs(tokens));
    }
    for (index, call) in message.tool_calls.into_iter().flatten().enumerate() {
        writer.piece(0, tool_start(call.id, call.function.name));
        writer.piece(0, Piece::ToolArguments { index, text: arguments(call.function.arguments) });
    }
    if let Some(citations) = message.citations.filter(|citations| citations.as_array().is_some_and(|list| !list.is_empty())) {
        writer.piece(0, Piece::Extra("citations", citations));
    }
    writer.piece(0, Piece::Finish(finish));
    Ok(writer.finish(whole.usage.as_ref().and_then(Counts::usage)))
}

impl Block {
    fn pieces(self) -> impl Iterator<Item = Piece> {
        let thinking = self.thinking.filter(|text| !text.is_empty()).map(Piece::Reasoning);
        let text = self.text.filter(|text| !text.is_empty()).map(Piece::Text);
        thinking.into_iter().chain(text)
    }
}

/// A streamed answer.
pub(super) struct Translator {
    writer: ChunkWriter,
    calls: usize,
    ended: bool,
}

impl Translator {
    /// For the answer to `call`.
    pub(super) fn new(call: &Call<'_>) -> Self {
        Self { writer: ChunkWriter::new(call), calls: 0, ended: false }
    }
}

impl StreamTranslator for Translator {
    fn frame(&mut self, frame: &Frame, emit: &mut dyn FnMut(Event<'_>)) {
        if self.ended || frame.data.as_ref() == b"[DONE]" {
            return;
        }
        let Ok(told) = serde_json::from_slice::<Told>(&frame.data) else {
            emit(Event { bytes: b"", kind: Kind::Malformed });
            return;
        };
        match told.kind.as_str() {
            "message-start" => {
                self.writer.identify(told.id.as_deref(), None);
                self.writer.open(0, emit);
            }
            "message-end" => self.message_end(told.delta, emit),
            "" => {
                if let Some(message) = told.message {
                    self.fail(Failure { message, error_type: None }.told(None), emit);
                }
            }
            kind => {
                if let Some(part) = told.delta.message {
                    self.part(kind, part, emit);
                }
                if let Some(token) = told.logprobs.and_then(Likelihood::token) {
                    self.writer.piece(0, Piece::Logprobs(vec![token]), emit);
                }
            }
        }
    }

    /// `message-end` says that the answer is complete; a stream without it was cut.
    fn end(&mut self, _emit: &mut dyn FnMut(Event<'_>)) {}
}

impl Translator {
    fn part(&mut self, kind: &str, part: Part, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(plan) = part.tool_plan.filter(|plan| !plan.is_empty()) {
            self.writer.piece(0, Piece::Reasoning(plan), emit);
        }
        if let Ok(block) = Block::deserialize(&part.content) {
            for piece in block.pieces() {
                self.writer.piece(0, piece, emit);
            }
        }
        if let Ok(call) = ToolCall::deserialize(&part.tool_calls) {
            self.tool_call(kind, call, emit);
        }
        if kind == "citation-start" && part.citations.is_object() {
            self.writer.piece(0, Piece::Extra("citations", json!([part.citations])), emit);
        }
    }

    fn tool_call(&mut self, kind: &str, call: ToolCall, emit: &mut dyn FnMut(Event<'_>)) {
        if kind == "tool-call-start" {
            let start = tool_start(call.id, call.function.name);
            self.calls += 1;
            self.writer.piece(0, start, emit);
        }
        let text = arguments(call.function.arguments);
        if let Some(index) = self.calls.checked_sub(1)
            && !text.is_empty()
        {
            self.writer.piece(0, Piece::ToolArguments { index, text }, emit);
        }
    }

    fn message_end(&mut self, delta: Delta, emit: &mut dyn FnMut(Event<'_>)) {
        if let Some(usage) = delta.usage.as_ref().and_then(Counts::usage) {
            self.writer.usage(usage, emit);
        }
        let reason = delta.finish_reason.unwrap_or_default();
        match finish(&reason) {
            Ok(finish) => {
                self.writer.piece(0, Piece::Finish(finish), emit);
                self.writer.done(emit);
                self.ended = true;
            }
            Err(class) => self.fail(failed(class, &reason, delta.error.as_deref()), emit),
        }
    }

    fn fail(&mut self, error: UpstreamError, emit: &mut dyn FnMut(Event<'_>)) {
        self.ended = true;
        emit(Event { bytes: b"", kind: Kind::Error(error) });
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Embedded {
    embeddings: Vectors,
    meta: Meta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Vectors {
    float: Vec<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    billed_units: Tokens,
}

/// The vectors of an answer, in whoever's name it was given.
pub(crate) fn vectors(body: &[u8]) -> Result<Vec<Box<RawValue>>, UpstreamError> {
    let embedded: Embedded = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    Ok(embedded.embeddings.float)
}

/// The answer of `/v2/embed`.
pub(super) fn embedded(call: &Call<'_>, body: &[u8]) -> Result<Answer, UpstreamError> {
    let embedded: Embedded = serde_json::from_slice(body).map_err(|fault| UpstreamError::unreadable(&fault))?;
    let counted = embedded.meta.billed_units.input_tokens;
    let usage = counted.map(|input| Usage { input: input as u64, ..Usage::default() });
    Writer::new(call).answer(&embedded.embeddings.float, usage)
}
